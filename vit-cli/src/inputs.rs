//! Finds pictures (files, folders, a list on stdin) and opens files.
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::output;

/// A picture to read.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) path: PathBuf,
    /// Why there is no picture: a folder that cannot be listed or is empty, an invalid name.
    pub(crate) problem: Option<String>,
}

impl Input {
    fn picture(path: PathBuf) -> Self {
        Self { path, problem: None }
    }

    fn failed(path: &Path, problem: &dyn Display) -> Self {
        Self { path: path.into(), problem: Some(problem.to_string()) }
    }
}

/// Expands folders into their pictures, in sorted order, and `-` into the paths on stdin, one per line. Files are
/// accepted with any name.
pub(crate) fn expand(arguments: &[PathBuf]) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for argument in arguments {
        if argument.as_os_str() == "-" {
            inputs.extend(listed(io::stdin().lock()).context("the list of paths on stdin")?);
        } else if argument.is_dir() {
            let found = pictures(argument);
            if found.is_empty() {
                inputs.push(Input::failed(argument, &"no picture files in this folder"));
            }
            inputs.extend(found);
        } else {
            inputs.push(Input::picture(argument.clone()));
        }
    }
    Ok(inputs)
}

/// The paths in a list, one per line.
fn listed(mut list: impl BufRead) -> io::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    loop {
        let mut line = Vec::new();
        if list.read_until(b'\n', &mut line)? == 0 {
            return Ok(inputs);
        }
        let path = line.strip_suffix(b"\n").unwrap_or(&line);
        let path = path.strip_suffix(b"\r").unwrap_or(path);
        if !path.is_empty() {
            inputs.push(path_of(path));
        }
    }
}

/// On Unix a path may contain any bytes.
#[cfg(unix)]
fn path_of(bytes: &[u8]) -> Input {
    use std::os::unix::ffi::OsStrExt;
    Input::picture(std::ffi::OsStr::from_bytes(bytes).into())
}

/// Elsewhere a path in the list must be UTF-8.
#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> Input {
    match std::str::from_utf8(bytes) {
        Ok(path) => Input::picture(path.into()),
        Err(error) => Input::failed(String::from_utf8_lossy(bytes).as_ref().as_ref(), &error),
    }
}

/// The pictures in a folder and its subfolders, sorted by name. A folder that cannot be listed becomes an input with an
/// error.
pub(crate) fn pictures(folder: &Path) -> Vec<Input> {
    let mut found = Vec::new();
    walk(folder, &|folder| entries(folder), &mut found);
    found
}

fn walk(folder: &Path, list: &impl Fn(&Path) -> io::Result<Vec<Entry>>, found: &mut Vec<Input>) {
    let entries = match list(folder) {
        Ok(entries) => entries,
        Err(error) => return found.push(Input::failed(folder, &error)),
    };
    for Entry { path, is_folder } in entries {
        if is_folder {
            walk(&path, list, found);
        } else if is_picture(&path) {
            found.push(Input::picture(path));
        }
    }
}

/// An entry of a folder.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    /// A link to a folder does not count as one, so it is not followed: it may point to a parent.
    is_folder: bool,
}

/// The entries of a folder, sorted by name.
pub(crate) fn entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let entry = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry?;
        // The folder itself has the entry's type, so it is known even if access to the entry is denied.
        Ok(Entry { path: entry.path(), is_folder: entry.file_type()?.is_dir() })
    };
    let mut entries = folder.read_dir()?.map(entry).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

/// What the names of picture files end with.
const EXTENSIONS: [&str; 10] = ["png", "apng", "jpg", "jpeg", "jfif", "webp", "gif", "bmp", "tif", "tiff"];

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&&*extension))
}

/// Opens a regular file.
///
/// The type is checked before the file is opened, because opening a named pipe waits for a writer.
pub(crate) fn open_file(path: &Path) -> Result<File> {
    let metadata = path.metadata()?;
    ensure!(!metadata.is_dir(), "is a folder, not a file");
    ensure!(metadata.is_file(), "is not a regular file");
    Ok(File::open(path)?)
}

/// Opens a file that is read once from start to end: a regular file, or one that the caller has opened already, such as
/// stdin or a shell's `<(…)`.
pub(crate) fn open_stream(path: &Path) -> Result<File> {
    let is_open_already = path == Path::new("/dev/stdin")
        || ["/dev/fd", "/proc/self/fd"].map(Path::new).contains(&path.parent().unwrap_or(path));
    if is_open_already && !path.is_dir() { Ok(File::open(path)?) } else { open_file(path) }
}

/// Whether two paths lead to the same file, which exists.
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

/// A path, for display.
pub(crate) fn shown(path: &Path) -> String {
    output::name(path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_listed_leaves_the_rest() {
        let entry = |path: &str, is_folder| Entry { path: path.into(), is_folder };
        let list = |folder: &Path| match folder.to_str().unwrap() {
            "top" => Ok(vec![
                entry("top/a.png", false),
                entry("top/closed.png", true),
                entry("top/notes.txt", false),
                entry("top/open", true),
            ]),
            "top/open" => Ok(vec![entry("top/open/b.JPG", false)]),
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        };
        let mut found = Vec::new();
        walk(Path::new("top"), &list, &mut found);
        let found: Vec<_> =
            found.iter().map(|input| (input.path.to_str().unwrap(), input.problem.as_deref())).collect();
        let wanted = [("top/a.png", None), ("top/closed.png", Some("permission denied")), ("top/open/b.JPG", None)];
        assert_eq!(found, wanted);
    }

    #[test]
    #[cfg(unix)]
    fn a_list_holds_any_bytes() {
        use std::os::unix::ffi::OsStrExt;
        let inputs = listed(&b"a.png\n\nb\xff.png\r\n c \nlast"[..]).unwrap();
        let paths: Vec<_> = inputs.iter().map(|input| input.path.as_os_str().as_bytes()).collect();
        assert_eq!(paths, [&b"a.png"[..], b"b\xff.png", b" c ", b"last"]);
        assert!(inputs.iter().all(|input| input.problem.is_none()));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for (path, message) in [
            (&*pipe, "not a regular file"),
            (Path::new("/dev/null"), "not a regular file"),
            (folder.path(), "is a folder"),
            (&*folder.path().join("missing"), "No such file"),
        ] {
            for open in [open_file, open_stream] {
                let error = format!("{:#}", open(path).unwrap_err());
                assert!(error.contains(message), "{error}");
            }
        }
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(open_file(&folder.path().join("file")).is_ok());
    }
}
