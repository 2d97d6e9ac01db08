//! A model, its threads and its memory in one value.
use core::fmt;
use std::sync::Arc;

use vit_kernels::Isa;

use crate::config::Config;
use crate::executor::{Executor, Serial};
use crate::file::{Loaded, SizeError};
use crate::forward::ForwardError;
use crate::memory::{AlignedBox, OutOfMemory};
use crate::output::Output;
use crate::pixels::{Images, ImagesError};
use crate::plan::{Plan, PlanError};

/// A loaded model, the threads that it runs on, and its working memory.
///
/// It owns everything, so it can be stored anywhere and sent to other threads. Several sessions can share one model and
/// one pool of threads; each has its own arena. Batches of any size run in that arena. The results do not depend on the
/// batch, the budget or the executor.
///
/// ```
/// use std::sync::Arc;
///
/// use vit_engine::file::{Access, Checkpoint};
/// use vit_engine::{Output, Precision, Session, SessionOptions, ThreadPool};
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/timm-token");
/// let loaded = Arc::new(Checkpoint::open(folder, Access::Map)?.load(Precision::F32)?);
/// let pool = Arc::new(ThreadPool::new(2)?);
/// let options = SessionOptions { output: Output::Embedding, batch: 4, executor: pool, ..Default::default() };
/// let mut session = Session::new(Arc::clone(&loaded), options)?;
///
/// let pixels = vec![0.5; 3 * session.image_len()]; // three images, normalised, [batch, channels, height, width]
/// let mut embeddings = vec![0.0; session.output_len(3)];
/// session.forward(&pixels, &mut embeddings)?;
///
/// let first = embeddings[..session.output_len(1)].to_vec();
/// session.forward(&pixels[..session.image_len()], &mut embeddings[..first.len()])?; // one image
/// assert_eq!(embeddings[..first.len()], first);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Session {
    loaded: Arc<Loaded>,
    /// The model's config, for the image size of the session.
    config: Config,
    options: SessionOptions,
    arena: AlignedBox,
    /// The plan for the last batch size.
    plan: Plan,
}

/// What a [`Session`] computes, and with which resources.
#[derive(Clone)]
pub struct SessionOptions {
    /// What forward passes compute.
    pub output: Output,
    /// Height and width of the images; `None` for the image size of the checkpoint.
    pub image: Option<[usize; 2]>,
    /// The batch size that the arena is made for. Other sizes run too, larger ones perhaps in blocks that are smaller
    /// than the fastest.
    pub batch: usize,
    /// The largest arena in bytes; `None` for the fastest.
    pub budget: Option<usize>,
    /// The instruction-set level.
    pub isa: Isa,
    /// The threads; other sessions may use them too.
    pub executor: Arc<dyn Executor + Send + Sync>,
}

impl Default for SessionOptions {
    /// Logits, batch size 1, the image size of the checkpoint, the best level of this CPU, the calling thread alone.
    fn default() -> Self {
        Self {
            output: Output::Logits,
            image: None,
            batch: 1,
            budget: None,
            isa: Isa::best(),
            executor: Arc::new(Serial),
        }
    }
}

impl Session {
    /// Plans the forward passes and allocates their arena, so that most errors appear here and not during the work.
    ///
    /// # Errors
    /// If the model cannot run on this image size or does not have this output, the batch is 0, the budget is too small
    /// (the error states the smallest), or an allocation fails.
    pub fn new(loaded: impl Into<Arc<Loaded>>, options: SessionOptions) -> Result<Self, SessionError> {
        Self::of(loaded.into(), options)
    }

    fn of(loaded: Arc<Loaded>, options: SessionOptions) -> Result<Self, SessionError> {
        let SessionOptions { output, image, batch, budget, isa, .. } = options;
        // Computes the positions for this size.
        let model = loaded.model_at(isa, image.unwrap_or(loaded.config().image)).map_err(SessionError::Size)?;
        let config = *model.config();
        let plan = Plan::new(&config, loaded.precision(), output, batch, budget).map_err(SessionError::Plan)?;
        let arena = AlignedBox::new(plan.arena_bytes()).map_err(SessionError::OutOfMemory)?;
        Ok(Self { loaded, config, options, arena, plan })
    }

