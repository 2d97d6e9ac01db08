//! `Model.save`: writes a packed file.
use std::io::{self, Write};
use std::path::Path;

use pyo3::prelude::*;
use tempfile::{Builder, NamedTempFile};
use vit_engine::file::Loaded;

use crate::interrupt::Interrupt;

/// Writes the model as a packed file, which takes the place of `path` once it is complete and on the disk.
///
/// The model itself may be mapped from that place: it keeps the file that was there.
pub(crate) fn save(py: Python<'_>, loaded: &Loaded, path: &Path) -> PyResult<()> {
    let interrupt = Interrupt::new();
    let saved = py.detach(|| replace(path, |file| loaded.write_packed(Stoppable { file, interrupt: &interrupt })));
    saved.map_err(|error| {
        // pyo3 makes of it the kind of OSError that it is.
        let named = || io::Error::new(error.kind(), format!("{}: {error}", path.display())).into();
        interrupt.raised().unwrap_or_else(named)
    })
}

/// Writes a file that appears whole or not at all: on any error the old one stays.
fn replace(path: &Path, write: impl FnOnce(&mut NamedTempFile) -> io::Result<()>) -> io::Result<()> {
    // The target of a link is replaced, not the link.
    let target = path.canonicalize().unwrap_or_else(|_| path.into());
    if target.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::other("is not a regular file, so it is not replaced"));
    }
    let folder = target.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mut builder = Builder::new();
    builder.prefix(".vit-").suffix(".tmp");
    // The permissions of a normal new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The library's error contains the name of the temporary file, which would confuse users.
    let created = builder.tempfile_in(folder).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot create a file in {}: {}", folder.display(), error.kind()))
    });
    let mut file = created?;
    write(&mut file)?;
    file.as_file().sync_all()?;
    file.persist(&target).map_err(|error| error.error)?;
    Ok(())
}

/// A file that takes what it is given in pieces, and fails once a handler of Python's signals has raised.
struct Stoppable<'a> {
    file: &'a mut NamedTempFile,
    interrupt: &'a Interrupt,
}

impl Write for Stoppable<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        /// Written within a few milliseconds.
        const AT_ONCE: usize = 1 << 20;
        if self.interrupt.stop() {
            return Err(io::Error::other("interrupted"));
        }
        self.file.write(&data[..data.len().min(AT_ONCE)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
