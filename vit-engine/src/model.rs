//! A model: its config and a borrowed view of its weights. It is immutable, so any number of callers can share it.
use vit_kernels::{Inputs, Isa};

use crate::arena::{MemoryError, aligned};
use crate::config::{Config, ConfigError};
use crate::output::Output;
use crate::parameters::{LayerSite, PoolSite, Site};
use crate::plan::{Plan, PlanError};
use crate::weights::{Fill, FillError, Formats, Linear, Norm, Precision, Source, Stored, WeightLayout};

/// A model whose weights are in the caller's memory: RAM, flash or a mapped file.
///
/// ```
/// use vit_engine::{AlignedBox, Images, Isa, Output, Serial};
/// # use vit_engine::{Precision, file};
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/timm-token");
/// # let loaded = file::Checkpoint::open(folder, file::Access::Map)?.load(Precision::F32)?;
/// let model = loaded.model(Isa::best()); // or `Model::new`, `Model::from_packed`
/// let [channels, height, width] = [model.config().channels, model.config().image[0], model.config().image[1]];
///
/// let plan = model.plan(Output::Logits, 2, None)?; // two images
/// let mut arena = AlignedBox::new(plan.arena_bytes())?;
/// let mut logits = vec![0.0; plan.output_len()];
/// let pixels = vec![0.5; 2 * channels * height * width];
/// let mut images = Images::new(&pixels, [channels, height, width])?;
/// model.forward(&plan, &mut images, &mut arena, &Serial, &mut logits)?;
///
/// let (first, second) = logits.split_at(model.config().classes);
/// assert_eq!(first, second); // the images are equal
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Model<'a> {
    pub(crate) config: Config,
    pub(crate) isa: Isa,
    layout: WeightLayout,
    /// The weights that are the same for every image size.
    data: &'a [u8],
    /// The tables (positions, rotations) for this image size.
    tables: &'a [u8],
}

/// The weights of a layer's keys and values.
pub(crate) struct KeysAndValues<'a> {
    pub(crate) norm: Norm<'a>,             // [dim], the same as attention's
    pub(crate) kv: Linear<'a>,             // [2·inner, dim]
    pub(crate) key_norm: Option<Norm<'a>>, // [head_dim]
}

/// The weights of the rest of a layer's attention.
pub(crate) struct Attention<'a> {
    pub(crate) norm: Norm<'a>,                   // [dim]
    pub(crate) kv_inputs: Inputs,                // what the matrix of the keys and values is multiplied with
    pub(crate) q: Linear<'a>,                    // [inner, dim]
    pub(crate) query_norm: Option<Norm<'a>>,     // [head_dim]
    pub(crate) relative_bias: Option<&'a [f32]>, // one row per head
    pub(crate) context_norm: Option<Norm<'a>>,   // [inner]
    pub(crate) out: Option<Linear<'a>>,          // [dim, inner]
    pub(crate) scale: Option<&'a [f32]>,         // [dim]
}

/// The weights of a layer's feed-forward.
pub(crate) struct FeedForward<'a> {
    pub(crate) norm: Norm<'a>,                // [dim]
    pub(crate) gate: Option<Linear<'a>>,      // [mlp_dim, dim]
    pub(crate) up: Linear<'a>,                // [mlp_dim, dim]
    pub(crate) hidden_norm: Option<Norm<'a>>, // [mlp_dim]
    pub(crate) down: Linear<'a>,              // [dim, mlp_dim]
    pub(crate) scale: Option<&'a [f32]>,      // [dim]
}

/// The weights of the attention pool.
pub(crate) struct PoolWeights<'a> {
    pub(crate) probe: &'a [f32], // [dim]
    pub(crate) q: Linear<'a>,    // [dim, dim]
    pub(crate) kv: Linear<'a>,   // [2·dim, dim]
    pub(crate) out: Linear<'a>,  // [dim, dim]
    pub(crate) norm: Norm<'a>,   // [dim]
    pub(crate) up: Linear<'a>,   // [mlp_dim, dim]
    pub(crate) down: Linear<'a>, // [dim, mlp_dim]
}

