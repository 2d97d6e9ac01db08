//! Which pictures: files, folders, a list on stdin.
use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Expands folders into their pictures, in sorted order, and `-` into the paths on stdin, one a line. Files are taken
/// as they are, whatever their name.
pub(crate) fn expand(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for argument in arguments {
        if argument.as_os_str() == "-" {
            for line in std::io::stdin().lock().lines() {
                let line = line.context("stdin: paths have to be valid UTF-8, one a line")?;
                if !line.is_empty() {
                    paths.push(line.into());
                }
            }
        } else if argument.is_dir() {
            let found = pictures(argument)?;
            ensure!(!found.is_empty(), "{}: no PNG or JPEG files in this folder", argument.display());
            paths.extend(found);
        } else {
            paths.push(argument.clone());
        }
    }
    Ok(paths)
}

/// The pictures in a folder and the folders below it, by name.
pub(crate) fn pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in entries(folder)? {
        // A link to a folder is not followed: it may lead back up.
        if entry.is_dir() && !entry.is_symlink() {
            found.extend(pictures(&entry)?);
        } else if is_picture(&entry) {
            found.push(entry);
        }
    }
    Ok(found)
}

/// What is in a folder, by name.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> { folder.read_dir()?.map(|entry| Ok(entry?.path())).collect() };
    let mut entries = read().with_context(|| folder.display().to_string())?;
    entries.sort();
    Ok(entries)
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| ["png", "jpg", "jpeg"].contains(&&*extension))
}
