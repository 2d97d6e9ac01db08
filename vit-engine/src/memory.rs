//! Memory of the engine's own, for arenas and weights: aligned, and an error where the system does not give it.
use core::fmt;
use core::ops::{Deref, DerefMut};

/// An aligned buffer of its own, zero at first: an arena, or the memory of a model.
///
/// With the feature `mmap` it has its own pages, and on Linux it asks for huge ones (`madvise`), which the system may or
/// may not give: weights that are streamed through pages of 4 KB spend a tenth of the time on looking those up. Without
/// that feature it is memory of the program's allocator.
pub struct AlignedBox(store::Store);

impl AlignedBox {
    /// `len` zero bytes, aligned to [`ALIGN`](crate::ALIGN).
    ///
    /// # Errors
    /// When the system does not give them.
    pub fn new(len: usize) -> Result<Self, OutOfMemory> {
        store::Store::new(len).map(Self).ok_or(OutOfMemory { bytes: len })
    }
}

impl Deref for AlignedBox {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl DerefMut for AlignedBox {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

impl fmt::Debug for AlignedBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBox({} bytes)", self.len())
    }
}

/// The system does not give the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// The bytes asked for.
    pub bytes: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the system does not give {} bytes of memory", self.bytes)
    }
}

impl core::error::Error for OutOfMemory {}

/// Pages of the system.
#[cfg(feature = "mmap")]
mod store {
    use memmap2::MmapMut;

    pub(super) struct Store {
        pages: MmapMut,
        start: usize,
        len: usize,
    }

    /// The usual size of a huge page.
    const HUGE_PAGE: usize = 2 << 20;

    impl Store {
        pub(super) fn new(len: usize) -> Option<Self> {
            // Room to start at a huge page; what is never touched takes no memory.
            let spare = if len < HUGE_PAGE { 0 } else { HUGE_PAGE };
            let pages = MmapMut::map_anon(len.checked_add(spare)?.max(1)).ok()?;
            let start = if spare == 0 { 0 } else { pages.as_ptr().align_offset(HUGE_PAGE) };
            #[cfg(target_os = "linux")]
            if spare > 0 {
                // Whole ones alone, so that the buffer does not grow by them. A system without them says so: no harm.
                let _ = pages.advise_range(memmap2::Advice::HugePage, start, len / HUGE_PAGE * HUGE_PAGE);
            }
            Some(Self { pages, start, len })
        }

        pub(super) fn bytes(&self) -> &[u8] {
            &self.pages[self.start..][..self.len]
        }

        pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.pages[self.start..][..self.len]
        }
    }
}

/// Memory of the program's allocator: cache lines, which are aligned by their type.
#[cfg(not(feature = "mmap"))]
mod store {
    extern crate alloc;

    use alloc::vec::Vec;

    use vit_kernels::Line;

    pub(super) struct Store {
        lines: Vec<Line>,
        len: usize,
    }

    impl Store {
        pub(super) fn new(len: usize) -> Option<Self> {
            let (count, mut lines) = (len.div_ceil(size_of::<Line>()), Vec::new());
            lines.try_reserve_exact(count).ok()?;
            lines.resize(count, Line::ZERO);
            Some(Self { lines, len })
        }

        pub(super) fn bytes(&self) -> &[u8] {
            &bytemuck::cast_slice(&self.lines)[..self.len]
        }

        pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
            &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
        }
    }
}

const _: () = assert!(align_of::<vit_kernels::Line>() == crate::ALIGN);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::aligned;

    #[test]
    fn memory_is_aligned_and_zero() {
        const HUGE_PAGE: usize = 2 << 20;
        for len in [0, 1, 100, HUGE_PAGE - 1, HUGE_PAGE, 2 * HUGE_PAGE + 1] {
            let mut own = AlignedBox::new(len).unwrap();
            assert!(aligned(&own, len).is_ok_and(|own| own.len() == len && own.iter().all(|byte| *byte == 0)));
            own.fill(1);
        }
        for len in [usize::MAX / 4, usize::MAX] {
            assert_eq!(AlignedBox::new(len).err(), Some(OutOfMemory { bytes: len }));
        }
    }
}
