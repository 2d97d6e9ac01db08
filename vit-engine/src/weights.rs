//! Where every parameter of a model stands in one block of memory, and how it gets there.
//!
//! The layout follows from the config and the precision alone: its size is known before anything is loaded, and no
//! index of tensors has to be allocated. Matrices are in panels, the same for every instruction set.
use core::fmt;

use vit_kernels::half::f16;
use vit_kernels::{PackError, Packed, Panels, ShapeError, pack, packed_len};

use crate::arena::{ALIGN, MemoryError, aligned_mut};
use crate::config::{Config, ConfigError};

/// How weight matrices are stored; everything else (norms, biases, positions, activations, sums) is f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight, rounded to nearest even.
    F16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Self; 2] = [Self::F32, Self::F16];

    /// 'f32', 'f16'.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<f16>(),
        }
    }
}

/// A parameter: a matrix \[out, in\], or a vector seen as \[1, len\].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Param {
    /// The part of the model.
    pub site: Site,
    /// Its weight or its bias.
    pub part: Part,
}

/// Weight or bias; tokens and positions are weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// A matrix, a norm's gamma, a token, the positions.
    Weight,
    /// A bias, a norm's beta.
    Bias,
}

/// A part of the model that has parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Site {
    /// LayerNorm over a flattened patch.
    PatchNorm,
    /// Patch projection, \[dim, patch_len\] in the config's patch order.
    Patch,
    /// LayerNorm over a projected patch.
    EmbedNorm,
    /// The class token, \[1, dim\].
    ClassToken,
    /// The position embedding, \[tokens, dim\].
    Positions,
    /// A part of a layer.
    Layer(usize, LayerSite),
    /// LayerNorm over every token at the end.
    FinalNorm,
    /// LayerNorm over what was pooled.
    HeadNorm,
    /// The head, \[classes, dim\].
    Head,
}

/// A part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerSite {
    /// LayerNorm before attention.
    AttentionNorm,
    /// \[heads·head_dim, dim\].
    Query,
    /// \[heads·head_dim, dim\].
    Key,
    /// \[heads·head_dim, dim\].
    Value,
    /// \[dim, heads·head_dim\].
    Out,
    /// LayerNorm before the feed-forward.
    MlpNorm,
    /// \[mlp_dim, dim\].
    Up,
    /// \[dim, mlp_dim\].
    Down,
}

/// Where parameters come from: a checkpoint, a generator, arrays in flash.
pub trait Source {
    /// Why a parameter cannot be had.
    type Error;

    /// Opens a parameter of that shape for reading. Two may be open at a time, and a parameter may be opened again.
    ///
    /// # Errors
    /// When there is no such parameter or its shape differs.
    fn open(&self, param: Param, shape: [usize; 2]) -> Result<impl Values, Self::Error>;
}

/// A parameter's values, row by row.
pub trait Values {
    /// Writes `into.len()` values of `row`, from column `start` on; in whatever order packing goes.
    fn read(&self, row: usize, start: usize, into: &mut [f32]);
}

impl<F: Fn(usize, usize, &mut [f32])> Values for F {
    fn read(&self, row: usize, start: usize, into: &mut [f32]) {
        self(row, start, into);
    }
}

/// Why a model could not be filled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FillError<E> {
    /// The hyper-parameters make no model.
    Config(ConfigError),
    /// The memory does not do.
    Memory(MemoryError),
    /// The source does not have what the model needs.
    Source(E),
    /// A value is NaN or infinite, or too large for the precision.
    NotFinite {
        /// The parameter.
        param: Param,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The value.
        value: f32,
    },
}

impl<E: fmt::Display> fmt::Display for FillError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Source(error) => error.fmt(f),
            Self::NotFinite { param, row, column, value } if value.is_finite() => {
                write!(f, "{param:?} at [{row}, {column}] is {value}: too large for f16; use f32")
            }
            Self::NotFinite { param, row, column, value } => write!(f, "{param:?} at [{row}, {column}] is {value}"),
        }
    }
}

impl<E: core::error::Error> core::error::Error for FillError<E> {}

/// A linear layer's place: byte offsets within its block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LinearSlot {
    n: usize,
    k: usize,
    weight: usize,
    bias: Option<usize>,
}

/// A vector's, or several vectors', place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct VectorSlot {
    rows: usize,
    cols: usize,
    offset: usize,
}

/// A norm's place: gamma and beta.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NormSlot {
    weight: VectorSlot,
    bias: VectorSlot,
}

