//! What a forward pass needs, computed before it runs: bytes of arena, block sizes, multiply–accumulates.
//!
//! The forward pass works on a group of images at a time, in blocks of rows (tokens). A plan picks the number of images
//! in a group and of rows in a block so that the buffers fit a memory budget. The output has the same bits for every
//! choice. [`buffers`](crate::buffers) declares the buffers.
use core::fmt;

use crate::buffers::{Phase, arena_bytes, for_each_buffer};
use crate::config::{AttentionPool, Config, ConfigError, Pool, Readout, min};
use crate::executor::Stage;
use crate::output::Output;
use crate::weights::Precision;

/// The most rows in a block. Larger blocks are no faster: their activations and the weights no longer fit a 1 MB L2
/// together.
const MOST_ROWS: usize = 288;

/// Whether this build has attention maps.
pub(crate) const MAPS: bool = cfg!(feature = "maps");

/// The block sizes and the memory of a forward pass.
///
/// ```
/// use vit_engine::{Config, Output, Plan, PlanError, Precision};
///
/// // ViT-B/16: 224×224 pixels, patches of 16×16, width 768, 12 layers, 12 heads.
/// let config = Config::plain([224, 224], [16, 16], 768, 12, 12);
/// let fastest = Plan::new(&config, Precision::F32, Output::Embedding, 1, None)?;
///
/// // A device that has two megabytes for activations: smaller blocks, the same output.
/// let budget = 2 << 20;
/// let small = Plan::new(&config, Precision::F32, Output::Embedding, 1, Some(budget))?;
/// assert!(small.arena_bytes() <= budget && small.rows() < fastest.rows());
/// assert_eq!(small.macs(), fastest.macs());
///
/// // What the smallest arena is, the error says.
/// let error = Plan::new(&config, Precision::F32, Output::Embedding, 1, Some(1000)).unwrap_err();
/// let minimum = Plan::minimum_bytes(&config, Precision::F32, Output::Embedding, 1)?;
/// assert_eq!(error, PlanError::Budget { minimum, budget: 1000 });
/// # Ok::<(), PlanError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    config: Config,
    precision: Precision,
    output: Output,
    batch: usize,
    images: usize,
    rows: usize,
    bytes: usize,
}

impl Plan {
    /// Plans a forward pass over `batch` images that needs at most `budget` bytes of arena; `None` sets no limit.
    ///
    /// Without a limit it picks the fastest block sizes, which do not use all the memory of the machine.
    ///
    /// # Errors
    /// If the config is invalid, the batch is 0, the model does not have this output, or the budget is too small. The
    /// last error states the smallest budget that is enough.
    pub fn new(
        config: &Config,
        precision: Precision,
        output: Output,
        batch: usize,
        budget: Option<usize>,
    ) -> Result<Self, PlanError> {
        let tokens = config.validate().map(|()| config.tokens()).map_err(PlanError::Config)?;
        let most_images = (MOST_ROWS / tokens).clamp(1, batch.max(1));
        let even = |images: usize, rows: usize| {
            let blocks = (images * tokens).div_ceil(rows);
            (images * tokens).div_ceil(blocks)
        };
        let smallest = Self::with_blocks(config, precision, output, batch, 1, 1)?;
        let Some(budget) = budget else {
            let rows = even(most_images, MOST_ROWS);
            return Self::with_blocks(config, precision, output, batch, most_images, rows);
        };
        if budget < smallest.bytes {
            return Err(PlanError::Budget { minimum: smallest.bytes, budget });
        }
        // Prefer more rows in a block; for equal rows, fewer bytes.
        let mut best = smallest;
        for images in 1..=most_images {
            let (mut fits, mut too_many) = (0, MOST_ROWS.min(images * tokens) + 1);
            while too_many - fits > 1 {
                let rows = fits + (too_many - fits) / 2;
                let plan = Self::with_blocks(config, precision, output, batch, images, rows)?;
                *(if plan.bytes <= budget { &mut fits } else { &mut too_many }) = rows;
            }
            if fits > 0 {
                let plan = Self::with_blocks(config, precision, output, batch, images, even(images, fits))?;
                best = if plan.rows > best.rows { plan } else { best };
            }
        }
        Ok(best)
    }

    /// The smallest possible arena in bytes: blocks of one row, groups of one image.
    ///
    /// # Errors
    /// Same as [`new`](Self::new).
    pub fn minimum_bytes(
        config: &Config,
        precision: Precision,
        output: Output,
        batch: usize,
    ) -> Result<usize, PlanError> {
        Ok(Self::with_blocks(config, precision, output, batch, 1, 1)?.bytes)
    }

