//! Attention of one image: softmax(q·kᵀ·scale)·v per head, with a streaming softmax (Milakov and Gimelshein 2018,
//! <https://arxiv.org/abs/1805.02867>; Rabe and Staats 2021, <https://arxiv.org/abs/2112.05682>).
//!
//! ```text
//! for each tile of query rows
//!     qᵀ = transpose(q)·scale·log₂e                   [head_dim, queries]
//!     max = −∞, sum = 0, out = 0
//!     for each block of KEY_BLOCK keys
//!         scores = k·qᵀ [+ bias]                      [keys, queries], the matmul's tile
//!         new max; rescale = 2^(old max − new max)
//!         p = 2^(scores − max); sum = sum·rescale + Σp
//!         out = out·rescale + (vᵀ·p)ᵀ                 the matmul's tile
//!     out = out·(1/sum)
//! ```
//! Keys and values in f32 stay as the matmul wrote them; [`RoundKv`] makes bf16 of them, [`QuantiseKv`] int8. Each query is
//! a lane, so the softmax runs over the keys and never sums across lanes. Only the scores of a tile's queries with [`KEY_BLOCK`] keys exist at a time. The block size is
//! constant and lanes are independent, so the bits do not depend on how the rows are split.
#![allow(unsafe_code)] // The tile takes pointers.

mod bf16_kv;
mod bfloat16;
mod bias;
mod binary32;
mod block;
#[cfg(any(no_vectors, test))]
mod few_queries;
mod int8;
mod kv_rows;
mod maps;
mod quantised_kv;

pub use bf16_kv::{Bf16Kv, RoundKv};
pub use bias::RelativeBias;
pub use maps::AttentionMaps;
pub use quantised_kv::{QuantiseKv, QuantisedKv};

use core::f32::consts::LOG2_E;
use core::mem::MaybeUninit;
use core::ops::Range;

use self::binary32::Binary32;
use self::block::{Block, Factors, fresh, written};
use crate::error::{ShapeError, expect_len};
use crate::half::Storage;
use crate::isa::Isa;
use crate::job::{Job, Shared, TASK_ROWS};
use crate::quantise::quantised_len;
use crate::simd::{Kernel, LANES, Simd};

/// Keys per block: up to 256 tokens (224 × 224 pixels at patch 16 have 197) nothing is rescaled.
pub const KEY_BLOCK: usize = 256;

/// Whether this build has attention over keys and values in f32, and in bf16.
const F32: bool = cfg!(feature = "f32-attention");
const BF16: bool = cfg!(feature = "bf16");

/// Query rows of a task: the columns of the widest tile.
const QUERY_ROWS: usize = 2 * TASK_ROWS;

/// The keys and values of an image.
#[derive(Debug, Clone, Copy)]
pub enum KeysValues<'a> {
    /// As [`KvLayout::len`] says.
    F32(&'a [f32]),
    /// Rounded to bf16.
    Bf16(Bf16Kv<'a>),
    /// Quantised.
    Int8(QuantisedKv<'a>),
}

impl<'a> From<&'a [f32]> for KeysValues<'a> {
    fn from(kv: &'a [f32]) -> Self {
        Self::F32(kv)
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for KeysValues<'a> {
    fn from(kv: &'a [f32; N]) -> Self {
        Self::F32(kv)
    }
}

impl<'a> From<Bf16Kv<'a>> for KeysValues<'a> {
    fn from(kv: Bf16Kv<'a>) -> Self {
        Self::Bf16(kv)
    }
}

impl<'a> From<QuantisedKv<'a>> for KeysValues<'a> {
    fn from(kv: QuantisedKv<'a>) -> Self {
        Self::Int8(kv)
    }
}

impl KeysValues<'_> {
    /// Checks that these are the keys and values of that shape, for that level.
    fn check(&self, isa: Isa, layout: &KvLayout) -> Result<(), ShapeError> {
        match self {
            Self::F32(kv) => {
                expect_len(
                    "attention: keys and values in f32, which this build leaves out",
                    Some(0),
                    usize::from(!F32),
                )?;
                expect_len("attention: kv must hold 2 × heads × head_dim × tokens", layout.len(), kv.len())
            }
            Self::Bf16(kv) => {
                expect_len(
                    "attention: keys and values in bf16, which this build leaves out",
                    Some(0),
                    usize::from(!BF16),
                )?;
                let len = (kv.layout == *layout).then(|| layout.bf16_len()).flatten();
                expect_len("attention: the bf16 kv must have this shape", len, kv.layout.bf16_len().unwrap_or(0))
            }
            Self::Int8(kv) => {
                let len = (kv.layout == *layout).then(|| layout.int8_len()).flatten();
                expect_len("attention: the quantised kv must have this shape", len, kv.layout.int8_len().unwrap_or(0))?;
                expect_len(
                    "attention: the quantised kv must have this level's zero point",
                    Some(isa.zero_point().into()),
                    kv.isa.zero_point().into(),
                )
            }
        }
    }
}

