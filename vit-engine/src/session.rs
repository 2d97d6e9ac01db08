//! A model with all that a forward pass needs, in one value.
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

/// A loaded model, the threads that it runs on, and its working memory: pixels in, features out.
///
/// It borrows nothing, so it can be kept anywhere and sent to other threads. Several sessions can share one model and one
/// pool of threads; each has an arena of its own. Batches of any size run in that arena, and the numbers are the same
/// whatever the batch, the budget and the executor.
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
    /// The model's, at the session's size of image.
    config: Config,
    options: SessionOptions,
    arena: AlignedBox,
    /// For the batch size that ran last.
    plan: Plan,
}

/// What a [`Session`] computes, and with what.
#[derive(Clone)]
pub struct SessionOptions {
    /// What forward passes deliver.
    pub output: Output,
    /// Height and width of the images; `None` for the checkpoint's own.
    pub image: Option<[usize; 2]>,
    /// The batch size that the arena is made for. Others run in it, too; larger ones perhaps in smaller blocks than
    /// would be fastest.
    pub batch: usize,
    /// The most bytes of arena; `None` for what is fastest.
    pub budget: Option<usize>,
    /// The instruction-set level.
    pub isa: Isa,
    /// The threads, which other sessions may share.
    pub executor: Arc<dyn Executor + Send + Sync>,
}

impl Default for SessionOptions {
    /// Logits of one image at a time of the checkpoint's own size, on the CPU's best level, on the calling thread.
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
    /// Plans the forward passes and allocates their arena, so that what is impossible is said before any work is done.
    ///
    /// # Errors
    /// When the model does not take such images or does not have the features, the batch is 0, the budget is below the
    /// least, which the error names, or the system does not give the memory.
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

    /// Goes over to images of another size, \[height, width\]; see [`Loaded::model_at`].
    ///
    /// # Errors
    /// As [`new`](Self::new). The session then stays as it was.
    pub fn resize(&mut self, image: [usize; 2]) -> Result<(), SessionError> {
        if image != self.config.image {
            let options = SessionOptions { image: Some(image), ..self.options.clone() };
            *self = Self::of(Arc::clone(&self.loaded), options)?;
        }
        Ok(())
    }

    /// Runs the model over whole images, \[batch, channels, height, width\]: as many as `pixels` holds. `out` is
    /// [`output_len`](Self::output_len) of that batch long.
    ///
    /// Nothing is allocated.
    ///
    /// # Errors
    /// When `pixels` is no whole number of images or has none, or `out` has another length.
    pub fn forward(&mut self, pixels: &[f32], out: &mut [f32]) -> Result<(), SessionError> {
        let Self { loaded, config, options, arena, plan } = self;
        let [height, width] = config.image;
        let mut images = Images::new(pixels, [config.channels, height, width]).map_err(SessionError::Images)?;
        if images.len() != plan.batch() {
            let budget = options.budget.unwrap_or(usize::MAX).min(arena.len());
            let planned = Plan::new(config, loaded.precision(), options.output, images.len(), Some(budget));
            *plan = planned.map_err(SessionError::Plan)?;
        }
        let model = loaded.model_at(options.isa, config.image).map_err(SessionError::Size)?;
        model.forward(plan, &mut images, arena, &*options.executor, out).map_err(SessionError::Forward)
    }

    /// The hyper-parameters, at the session's size of image.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The model, with its labels and preprocessing.
    pub fn loaded(&self) -> &Arc<Loaded> {
        &self.loaded
    }

    /// What the session was made with.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// The bytes of its arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    /// Elements of an image: channels · height · width.
    pub fn image_len(&self) -> usize {
        let [height, width] = self.config.image;
        self.config.channels * height * width
    }

    /// The shape of one image's output: the one that [`Output`] states, without the batch.
    pub fn output_shape(&self) -> Vec<usize> {
        let c = &self.config;
        match self.options.output {
            Output::Logits => vec![c.classes],
            Output::Class => vec![c.dim],
            Output::Patches => vec![c.patches(), c.dim],
            Output::Registers => vec![c.registers, c.dim],
            Output::Embedding => c.embedding_len().into_iter().collect(),
            Output::Layer(_) => vec![c.tokens(), c.dim],
            Output::Attention => vec![c.depth, c.heads, c.tokens(), c.tokens()],
        }
    }

    /// Elements of the output for `batch` images.
    pub fn output_len(&self, batch: usize) -> usize {
        // The plan has checked that the model has these features. No slice is as long as the largest number.
        self.options.output.len(&self.config).unwrap_or(0).saturating_mul(batch)
    }
}

/// Why a session cannot be made, or did not deliver.
///
/// The message is complete: what [`source`](core::error::Error::source) gives is in it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionError {
    /// The model does not take images of this size.
    Size(SizeError),
    /// No forward pass can be planned.
    Plan(PlanError),
    /// The system does not give the memory of the arena.
    OutOfMemory(OutOfMemory),
    /// The pixels are no whole images.
    Images(ImagesError),
    /// The forward pass did not deliver.
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