/// Where the parameters of a model stand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Layout {
    pub(crate) precision: Precision,
    pub(crate) patch_norm: Option<NormSlot>,
    pub(crate) patch: LinearSlot,
    pub(crate) embed_norm: Option<NormSlot>,
    pub(crate) class_token: Option<VectorSlot>,
    pub(crate) positions: VectorSlot,
    pub(crate) final_norm: Option<NormSlot>,
    pub(crate) head_norm: Option<NormSlot>,
    pub(crate) head: Option<LinearSlot>,
    /// Offset of the first layer; they are alike and `layer_len` apart.
    layers: usize,
    layer_len: usize,
    pub(crate) layer: LayerLayout,
    pub(crate) bytes: usize,
}

/// A layer's places, relative to its start: in the order of their use, so that what is fetched ahead is the next matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LayerLayout {
    pub(crate) attention_norm: NormSlot,
    pub(crate) q: LinearSlot,
    /// Keys and values in one matrix: \[2·heads·head_dim, dim\].
    pub(crate) kv: LinearSlot,
    pub(crate) out: Option<LinearSlot>,
    pub(crate) mlp_norm: NormSlot,
    pub(crate) up: LinearSlot,
    pub(crate) down: LinearSlot,
}

/// Hands out aligned offsets; remembers an overflow.
struct Cursor {
    precision: Precision,
    at: Option<usize>,
}

impl Cursor {
    fn reserve(&mut self, bytes: Option<usize>) -> usize {
        let start = self.at.unwrap_or(0);
        self.at = self.at.zip(bytes).and_then(|(at, bytes)| at.checked_add(bytes)?.checked_next_multiple_of(ALIGN));
        start
    }

    fn vectors(&mut self, rows: usize, cols: usize) -> VectorSlot {
        let bytes = rows.checked_mul(cols).and_then(|len| len.checked_mul(size_of::<f32>()));
        VectorSlot { rows, cols, offset: self.reserve(bytes) }
    }

    fn norm(&mut self, len: usize) -> NormSlot {
        NormSlot { weight: self.vectors(1, len), bias: self.vectors(1, len) }
    }

    fn linear(&mut self, n: usize, k: usize, bias: bool) -> LinearSlot {
        let weight = self.reserve(packed_len(n, k).and_then(|len| len.checked_mul(self.precision.bytes())));
        LinearSlot { n, k, weight, bias: bias.then(|| self.vectors(1, n).offset) }
    }
}

impl Layout {
    pub(crate) fn new(config: &Config, precision: Precision) -> Result<Self, ConfigError> {
        config.validate()?;
        let c = config;
        let (inner, patch_len) = (c.inner(), c.patch_len());

        let mut at = Cursor { precision, at: Some(0) };
        let layer = LayerLayout {
            attention_norm: at.norm(c.dim),
            kv: at.linear(2 * inner, c.dim, c.bias.qkv),
            q: at.linear(inner, c.dim, c.bias.qkv),
            out: c.out_proj.then(|| at.linear(c.dim, inner, c.bias.out)),
            mlp_norm: at.norm(c.dim),
            up: at.linear(c.mlp_dim, c.dim, c.bias.mlp),
            down: at.linear(c.dim, c.mlp_dim, c.bias.mlp),
        };
        let layer_len = at.at.ok_or(ConfigError::TooLarge)?;

        let mut at = Cursor { precision, at: Some(0) };
        let mut layout = Self {
            precision,
            patch_norm: c.patch_norm.then(|| at.norm(patch_len)),
            patch: at.linear(c.dim, patch_len, c.bias.patch),
            embed_norm: c.embed_norm.then(|| at.norm(c.dim)),
            class_token: c.class_token.then(|| at.vectors(1, c.dim)),
            positions: at.vectors(c.tokens(), c.dim),
            layers: at.reserve(layer_len.checked_mul(c.depth)),
            layer_len,
            layer,
            final_norm: c.final_norm.then(|| at.norm(c.dim)),
            head_norm: (c.head_norm && c.classes > 0).then(|| at.norm(c.dim)),
            head: (c.classes > 0).then(|| at.linear(c.classes, c.dim, c.bias.head)),
            bytes: 0,
        };
        layout.bytes = at.at.ok_or(ConfigError::TooLarge)?;
        Ok(layout)
    }

    /// Offset of a layer's block.
    pub(crate) fn layer_start(&self, index: usize) -> usize {
        self.layers + index * self.layer_len
    }