/// The shape of an image's keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    /// Attention heads.
    pub heads: usize,
    /// Elements of a head's queries, keys and values.
    pub head_dim: usize,
    /// Keys and values.
    pub tokens: usize,
}

impl KvLayout {
    /// Elements of the buffer: for each token a row with the keys of all heads, then the values of all heads. `None` on
    /// overflow.
    pub fn len(&self) -> Option<usize> {
        self.heads.checked_mul(self.head_dim)?.checked_mul(2)?.checked_mul(self.tokens)
    }

    /// Elements of [`Attention::set_scratch`] for attention over int8 of that many queries at a time; `None` on overflow.
    pub const fn scratch_len(&self, queries: usize) -> Option<usize> {
        let (keys, dims) = (min(self.tokens, KEY_BLOCK), min(self.head_dim, int8::DIM_BLOCK));
        (quantised_len(keys) + quantised_len(dims)).checked_mul(queries)
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// heads × head_dim: the columns of q and of the output.
    fn inner(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// The scores of an image's queries and keys, from which attention and attention maps are computed.
pub struct Scores<'a> {
    isa: Isa,
    layout: KvLayout,
    scale: f32,
    q: &'a [f32],
    kv: KeysValues<'a>,
    bias: Option<RelativeBias<'a>>,
}

impl<'a> Scores<'a> {
    /// scores = scale·q·kᵀ. `q` is \[rows, heads·head_dim\]; `kv` is in f32, laid out as [`KvLayout::len`] says, or
    /// quantised on this level.
    ///
    /// # Errors
    /// When `q` is not whole rows, or `kv` has the wrong length, shape or level, or a format that this build leaves out.
    pub fn new(
        isa: Isa,
        layout: KvLayout,
        scale: f32,
        q: &'a [f32],
        kv: impl Into<KeysValues<'a>>,
    ) -> Result<Self, ShapeError> {
        let kv = kv.into();
        kv.check(isa, &layout)?;
        let inner = layout.inner();
        let rows = q.len().checked_div(inner).unwrap_or(0);
        expect_len("attention: q must be a whole number of rows", Some(rows * inner), q.len())?;
        Ok(Self { isa, layout, scale, q, kv, bias: None })
    }

    /// Adds a relative position bias to the scaled scores.
    ///
    /// # Errors
    /// When the bias has another number of heads or tokens, or the queries go past the last token.
    pub fn with_bias(mut self, bias: RelativeBias<'a>) -> Result<Self, ShapeError> {
        bias.check(&self.layout, self.rows())?;
        self.bias = Some(bias);
        Ok(self)
    }

    /// Attention into `out`, which must be as long as `q`.
    ///
    /// # Errors
    /// When `out` has another length.
    pub fn attend(self, out: &'a mut [f32]) -> Result<Attention<'a>, ShapeError> {
        expect_len("attention: out must be as long as q", Some(self.q.len()), out.len())?;
        Ok(Attention { scores: self, out: Shared::new(out), scratch: Shared::new(&mut []) })
    }

    fn rows(&self) -> usize {
        self.q.len().checked_div(self.layout.inner()).unwrap_or(0)
    }

    /// Groups of query rows × heads.
    fn grid(&self) -> [usize; 2] {
        [self.rows().div_ceil(QUERY_ROWS), self.layout.heads]
    }

    /// The queries of a task, and all keys; `None` outside the grid.
    fn scope(&self, group: usize, head: usize) -> Option<Scope<'_>> {
        let first = group * QUERY_ROWS;
        let rows = first..(first + QUERY_ROWS).min(self.rows());
        let inside = group < self.grid()[0] && head < self.layout.heads;
        inside.then_some(Scope { scores: self, head, rows, keys: 0..self.layout.tokens })
    }
}

/// Attention of query rows of an image over all its keys and values; a task per head and group of rows.
///
/// Error per output, with V = max|v| over the head and S = max over the keys of |scale|·Σ|qᵢ·kᵢ| + |bias|: at most
/// (16 + tokens + head_dim·S)·2⁻²³·V. A NaN in q or k makes the outputs of its query rows NaN, a NaN in v those of its
/// column. A row with a score of +∞, or with scores of −∞ only, gives NaN, as in PyTorch. Without tokens the outputs
/// are NaN (0/0).
///
/// Over keys and values in bf16 the error is at most this, plus (e^(S/63) − 1 + 1/120)·V; for 197 tokens of noise it is more
/// than 40 dB below the signal.
///
/// Over keys and values in int8 the error is at most this, plus (e^(S/63) − 1 + (1 + tokens)/250)·V with S as
/// |scale|·head_dim·max|q|·max|k|; for 197 tokens of noise it is more than 30 dB below the signal. A NaN or an infinity
/// in a query makes the outputs of its row and head NaN, in a key or a value all of its head.
pub struct Attention<'a> {
    scores: Scores<'a>,
    out: Shared<'a, f32>,
    /// For cores without vectors.
    #[cfg_attr(not(any(no_vectors, test)), allow(dead_code))]
    scratch: Shared<'a, f32>,
}

impl<'a> Attention<'a> {
    /// [`Scores::new`] and [`Scores::attend`]: attention without a bias.
    ///
    /// # Errors
    /// As those.
    pub fn new(
        isa: Isa,
        layout: KvLayout,
        scale: f32,
        q: &'a [f32],
        kv: impl Into<KeysValues<'a>>,
        out: &'a mut [f32],
    ) -> Result<Self, ShapeError> {
        Scores::new(isa, layout, scale, q, kv)?.attend(out)
    }

