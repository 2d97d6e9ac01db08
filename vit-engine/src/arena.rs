//! Memory that the caller owns: aligned bytes in, typed and disjoint views out.
#![allow(unsafe_code)] // Two marker implementations.

use core::fmt;

/// What an arena's, and a model's, first byte is aligned to: a cache line.
pub const ALIGN: usize = 64;

/// `N` bytes at an aligned address, for a `static` or the stack.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Aligned<const N: usize>(pub [u8; N]);

/// Memory that cannot serve as an arena or hold a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Takes the next `len` elements off the front. Lengths are a plan's, whose buffers fit by construction.
pub(crate) fn take<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (front, back) = core::mem::take(rest).split_at_mut(padded(len).expect("the plan added it up"));
    *rest = back;
    &mut front[..len]
}

/// A buffer's length, rounded up to whole cache lines so that the next one is aligned too; `None` on overflow.
pub(crate) fn padded(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(ALIGN / size_of::<f32>())
}

/// An aligned buffer on the heap: an arena, or the memory of a model.
#[cfg(feature = "std")]
pub struct AlignedBox(Box<[Line]>, usize);

#[cfg(feature = "std")]
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

// SAFETY: an array of bytes; zeros are a value of it.
#[cfg(feature = "std")]
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: an array of bytes, as large as its alignment: no padding, and every bit pattern is a value.
#[cfg(feature = "std")]
unsafe impl bytemuck::Pod for Line {}

#[cfg(feature = "std")]
impl AlignedBox {
    /// `len` zero bytes, or `None` if the system does not give them.
    pub fn new(len: usize) -> Option<Self> {
        bytemuck::allocation::try_zeroed_slice_box(len.div_ceil(ALIGN)).ok().map(|lines| Self(lines, len))
    }
}

#[cfg(feature = "std")]
impl core::ops::Deref for AlignedBox {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &bytemuck::must_cast_slice(&self.0)[..self.1]
    }
}

#[cfg(feature = "std")]
impl core::ops::DerefMut for AlignedBox {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::must_cast_slice_mut(&mut self.0)[..self.1]
    }
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
        let on_heap = AlignedBox::new(100).unwrap();
        assert_eq!(aligned(&on_heap, 100).map(<[u8]>::len), Ok(100));
        // The black box keeps the optimiser from leaving the allocation out.
        assert!(std::hint::black_box(AlignedBox::new(usize::MAX / 4)).is_none());
    }
}
