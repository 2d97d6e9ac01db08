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
//! Keys and values stay as the matmul wrote them. Each query is a lane, so the softmax runs over the keys and never
//! sums across lanes. Only the scores of a tile's queries with [`KEY_BLOCK`] keys exist at a time. The block size is
//! constant and lanes are independent, so the bits do not depend on how the rows are split.
#![allow(unsafe_code)] // The tile takes pointers.

mod bias;
mod maps;

pub use bias::RelativeBias;
pub use maps::AttentionMaps;

use core::mem::MaybeUninit;
use core::ops::Range;

use crate::error::{ShapeError, expect_len};
use crate::gemm::tile::{Prefetch, Tile};
use crate::gemm::{F32, Finish};
use crate::half::Storage;
use crate::isa::Isa;
use crate::job::{Job, Shared, TASK_ROWS};
use crate::math::exp2_of_negative;
use crate::simd::{Kernel, LANES, Simd};

/// Keys per block: up to 256 tokens (224 × 224 pixels at patch 16 have 197) nothing is rescaled.
pub const KEY_BLOCK: usize = 256;

/// Dimensions of a head that are transposed at a time.
const DIM_BLOCK: usize = 64;

/// Query rows of a task: the columns of the widest tile.
const QUERY_ROWS: usize = 2 * TASK_ROWS;

/// Above this many elements, keys and values do not fit an L2 of 2 MB: prefetch.
const FAR: usize = 1 << 19;

/// Independent running maxima of a column of scores.
const MAXIMA: usize = 4;

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
    kv: &'a [f32],
    bias: Option<RelativeBias<'a>>,
}

impl<'a> Scores<'a> {
    /// scores = scale·q·kᵀ. `q` is \[rows, heads·head_dim\]; `kv` is laid out as [`KvLayout::len`] says.
    ///
    /// # Errors
    /// When `q` is not whole rows, or `kv` has the wrong length.
    pub fn new(isa: Isa, layout: KvLayout, scale: f32, q: &'a [f32], kv: &'a [f32]) -> Result<Self, ShapeError> {
        expect_len("attention: kv must hold 2 × heads × head_dim × tokens", layout.len(), kv.len())?;
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
        Ok(Attention { scores: self, out: Shared::new(out) })
    }

    fn rows(&self) -> usize {
        self.q.len().checked_div(self.layout.inner()).unwrap_or(0)
    }

    /// Groups of query rows × heads.
    fn grid(&self) -> [usize; 2] {
        [self.rows().div_ceil(QUERY_ROWS), self.layout.heads]
    }

    /// The queries of a task; `None` outside the grid.
    fn queries(&self, group: usize, head: usize) -> Option<Queries<'_>> {
        let first = group * QUERY_ROWS;
        let inside = group < self.grid()[0] && head < self.layout.heads;
        inside.then(|| Queries { scores: self, head, rows: first..(first + QUERY_ROWS).min(self.rows()) })
    }
}

/// Attention of query rows of an image over all its keys and values; a task per head and group of rows.
///
/// Error per output, with V = max|v| over the head and S = max over the keys of |scale|·Σ|qᵢ·kᵢ| + |bias|: at most
/// (16 + tokens + head_dim·S)·2⁻²³·V. A NaN in q or k makes the outputs of its query rows NaN, a NaN in v those of its
/// column. A row with a score of +∞, or with scores of −∞ only, gives NaN, as in PyTorch. Without tokens the outputs
/// are NaN (0/0).
pub struct Attention<'a> {
    scores: Scores<'a>,
    out: Shared<'a, f32>,
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
        kv: &'a [f32],
        out: &'a mut [f32],
    ) -> Result<Self, ShapeError> {
        Scores::new(isa, layout, scale, q, kv)?.attend(out)
    }
}

// SAFETY: a task writes only the columns of its head in its own rows.
unsafe impl Job for Attention<'_> {
    fn grid(&self) -> [usize; 2] {
        self.scores.grid()
    }

    unsafe fn task(&self, group: usize, head: usize) {
        if let Some(queries) = self.scores.queries(group, head) {
            self.scores.isa.call(Attend { queries, out: &self.out });
        }
    }
}

/// A range of query rows of one head.
struct Queries<'a> {
    scores: &'a Scores<'a>,
    head: usize,
    rows: Range<usize>,
}

/// A task of [`Attention`].
struct Attend<'a> {
    queries: Queries<'a>,
    out: &'a Shared<'a, f32>,
}

/// Uninitialised memory: a task writes it before it reads it. Zeroing it would take a tenth of the task's time.
type Fresh<const Q: usize, const N: usize> = [[MaybeUninit<f32>; Q]; N];