    pub(crate) fn vectors<'a>(&self, data: &'a [u8], base: usize, slot: VectorSlot) -> &'a [f32] {
        floats(data, base + slot.offset, slot.rows * slot.cols)
    }

    pub(crate) fn norm<'a>(&self, data: &'a [u8], base: usize, slot: NormSlot) -> Norm<'a> {
        Norm { gamma: self.vectors(data, base, slot.weight), beta: self.vectors(data, base, slot.bias) }
    }

    pub(crate) fn linear<'a>(&self, data: &'a [u8], base: usize, slot: LinearSlot) -> Linear<'a> {
        // With all that follows: it is what a forward pass reads next. Lengths are multiples of ALIGN.
        let bytes = &data[base + slot.weight..];
        let panels = match self.precision {
            Precision::F32 => Panels::F32(bytemuck::cast_slice(bytes)),
            Precision::F16 => Panels::F16(bytemuck::cast_slice(bytes)),
        };
        let bias = slot.bias.map(|offset| floats(data, base + offset, slot.n));
        let weight = Packed::before_others(slot.n, slot.k, panels).expect("the layout reserved packed_len(n, k)");
        Linear { weight, bias }
    }
}

fn floats(data: &[u8], offset: usize, len: usize) -> &[f32] {
    bytemuck::cast_slice(&data[offset..][..len * size_of::<f32>()])
}

/// A norm's gamma and beta, \[dim\].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub(crate) gamma: &'a [f32],
    pub(crate) beta: &'a [f32],
}

/// A linear layer's weight, \[n, k\] packed, and bias, \[n\].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear<'a> {
    pub(crate) weight: Packed<'a>,
    pub(crate) bias: Option<&'a [f32]>,
}

/// Calls `visit` with every parameter a model of this config has, and its shape.
///
/// # Errors
/// The first that `visit` gives.
pub fn for_each_param<E>(config: &Config, mut visit: impl FnMut(Param, [usize; 2]) -> Result<(), E>) -> Result<(), E> {
    let c = config;
    let mut norm = |site, len| {
        visit(Param { site, part: Part::Weight }, [1, len])?;
        visit(Param { site, part: Part::Bias }, [1, len])
    };
    if c.patch_norm {
        norm(Site::PatchNorm, c.patch_len())?;
    }
    if c.embed_norm {
        norm(Site::EmbedNorm, c.dim)?;
    }
    for layer in 0..c.depth {
        norm(Site::Layer(layer, LayerSite::AttentionNorm), c.dim)?;
        norm(Site::Layer(layer, LayerSite::MlpNorm), c.dim)?;
    }
    if c.final_norm {
        norm(Site::FinalNorm, c.dim)?;
    }
    if c.head_norm && c.classes > 0 {
        norm(Site::HeadNorm, c.dim)?;
    }
    if c.class_token {
        visit(Param { site: Site::ClassToken, part: Part::Weight }, [1, c.dim])?;
    }
    visit(Param { site: Site::Positions, part: Part::Weight }, [c.tokens(), c.dim])?;

    let mut linear = |site, n, k, bias| {
        visit(Param { site, part: Part::Weight }, [n, k])?;
        if bias { visit(Param { site, part: Part::Bias }, [1, n]) } else { Ok(()) }
    };
    linear(Site::Patch, c.dim, c.patch_len(), c.bias.patch)?;
    for layer in 0..c.depth {
        for site in [LayerSite::Query, LayerSite::Key, LayerSite::Value] {
            linear(Site::Layer(layer, site), c.inner(), c.dim, c.bias.qkv)?;
        }
        if c.out_proj {
            linear(Site::Layer(layer, LayerSite::Out), c.dim, c.inner(), c.bias.out)?;
        }
        linear(Site::Layer(layer, LayerSite::Up), c.mlp_dim, c.dim, c.bias.mlp)?;
        linear(Site::Layer(layer, LayerSite::Down), c.dim, c.mlp_dim, c.bias.mlp)?;
    }
    if c.classes > 0 {
        linear(Site::Head, c.classes, c.dim, c.bias.head)?;
    }
    Ok(())
}

/// Fills a model's memory from a source.
pub(crate) struct Fill<'a, S> {
    pub(crate) layout: &'a Layout,
    pub(crate) source: &'a S,
    pub(crate) memory: &'a mut [u8],
}

