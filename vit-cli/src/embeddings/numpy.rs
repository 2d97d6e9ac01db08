//! .npy: f32, \[pictures, dim\].
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::EachRow;
use crate::npy;

/// Writes the rows; the paths go into `paths`.
pub(super) fn write(
    file: &mut File,
    shape: [usize; 2],
    paths: &mut Vec<String>,
    each: &dyn Fn(&mut EachRow<'_>) -> Result<()>,
) -> Result<()> {
    npy::write_to(file, &shape, |push| {
        each(&mut |path, embedding| {
            paths.push(path.to_owned());
            push(embedding)
        })
    })
}

pub(super) fn each(path: &Path, paths: &[String], row: &mut EachRow<'_>) -> Result<()> {
    let mut npy = npy::open(path)?;
    let shape = <[usize; 2]>::try_from(npy.shape()).ok().filter(|[rows, dim]| *rows == paths.len() && *dim > 0);
    let [_, dim] = shape.with_context(|| {
        format!("the shape is {:?}, but there are {} paths in the file beside it", npy.shape(), paths.len())
    })?;
    let mut embedding = Vec::new();
    for path in paths {
        embedding.clear();
        npy.read_some(&mut embedding, dim)?;
        row(path, &embedding)?;
    }
    ensure!(npy.is_at_end()?, "the file is longer than its header says");
    Ok(())
}
