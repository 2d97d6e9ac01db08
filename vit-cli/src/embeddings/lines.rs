//! JSON Lines: `{"path": "a.png", "embedding": [0.25, …]}`, one picture a line.
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::EachRow;
use crate::inputs;

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
    embedding: Cow<'a, [f32]>,
}

pub(super) fn write(file: &mut File, each: &dyn Fn(&mut EachRow<'_>) -> Result<()>) -> Result<()> {
    let mut out = BufWriter::new(file);
    each(&mut |path, embedding| {
        serde_json::to_writer(&mut out, &Line { path: path.into(), embedding: embedding.into() })?;
        Ok(out.write_all(b"\n")?)
    })?;
    Ok(out.flush()?)
}

pub(super) fn each(path: &Path, row: &mut EachRow<'_>) -> Result<()> {
    let mut file = BufReader::new(inputs::open_file(path)?);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        if file.read_line(&mut line)? == 0 {
            break;
        }
        let parsed: Line<'_> = serde_json::from_str(&line).with_context(|| format!("line {number}"))?;
        row(&parsed.path, &parsed.embedding)?;
    }
    Ok(())
}