    /// Has cores without vectors work in `scratch` when keys and values are in int8: [`KvLayout::scratch_len`] of a few
    /// queries; four are fastest. More is for tasks that run at the same time. With less than one query's they use 2 KB of
    /// stack. The bits are the same. Other levels do not use it.
    pub fn set_scratch(&mut self, scratch: &'a mut [f32]) {
        self.scratch = Shared::new(scratch);
    }
}

const fn min(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

// SAFETY: a task writes only its own rows, or only the columns of its head in them, and its own part of the scratch.
unsafe impl Job for Attention<'_> {
    fn grid(&self) -> [usize; 2] {
        #[cfg(any(no_vectors, test))]
        if let (KeysValues::Int8(_), true) = (self.scores.kv, self.scores.isa.is_small()) {
            return self.few_grid();
        }
        self.scores.grid()
    }

    unsafe fn task(&self, group: usize, head: usize) {
        #[cfg(any(no_vectors, test))]
        if let (KeysValues::Int8(kv), true) = (self.scores.kv, self.scores.isa.is_small()) {
            // SAFETY: the caller's promise, passed on.
            return unsafe { self.attend_few(kv, group) };
        }
        let Some(scope) = self.scores.scope(group, head) else { return };
        let (isa, out) = (self.scores.isa, &self.out);
        match self.scores.kv {
            KeysValues::F32(kv) if F32 => isa.call(Widest(Attend { scope, kv: Binary32(kv), out })),
            KeysValues::Bf16(kv) if BF16 => isa.call_bf16(Widest(Attend { scope, kv, out })),
            KeysValues::Int8(kv) => isa.call_int8(Widest(Attend { scope, kv, out })),
            KeysValues::F32(_) | KeysValues::Bf16(_) => {} // `Scores::new` refuses it.
        }
    }
}

/// Query rows and keys of one head: those of a task, of a tile of queries, or of a tile and a block of keys.
#[derive(Clone)]
struct Scope<'a> {
    scores: &'a Scores<'a>,
    head: usize,
    rows: Range<usize>,
    keys: Range<usize>,
}

