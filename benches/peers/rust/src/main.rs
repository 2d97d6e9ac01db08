//! One engine as a worker of `race.py`: `peers ENGINE PRECISION FOLDER THREADS`, then requests on stdin and answers
//! on stdout.
mod engines;
mod protocol;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use vit_engine::Precision;

/// The model and how to run it.
pub(crate) struct Task {
    /// A model folder, made by `prepare.py`.
    folder: PathBuf,
    precision: Precision,
    threads: usize,
    /// \[1, 3, 224, 224\].
    pixels: Vec<f32>,
}

impl Task {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            protocol::say(&serde_json::json!({ "error": format!("{error:#}") }));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [engine, precision, folder, threads] = &arguments[..] else {
        bail!("usage: peers ENGINE PRECISION FOLDER THREADS; engines: {}", engines::NAMES.join(", "));
    };
    let precision = precision.parse()?;
    let threads = threads.parse().ok().filter(|threads| *threads > 0).context("THREADS must be a number above 0")?;
    let folder = PathBuf::from(folder);
    let pixels = pixels(&folder.join("pixels.npy"))?;
    engines::serve(engine, &Task { folder, precision, threads, pixels })
}

fn pixels(path: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let pixels = npyz::NpyFile::new(&bytes[..]).and_then(npyz::NpyFile::into_vec::<f32>);
    let pixels = pixels.with_context(|| path.display().to_string())?;
    if pixels.len() != engines::SHAPE.iter().product::<usize>() {
        bail!("{} has {} numbers, but the input has the shape {:?}", path.display(), pixels.len(), engines::SHAPE);
    }
    Ok(pixels)
}
