//! What a board's support crate provides, from libc: an output, an end, and where panics go.
use core::fmt::{self, Write};
use core::panic::PanicInfo;

#[link(name = "c")]
// SAFETY: these are the signatures of POSIX on this target.
unsafe extern "C" {
    fn write(file: i32, bytes: *const u8, len: usize) -> isize;
    safe fn exit(status: i32) -> !;
}

/// A file descriptor.
struct File(i32);

pub fn stdout() -> impl Write {
    File(1)
}

impl Write for File {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            // SAFETY: that many bytes are there, and the call only reads them.
            let written = unsafe { write(self.0, bytes.as_ptr(), bytes.len()) };
            let written = usize::try_from(written).ok().filter(|written| *written > 0);
            bytes = written.and_then(|written| bytes.get(written..)).ok_or(fmt::Error)?;
        }
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(File(2), "{info}"); // There is nobody left to tell of an error.
    exit(101)
}

/// The Linux build of `core` can unwind and refers to this; the program aborts, so nothing calls it. The `core` of a
/// bare-metal target does without.
#[unsafe(no_mangle)] // SAFETY: `std` alone defines this symbol too, and it is not linked.
extern "C" fn rust_eh_personality() {}
