//! Pointers from C to slices and texts.
use core::ffi::{CStr, c_char};
use core::ops::Range;

use crate::error::{Failed, Report};

/// A slice of `len` elements. A null pointer stands for no elements.
///
/// # Safety
/// If it is not null, `start` points to `len` elements that nobody writes during `'a`, and `T` has no invalid bit
/// patterns.
pub(crate) unsafe fn slice<'a, T>(
    start: *const T,
    len: usize,
    name: &str,
    report: &mut Report<'_>,
) -> Result<&'a [T], Failed> {
    check(start, len, name, report)?;
    // SAFETY: not null, aligned, not longer than memory can be; the rest is as the caller promises.
    Ok(if len == 0 { &[] } else { unsafe { core::slice::from_raw_parts(start, len) } })
}

/// The same for writing.
///
/// # Safety
/// As for [`slice`], and nobody else uses these elements during `'a`.
pub(crate) unsafe fn slice_mut<'a, T>(
    start: *mut T,
    len: usize,
    name: &str,
    report: &mut Report<'_>,
) -> Result<&'a mut [T], Failed> {
    check(start, len, name, report)?;
    // SAFETY: not null, aligned, not longer than memory can be; the rest is as the caller promises.
    Ok(if len == 0 { &mut [] } else { unsafe { core::slice::from_raw_parts_mut(start, len) } })
}

fn check<T>(start: *const T, len: usize, name: &str, report: &mut Report<'_>) -> Result<(), Failed> {
    if len > 0 && start.is_null() {
        return Err(report.argument(format_args!("{name} is NULL")));
    }
    if len > 0 && !start.is_aligned() {
        return Err(report.argument(format_args!("{name} is misaligned")));
    }
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX.cast_unsigned()) {
        return Err(report.argument(format_args!("{name} has {len} elements, more than memory can have")));
    }
    Ok(())
}

/// Refuses buffers of which one is written and that overlap.
pub(crate) fn disjoint(buffers: &[(&str, Range<usize>)], report: &mut Report<'_>) -> Result<(), Failed> {
    for (index, (name, range)) in buffers.iter().enumerate() {
        for (other, with) in &buffers[..index] {
            if range.start < with.end && with.start < range.end {
                return Err(report.argument(format_args!("{other} and {name} overlap")));
            }
        }
    }
    Ok(())
}

/// The addresses of a buffer.
pub(crate) fn range<T>(start: *const T, len: usize) -> Range<usize> {
    // Overflow: `check` has refused it, or will.
    start.addr()..start.addr().saturating_add(len.saturating_mul(size_of::<T>()))
}

/// A text.
///
/// # Safety
/// `text` is null, or points to bytes with a NUL among them that nobody changes during `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str, report: &mut Report<'_>) -> Result<&'a str, Failed> {
    if text.is_null() {
        return Err(report.argument(format_args!("{name} is NULL")));
    }
    // SAFETY: as the caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| report.argument(format_args!("{name} is not UTF-8")))
}

/// What `pointer` points to.
///
/// # Safety
/// If it is not null, it points to a value that nobody changes during `'a`.
pub(crate) unsafe fn reference<'a, T>(pointer: *const T, name: &str, report: &mut Report<'_>) -> Result<&'a T, Failed> {
    check(pointer, 1, name, report)?;
    // SAFETY: not null and aligned; the rest is as the caller promises.
    Ok(unsafe { &*pointer })
}

/// Writes a result to where `pointer` points.
///
/// # Safety
/// If it is not null, it points to memory for a value that nobody else uses.
pub(crate) unsafe fn put<T>(pointer: *mut T, value: T, name: &str, report: &mut Report<'_>) -> Result<(), Failed> {
    check(pointer, 1, name, report)?;
    // SAFETY: not null and aligned; the rest is as the caller promises. What was there need not be a value.
    unsafe { pointer.write(value) };
    Ok(())
}