    /// A plan with groups of `images` images and blocks of `rows` rows.
    ///
    /// A `static` plan takes no stack: on a microcontroller it lies in flash.
    ///
    /// # Errors
    /// Same as [`new`](Self::new), and if `images` or `rows` is 0.
    pub const fn with_blocks(
        config: &Config,
        precision: Precision,
        output: Output,
        batch: usize,
        images: usize,
        rows: usize,
    ) -> Result<Self, PlanError> {
        // A `?` cannot stand in a `const fn`.
        if let Err(error) = config.validate() {
            return Err(PlanError::Config(error));
        }
        if batch == 0 || images == 0 || rows == 0 {
            return Err(PlanError::Empty);
        }
        if matches!(output, Output::Attention | Output::AttentionOfLayer(_) | Output::PoolAttention) && !MAPS {
            return Err(PlanError::LeftOut { feature: "maps" });
        }
        let Some(per_image) = output.len(config) else { return Err(PlanError::NoOutput(output)) };
        let images = min(images, batch);
        let (Some(_), Some(bytes)) = (per_image.checked_mul(batch), arena_bytes(config, precision, images, rows))
        else {
            return Err(PlanError::Config(ConfigError::TooLarge));
        };
        let rows = min(rows, images * config.tokens());
        Ok(Self { config: *config, precision, output, batch, images, rows, bytes })
    }

    /// The hyper-parameters of the model that the plan is for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The precision of the model that the plan is for. The matrices that the model keeps in f32 make no difference.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What the forward pass computes.
    pub fn output(&self) -> Output {
        self.output
    }

    /// Images in the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Images in a group, which are computed together.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Rows (tokens) in a block.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The exact size of the arena in bytes.
    pub const fn arena_bytes(&self) -> usize {
        self.bytes
    }

