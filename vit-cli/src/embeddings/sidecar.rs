//! The JSON file beside .npy and .jsonl files.
use std::borrow::Cow;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Description;
use crate::inputs;
use crate::replace::{self, Replacement};

/// What the file has to say.
#[derive(Serialize, Deserialize)]
pub(super) struct Beside<'a> {
    #[serde(flatten)]
    pub(super) description: Cow<'a, Description>,
    pub(super) rows: usize,
    /// The pictures' paths, for formats that do not hold them.
    #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
    pub(super) paths: Cow<'a, [String]>,
}

/// `x.npy` → `x.npy.json`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// Writes the file beside `path`, whose old content is removed first: it does not belong to the new description.
pub(super) fn write(path: &Path, description: &Description, rows: usize, paths: &[String]) -> Result<()> {
    let target = replace::target(path)?;
    let mut file = Replacement::sole(&beside(&target))?;
    let mut out = BufWriter::new(file.file());
    let beside = Beside { description: Cow::Borrowed(description), rows, paths: paths.into() };
    serde_json::to_writer_pretty(&mut out, &beside)?;
    out.write_all(b"\n")?;
    out.flush()?;
    drop(out);
    match std::fs::remove_file(&target) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    file.finish()?;
    Ok(())
}

/// Reads the file beside `path`.
pub(super) fn read(path: &Path) -> Result<Beside<'static>> {
    let path = path.canonicalize()?;
    let path = beside(&path);
    let read =
        || -> Result<Beside<'static>> { Ok(serde_json::from_reader(BufReader::new(inputs::open_file(&path)?))?) };
    read().with_context(|| format!("{}, which has to say how the embeddings were made", inputs::shown(&path)))
}