/// The scratch of a tile of `Q` queries. Aligned to cache lines: an access across two lines takes twice as long.
#[repr(align(64))]
struct Work<const Q: usize> {
    /// qᵀ·scale·log₂e: \[head_dim, queries\].
    q: Fresh<Q, DIM_BLOCK>,
    /// \[keys, queries\].
    scores: Fresh<Q, KEY_BLOCK>,
    /// The largest score so far, and the sum of 2^(score − max).
    max: [f32; Q],
    sum: [f32; Q],
    /// A block of dimensions of (pᵀ·v)ᵀ: \[dimensions, queries\].
    context: Fresh<Q, LANES>,
}

/// How a block of keys updates each query's outputs.
struct Factors<const Q: usize> {
    /// Multiplies the sums over the previous blocks: 2^(old max − new max).
    rescale: [f32; Q],
    /// Multiplies the result: 1 / sum after the last block, else 1.
    scale: [f32; Q],
}

const _: () =
    assert!(QUERY_ROWS.is_multiple_of(LANES) && KEY_BLOCK.is_multiple_of(LANES) && DIM_BLOCK.is_multiple_of(LANES));

impl<const Q: usize> Work<Q> {
    #[inline(always)]
    fn new() -> Self {
        Self {
            q: [[MaybeUninit::uninit(); Q]; DIM_BLOCK],
            scores: [[MaybeUninit::uninit(); Q]; KEY_BLOCK],
            max: [f32::NEG_INFINITY; Q],
            sum: [0.0; Q],
            context: [[MaybeUninit::uninit(); Q]; LANES],
        }
    }
}

impl Kernel for Attend<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // As many queries as the tile has columns; `TILE_PANELS` is a constant, so only one arm is compiled.
        match S::TILE_PANELS {
            3 => self.tiles::<S, { 3 * LANES }>(s),
            _ => self.tiles::<S, LANES>(s),
        }
    }
}

impl Attend<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const Q: usize>(self, s: S) {
        let queries = &self.queries;
        let KvLayout { tokens, head_dim, .. } = queries.scores.layout;
        if tokens == 0 {
            let columns = queries.head * head_dim..(queries.head + 1) * head_dim;
            return queries.rows.clone().for_each(|row| self.out_row(row, &columns).fill(f32::NAN));
        }
        let mut work = Work::new();
        for row in queries.rows.clone().step_by(Q) {
            let rows = row..(row + Q).min(queries.rows.end);
            (work.max, work.sum) = ([f32::NEG_INFINITY; Q], [0.0; Q]);
            for key in (0..tokens).step_by(KEY_BLOCK) {
                let keys = key..(key + KEY_BLOCK).min(tokens);
                queries.score(s, &rows, &keys, &mut work);
                let factors = work.absorb(s, rows.len(), keys.len(), keys.end == tokens);
                self.values(s, &rows, &keys, &mut work, &factors);
            }
        }
    }

    /// out = (out·rescale + pᵀ·v)·scale for a block of keys, row by row; the first block does not read `out`.
    ///
    /// It is computed as (pᵀ·v)ᵀ = vᵀ·p, with queries as lanes, a block of dimensions at a time, and then transposed.
    #[inline(always)]
    fn values<S: Simd, const Q: usize>(
        &self,
        s: S,
        rows: &Range<usize>,
        keys: &Range<usize>,
        work: &mut Work<Q>,
        Factors { rescale, scale }: &Factors<Q>,
    ) {
        let (scores, head) = (self.queries.scores, self.queries.head);
        let (inner, head_dim) = (scores.layout.inner(), scores.layout.head_dim);
        let v = &scores.kv[keys.start * 2 * inner..keys.end * 2 * inner];
        let p = work.scores.as_ptr().cast::<f32>();
        for dim in (0..head_dim).step_by(LANES) {
            let dims = LANES.min(head_dim - dim);
            for first in (0..dims).step_by(S::TILE_ROWS) {
                let count = S::TILE_ROWS.min(dims - first);
                let column = inner + head * head_dim + dim + first;
                let tile = Tile::<F32> {
                    a: v[column..][..(keys.len() - 1) * 2 * inner + count].as_ptr(),
                    a_row: 1,
                    a_step: 2 * inner,
                    b: p,
                    b_panel: LANES,
                    b_step: Q,
                    depth: keys.len(),
                    resume: None,
                    out: work.context[first..first + count].as_mut_ptr().cast(),
                    out_row: Q,
                    finish: Finish::default(),
                    prefetch: Prefetch::nothing(p),
                };
                // SAFETY: v has `count` dimensions of each key; the scores have a row of Q columns, the panels of S's
                // tile, for each key; `context` has Q columns and is local to this task.
                unsafe { tile.run(s, count, rows.len().div_ceil(LANES)) }
            }
            for panel in 0..rows.len().div_ceil(LANES) {
                let first = panel * LANES;
                let mut square = [s.splat(0.0); LANES];
                for (v, context) in square.iter_mut().zip(&work.context[..dims]) {
                    // SAFETY: the tiles above wrote whole panels of each row.
                    *v = s.load(unsafe { written(context, first) });
                }
                for ((row, i), mut v) in (rows.start + first..rows.end).zip(first..).zip(s.transpose(square)) {
                    let columns = head * head_dim + dim..head * head_dim + dim + dims;
                    let out = self.out_row(row, &columns);
                    if keys.start > 0 {
                        let before = f32::load_any(s, out);
                        v = s.mul_add(before, s.splat(rescale[i]), v);
                    }
                    f32::store_any(s, s.mul(v, s.splat(scale[i])), out);
                }
            }
        }
    }

    /// A range of columns of an output row.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    fn out_row(&self, row: usize, columns: &Range<usize>) -> &mut [f32] {
        let start = row * self.queries.scores.layout.inner();
        // SAFETY: this head's columns of these rows belong to this task, which holds only one such slice at a time.
        unsafe { self.out.part(start + columns.start..start + columns.end) }
    }
}