    /// Changes the image size, \[height, width\]; see [`Loaded::model_at`].
    ///
    /// # Errors
    /// Same as [`new`](Self::new). After an error the session is unchanged.
    pub fn resize(&mut self, image: [usize; 2]) -> Result<(), SessionError> {
        if image != self.config.image {
            let options = SessionOptions { image: Some(image), ..self.options.clone() };
            *self = Self::of(Arc::clone(&self.loaded), options)?;
        }
        Ok(())
    }

    /// Runs the model on all images in `pixels`, \[batch, channels, height, width\]. `out` has
    /// [`output_len`](Self::output_len)(batch) elements.
    ///
    /// Nothing is allocated.
    ///
    /// # Errors
    /// If `pixels` is empty or not a whole number of images, or `out` has the wrong length.
    pub fn forward(&mut self, pixels: &[f32], out: &mut [f32]) -> Result<(), SessionError> {
        let executor = Arc::clone(&self.options.executor);
        self.forward_on(&*executor, pixels, out)
    }

    /// [`forward`](Self::forward) on another executor, for instance on the session's own as long as nobody
    /// [stops](crate::Stoppable) it.
    ///
    /// # Errors
    /// Same as [`forward`](Self::forward), or if the executor stops the pass.
    pub fn forward_on(&mut self, executor: &dyn Executor, pixels: &[f32], out: &mut [f32]) -> Result<(), SessionError> {
        let Self { loaded, config, options, arena, plan } = self;
        let [height, width] = config.image;
        let mut images = Images::new(pixels, [config.channels, height, width]).map_err(SessionError::Images)?;
        if images.len() != plan.batch() {
            let budget = options.budget.unwrap_or(usize::MAX).min(arena.len());
            let planned = Plan::new(config, loaded.precision(), options.output, images.len(), Some(budget));
            *plan = planned.map_err(SessionError::Plan)?;
        }
        let model = loaded.model_at(options.isa, config.image).map_err(SessionError::Size)?;
        model.forward(plan, &mut images, arena, executor, out).map_err(SessionError::Forward)
    }

    /// The hyper-parameters, for the image size of the session.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The loaded model, with its labels and preprocessing.
    pub fn loaded(&self) -> &Arc<Loaded> {
        &self.loaded
    }

    /// The options of the session.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// The size of the arena in bytes.
    pub fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    /// Elements of one image: channels · height · width.
    pub fn image_len(&self) -> usize {
        let [height, width] = self.config.image;
        self.config.channels * height * width
    }

    /// The shape of the output for one image: the shape that [`Output`] states, without the batch.
    pub fn output_shape(&self) -> Vec<usize> {
        self.options.output.shape(&self.config)
    }

    /// Elements of the output for `batch` images.
    pub fn output_len(&self, batch: usize) -> usize {
        // `new` has checked that the model has this output. On overflow the result is longer than any slice.
        self.options.output.len(&self.config).unwrap_or(0).saturating_mul(batch)
    }
}

/// Why a session cannot be made, or a forward pass failed.
///
/// The message already contains the message of its [`source`](core::error::Error::source).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionError {
    /// The model cannot run on images of this size.
    Size(SizeError),
    /// The forward pass cannot be planned.
    Plan(PlanError),
    /// The arena cannot be allocated.
    OutOfMemory(OutOfMemory),
    /// The pixels are not a whole number of images.
    Images(ImagesError),
    /// The forward pass failed.
    Forward(ForwardError<ImagesError>),
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(error) => error.fmt(f),
            Self::Plan(error) => error.fmt(f),
            Self::OutOfMemory(error) => write!(f, "the arena: {error}"),
            Self::Images(error) => error.fmt(f),
            Self::Forward(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SessionError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(match self {
            Self::Size(error) => error,
            Self::Plan(error) => error,
            Self::OutOfMemory(error) => error,
            Self::Images(error) => error,
            Self::Forward(error) => error,
        })
    }
}