impl Scope<'_> {
    /// Up to `N` rows at a time.
    #[inline(always)]
    fn tiles<const N: usize>(&self) -> impl Iterator<Item = Self> {
        self.rows.clone().step_by(N).map(|row| Scope { rows: row..(row + N).min(self.rows.end), ..self.clone() })
    }

    /// Up to [`KEY_BLOCK`] keys at a time.
    #[inline(always)]
    fn blocks(&self) -> impl Iterator<Item = Self> {
        let blocks = self.keys.clone().step_by(KEY_BLOCK);
        blocks.map(|key| Scope { keys: key..(key + KEY_BLOCK).min(self.keys.end), ..self.clone() })
    }

    /// Panels of queries.
    #[inline(always)]
    fn panels(&self) -> usize {
        self.rows.len().div_ceil(LANES)
    }

    /// A range of the head's dimensions of a query.
    #[inline(always)]
    fn query(&self, row: usize, dims: Range<usize>) -> &[f32] {
        let layout = self.scores.layout;
        let start = row * layout.inner() + self.head * layout.head_dim;
        &self.scores.q[start + dims.start..start + dims.end]
    }

    /// Up to sixteen dimensions of sixteen queries, from query `first` of this scope on; rows that are missing are 0.
    #[inline(always)]
    fn square<S: Simd>(&self, s: S, first: usize, dims: Range<usize>) -> [S::V; LANES] {
        let mut square = [s.splat(0.0); LANES];
        for (row, v) in (self.rows.start + first..self.rows.end).zip(&mut square) {
            *v = f32::load_any(s, self.query(row, dims.clone()));
        }
        square
    }

    /// Up to sixteen dimensions of sixteen queries times scale·log₂e: a vector for each dimension, with queries as lanes.
    #[inline(always)]
    fn scaled_columns<S: Simd>(&self, s: S, first: usize, dims: Range<usize>) -> [S::V; LANES] {
        let (scale, mut square) = (s.splat(self.scores.scale * LOG2_E), [s.splat(0.0); LANES]);
        // Scaled as they are loaded: a square is more than the registers of most levels.
        for (row, v) in (self.rows.start + first..self.rows.end).zip(&mut square) {
            *v = s.mul(f32::load_any(s, self.query(row, dims.clone())), scale);
        }
        s.transpose(square)
    }

    /// The scores with their bias, times log₂e.
    #[inline(always)]
    fn score<S: Simd, O: Operand, const Q: usize>(
        &self,
        s: S,
        kv: &O,
        scratch: &mut O::Scratch<Q>,
        block: &mut Block<Q>,
    ) {
        s.share(Score { at: self, kv, scratch, block });
    }
}

/// [`Scope::score`].
struct Score<'a, O: Operand, const Q: usize> {
    at: &'a Scope<'a>,
    kv: &'a O,
    scratch: &'a mut O::Scratch<Q>,
    block: &'a mut Block<Q>,
}

impl<O: Operand, const Q: usize> Kernel for Score<'_, O, Q> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { at, kv, scratch, block } = self;
        kv.score(s, at, scratch, block);
        if let Some(bias) = &at.scores.bias {
            bias.add(s, at.head, &at.rows, &at.keys, &mut block.scores);
        }
    }
}

/// Keys and values as one format stores them, and the products with them. `at` is at most a tile, `Q` queries, and a block
/// of keys.
trait Operand: Copy {
    /// What the products need besides a [`Block`].
    type Scratch<const Q: usize>;

    /// Panels of queries of a tile.
    fn panels<S: Simd>() -> usize;

    fn scratch<const Q: usize>() -> Self::Scratch<Q>;

    /// 2ˣ for x ≤ 0, as exact as this format stores probabilities.
    fn exp2<S: Simd>(s: S, x: S::V) -> S::V;

    /// Writes log₂e·scale·q·kᵀ to `block.scores`. The first block of a tile's keys comes first.
    fn score<S: Simd, const Q: usize>(
        &self,
        s: S,
        at: &Scope<'_>,
        scratch: &mut Self::Scratch<Q>,
        block: &mut Block<Q>,
    );

    /// Stores the probabilities of a pair of keys, whose rows of scores are `rows`, for the queries from `first` on. The
    /// last pair may have only one key; the other's probabilities are 0.
    #[inline(always)]
    fn keep<S: Simd, const Q: usize>(
        s: S,
        p: [S::V; 2],
        rows: &mut [[MaybeUninit<f32>; Q]],
        _pair: usize,
        first: usize,
        _: &mut Self::Scratch<Q>,
    ) {
        for (p, row) in p.into_iter().zip(rows) {
            s.store(p, fresh(row, first));
        }
    }