impl<'a> Model<'a> {
    /// The exact size of a model's weights in bytes.
    ///
    /// # Errors
    /// If the config is invalid, or has no such matrix to keep in f32.
    pub fn bytes(config: &Config, formats: impl Into<Formats>) -> Result<usize, ConfigError> {
        Ok(WeightLayout::new(config, formats)?.bytes())
    }

    /// Fills `memory` with the parameters from `source`, packed. `memory` has [`bytes`](Self::bytes) bytes and is
    /// aligned to [`ALIGN`](crate::ALIGN).
    ///
    /// # Errors
    /// If the config is invalid, `memory` is too small or misaligned, the source lacks a parameter, or a value is not
    /// finite.
    pub fn fill<S: Source>(
        config: &Config,
        formats: impl Into<Formats>,
        source: &S,
        memory: &mut [u8],
    ) -> Result<(), FillError<S::Error>> {
        let layout = WeightLayout::new(config, formats).map_err(FillError::Config)?;
        Fill { layout: &layout, source, memory }.model(config)
    }

    /// A model whose weights are in `memory`, which [`fill`](Self::fill) has filled for the same config and formats.
    /// It runs on `isa`.
    ///
    /// `memory` is exactly the filled part. Only its length and alignment are checked: that its contents are of this
    /// model is up to the caller.
    ///
    /// # Errors
    /// If the config is invalid, if `memory` is misaligned or not [`bytes`](Self::bytes) long, or if the model needs a
    /// Cargo feature that this build leaves out.
    pub fn new(config: &Config, formats: impl Into<Formats>, isa: Isa, memory: &'a [u8]) -> Result<Self, ModelError> {
        let layout = WeightLayout::new(config, formats).map_err(ModelError::Config)?;
        // An attention pool's keys and values are f32.
        let pool = if config.attention_pool.is_some() { Precision::F32.left_out() } else { None };
        if let Some(feature) = layout.formats.precision().left_out().or(pool) {
            return Err(ModelError::LeftOut { feature });
        }
        let (needed, found) = (layout.bytes(), memory.len());
        if needed != found {
            return Err(ModelError::Memory(MemoryError::OtherModel { needed, found }));
        }
        let (data, tables) = aligned(memory, needed).map_err(ModelError::Memory)?.split_at(layout.tables_start);
        // A precision with the same bits on every level must not fuse multiplications and additions.
        let isa = if layout.formats.precision().quantises() { isa.unfused() } else { isa };
        Ok(Self { config: *config, isa, layout, data, tables })
    }

    /// The size in bytes of the tables that depend on the image size: positions and rotations. They are at the end of a
    /// model's memory.
    ///
    /// # Errors
    /// If the config is invalid.
    pub fn table_bytes(config: &Config) -> Result<usize, ConfigError> {
        Ok(WeightLayout::new(config, Precision::F32)?.table_bytes)
    }

    /// Fills `memory` with the tables for the image size of the config; see [`at`](Self::at). `memory` has
    /// [`table_bytes`](Self::table_bytes) bytes and is aligned to [`ALIGN`](crate::ALIGN). Reads only the parameters
    /// from `source` whose [`Site::is_table`] is true.
    ///
    /// # Errors
    /// Same as [`fill`](Self::fill).
    pub fn fill_tables<S: Source>(config: &Config, source: &S, memory: &mut [u8]) -> Result<(), FillError<S::Error>> {
        let layout = WeightLayout::new(config, Precision::F32).map_err(FillError::Config)?;
        Fill { layout: &layout, source, memory }.tables(config)
    }