    /// Calls `visit` with the phase, the name and the bytes of each buffer in the arena.
    /// [`arena_bytes`](Self::arena_bytes) is the sum of [`Phase::Pass`] and the largest of the other phases.
    pub fn for_each_buffer(&self, visit: &mut dyn FnMut(Phase, &'static str, usize)) {
        for_each_buffer(&self.config, self.precision, self.images, self.rows, visit);
    }

    /// Elements of the output: the batch size × [`Output::len`].
    pub fn output_len(&self) -> usize {
        self.batch * self.output.len(&self.config).unwrap_or(0)
    }

    /// Multiply–accumulates that a forward pass executes in all matrix products, including attention. Rows that the
    /// output does not need are neither computed nor counted.
    pub fn macs(&self) -> u64 {
        Stage::ALL.into_iter().fold(0, |sum, stage| sum.saturating_add(self.stage_macs(stage)))
    }

    /// The part of [`macs`](Self::macs) that one stage executes.
    pub fn stage_macs(&self, stage: Stage) -> u64 {
        let c = &self.config;
        let (dim, inner, tokens) = (c.dim, c.inner(), c.tokens());
        let layers = self.output.layers(c);
        // With attention maps the last layer stops at the softmax, and a layer that writes maps computes the scores
        // twice.
        let maps = match self.output {
            Output::Attention => layers,
            Output::AttentionOfLayer(_) => 1,
            _ => 0,
        };
        let last = if maps > 0 { 0 } else { self.output.rows_of_last_layer(c) };
        // Rows per image in all layers for the steps after keys and values.
        let rows = layers.saturating_sub(1).saturating_mul(tokens).saturating_add(layers.min(1) * last);
        let map_rows = maps.saturating_mul(tokens);
        let factors = match stage {
            Stage::Embed => [c.patches(), c.patch_len(), dim],
            Stage::Norm | Stage::Rope | Stage::Quantise => [0; 3],
            Stage::KeysValues => [layers.saturating_mul(tokens), dim, 2 * inner],
            Stage::Queries => [rows.saturating_add(map_rows), dim, inner],
            Stage::Attention => [rows.saturating_add(map_rows), 2 * tokens, inner],
            Stage::Output => [if c.out_proj { rows } else { 0 }, inner, dim],
            Stage::Up => [rows, dim, c.mlp_dim * (1 + usize::from(c.gated))],
            Stage::Down => [rows, c.mlp_dim, dim],
            Stage::Head => return self.head_macs(),
        };
        product(self.batch, factors)
    }

    fn head_macs(&self) -> u64 {
        let c = &self.config;
        let (readout, outputs) = match self.output {
            Output::Logits => (Some(c.logits), c.classes),
            Output::Embedding => (c.embedding, c.projection),
            Output::PoolAttention => return c.attention_pool.map_or(0, |pool| self.pool_attention_macs(&pool)),
            _ => return 0,
        };
        let Some(Readout { pool, .. }) = readout else { return 0 };
        let head = if self.output == Output::Logits && c.distillation_head {
            product(self.batch, [outputs, 2, c.dim])
        } else {
            product(self.batch, [outputs, pool.width(c.dim), 1])
        };
        let pooling = match c.attention_pool.filter(|_| pool == Pool::Attention) {
            None => 0,
            Some(pool @ AttentionPool { mlp_dim, .. }) => {
                let vectors = product(self.batch, [c.dim, c.dim.saturating_add(2 * mlp_dim), 1]);
                self.pool_attention_macs(&pool).saturating_add(vectors)
            }
        };
        head.saturating_add(pooling)
    }

    /// Keys, values and attention of the attention pool: scores and values, or for its map the scores twice.
    fn pool_attention_macs(&self, pool: &AttentionPool) -> u64 {
        let dim = self.config.dim;
        let tokens = product(self.batch, [pool.tokens(&self.config).len(), 2 * dim, dim.saturating_add(1)]);
        // The query is computed once for a group of images.
        let queries = product(self.batch.div_ceil(self.images), [dim, dim, 1]);
        tokens.saturating_add(queries)
    }
}

/// batch × the product of the factors; u64::MAX on overflow.
fn product(batch: usize, factors: [usize; 3]) -> u64 {
    factors.into_iter().fold(batch as u64, |product, factor| product.saturating_mul(factor as u64))
}

/// Why a forward pass cannot be planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanError {
    /// The hyper-parameters are invalid.
    Config(ConfigError),
    /// The batch has no images, or a group no images, or a block no rows.
    Empty,
    /// The output needs a Cargo feature of this crate that is not enabled.
    LeftOut {
        /// The feature.
        feature: &'static str,
    },
    /// The model does not have this output.
    NoOutput(Output),
    /// The budget is too small.
    Budget {
        /// The smallest budget that is enough, in bytes.
        minimum: usize,
        /// The budget that was given, in bytes.
        budget: usize,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Empty => write!(f, "a batch needs at least 1 image, and a block at least 1 row"),
            Self::LeftOut { feature } => write!(f, "the output needs the Cargo feature '{feature}', which is left out"),
            Self::NoOutput(output) => match output {
                Output::Logits => write!(f, "the model has no head: use embedding, class or patches"),
                Output::Class => write!(f, "the model has no class token: use patches or embedding"),
                Output::Registers => write!(f, "the model has no registers"),
                Output::Embedding => write!(f, "the model pools no tokens: use patches"),
                Output::AttentionOfLayer(0) => write!(f, "layers with attention are counted from 1"),
                Output::Layer(layer) | Output::AttentionOfLayer(layer) => {
                    write!(f, "the model has fewer than {layer} layers")
                }
                Output::PoolAttention => write!(f, "the model has no attention pool"),
                Output::Attention | Output::Patches | Output::Layers => write!(f, "the model has no layers"),
            },
            Self::Budget { minimum, budget } => {
                write!(f, "a memory budget of {budget} bytes is too small: this model needs at least {minimum}")
            }
        }
    }
}

impl core::error::Error for PlanError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        if let Self::Config(error) = self { Some(error) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tiny;

    #[test]
    fn the_budget_is_an_upper_bound_and_is_used() {
        let config = tiny();
        let plan = |budget| Plan::new(&config, Precision::F32, Output::Logits, 7, Some(budget));
        let Err(PlanError::Budget { minimum, budget: 0 }) = plan(0) else { panic!("{:?}", plan(0)) };
        assert_eq!(plan(minimum - 1), Err(PlanError::Budget { minimum, budget: minimum - 1 }));
        let unbounded = Plan::new(&config, Precision::F32, Output::Logits, 7, None).unwrap();
        let mut rows = 0;
        for budget in minimum..unbounded.arena_bytes() + 100 {
            let plan = plan(budget).unwrap();
            assert!(plan.arena_bytes() <= budget && plan.rows() >= rows);
            rows = plan.rows();
        }
        assert_eq!(rows, unbounded.rows());
    }

    #[test]
    fn more_images_than_the_batch_are_not_planned_for() {
        let one = Plan::new(&tiny(), Precision::F32, Output::Logits, 1, None).unwrap();
        let many = Plan::new(&tiny(), Precision::F32, Output::Logits, 1000, None).unwrap();
        assert_eq!((one.images(), one.rows()), (1, tiny().tokens()));
        assert!(many.images() > 1 && many.rows() <= MOST_ROWS);
        assert_eq!(many.output_len(), 1000 * tiny().classes);
    }