    /// Prepares the block's probabilities for [`values`](Self::values).
    #[inline(always)]
    fn prepare<S: Simd, const Q: usize>(&self, _: S, _: &Scope<'_>, _: &mut Self::Scratch<Q>, _: &mut Block<Q>) {}

    /// Writes vᵀ·p to `block.context`, for up to [`LANES`] dimensions.
    fn values<S: Simd, const Q: usize>(
        &self,
        s: S,
        at: &Scope<'_>,
        dims: &Range<usize>,
        scratch: &Self::Scratch<Q>,
        block: &mut Block<Q>,
    );
}

/// A kernel that goes over a task's queries in tiles as wide as the level's registers allow.
trait Tiles {
    type Operand: Operand;
    fn tiles<S: Simd, const Q: usize>(self, s: S);
}

/// [`Tiles`] with the number of queries that suits the level.
struct Widest<T>(T);

impl<T: Tiles> Kernel for Widest<T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // `panels` is a constant, so only one arm is compiled.
        match T::Operand::panels::<S>() {
            3 => self.0.tiles::<S, { 3 * LANES }>(s),
            2 => self.0.tiles::<S, { 2 * LANES }>(s),
            _ => self.0.tiles::<S, LANES>(s),
        }
    }
}

/// A task of [`Attention`].
struct Attend<'a, O> {
    scope: Scope<'a>,
    kv: O,
    out: &'a Shared<'a, f32>,
}

const _: () = assert!(QUERY_ROWS.is_multiple_of(LANES) && KEY_BLOCK.is_multiple_of(LANES));

impl<O: Operand> Tiles for Attend<'_, O> {
    type Operand = O;

    #[inline(always)]
    fn tiles<S: Simd, const Q: usize>(self, s: S) {
        let KvLayout { tokens, head_dim, .. } = self.scope.scores.layout;
        if tokens == 0 {
            let out = |row| self.out_row(row, &(0..head_dim));
            return self.scope.rows.clone().for_each(|row| out(row).fill(f32::NAN));
        }
        let (mut block, mut scratch) = (Block::<Q>::new(), O::scratch::<Q>());
        for tile in self.scope.tiles::<Q>() {
            block.restart();
            for at in tile.blocks() {
                at.score(s, &self.kv, &mut scratch, &mut block);
                let factors =
                    block.absorb::<S, O>(s, at.rows.len(), at.keys.len(), at.keys.end == tokens, &mut scratch);
                self.kv.prepare(s, &at, &mut scratch, &mut block);
                self.values(s, &at, &scratch, &mut block, &factors);
            }
        }
    }
}

impl<O: Operand> Attend<'_, O> {
    /// out = (out·rescale + pᵀ·v)·scale for a block of keys, row by row; the first block does not read `out`.
    ///
    /// It is computed as (pᵀ·v)ᵀ = vᵀ·p, with queries as lanes, a range of dimensions at a time, and then transposed.
    #[inline(always)]
    fn values<S: Simd, const Q: usize>(
        &self,
        s: S,
        at: &Scope<'_>,
        scratch: &O::Scratch<Q>,
        block: &mut Block<Q>,
        Factors { rescale, scale }: &Factors<Q>,
    ) {
        let head_dim = at.scores.layout.head_dim;
        for dim in (0..head_dim).step_by(LANES) {
            let dims = dim..(dim + LANES).min(head_dim);
            self.kv.values(s, at, &dims, scratch, block);
            for first in (0..at.rows.len()).step_by(LANES) {
                let mut square = [s.splat(0.0); LANES];
                for (v, context) in square.iter_mut().zip(&block.context[..dims.len()]) {
                    // SAFETY: the tiles above wrote whole panels of each row.
                    *v = s.load(unsafe { written(context, first) });
                }
                for ((row, i), mut v) in (at.rows.start + first..at.rows.end).zip(first..).zip(s.transpose(square)) {
                    let out = self.out_row(row, &dims);
                    if at.keys.start > 0 {
                        let before = f32::load_any(s, out);
                        v = s.mul_add(before, s.splat(rescale[i]), v);
                    }
                    f32::store_any(s, s.mul(v, s.splat(scale[i])), out);
                }
            }
        }
    }

    /// A range of the head's dimensions of an output row.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    fn out_row(&self, row: usize, dims: &Range<usize>) -> &mut [f32] {
        let layout = self.scope.scores.layout;
        let start = row * layout.inner() + self.scope.head * layout.head_dim;
        // SAFETY: this head's columns of these rows belong to this task, which holds only one such slice at a time.
        unsafe { self.out.part(start + dims.start..start + dims.end) }
    }
}

#[cfg(test)]
mod tests;