    /// The same weights for images of another size, \[height, width\]. `tables` holds the tables for that size.
    ///
    /// # Errors
    /// If the config is invalid for this size, the model has relative position biases for another grid, or `tables` has
    /// the wrong size or is misaligned.
    pub fn at<'b>(&self, image: [usize; 2], tables: &'b [u8]) -> Result<Model<'b>, ModelError>
    where
        'a: 'b,
    {
        let config = self.config.with_image(image);
        if config.relative_bias && config.grid() != self.config.grid() {
            return Err(ModelError::OtherGrid { own: self.config.grid(), found: config.grid() });
        }
        let layout = WeightLayout::new(&config, self.layout.formats).map_err(ModelError::Config)?;
        let (needed, found) = (layout.table_bytes, tables.len());
        if needed != found {
            return Err(ModelError::Memory(MemoryError::OtherModel { needed, found }));
        }
        let tables = aligned(tables, needed).map_err(ModelError::Memory)?;
        Ok(Model { config, isa: self.isa, layout, data: self.data, tables })
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The precision of the weight matrices. Single matrices of the layers may be kept in f32: see
    /// [`formats`](Self::formats).
    pub fn precision(&self) -> Precision {
        self.layout.formats.precision()
    }

    /// The precision, and which matrices are kept in f32.
    pub fn formats(&self) -> Formats {
        self.layout.formats
    }

    /// [`Plan::new`] for this model.
    ///
    /// # Errors
    /// Same as [`Plan::new`].
    pub fn plan(&self, output: Output, batch: usize, budget: Option<usize>) -> Result<Plan, PlanError> {
        Plan::new(&self.config, self.precision(), output, batch, budget)
    }

    /// The instruction-set level that the model runs on.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The size of the weights in bytes.
    pub fn weight_bytes(&self) -> usize {
        self.layout.bytes()
    }

    fn stored(&self) -> Stored<'_, 'a> {
        Stored { layout: &self.layout, config: &self.config, data: self.data }
    }

    pub(crate) fn norm(&self, site: Site) -> Option<Norm<'a>> {
        self.stored().norm(site)
    }

    pub(crate) fn linear(&self, site: Site) -> Option<Linear<'a>> {
        self.stored().linear(site)
    }

    fn keys_values(&self, sites: [Site; 2]) -> Option<Linear<'a>> {
        self.stored().keys_values(sites)
    }

    /// The rows of a site that is not a matrix: a token, registers, positions, rotations.
    pub(crate) fn rows(&self, site: Site) -> Option<&'a [f32]> {
        let data = if site.is_table() { self.tables } else { self.data };
        Stored { data, ..self.stored() }.rows(site)
    }

    /// \[dim, patch_len\].
    pub(crate) fn patch(&self) -> Linear<'a> {
        self.linear(Site::Patch).expect("every model has a patch projection")
    }

    #[inline(never)] // What it needs is not on the stack of the attention.
    pub(crate) fn attention_keys_values(&self, index: usize) -> KeysAndValues<'a> {
        let at = |site| Site::Layer(index, site);
        let every = "every layer has this parameter";
        KeysAndValues {
            norm: self.norm(at(LayerSite::AttentionNorm)).expect(every),
            kv: self.keys_values([at(LayerSite::Key), at(LayerSite::Value)]).expect(every),
            key_norm: self.norm(at(LayerSite::KeyNorm)),
        }
    }

    #[inline(never)] // As above.
    pub(crate) fn attention(&self, index: usize) -> Attention<'a> {
        let at = |site| Site::Layer(index, site);
        let norm = |site| self.norm(at(site));
        let every = "every layer has this parameter";
        Attention {
            norm: norm(LayerSite::AttentionNorm).expect(every),
            kv_inputs: self.layout.formats.format(at(LayerSite::Key)).inputs(),
            q: self.linear(at(LayerSite::Query)).expect(every),
            query_norm: norm(LayerSite::QueryNorm),
            relative_bias: self.rows(at(LayerSite::RelativeBias)),
            context_norm: norm(LayerSite::ContextNorm),
            out: self.linear(at(LayerSite::Out)),
            scale: self.rows(at(LayerSite::AttentionScale)),
        }
    }

    #[inline(never)] // As above.
    pub(crate) fn feed_forward(&self, index: usize) -> FeedForward<'a> {
        let at = |site| Site::Layer(index, site);
        let linear = |site| self.linear(at(site));
        let every = "every layer has this parameter";
        FeedForward {
            norm: self.norm(at(LayerSite::MlpNorm)).expect(every),
            gate: linear(LayerSite::Gate),
            up: linear(LayerSite::Up).expect(every),
            hidden_norm: self.norm(at(LayerSite::HiddenNorm)),
            down: linear(LayerSite::Down).expect(every),
            scale: self.rows(at(LayerSite::MlpScale)),
        }
    }

    /// `None` where there is no attention over f32: `new` has refused a model that has a pool. So the compiler leaves its
    /// code out.
    pub(crate) fn pool(&self) -> Option<PoolWeights<'a>> {
        if !cfg!(feature = "f32") {
            return None;
        }
        let linear = |site| self.linear(Site::Pool(site));
        Some(PoolWeights {
            probe: self.rows(Site::Pool(PoolSite::Probe))?,
            q: linear(PoolSite::Query)?,
            kv: self.keys_values([PoolSite::Key, PoolSite::Value].map(Site::Pool))?,
            out: linear(PoolSite::Out)?,
            norm: self.norm(Site::Pool(PoolSite::Norm))?,
            up: linear(PoolSite::Up)?,
            down: linear(PoolSite::Down)?,
        })
    }

    /// The position embedding, \[position_prefix + patches, dim\].
    pub fn positions(&self) -> Option<&'a [f32]> {
        self.rows(Site::Positions)
    }
}

