//! A loaded model, the threads it runs on, and its working memory.
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use core_affinity::CoreId;
use rayon::{Scope, ThreadPool, ThreadPoolBuilder};
use vit_engine::file::{Access, Checkpoint, Loaded};
use vit_engine::{AlignedBox, Config, Executor, Features, Images, Model, Plan, Serial, Team, Threads};

use crate::options::{ModelOptions, RunOptions};

/// The model that the binary carries.
const BUILT_IN: [&[u8]; 2] =
    [include_bytes!("../models/fashion-vit/config.json"), include_bytes!("../models/fashion-vit/model.safetensors")];

/// Threads as asked for.
pub(crate) enum Workers {
    /// The caller's thread.
    One,
    /// A pool.
    Pool(ThreadPool),
}

impl Workers {
    pub(crate) fn new(threads: usize) -> Result<Self> {
        if threads == 1 {
            return Ok(Self::One);
        }
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        Ok(Self::Pool(pool.with_context(|| format!("cannot start {threads} threads"))?))
    }

    /// Workers with one of `cores` each, if there are enough. Says whether they have.
    ///
    /// One worker is the caller's thread, which stays pinned.
    pub(crate) fn pinned(threads: usize, cores: &[CoreId]) -> Result<(Self, bool)> {
        if cores.len() < threads {
            return Ok((Self::new(threads)?, false));
        }
        let cores = cores.to_vec();
        if threads == 1 {
            return Ok((Self::One, core_affinity::set_for_current(cores[0])));
        }
        let start = move |index: usize| {
            core_affinity::set_for_current(cores[index]);
        };
        let pool = ThreadPoolBuilder::new().num_threads(threads).start_handler(start).build();
        Ok((Self::Pool(pool.with_context(|| format!("cannot start {threads} threads"))?), true))
    }

    /// Runs `work` on one of these threads, where rayon's parallel iterators then use all of them.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match self {
            Self::One => work(),
            Self::Pool(pool) => pool.install(work),
        }
    }

    /// Runs `work` on this thread; what it spawns in the scope runs on the pool meanwhile. One worker has no scope.
    pub(crate) fn scope<'s, R>(&self, work: impl FnOnce(Option<&Scope<'s>>) -> R) -> R {
        match self {
            Self::One => work(None),
            Self::Pool(pool) => pool.in_place_scope(|scope| work(Some(scope))),
        }
    }

    pub(crate) fn threads(&self) -> usize {
        match self {
            Self::One => 1,
            Self::Pool(pool) => pool.current_num_threads(),
        }
    }
}

impl Executor for Workers {
    fn enter<R: Send>(&self, pass: impl FnOnce(&dyn Team) -> R + Send) -> R {
        match self {
            Self::One => Serial.enter(pass),
            Self::Pool(pool) => Threads(pool).enter(pass),
        }
    }
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
        eprintln!("warning: tensors that the model does not use: {}", loaded.unused.join(", "));
    }
    Ok(loaded)
}

/// Runs forward passes of changing batch sizes in one arena.
pub(crate) struct Session<'a> {
    pub(crate) model: Model<'a>,
    pub(crate) workers: Arc<Workers>,
    features: Features,
    budget: Option<usize>,
    arena: AlignedBox,
}

impl<'a> Session<'a> {
    /// Plans for batches of up to `batch` images, so that what is impossible is said before any work is done.
    pub(crate) fn new(model: Model<'a>, options: &ModelOptions, features: Features, batch: usize) -> Result<Self> {
        let budget = options.how.memory;
        let plan = Plan::new(model.config(), features, batch, budget)?;
        let arena = AlignedBox::new(plan.arena_bytes())
            .with_context(|| format!("the system does not give {} bytes of working memory", plan.arena_bytes()))?;
        Ok(Self { model, workers: Arc::new(Workers::new(options.threads())?), features, budget, arena })
    }

    pub(crate) fn plan(&self, batch: usize) -> Result<Plan> {
        // A smaller batch never needs more than the one the arena was made for.
        let budget = self.budget.unwrap_or(usize::MAX).min(self.arena.len());
        Ok(Plan::new(self.model.config(), self.features, batch, Some(budget))?)
    }

    /// Runs the model over whole images, \[batch, channels, height, width\], as `plan` says.
    pub(crate) fn forward(&mut self, plan: &Plan, pixels: &[f32], out: &mut [f32]) -> Result<()> {
        let mut images = Images::new(pixels, image_shape(self.model.config())).context("not whole images")?;
        Ok(self.model.forward(plan, &mut images, &mut self.arena, &*self.workers, out)?)
    }
}

/// \[channels, height, width\].
pub(crate) fn image_shape(c: &Config) -> [usize; 3] {
    [c.channels, c.image[0], c.image[1]]
}
