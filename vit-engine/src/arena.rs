//! Working memory that the caller owns: aligned bytes, cut into disjoint typed slices.

use core::fmt;

use bytemuck::Pod;

use crate::config::checked_product;

/// The alignment of an arena and of a model's memory: one cache line.
pub const ALIGN: usize = 64;

/// `N` bytes aligned to [`ALIGN`], for a `static` or the stack.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Aligned<const N: usize>(pub [u8; N]);

/// Why memory cannot be an arena or hold a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryError {
    /// The first byte is not aligned to [`ALIGN`].
    Misaligned,
    /// The memory is too small.
    TooSmall {
        /// The size needed, in bytes.
        needed: usize,
        /// The size of the memory, in bytes.
        found: usize,
    },
    /// The memory does not have the size of a model with this config and precision, so it was filled for another one.
    OtherModel {
        /// The size of such a model, in bytes.
        needed: usize,
        /// The size of the memory, in bytes.
        found: usize,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned => write!(f, "the memory must start at a multiple of {ALIGN} bytes"),
            Self::TooSmall { needed, found } => write!(f, "the memory has {found} bytes, expected at least {needed}"),
            Self::OtherModel { needed, found } => {
                write!(
                    f,
                    "the memory has {found} bytes, expected {needed} for this config and precision: it holds another model"
                )
            }
        }
    }
}

impl core::error::Error for MemoryError {}

/// The first `needed` bytes, after checking size and alignment.
pub(crate) fn aligned(memory: &[u8], needed: usize) -> Result<&[u8], MemoryError> {
    check(memory.as_ptr(), memory.len(), needed)?;
    Ok(&memory[..needed])
}

/// [`aligned`] for writable memory.
pub(crate) fn aligned_mut(memory: &mut [u8], needed: usize) -> Result<&mut [u8], MemoryError> {
    check(memory.as_ptr(), memory.len(), needed)?;
    Ok(&mut memory[..needed])
}

fn check(start: *const u8, found: usize, needed: usize) -> Result<(), MemoryError> {
    if found < needed {
        Err(MemoryError::TooSmall { needed, found })
    } else if start.addr().is_multiple_of(ALIGN) {
        Ok(())
    } else {
        Err(MemoryError::Misaligned)
    }
}

/// Takes a buffer of this shape from the front of the rest of an arena. The plan has made the arena long enough.
pub(crate) fn take<'a, T: Pod>(rest: &mut &'a mut [u8], shape: &[usize]) -> &'a mut [T] {
    let bytes = padded_bytes::<T>(shape).expect("the plan has computed the size of this buffer");
    let (front, back) = core::mem::take(rest).split_at_mut(bytes);
    *rest = back;
    &mut bytemuck::cast_slice_mut(front)[..shape.iter().product()]
}

/// Bytes of a buffer, rounded up to whole cache lines so that the next buffer is aligned too; `None` on overflow.
pub(crate) const fn padded_bytes<T>(shape: &[usize]) -> Option<usize> {
    let Some(len) = checked_product(shape) else { return None };
    let Some(bytes) = len.checked_mul(size_of::<T>()) else { return None };
    bytes.checked_next_multiple_of(ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_checked() {
        let mut memory = Aligned([0u8; 256]);
        assert!(aligned(&memory.0, 256).is_ok());
        assert_eq!(aligned(&memory.0, 257), Err(MemoryError::TooSmall { needed: 257, found: 256 }));
        assert_eq!(aligned_mut(&mut memory.0[4..], 64), Err(MemoryError::Misaligned));
    }
}