impl<S: Source> Fill<'_, S> {
    pub(crate) fn run(mut self, config: &Config) -> Result<(), FillError<S::Error>> {
        let l = *self.layout;
        self.memory = aligned_mut(self.memory, l.bytes).map_err(FillError::Memory)?;
        self.norm(0, l.patch_norm, Site::PatchNorm)?;
        self.linear(0, Some(l.patch), &[Site::Patch])?;
        self.norm(0, l.embed_norm, Site::EmbedNorm)?;
        if let Some(slot) = l.class_token {
            self.vectors(0, slot, Param { site: Site::ClassToken, part: Part::Weight })?;
        }
        self.vectors(0, l.positions, Param { site: Site::Positions, part: Part::Weight })?;
        for index in 0..config.depth {
            let (base, at) = (l.layer_start(index), |site| Site::Layer(index, site));
            self.norm(base, Some(l.layer.attention_norm), at(LayerSite::AttentionNorm))?;
            self.linear(base, Some(l.layer.q), &[at(LayerSite::Query)])?;
            self.linear(base, Some(l.layer.kv), &[at(LayerSite::Key), at(LayerSite::Value)])?;
            self.linear(base, l.layer.out, &[at(LayerSite::Out)])?;
            self.norm(base, Some(l.layer.mlp_norm), at(LayerSite::MlpNorm))?;
            self.linear(base, Some(l.layer.up), &[at(LayerSite::Up)])?;
            self.linear(base, Some(l.layer.down), &[at(LayerSite::Down)])?;
        }
        self.norm(0, l.final_norm, Site::FinalNorm)?;
        self.norm(0, l.head_norm, Site::HeadNorm)?;
        self.linear(0, l.head, &[Site::Head])
    }

    fn norm(&mut self, base: usize, slot: Option<NormSlot>, site: Site) -> Result<(), FillError<S::Error>> {
        let Some(slot) = slot else { return Ok(()) };
        self.vectors(base, slot.weight, Param { site, part: Part::Weight })?;
        self.vectors(base, slot.bias, Param { site, part: Part::Bias })
    }

    fn vectors(&mut self, base: usize, slot: VectorSlot, param: Param) -> Result<(), FillError<S::Error>> {
        let VectorSlot { rows, cols, offset } = slot;
        let values = self.source.open(param, [rows, cols]).map_err(FillError::Source)?;
        let bytes = &mut self.memory[base + offset..][..rows * cols * size_of::<f32>()];
        let out: &mut [f32] = bytemuck::cast_slice_mut(bytes);
        for (row, out) in out.chunks_exact_mut(cols).enumerate() {
            values.read(row, 0, out);
            if let Some(column) = out.iter().position(|x| !x.is_finite()) {
                return Err(FillError::NotFinite { param, row, column, value: out[column] });
            }
        }
        Ok(())
    }

    /// A matrix whose rows are those of `sites`, one after the other.
    fn linear(&mut self, base: usize, slot: Option<LinearSlot>, sites: &[Site]) -> Result<(), FillError<S::Error>> {
        let Some(LinearSlot { n, k, weight, bias }) = slot else { return Ok(()) };
        let rows = n / sites.len();
        let open = |&site| self.source.open(Param { site, part: Part::Weight }, [rows, k]).map_err(FillError::Source);
        let first = open(&sites[0])?;
        let second = sites.get(1).map(open).transpose()?;
        let read = |row: usize, start: usize, into: &mut [f32]| match &second {
            Some(second) if row >= rows => second.read(row - rows, start, into),
            _ => first.read(row, start, into),
        };
        let bytes = &mut self.memory[base + weight..];
        let len = packed_len(n, k).unwrap_or(0);
        match self.layout.precision {
            Precision::F32 => pack::<f32>(n, k, read, bytemuck::cast_slice_mut(&mut bytes[..len * 4])),
            Precision::F16 => pack::<f16>(n, k, read, bytemuck::cast_slice_mut(&mut bytes[..len * 2])),
        }
        .map_err(|error| match error {
            PackError::NotFinite { row, column, value } => {
                let param = Param { site: sites[row / rows], part: Part::Weight };
                FillError::NotFinite { param, row: row % rows, column, value }
            }
            PackError::Shape(ShapeError { expected, found, .. }) => {
                let bytes = self.layout.precision.bytes();
                FillError::Memory(MemoryError::TooSmall { needed: expected * bytes, found: found * bytes })
            }
        })?;
        if let Some(bias) = bias {
            for (i, &site) in sites.iter().enumerate() {
                let slot = VectorSlot { rows: 1, cols: rows, offset: bias + i * rows * size_of::<f32>() };
                self.vectors(base, slot, Param { site, part: Part::Bias })?;
            }
        }
        Ok(())
    }
}
