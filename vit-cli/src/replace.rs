//! Files that appear whole or not at all: written beside their place, and renamed once they are on the disk.
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::{Builder, NamedTempFile};

use crate::inputs;

/// A new file that will take the place of another, or of none. If it is dropped unfinished, it is removed, and the old
/// file stays.
pub(crate) struct Replacement {
    temporary: NamedTempFile,
    target: PathBuf,
}

impl Replacement {
    /// Creates the file beside its place.
    ///
    /// # Errors
    /// If the place is taken by something that is no regular file, or the folder does not exist or cannot be written.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let create = || -> Result<Self> {
            let target = target(path)?;
            Ok(Self { temporary: beside(&target, None)?, target })
        };
        create().with_context(|| inputs::shown(path))
    }

    /// The same under a fixed name, so that one that a killed process left is replaced. For callers that make sure that
    /// nobody else writes this file.
    pub(crate) fn sole(path: &Path) -> Result<Self> {
        let create = || -> Result<Self> {
            let target = target(path)?;
            Ok(Self { temporary: beside(&target, target.file_name())?, target })
        };
        create().with_context(|| inputs::shown(path))
    }

    /// The file, to be written.
    pub(crate) fn file(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Puts the file in its place once it is on the disk, and returns its bytes.
    pub(crate) fn finish(self) -> Result<u64> {
        self.temporary.as_file().sync_all()?;
        let bytes = self.temporary.as_file().metadata()?.len();
        self.temporary.persist(&self.target).map_err(|error| error.error)?;
        Ok(bytes)
    }
}

/// The file that is replaced. Links are followed: their target is replaced, not the link. A device is refused, for it
/// would become a file.
pub(crate) fn target(path: &Path) -> Result<PathBuf> {
    let target = path.canonicalize().unwrap_or_else(|_| path.into());
    let is_other = target.metadata().is_ok_and(|metadata| !metadata.is_file());
    ensure!(!is_other, "is not a regular file, so it is not replaced");
    Ok(target)
}

/// A temporary file in the folder of the target, with the permissions of a normal new file.
fn beside(target: &Path, name: Option<&std::ffi::OsStr>) -> Result<NamedTempFile> {
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    folder.metadata().with_context(|| format!("the folder {}", inputs::shown(folder)))?;
    let prefix = name.map(|name| {
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        prefix
    });
    let mut builder = Builder::new();
    builder.prefix(".vit-").suffix(".tmp");
    if let Some(prefix) = &prefix {
        builder.prefix(prefix).rand_bytes(0);
        let mut name = prefix.clone();
        name.push(".tmp");
        match std::fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The library's error contains the name of the temporary file, which would confuse users.
    let created = builder.tempfile_in(folder).map_err(|error| io::Error::from(error.kind()));
    created.with_context(|| format!("cannot create a file in {}", inputs::shown(folder)))
}
