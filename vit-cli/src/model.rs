//! Loads the model that the options name, and starts its threads.
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use core_affinity::CoreId;
use vit_engine::file::{Access, Checkpoint, Loaded};
use vit_engine::pipeline::Batch;
use vit_engine::{Config, Formats, Output, Session, SessionOptions, ThreadPool};

use crate::memory;
use crate::options::{LoadOptions, ModelOptions, RunOptions, SourceOptions};
use crate::output;

/// The files of the built-in model.
const BUILT_IN: [&[u8]; 2] =
    [include_bytes!("../models/fashion-vit/config.json"), include_bytes!("../models/fashion-vit/model.safetensors")];

/// The name of the built-in model in output.
pub(crate) const BUILT_IN_NAME: &str = "fashion-vit (built in)";

/// A pool of `threads` threads, including the caller's.
pub(crate) fn pool(threads: usize) -> Result<ThreadPool> {
    ThreadPool::new(threads).with_context(|| format!("cannot start {threads} threads"))
}

/// A pool whose threads are pinned to one of `cores` each, if there are enough cores. This thread gets the first core
/// and stays pinned. Also returns whether the threads are pinned.
pub(crate) fn pinned_pool(threads: usize, cores: &[CoreId]) -> Result<(ThreadPool, bool)> {
    if cores.len() < threads {
        return Ok((pool(threads)?, false));
    }
    let of_helpers = cores.to_vec();
    let start = move |number: usize| {
        core_affinity::set_for_current(of_helpers[number]);
    };
    let pool = ThreadPool::with_start(threads, start).with_context(|| format!("cannot start {threads} threads"))?;
    let pinned = core_affinity::set_for_current(cores[0]);
    Ok((pool, pinned))
}

/// Opens and loads the model of `--model`.
pub(crate) fn load(source: &SourceOptions) -> Result<Loaded> {
    open(source.model.as_deref(), &source.how)
}

/// Opens and loads a checkpoint or a packed file, the built-in checkpoint if there is no path.
pub(crate) fn open(path: Option<&Path>, how: &LoadOptions) -> Result<Loaded> {
    let checkpoint = match path {
        Some(path) => Checkpoint::open(path, if how.no_mmap { Access::Read } else { Access::Map })?,
        None => Checkpoint::from_bytes(BUILT_IN[0], BUILT_IN[1])?,
    };
    let packed = checkpoint.formats()?;
    ensure!(packed.is_none() || how.family.is_none(), "a packed file states its own family: leave --as out");
    ensure!(
        packed.is_none() || how.keep_f32.is_empty(),
        "a packed file states its own matrices in f32: leave --keep-f32 out"
    );
    let checkpoint = checkpoint.assume(how.family.as_deref());
    let formats = match (packed, how.precision) {
        // If the precisions differ, loading reports it.
        (Some(own), Some(precision)) => Formats::new(precision, own.keep_f32()),
        (Some(own), None) => own,
        (None, _) => how.formats(&checkpoint.config()?)?,
    };
    let loaded = checkpoint.load(formats)?;
    if !loaded.unused.is_empty() {
        output::warning(format_args!("tensors that the model does not use: {}", output::names(&loaded.unused)));
    }
    Ok(loaded)
}

/// A session that computes `output`, and its pool of threads. It is made for batches of `batch` images, of size `image`
/// if there is one.
pub(crate) fn session(
    loaded: Arc<Loaded>,
    options: &ModelOptions,
    output: Output,
    (batch, image): (usize, Option<[usize; 2]>),
) -> Result<(Session, Arc<ThreadPool>)> {
    let pool = Arc::new(pool(options.threads())?);
    Ok((session_on(&pool, loaded, &options.run, output, (batch, image))?, pool))
}

/// A session on threads that others may share.
pub(crate) fn session_on(
    pool: &Arc<ThreadPool>,
    loaded: Arc<Loaded>,
    run: &RunOptions,
    output: Output,
    (batch, image): (usize, Option<[usize; 2]>),
) -> Result<Session> {
    let executor = Arc::clone(pool);
    let options = SessionOptions { output, image, batch, budget: run.memory, isa: run.isa(), executor };
    Ok(Session::new(loaded, options)?)
}

/// Runs the session on whole images and returns the output, \[batch, …\].
pub(crate) fn output(session: &mut Session, pixels: &[f32]) -> Result<Vec<f32>> {
    let batch = pixels.len() / session.image_len();
    let mut out = memory::zeros("the output", &[batch, session.output_len(1)])?;
    if batch > 0 {
        session.forward(pixels, &mut out)?;
    }
    Ok(out)
}

/// What is said of a row that is not finite.
pub(crate) const NOT_FINITE: &str =
    "the embedding has NaN or infinite numbers: what the model computes is too large for f32";

/// The same as [`rows`], but a row that is not finite is an error.
pub(crate) fn finite_rows(session: &mut Session, batch: &mut Batch<anyhow::Error>) -> Result<Vec<Result<Vec<f32>>>> {
    let finite = |row: Vec<f32>| if row.iter().all(|x| x.is_finite()) { Ok(row) } else { Err(anyhow!(NOT_FINITE)) };
    Ok(rows(session, batch)?.into_iter().map(|row| row.and_then(finite)).collect())
}

/// The output for each picture of a batch, or why the picture could not be read.
pub(crate) fn rows(session: &mut Session, batch: &mut Batch<anyhow::Error>) -> Result<Vec<Result<Vec<f32>>>> {
    let rows = output(session, batch.readable())?;
    let mut rows = rows.chunks_exact(session.output_len(1));
    let row = |result: Result<()>| {
        result?;
        let row = rows.next().context("a picture without its row")?;
        Ok(row.to_vec())
    };
    Ok(batch.results.drain(..).map(row).collect())
}

/// The names of the matrices that a model keeps in f32.
pub(crate) fn kept(loaded: &Loaded) -> Vec<String> {
    loaded.formats().keep_f32().matrices(loaded.config()).map(|matrix| matrix.to_string()).collect()
}

/// The shape of an image, \[channels, height, width\].
pub(crate) fn image_shape(c: &Config) -> [usize; 3] {
    [c.channels, c.image[0], c.image[1]]
}
