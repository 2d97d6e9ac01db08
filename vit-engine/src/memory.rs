//! Aligned memory for arenas and weights. A failed allocation is an error, not a panic.
use core::fmt;
use core::ops::{Deref, DerefMut};

/// An owned, aligned, zeroed buffer for an arena or for a model's weights.
///
/// With the feature `mmap` it maps its own pages and, on Linux, asks for huge ones (`madvise`), which the system may
/// refuse. With pages of 4 KB, streaming weights spends a tenth of the time on page look-ups. Without that feature,
/// and in WebAssembly, which maps no pages, it uses the program's allocator.
pub struct AlignedBox(store::Store);

impl AlignedBox {
    /// Allocates `len` zero bytes, aligned to [`ALIGN`](crate::ALIGN).
    ///
    /// # Errors
    /// If the allocation fails.
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

/// An allocation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// The size of the allocation in bytes.
    pub bytes: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot allocate {} bytes of memory", self.bytes)
    }
}

impl core::error::Error for OutOfMemory {}

/// Pages mapped from the system.
#[cfg(all(feature = "mmap", not(target_family = "wasm")))]
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
            // Extra address space, so that the buffer can start at a huge page. Untouched pages take no memory.
            let spare = if len < HUGE_PAGE { 0 } else { HUGE_PAGE };
            let pages = MmapMut::map_anon(len.checked_add(spare)?.max(1)).ok()?;
            let start = if spare == 0 { 0 } else { pages.as_ptr().align_offset(HUGE_PAGE) };
            #[cfg(target_os = "linux")]
            if spare > 0 {
                // Only whole huge pages, so that the buffer does not take more memory. A system without huge pages
                // returns an error, which is ignored.
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

/// Memory from the program's allocator: a vector of cache lines, whose type is aligned.
#[cfg(any(not(feature = "mmap"), target_family = "wasm"))]
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
