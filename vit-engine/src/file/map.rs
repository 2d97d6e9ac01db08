//! The bytes of a file: mapped, read, or already in memory.
use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use crate::memory::AlignedBox;

/// How a weights file is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Access {
    /// Mapped into memory. Without the feature `mmap`, and in WebAssembly, it is read.
    #[default]
    Map,
    /// Read into memory completely: into huge pages, where the system has them. The model of a packed file is then used
    /// in that memory.
    Read,
}

pub(super) enum Bytes<'a> {
    #[cfg(feature = "mmap")]
    Mapped(Arc<memmap2::Mmap>),
    Read(Arc<AlignedBox>),
    Borrowed(&'a [u8]),
}

impl Bytes<'_> {
    pub(super) fn open(path: &Path, access: Access) -> io::Result<Self> {
        let len = regular(path)?;
        match access {
            #[cfg(feature = "mmap")]
            Access::Map if !cfg!(target_family = "wasm") => Ok(Self::Mapped(Arc::new(mapped(path)?))),
            _ => Ok(Self::Read(Arc::new(read(path, len)?))),
        }
    }
}

/// The first `len` bytes of a file.
fn read(path: &Path, len: u64) -> io::Result<AlignedBox> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = AlignedBox::new(len).map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error))?;
    File::open(path)?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(feature = "mmap")]
#[allow(unsafe_code)] // The mmap call.
fn mapped(path: &Path) -> io::Result<memmap2::Mmap> {
    let file = File::open(path)?;
    // SAFETY: the mapping is read-only, and every byte is a valid u8. The file must not change meanwhile; that is the
    // user's responsibility, and the module documentation states what happens if it does.
    unsafe { memmap2::Mmap::map(&file) }
}

/// The size of a regular file. It is checked before the file is opened, because opening a pipe waits for a writer.
pub(super) fn regular(path: &Path) -> io::Result<u64> {
    let metadata = path.metadata()?;
    let what = if metadata.is_dir() { "a directory, not a regular file" } else { "not a regular file" };
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(metadata.len())
}

impl Deref for Bytes<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            #[cfg(feature = "mmap")]
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
            Self::Borrowed(bytes) => bytes,
        }
    }
}
