//! A file's bytes: mapped, read, or there already.
#![allow(unsafe_code)] // The mmap call.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

/// How a file of weights is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Mapped into memory: nothing is copied but what is packed.
    #[default]
    Map,
    /// Read as a whole.
    Read,
}

pub(super) enum Bytes<'a> {
    Mapped(Arc<Mmap>),
    Read(Vec<u8>),
    Borrowed(&'a [u8]),
}

impl Bytes<'_> {
    pub(super) fn open(path: &Path, access: Access) -> io::Result<Self> {
        regular(path)?;
        match access {
            Access::Read => Ok(Self::Read(std::fs::read(path)?)),
            // SAFETY: the mapping is read-only and bytes have no invalid values. That the file does not change
            // meanwhile is asked of the user; the module's documentation says what happens if it does.
            Access::Map => Ok(Self::Mapped(Arc::new(unsafe { Mmap::map(&File::open(path)?)? }))),
        }
    }
}

/// The size of a regular file. Asked before it is opened: to open a pipe would wait for somebody to write to it.
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
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
            Self::Borrowed(bytes) => bytes,
        }
    }
}
