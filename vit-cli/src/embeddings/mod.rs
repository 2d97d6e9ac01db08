//! Files of embeddings: one row of numbers for each picture, with its path, and a description of how they were made.
//!
//! | Name ends with | Rows | Paths | Description |
//! |---|---|---|---|
//! | `.parquet` | column `embedding`, a fixed-size list of f32 | column `path` | JSON in the file's metadata, under the key `vit` |
//! | `.npy` | f32, \[pictures, dim\] | `paths` in `NAME.npy.json` | `NAME.npy.json` |
//! | `.jsonl` | `embedding` of each line | `path` of each line | `NAME.jsonl.json` |
mod description;
mod lines;
mod nearest;
mod numpy;
mod parquet;
mod sidecar;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

pub(crate) use description::Description;
pub(crate) use nearest::{Hit, Index, unit};

use crate::replace::Replacement;
use crate::{inputs, memory};

/// What is done with each picture's path and embedding.
pub(crate) type EachRow<'a> = dyn FnMut(&str, &[f32]) -> Result<()> + 'a;

/// The format of a file, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Format {
    Parquet,
    Npy,
    Jsonl,
}

impl Format {
    pub(crate) fn of(path: &Path) -> Result<Self> {
        Ok(match path.extension().and_then(|extension| extension.to_str()) {
            Some("parquet") => Self::Parquet,
            Some("npy") => Self::Npy,
            Some("jsonl") => Self::Jsonl,
            _ => bail!("the name of a file of embeddings ends with .parquet, .npy or .jsonl"),
        })
    }
}

/// Writes a file of `rows` pictures, which `each` passes on in order. It appears whole or not at all. Nobody else may
/// write it at the same time.
pub(crate) fn write(
    path: &Path,
    description: &Description,
    rows: usize,
    each: &dyn Fn(&mut EachRow<'_>) -> Result<()>,
) -> Result<()> {
    let format = Format::of(path)?;
    let mut file = Replacement::sole(path)?;
    match format {
        Format::Parquet => parquet::write(file.file(), description, each)?,
        Format::Npy => {
            let mut paths = Vec::new();
            numpy::write(file.file(), [rows, description.dim], &mut paths, each)?;
            sidecar::write(path, description, rows, &paths)?;
        }
        Format::Jsonl => {
            lines::write(file.file(), each)?;
            sidecar::write(path, description, rows, &[])?;
        }
    }
    file.finish()?;
    Ok(())
}

/// The description of a file, and its number of pictures.
pub(crate) fn describe(path: &Path) -> Result<(Description, usize)> {
    let describe = || -> Result<_> {
        let (description, rows) = match Format::of(path)? {
            Format::Parquet => parquet::describe(path)?,
            Format::Npy | Format::Jsonl => {
                sidecar::read(path).map(|beside| (beside.description.into_owned(), beside.rows))?
            }
        };
        description.validate()?;
        Ok((description, rows))
    };
    describe().with_context(|| inputs::shown(path))
}

/// Passes on every row of a file, in order.
pub(crate) fn each(path: &Path, row: &mut EachRow<'_>) -> Result<()> {
    let (description, rows) = describe(path)?;
    let mut found = 0;
    let mut checked = |name: &str, embedding: &[f32]| {
        ensure!(
            embedding.len() == description.dim,
            "{}: {} numbers, not the {} of the description",
            crate::output::name(name),
            embedding.len(),
            description.dim
        );
        found += 1;
        row(name, embedding)
    };
    let read = match Format::of(path)? {
        Format::Parquet => parquet::each(path, &mut checked),
        Format::Npy => sidecar::read(path).and_then(|beside| numpy::each(path, &beside.paths, &mut checked)),
        Format::Jsonl => lines::each(path, &mut checked),
    };
    let read = || {
        read?;
        ensure!(found == rows, "{found} pictures, not the {rows} of the description");
        Ok(())
    };
    read().with_context(|| inputs::shown(path))
}

/// The rows of a file in memory.
pub(crate) struct Rows {
    pub(crate) paths: Vec<String>,
    /// \[pictures, dim\].
    pub(crate) embeddings: Vec<f32>,
}

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Result<Rows> {
    let mut rows = Rows { paths: Vec::new(), embeddings: Vec::new() };
    each(path, &mut |name, embedding| {
        rows.paths.push(name.to_owned());
        memory::grow("the embeddings", &mut rows.embeddings, embedding.len(), usize::MAX)?;
        rows.embeddings.extend(embedding);
        Ok(())
    })?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_two(path: &Path) -> Result<()> {
        write(path, &Description::example(3), 2, &|row| {
            row("a/é \"1\".png", &[1.0, -0.1, 3.0e-9])?;
            row("b.png", &[0.0, 5.5, f32::MAX])
        })
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x.parquet", "x.npy", "x.jsonl"] {
            let path = folder.path().join(name);
            write_two(&path).unwrap();
            assert_eq!(describe(&path).unwrap(), (Description::example(3), 2), "{name}");
            let rows = read(&path).unwrap();
            assert_eq!(rows.paths, ["a/é \"1\".png", "b.png"]);
            assert_eq!(rows.embeddings, [1.0, -0.1, 3.0e-9, 0.0, 5.5, f32::MAX], "{name}");
        }
        let mut left: Vec<_> = folder.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["x.jsonl", "x.jsonl.json", "x.npy", "x.npy.json", "x.parquet"]);
    }

    #[test]
    fn no_pictures_at_all() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x.parquet", "x.npy", "x.jsonl"] {
            let path = folder.path().join(name);
            write(&path, &Description::example(3), 0, &|_| Ok(())).unwrap();
            assert!(read(&path).unwrap().paths.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_failure_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x.parquet", "x.npy", "x.jsonl"] {
            let path = folder.path().join(name);
            write_two(&path).unwrap();
            let before = std::fs::read(&path).unwrap();
            let failed = write(&path, &Description::example(3), 2, &|row| {
                row("c", &[1.0, 2.0, 3.0])?;
                bail!("no more")
            });
            assert_eq!(failed.unwrap_err().to_string(), "no more");
            assert_eq!(std::fs::read(&path).unwrap(), before, "{name}");
            assert_eq!(read(&path).unwrap().paths.len(), 2);
        }
    }

    #[test]
    fn damaged_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x.parquet", "x.npy", "x.jsonl"] {
            let path = folder.path().join(name);
            write_two(&path).unwrap();
            let whole = std::fs::read(&path).unwrap();
            for len in 0..whole.len() {
                std::fs::write(&path, &whole[..len]).unwrap();
                // A line without its line break is whole.
                if name != "x.jsonl" || len + 1 < whole.len() {
                    assert!(read(&path).is_err(), "{name} cut to {len} bytes");
                }
            }
        }
    }
}
