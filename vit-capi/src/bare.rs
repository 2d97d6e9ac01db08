//! What a program without an operating system has to bring along.

/// A panic is a bug. The message is not kept, since formatting it takes flash; a debugger shows where it stopped.
#[panic_handler]
fn stop(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