impl Queries<'_> {
    /// The scores of a block of keys, times log₂e. A head of up to [`DIM_BLOCK`] dimensions is transposed only once.
    #[inline(always)]
    fn score<S: Simd, const Q: usize>(&self, s: S, rows: &Range<usize>, keys: &Range<usize>, work: &mut Work<Q>) {
        let head_dim = self.scores.layout.head_dim;
        for dim in (0..head_dim).step_by(DIM_BLOCK) {
            let dims = dim..(dim + DIM_BLOCK).min(head_dim);
            if keys.start == 0 || head_dim > DIM_BLOCK {
                self.transpose(s, rows, &dims, work);
            }
            self.multiply(s, rows, keys, &dims, work);
        }
        if let Some(bias) = &self.scores.bias {
            bias.add(s, self.head, rows, keys, &mut work.scores);
        }
    }

    /// Transposes and scales a range of the queries' dimensions.
    #[inline(always)]
    fn transpose<S: Simd, const Q: usize>(&self, s: S, rows: &Range<usize>, dims: &Range<usize>, work: &mut Work<Q>) {
        let (inner, scale) = (self.scores.layout.inner(), s.splat(self.scores.scale * core::f32::consts::LOG2_E));
        let first = self.head * self.scores.layout.head_dim;
        for panel in 0..rows.len().div_ceil(LANES) {
            for dim in dims.clone().step_by(LANES) {
                let len = LANES.min(dims.end - dim);
                let mut square = [s.splat(0.0); LANES];
                for (row, v) in (rows.start + panel * LANES..rows.end).zip(&mut square) {
                    let q = &self.scores.q[row * inner + first + dim..][..len];
                    *v = s.mul(f32::load_any(s, q), scale);
                }
                let out = &mut work.q[dim - dims.start..][..len];
                for (column, out) in s.transpose(square).iter().zip(out) {
                    s.store(*column, fresh(out, panel * LANES));
                }
            }
        }
    }

    /// Prefetches the values of a tile's keys and the keys of the next tile: rows are too far apart for the CPU to
    /// prefetch them itself.
    #[inline(always)]
    fn fetch<S: Simd>(&self, s: S, first: usize, dims: &Range<usize>) {
        let inner = self.scores.layout.inner();
        let column = self.head * self.scores.layout.head_dim + dims.start;
        for row in first..first + S::TILE_ROWS {
            for dim in (0..dims.len()).step_by(LANES) {
                let value = row * 2 * inner + inner + column + dim;
                let key = (row + S::TILE_ROWS) * 2 * inner + column + dim;
                // Addresses past the end are fine: a prefetch does not read.
                s.prefetch(self.scores.kv.as_ptr().wrapping_add(value).cast());
                s.prefetch(self.scores.kv.as_ptr().wrapping_add(key).cast());
            }
        }
    }

    /// scores \[+\]= k·qᵀ for a block of keys and a range of dimensions.
    #[inline(always)]
    fn multiply<S: Simd, const Q: usize>(
        &self,
        s: S,
        rows: &Range<usize>,
        keys: &Range<usize>,
        dims: &Range<usize>,
        work: &mut Work<Q>,
    ) {
        let row = 2 * self.scores.layout.inner();
        let panels = rows.len().div_ceil(LANES);
        for key in (0..keys.len()).step_by(S::TILE_ROWS) {
            let count = S::TILE_ROWS.min(keys.len() - key);
            let k = &self.scores.kv[(keys.start + key) * row..(keys.start + key + count) * row];
            if self.scores.kv.len() > FAR {
                self.fetch(s, keys.start + key, dims);
            }
            let out = work.scores[key..key + count].as_mut_ptr().cast::<f32>();
            let q = work.q.as_ptr().cast::<f32>();
            let tile = Tile::<F32> {
                a: k[self.head * self.scores.layout.head_dim + dims.start..].as_ptr(),
                a_row: row,
                a_step: 1,
                b: q,
                b_panel: LANES,
                b_step: Q,
                depth: dims.len(),
                resume: (dims.start > 0).then_some(out.cast_const()),
                out,
                out_row: Q,
                finish: Finish::default(),
                prefetch: Prefetch::nothing(q),
            };
            // SAFETY: k has `count` rows with the head's dimensions; q and the scores have Q columns, the panels of S's
            // tile; the scores are local to this task.
            unsafe { tile.run(s, count, panels) }
        }
    }
}