/// Why a model cannot be made from some memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelError {
    /// The hyper-parameters are invalid.
    Config(ConfigError),
    /// The memory has the wrong size or is misaligned.
    Memory(MemoryError),
    /// The model needs a Cargo feature of this crate that is not enabled.
    LeftOut {
        /// The feature.
        feature: &'static str,
    },
    /// The model has relative position biases, which fit only the grid of patches that it was trained on.
    OtherGrid {
        /// The grid of the training, \[rows, columns\].
        own: [usize; 2],
        /// The grid of the images, \[rows, columns\].
        found: [usize; 2],
    },
}

impl core::fmt::Display for ModelError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::LeftOut { feature } => write!(f, "the model needs the Cargo feature '{feature}', which is left out"),
            Self::OtherGrid { own: [h, w], found: [fh, fw] } => write!(
                f,
                "the model's relative position biases are for {h}×{w} patches and cannot be resampled for {fh}×{fw}"
            ),
        }
    }
}

impl core::error::Error for ModelError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Memory(error) => Some(error),
            Self::LeftOut { .. } | Self::OtherGrid { .. } => None,
        }
    }
}

/// In a build without Cargo features.
#[cfg(all(test, not(feature = "f32")))]
mod tests {
    use super::*;
    use crate::arena::Aligned;
    use crate::config::AttentionPool;
    use crate::testing::tiny;

    #[test]
    fn what_is_left_out_is_refused() {
        let memory = Aligned([0; 1 << 17]);
        let new = |config: &Config, precision| {
            let bytes = Model::bytes(config, precision).unwrap();
            Model::new(config, precision, Isa::best(), &memory.0[..bytes]).map(|_| ())
        };
        for precision in Precision::ALL {
            let refused = Err(ModelError::LeftOut { feature: precision.name() });
            assert_eq!(new(&tiny(), precision), if precision == Precision::Int8 { Ok(()) } else { refused });
        }
        let attention_pool = Some(AttentionPool { heads: 3, mlp_dim: 5, all_tokens: true });
        let config = Config { attention_pool, ..tiny() };
        assert_eq!(new(&config, Precision::Int8), Err(ModelError::LeftOut { feature: "f32" }));
        let maps = Plan::with_blocks(&tiny(), Precision::Int8, Output::Attention, 1, 1, 1);
        assert_eq!(maps, Err(PlanError::LeftOut { feature: "maps" }));
    }
}