    #[test]
    fn macs_are_those_of_the_formula() {
        // ViT-B/16 at 224: 196·768² + 12·(197·12·768² + 2·197²·768), less if only logits are needed.
        let base = Config {
            channels: 3,
            image: [224, 224],
            patch: [16, 16],
            dim: 768,
            depth: 12,
            heads: 12,
            head_dim: 64,
            mlp_dim: 3072,
            classes: 1000,
            ..tiny()
        };
        let patches = Plan::new(&base, Precision::F32, Output::Patches, 1, None).unwrap().macs();
        assert_eq!(patches, 17_563_060_224);
        let logits = Plan::new(&base, Precision::F32, Output::Logits, 2, None).unwrap().macs();
        let row = 2 * 768 * 768 + 2 * 197 * 768 + 2 * 768 * 3072;
        assert_eq!(logits, 2 * (patches - 196 * row + 768_000));
    }

    #[test]
    fn bytes_of_models_that_are_known() {
        let vit = |patch, dim, heads| Config { classes: 1000, ..Config::plain([224; 2], [patch; 2], dim, 12, heads) };
        let fashion = Config { channels: 1, classes: 10, mlp_dim: 128, ..Config::plain([28; 2], [4; 2], 64, 6, 4) };
        let mut wide = Config { gated: true, hidden_norm: true, qk_norm: true, patch_norm: true, ..tiny() };
        wide.logits = Readout { pool: Pool::ClassThenMeanPatches, norm: true };
        let attention = Readout { pool: Pool::Attention, norm: false };
        let pool = |all_tokens| Config {
            attention_pool: Some(AttentionPool { heads: 4, mlp_dim: 5000, all_tokens }),
            embedding: Some(attention),
            logits: attention,
            mlp_dim: 30,
            ..tiny()
        };
        for (name, config, expected) in [
            ("ViT-Ti/16", vit(16, 192, 3), [457_728, 1_210_368, 1_210_368, 1_449_984]),
            ("ViT-B/16", vit(16, 768, 12), [1_830_912, 4_841_472, 4_841_472, 5_799_936]),
            ("ViT-B/32", vit(32, 768, 12), [476_160, 1_228_800, 6_144_000, 1_735_680]),
            ("fashion-vit", fashion, [39168, 76800, 384_000, 132_864]),
            ("tiny", tiny(), [4160, 7552, 192_256, 18944]),
            ("patches' norm", Config { patch_norm: true, mlp_dim: 1, ..tiny() }, [4160, 10048, 221_120, 20224]),
            ("all norms", wide, [4224, 10048, 221_120, 20736]),
            ("all norms, wide", Config { mlp_dim: 500, ..wide }, [7936, 48896, 1_267_584, 105_408]),
            ("attention pool", pool(false), [23872, 24832, 584_640, 68672]),
            ("attention pool over all tokens", pool(true), [24064, 25024, 584_832, 68864]),
        ] {
            let plans = [
                Plan::with_blocks(&config, Precision::F32, Output::Logits, 1, 1, 1),
                Plan::new(&config, Precision::F32, Output::Logits, 1, None),
                Plan::new(&config, Precision::F32, Output::Logits, 64, None),
                Plan::with_blocks(&config, Precision::F32, Output::Patches, 5, 3, 23),
            ];
            assert_eq!(plans.map(|plan| plan.unwrap().arena_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_planned() {
        let headless = Config { classes: 0, ..tiny() };
        assert_eq!(
            Plan::new(&headless, Precision::F32, Output::Logits, 1, None),
            Err(PlanError::NoOutput(Output::Logits))
        );
        let mean = Readout { pool: Pool::MeanTokens, norm: false };
        let mean = Config { class_token: false, logits: mean, embedding: Some(mean), ..tiny() };
        assert_eq!(Plan::new(&mean, Precision::F32, Output::Class, 1, None), Err(PlanError::NoOutput(Output::Class)));
        assert_eq!(Plan::new(&tiny(), Precision::F32, Output::Logits, 0, None), Err(PlanError::Empty));
        let huge = Config { image: [1 << 24, 1 << 24], patch: [1, 1], dim: 1 << 24, ..tiny() };
        assert!(Plan::new(&huge, Precision::F32, Output::Patches, 1, None).is_err());
        assert!(Plan::new(&tiny(), Precision::F32, Output::Logits, usize::MAX, None).is_err());
    }
}
