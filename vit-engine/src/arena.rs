//! Memory that the caller owns: aligned bytes in, typed and disjoint views out.

use core::fmt;

use bytemuck::Pod;

use crate::config::checked_product;

/// What an arena's, and a model's, first byte is aligned to: a cache line.
pub const ALIGN: usize = 64;

/// `N` bytes at an aligned address, for a `static` or the stack.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Aligned<const N: usize>(pub [u8; N]);

/// Memory that cannot serve as an arena or hold a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryError {
    /// The first byte is not aligned to [`ALIGN`].
    Misaligned,
    /// There are too few bytes.
    TooSmall {
        /// The bytes needed.
        needed: usize,
        /// The bytes there are.
        found: usize,
    },
    /// A model of this config and precision has another size: the memory was filled for a different one.
    OtherModel {
        /// The bytes such a model takes.
        needed: usize,
        /// The bytes there are.
        found: usize,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned => write!(f, "memory has to start at a multiple of {ALIGN} bytes"),
            Self::TooSmall { needed, found } => write!(f, "memory has {found} bytes, and {needed} are needed"),
            Self::OtherModel { needed, found } => {
                write!(f, "{found} bytes were filled for another model: this config and precision take {needed}")
            }
        }
    }
}

impl core::error::Error for MemoryError {}

/// The first `needed` bytes, if they are there and aligned.
pub(crate) fn aligned(memory: &[u8], needed: usize) -> Result<&[u8], MemoryError> {
    check(memory.as_ptr(), memory.len(), needed)?;
    Ok(&memory[..needed])
}

/// [`aligned`] for memory to write.
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

/// Takes a buffer of that shape off the front of what is left of an arena, which a plan made long enough.
pub(crate) fn take<'a, T: Pod>(rest: &mut &'a mut [u8], shape: &[usize]) -> &'a mut [T] {
    let bytes = padded_bytes::<T>(shape).expect("the plan added it up");
    let (front, back) = core::mem::take(rest).split_at_mut(bytes);
    *rest = back;
    &mut bytemuck::cast_slice_mut(front)[..shape.iter().product()]
}

/// Bytes of a buffer, rounded up to whole cache lines so that the next one is aligned too; `None` on overflow.
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
