//! What all microcontrollers share: the console, the stack's high-water mark, and what becomes of a panic.
use core::fmt;
use core::panic::PanicInfo;
use core::ptr;

unsafe extern "C" {
    /// The end of the statics, and so the lowest address that the stack may reach.
    static mut __sheap: u32;
    /// Where the stack begins, growing downwards.
    static mut _stack_start: u32;
}

/// What unused stack holds.
const PAINT: u32 = 0xaaaa_5555;

/// Bytes below the caller's frame that stay unpainted: the frame of [`Painted::new`] itself.
const MARGIN: usize = 256;

/// The stack, painted so that the deepest place reached can be found afterwards.
pub struct Painted(());

impl Painted {
    /// Paints the part of the stack that is not in use.
    #[inline(never)]
    pub fn new() -> Self {
        let here = 0u32;
        let end = (&raw const here).addr() - MARGIN;
        let mut word = &raw mut __sheap;
        while word.addr() < end {
            // SAFETY: the linker script leaves the memory between the statics and the stack to the stack alone, and
            // this word is below every frame that is in use.
            unsafe {
                ptr::write_volatile(word, PAINT);
                word = word.add(1);
            }
        }
        Self(())
    }

    /// Bytes of stack used since the program began, and bytes that there are. The first is at least [`MARGIN`] and what
    /// was in use when the stack was painted. If they are equal, the stack may have overflowed into the statics.
    pub fn high_water_mark(&self) -> Option<[usize; 2]> {
        let (end, start) = ((&raw const __sheap).addr(), (&raw const _stack_start).addr());
        let mut word = &raw const __sheap;
        // SAFETY: as in `new`; the words up to the start of the stack are memory of this machine.
        while word.addr() < start && unsafe { ptr::read_volatile(word) } == PAINT {
            word = word.wrapping_add(1);
        }
        Some([start - word.addr(), start - end])
    }
}

/// Where text goes: a debugger's console, here QEMU's standard output.
pub fn console() -> impl fmt::Write {
    struct Console;
    impl fmt::Write for Console {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            semihosting::print!("{text}");
            Ok(())
        }
    }
    Console
}

/// Ends the program with the status of a failure.
pub fn fail(what: &dyn fmt::Display) -> ! {
    semihosting::println!("{what}");
    semihosting::process::exit(1)
}

/// Runs the program and ends with its status.
pub fn run() -> ! {
    match crate::firmware() {
        Ok(()) => semihosting::process::exit(0),
        Err(failure) => fail(&failure),
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(info)
}
