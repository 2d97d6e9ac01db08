//! A loaded model, the threads it runs on, and its working memory.
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use core_affinity::CoreId;
use vit_engine::file::{Access, Checkpoint, Loaded};
use vit_engine::{AlignedBox, Config, Features, Images, Model, Plan, ThreadPool};

use crate::options::{ModelOptions, RunOptions};
use crate::{memory, output};

/// The model that the binary carries.
const BUILT_IN: [&[u8]; 2] =
    [include_bytes!("../models/fashion-vit/config.json"), include_bytes!("../models/fashion-vit/model.safetensors")];

/// A pool of that many threads, the caller's among them.
pub(crate) fn pool(threads: usize) -> Result<ThreadPool> {
    ThreadPool::new(threads).with_context(|| format!("cannot start {threads} threads"))
}

/// A pool of threads with one of `cores` each, if there are enough: this thread, which stays pinned, has the first. Says
/// whether they have.
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

/// Opens and loads what `--model` names.
pub(crate) fn load(options: &ModelOptions) -> Result<Loaded> {
    open(options.model.as_deref(), &options.how)
}

/// Opens and loads a checkpoint, the built-in one if there is no path.
pub(crate) fn open(path: Option<&Path>, how: &RunOptions) -> Result<Loaded> {
    let checkpoint = match path {
        Some(path) => Checkpoint::open(path, if how.no_mmap { Access::Read } else { Access::Map })?,
        None => Checkpoint::from_bytes(BUILT_IN[0], BUILT_IN[1])?,
    };
    let loaded = checkpoint.assume(how.family.as_deref()).load(how.precision.into())?;
    if !loaded.unused.is_empty() {
        output::warning(format_args!("tensors that the model does not use: {}", output::names(&loaded.unused)));
    }
    Ok(loaded)
}

/// Runs forward passes of changing batch sizes in one arena.
pub(crate) struct Session<'a> {
    pub(crate) model: Model<'a>,
    pub(crate) pool: Arc<ThreadPool>,
    features: Features,
    budget: Option<usize>,
    arena: AlignedBox,
}

impl<'a> Session<'a> {
    /// Plans for batches of up to `batch` images, so that what is impossible is said before any work is done.
    pub(crate) fn new(model: Model<'a>, options: &ModelOptions, features: Features, batch: usize) -> Result<Self> {
        let budget = options.how.memory;
        let plan = model.plan(features, batch, budget)?;
        let arena = AlignedBox::new(plan.arena_bytes())
            .with_context(|| format!("the system does not give {} bytes of working memory", plan.arena_bytes()))?;
        Ok(Self { model, pool: Arc::new(pool(options.threads())?), features, budget, arena })
    }

    pub(crate) fn plan(&self, batch: usize) -> Result<Plan> {
        // A smaller batch never needs more than the one the arena was made for.
        let budget = self.budget.unwrap_or(usize::MAX).min(self.arena.len());
        Ok(self.model.plan(self.features, batch, Some(budget))?)
    }

    /// The logits of `count` images, \[count, classes\].
    pub(crate) fn logits(&mut self, pixels: &[f32], count: usize) -> Result<Vec<f32>> {
        let mut logits = memory::zeros("the logits", &[count, self.model.config().classes])?;
        if count > 0 {
            let plan = self.plan(count)?;
            self.forward(&plan, pixels, &mut logits)?;
        }
        Ok(logits)
    }

    /// Runs the model over whole images, \[batch, channels, height, width\], as `plan` says.
    pub(crate) fn forward(&mut self, plan: &Plan, pixels: &[f32], out: &mut [f32]) -> Result<()> {
        let mut images = Images::new(pixels, image_shape(self.model.config())).context("not whole images")?;
        Ok(self.model.forward(plan, &mut images, &mut self.arena, &*self.pool, out)?)
    }
}

/// \[channels, height, width\].
pub(crate) fn image_shape(c: &Config) -> [usize; 3] {
    [c.channels, c.image[0], c.image[1]]
}