impl<const Q: usize> Work<Q> {
    /// Replaces a block's scores by 2^(score − max), and returns the factors of the outputs.
    #[inline(always)]
    fn absorb<S: Simd>(&mut self, s: S, rows: usize, keys: usize, last: bool) -> Factors<Q> {
        let mut factors = Factors { rescale: [1.0; Q], scale: [1.0; Q] };
        for panel in 0..rows.div_ceil(LANES) {
            let first = panel * LANES;
            let before = s.load(lane_group(&self.max, first));
            // Several maxima at once, because one would be a dependent chain.
            let mut maxima = [before; MAXIMA];
            let (fours, rest) = self.scores[..keys].as_chunks::<MAXIMA>();
            for rows in fours {
                for i in 0..MAXIMA {
                    // SAFETY: the tiles wrote whole panels of each of these rows.
                    maxima[i] = s.max(maxima[i], s.load(unsafe { written(&rows[i], first) }));
                }
            }
            for row in rest {
                // SAFETY: as above.
                maxima[0] = s.max(maxima[0], s.load(unsafe { written(row, first) }));
            }
            let max = s.max(s.max(maxima[0], maxima[1]), s.max(maxima[2], maxima[3]));
            let mut sum = s.splat(0.0);
            for row in &mut self.scores[..keys] {
                // SAFETY: as above.
                let score = s.load(unsafe { written(row, first) });
                let p = exp2_of_negative(s, s.sub(score, max));
                sum = s.add(sum, p);
                s.store(p, fresh(row, first));
            }
            let factor = exp2_of_negative(s, s.sub(before, max));
            let total = s.mul_add(s.load(lane_group(&self.sum, first)), factor, sum);
            s.store(max, lane_group_mut(&mut self.max, first));
            s.store(total, lane_group_mut(&mut self.sum, first));
            s.store(factor, lane_group_mut(&mut factors.rescale, first));
            if last {
                s.store(s.div(s.splat(1.0), total), lane_group_mut(&mut factors.scale, first));
            }
        }
        factors
    }
}

/// The vector that starts at `first`, a multiple of [`LANES`].
#[inline(always)]
fn lane_group(x: &[f32], first: usize) -> &[f32; LANES] {
    &x.as_chunks().0[first / LANES]
}

/// [`lane_group`] of possibly uninitialised memory.
///
/// # Safety
/// These lanes have been written.
#[inline(always)]
unsafe fn written(x: &[MaybeUninit<f32>], first: usize) -> &[f32; LANES] {
    // SAFETY: the caller's promise.
    unsafe { &*(&raw const x.as_chunks::<LANES>().0[first / LANES]).cast() }
}

/// [`lane_group`] of possibly uninitialised memory, to write.
#[inline(always)]
fn fresh(x: &mut [MaybeUninit<f32>], first: usize) -> &mut [f32; LANES] {
    let group = &mut x.as_chunks_mut::<LANES>().0[first / LANES];
    *group = [MaybeUninit::new(0.0); LANES];
    // SAFETY: written just now. The caller overwrites the zeros, so the compiler drops them.
    unsafe { &mut *(&raw mut *group).cast() }
}

/// [`lane_group`] to write.
#[inline(always)]
fn lane_group_mut(x: &mut [f32], first: usize) -> &mut [f32; LANES] {
    &mut x.as_chunks_mut().0[first / LANES]
}

#[cfg(test)]
mod tests;
