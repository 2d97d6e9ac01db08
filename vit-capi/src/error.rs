//! What calls return, and their messages.
use core::ffi::c_char;
use core::fmt::{self, Display, Write};

/// What a call returns.
pub type vit_status = i32;

/// The call succeeded.
pub const VIT_OK: vit_status = 0;
/// An argument is wrong: a null pointer, a wrong length, an unknown name, a plan of another model.
pub const VIT_ARGUMENT: vit_status = 1;
/// A file is missing or cannot be read.
pub const VIT_FILE: vit_status = 2;
/// The file is no model that is supported, or is damaged.
pub const VIT_MODEL: vit_status = 3;
/// The memory is too small or misaligned, or the system has no more.
pub const VIT_MEMORY: vit_status = 4;
/// The callback that reads pixels failed, or a picture cannot be read.
pub const VIT_PIXELS: vit_status = 5;
/// A bug in the library. The model can no longer be trusted.
pub const VIT_BUG: vit_status = 6;

/// Why a call failed. The caller owns it.
#[repr(C)]
pub struct vit_error {
    /// The status that the call returned.
    pub status: vit_status,
    /// What is wrong, in UTF-8 with a NUL at the end; a longer message is cut off.
    pub message: [c_char; 508],
}

/// A call that failed; the message has been written.
#[derive(Debug)]
pub(crate) struct Failed(vit_status);

/// Where the message of a call goes.
pub(crate) struct Report<'a>(Option<&'a mut vit_error>);

impl Report<'_> {
    pub(crate) fn fail(&mut self, status: vit_status, message: impl Display) -> Failed {
        if let Some(error) = &mut self.0 {
            let mut text = Text { buffer: &mut error.message, len: 0 };
            let _ = write!(text, "{message}"); // What does not fit is cut off.
            error.status = status;
        }
        Failed(status)
    }

    pub(crate) fn argument(&mut self, message: impl Display) -> Failed {
        self.fail(VIT_ARGUMENT, message)
    }
}

/// Runs the body of a function of the interface.
///
/// # Safety
/// `error` is null or points to a `vit_error` that nothing else uses during the call.
pub(crate) unsafe fn call(
    error: *mut vit_error,
    body: impl FnOnce(&mut Report<'_>) -> Result<(), Failed>,
) -> vit_status {
    // SAFETY: as the caller promises. A `vit_error` has no invalid bit patterns.
    let mut report = Report(unsafe { error.as_mut() });
    if let Some(error) = &mut report.0 {
        error.status = VIT_OK;
        error.message[0] = 0;
    }
    #[cfg(feature = "std")]
    let result = {
        use std::panic::{AssertUnwindSafe, catch_unwind};
        // A model does not change, and the caller's buffers may hold anything after an error.
        let caught = catch_unwind(AssertUnwindSafe(|| body(&mut report)));
        caught.unwrap_or_else(|_| Err(report.fail(VIT_BUG, "a bug in the library; its message is on stderr")))
    };
    #[cfg(not(feature = "std"))]
    let result = body(&mut report);
    result.map_or_else(|Failed(status)| status, |()| VIT_OK)
}

/// Text in a buffer of the caller, with a NUL at its end.
struct Text<'a> {
    buffer: &'a mut [c_char],
    len: usize,
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = self.buffer.len() - 1 - self.len;
        let fits = text.floor_char_boundary(free);
        for (to, from) in self.buffer[self.len..].iter_mut().zip(text[..fits].bytes()) {
            *to = from.cast_signed() as c_char;
        }
        self.len += fits;
        self.buffer[self.len] = 0;
        if fits < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// Copies a text into a buffer of the caller; one that does not fit is cut off.
pub(crate) fn copy(text: impl Display, buffer: &mut [c_char]) {
    let _ = write!(Text { buffer, len: 0 }, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let mut error = vit_error { status: 7, message: [1; 508] };
        let long = "é".repeat(300);
        // SAFETY: nothing else uses the error.
        let status = unsafe { call(&raw mut error, |report| Err(report.fail(VIT_FILE, &long))) };
        assert_eq!((status, error.status), (VIT_FILE, VIT_FILE));
        assert_eq!(error.message[506..], [0, 1]); // 253 characters of two bytes
        // SAFETY: the same.
        let status = unsafe { call(&raw mut error, |_| Ok(())) };
        assert_eq!((status, error.status, error.message[0]), (VIT_OK, VIT_OK, 0));
    }

    #[test]
    fn a_panic_becomes_a_status() {
        let mut error = vit_error { status: 0, message: [0; 508] };
        // SAFETY: nothing else uses the error.
        let status = unsafe { call(&raw mut error, |_| panic!("as a bug would")) };
        assert_eq!((status, error.status), (VIT_BUG, VIT_BUG));
    }
}
