//! A model: its config and a borrowed view of its weights. Immutable, so any number of callers may share it.
use vit_kernels::Isa;

use crate::arena::{MemoryError, aligned};
use crate::config::{Config, ConfigError};
use crate::weights::{Fill, FillError, Layout, Linear, Norm, Precision, Source};

/// A model over weights that stand in the caller's memory: RAM, flash, a mapped file.
#[derive(Debug, Clone, Copy)]
pub struct Model<'a> {
    pub(crate) config: Config,
    pub(crate) isa: Isa,
    layout: Layout,
    data: &'a [u8],
}

/// The weights of one layer.
pub(crate) struct Layer<'a> {
    pub(crate) attention_norm: Norm<'a>, // [dim]
    pub(crate) q: Linear<'a>,            // [inner, dim]
    pub(crate) kv: Linear<'a>,           // [2·inner, dim]
    pub(crate) out: Option<Linear<'a>>,  // [dim, inner]
    pub(crate) mlp_norm: Norm<'a>,       // [dim]
    pub(crate) up: Linear<'a>,           // [mlp_dim, dim]
    pub(crate) down: Linear<'a>,         // [dim, mlp_dim]
}

impl<'a> Model<'a> {
    /// The bytes that a model's weights take, exactly.
    ///
    /// # Errors
    /// When the config makes no model.
    pub fn bytes(config: &Config, precision: Precision) -> Result<usize, ConfigError> {
        Ok(Layout::new(config, precision)?.bytes)
    }

    /// Fills `memory`, [`bytes`](Self::bytes) long and aligned to [`ALIGN`](crate::ALIGN), from `source`.
    ///
    /// # Errors
    /// When the config makes no model, the memory does not do, the source lacks a parameter, or a value is not finite.
    pub fn fill<S: Source>(
        config: &Config,
        precision: Precision,
        source: &S,
        memory: &mut [u8],
    ) -> Result<(), FillError<S::Error>> {
        let layout = Layout::new(config, precision).map_err(FillError::Config)?;
        Fill { layout: &layout, source, memory }.run(config)
    }

    /// A model over memory that [`fill`](Self::fill) has filled for the same config and precision, to run on `isa`.
    ///
    /// `memory` is exactly what was filled; that its contents are this model's is the caller's word, and only its length
    /// can be checked.
    ///
    /// # Errors
    /// When the config makes no model, or the memory is misaligned or not [`bytes`](Self::bytes) long.
    pub fn new(config: &Config, precision: Precision, isa: Isa, memory: &'a [u8]) -> Result<Self, ModelError> {
        let layout = Layout::new(config, precision).map_err(ModelError::Config)?;
        let (needed, found) = (layout.bytes, memory.len());
        if needed != found {
            return Err(ModelError::Memory(MemoryError::OtherModel { needed, found }));
        }
        let data = aligned(memory, needed).map_err(ModelError::Memory)?;
        Ok(Self { config: *config, isa, layout, data })
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How the weight matrices are stored.
    pub fn precision(&self) -> Precision {
        self.layout.precision
    }

    /// The instruction-set level it runs on.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The bytes of its weights.
    pub fn weight_bytes(&self) -> usize {
        self.layout.bytes
    }

    pub(crate) fn patch_norm(&self) -> Option<Norm<'a>> {
        self.layout.patch_norm.map(|slot| self.layout.norm(self.data, 0, slot))
    }

    pub(crate) fn patch(&self) -> Linear<'a> {
        self.layout.linear(self.data, 0, self.layout.patch)
    }

    pub(crate) fn embed_norm(&self) -> Option<Norm<'a>> {
        self.layout.embed_norm.map(|slot| self.layout.norm(self.data, 0, slot))
    }

    /// \[dim\].
    pub(crate) fn class_token(&self) -> Option<&'a [f32]> {
        self.layout.class_token.map(|slot| self.layout.vectors(self.data, 0, slot))
    }

    /// \[tokens, dim\].
    pub(crate) fn positions(&self) -> &'a [f32] {
        self.layout.vectors(self.data, 0, self.layout.positions)
    }

    pub(crate) fn layer(&self, index: usize) -> Layer<'a> {
        let (l, data, base) = (&self.layout, self.data, self.layout.layer_start(index));
        Layer {
            attention_norm: l.norm(data, base, l.layer.attention_norm),
            q: l.linear(data, base, l.layer.q),
            kv: l.linear(data, base, l.layer.kv),
            out: l.layer.out.map(|slot| l.linear(data, base, slot)),
            mlp_norm: l.norm(data, base, l.layer.mlp_norm),
            up: l.linear(data, base, l.layer.up),
            down: l.linear(data, base, l.layer.down),
        }
    }

    pub(crate) fn final_norm(&self) -> Option<Norm<'a>> {
        self.layout.final_norm.map(|slot| self.layout.norm(self.data, 0, slot))
    }

    pub(crate) fn head_norm(&self) -> Option<Norm<'a>> {
        self.layout.head_norm.map(|slot| self.layout.norm(self.data, 0, slot))
    }

    pub(crate) fn head(&self) -> Option<Linear<'a>> {
        self.layout.head.map(|slot| self.layout.linear(self.data, 0, slot))
    }
}

/// Why a model cannot be made over some memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelError {
    /// The hyper-parameters make no model.
    Config(ConfigError),
    /// The memory does not do.
    Memory(MemoryError),
}

impl core::fmt::Display for ModelError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ModelError {}
