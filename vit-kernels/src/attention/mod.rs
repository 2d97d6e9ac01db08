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
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::reference;
    use crate::testing::{levels, nans, noise};

    /// Attention of q, k, v, rows of [heads·head_dim], in blocks of query rows.
    fn run(isa: Isa, layout: KvLayout, scale: f32, [q, k, v]: [&[f32]; 3], block: usize) -> Vec<f32> {
        let inner = layout.inner();
        let kv: Vec<f32> =
            (0..layout.tokens).flat_map(|t| [&k[t * inner..][..inner], &v[t * inner..][..inner]].concat()).collect();
        let mut out = vec![7.0; q.len()];
        for (q, out) in q.chunks(block * inner).zip(out.chunks_mut(block * inner)) {
            Attention::new(isa, layout, scale, q, &kv, out).unwrap().run();
        }
        out
    }

    fn check(isa: Isa, rows: usize, layout: KvLayout, scale: f32, spread: f32, seed: u64) {
        let KvLayout { heads, head_dim, tokens } = layout;
        let inner = layout.inner();
        let (q, k) = (noise(rows * inner, seed, spread), noise(tokens * inner, seed + 1, spread));
        let v = noise(tokens * inner, seed + 2, 3.0);
        let got = run(isa, layout, scale, [&q, &k, &v], 1000);
        let part = |x: &[f32], head: usize| -> Vec<f64> {
            x.chunks(inner).flat_map(|row| &row[head * head_dim..][..head_dim]).map(|&x| x.into()).collect()
        };
        for head in 0..heads {
            let (q, k, v, got) = (part(&q, head), part(&k, head), part(&v, head), part(&got, head));
            let (mut scores, mut want) = (vec![0.0; tokens], vec![0.0; rows * head_dim]);
            reference::attention(&q, &k, &v, head_dim, scale.into(), &mut scores, &mut want);
            let largest_v = v.iter().fold(0.0f64, |a, v| a.max(v.abs()));
            for row in 0..rows {
                let q = &q[row * head_dim..][..head_dim];
                let size =
                    |k: &[f64]| q.iter().zip(k).map(|(q, k)| (q * k).abs()).sum::<f64>() * f64::from(scale.abs());
                let s = k.chunks(head_dim).map(size).fold(0.0, f64::max);
                let bound = (16.0 + tokens as f64 + head_dim as f64 * s) * 2f64.powi(-23) * largest_v;
                for i in row * head_dim..(row + 1) * head_dim {
                    let error = (got[i] - want[i]).abs();
                    assert!(error <= bound, "{isa} {layout:?} row {row}: {} not {}", got[i], want[i]);
                }
            }
        }
    }

    #[test]
    fn bound_holds_around_every_edge() {
        for isa in levels() {
            for tokens in (1..=35).chain([50, 197, 255, 256, 257, 511, 513, 600]) {
                for (heads, head_dim) in [(1, 1), (2, 8), (1, 16), (3, 20), (1, 64), (2, 72)] {
                    let rows = [1, 5, 17][tokens % 3];
                    check(isa, rows, KvLayout { heads, head_dim, tokens }, 0.3, 1.5, tokens as u64);
                }
            }
            check(isa, 100, KvLayout { heads: 2, head_dim: 16, tokens: 70 }, -0.5, 4.0, 1);
            check(isa, 9, KvLayout { heads: 1, head_dim: 32, tokens: 700 }, 1.0, 6.0, 2);
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_blocks() {
        for isa in levels() {
            let layout = KvLayout { heads: 2, head_dim: 24, tokens: 300 };
            let x: Vec<_> = (0..3).map(|seed| noise(300 * 48, seed, 2.0)).collect();
            let whole = run(isa, layout, 0.2, [&x[0], &x[1], &x[2]], 300);
            for block in [1, 2, 3, 5, 6, 7, 8, 16, 47, 48, 49, 299] {
                assert_eq!(run(isa, layout, 0.2, [&x[0], &x[1], &x[2]], block), whole, "{isa} blocks of {block}");
            }
        }
    }

    /// The probabilities of a head in f64, with the bias looked up element by element.
    fn probabilities(
        q: &[f64],
        k: &[f64],
        head: usize,
        scale: f64,
        bias: Option<RelativeBias<'_>>,
        first: usize,
    ) -> Vec<f64> {
        let head_dim = 20;
        let tokens = k.len() / head_dim;
        let mut scores = vec![0.0; q.len() / head_dim * tokens];
        reference::matmul(q, k, head_dim, &mut scores);
        for (i, score) in scores.iter_mut().enumerate() {
            let (query, key) = (first + i / tokens, i % tokens);
            let bias = bias.map_or(0.0, |RelativeBias { table, grid: [h, w], .. }| {
                let len = (2 * h - 1) * (2 * w - 1) + 3;
                let index = match (query.checked_sub(1), key.checked_sub(1)) {
                    (None, None) => len - 1,
                    (Some(_), None) => len - 2,
                    (None, Some(_)) => len - 3,
                    (Some(q), Some(k)) => (q / w + h - 1 - k / w) * (2 * w - 1) + q % w + w - 1 - k % w,
                };
                table[head * len + index].into()
            });
            *score = *score * scale + bias;
        }
        reference::softmax(&mut scores, tokens);
        scores
    }

    #[test]
    fn maps_and_bias_are_the_formula() {
        let (heads, head_dim, scale) = (2, 20, 0.3);
        for (isa, grid) in
            levels().into_iter().flat_map(|isa| [[1, 1], [3, 2], [7, 9], [4, 70]].map(|grid| (isa, grid)))
        {
            let tokens = grid[0] * grid[1] + 1;
            let layout = KvLayout { heads, head_dim, tokens };
            let (q, kv) = (noise(tokens * 40, 1, 1.5), noise(tokens * 80, 2, 1.5));
            let table = noise(heads * RelativeBias::row_len(grid).unwrap(), 3, 2.0);
            for (biased, first) in [(false, 0), (true, 0), (true, tokens / 2)] {
                let bias = biased.then_some(RelativeBias { table: &table, grid, first_query: first });
                let q = &q[first * 40..];
                let scores = || {
                    let scores = Scores::new(isa, layout, scale, q, &kv).unwrap();
                    bias.map_or(Ok(scores), |bias| Scores::new(isa, layout, scale, q, &kv).unwrap().with_bias(bias))
                        .unwrap()
                };
                let (mut maps, mut out) = (vec![9.0; heads * tokens * tokens], vec![9.0; q.len()]);
                scores().maps(first, &mut maps).unwrap().run();
                scores().attend(&mut out).unwrap().run();
                for head in 0..heads {
                    let part = |x: &[f32], row: usize, column: usize| -> Vec<f64> {
                        x.chunks(row)
                            .flat_map(|x| &x[column + head * head_dim..][..head_dim])
                            .map(|&x| x.into())
                            .collect()
                    };
                    let (q, k, v) = (part(q, 40, 0), part(&kv, 80, 0), part(&kv, 80, 40));
                    let p = probabilities(&q, &k, head, scale.into(), bias, first);
                    let got = &maps[(head * tokens + first) * tokens..][..p.len()];
                    // S is below 0.3·20·1.5² + 2.
                    let bound = (16.0 + tokens as f64 + 20.0 * 15.5) * 2f64.powi(-23);
                    for (got, p) in got.iter().zip(&p) {
                        assert!((f64::from(*got) - p).abs() <= bound * p, "{isa} {grid:?} {biased}: {got} not {p}");
                    }
                    for (p, got) in p.chunks(tokens).zip(out.chunks(40)) {
                        for i in 0..head_dim {
                            let want: f64 = p.iter().zip(v.chunks(head_dim)).map(|(p, v)| p * v[i]).sum();
                            let got = f64::from(got[head * head_dim + i]);
                            assert!((got - want).abs() <= bound * 1.5, "{isa} {grid:?} {biased}: {got} not {want}");
                        }
                    }
                }
                assert!(maps[..first * tokens].iter().all(|&x| x == 9.0), "rows before the first are left alone");
            }
        }
    }

    #[test]
    fn special_values() {
        let layout = KvLayout { heads: 1, head_dim: 4, tokens: 20 };
        for isa in levels() {
            let (q, k, v) = (noise(8, 1, 1.0), noise(80, 2, 1.0), noise(80, 3, 1.0));
            let with = |x: &[f32], at: usize, value: f32| {
                let mut x = x.to_vec();
                x[at] = value;
                x
            };
            for nan in nans() {
                let out = run(isa, layout, 0.5, [&with(&q, 1, nan), &k, &v], 20);
                assert!(out[..4].iter().all(|x| x.is_nan()) && out[4..].iter().all(|x| x.is_finite()), "{isa}");
                let out = run(isa, layout, 0.5, [&q, &with(&k, 77, nan), &v], 20);
                assert!(out.iter().all(|x| x.is_nan()), "{isa}");
                let out = run(isa, layout, 0.5, [&q, &k, &with(&v, 77, nan)], 20);
                assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (i % 4 == 1)), "{isa}");
            }
        }
    }

    #[test]
    fn nan_shows_in_the_maps_and_in_every_block_of_keys() {
        for isa in levels() {
            for tokens in [20, KEY_BLOCK + 20] {
                let layout = KvLayout { heads: 1, head_dim: 4, tokens };
                for nan in nans() {
                    for key in [0, 3, tokens - 1] {
                        let (q, mut kv) = (noise(8, 1, 1.0), noise(8 * tokens, 2, 1.0));
                        kv[8 * key + 2] = nan;
                        let (mut maps, mut out) = (vec![0.0; tokens * tokens], vec![0.0; 8]);
                        Scores::new(isa, layout, 0.5, &q, &kv).unwrap().maps(0, &mut maps).unwrap().run();
                        Scores::new(isa, layout, 0.5, &q, &kv).unwrap().attend(&mut out).unwrap().run();
                        assert!(maps[..2 * tokens].iter().all(|x| x.is_nan()), "{isa} key {key} of {tokens}");
                        assert!(out.iter().all(|x| x.is_nan()), "{isa} key {key} of {tokens}");
                    }
                }
            }
        }
    }

    #[test]
    fn without_tokens_it_is_0_by_0() {
        for isa in levels() {
            let layout = KvLayout { heads: 2, head_dim: 3, tokens: 0 };
            let mut out = [1.0; 12];
            Attention::new(isa, layout, 1.0, &[0.5; 12], &[], &mut out).unwrap().run();
            assert!(out.iter().all(|x| x.is_nan()), "{isa}");
        }
    }

    #[test]
    fn stack_use_is_as_documented() {
        assert_eq!((size_of::<Work<LANES>>(), size_of::<Work<48>>()), (21_632, 64_896));
    }

    #[test]
    fn shapes() {
        let (isa, layout) = (Isa::best(), KvLayout { heads: 2, head_dim: 3, tokens: 5 });
        let kv = vec![0.0; layout.len().unwrap()];
        let mut out = [0.0; 12];
        assert!(Attention::new(isa, layout, 1.0, &[0.0; 12], &kv, &mut out).is_ok());
        assert!(Attention::new(isa, layout, 1.0, &[0.0; 11], &kv, &mut out[..11]).is_err());
        assert!(Attention::new(isa, layout, 1.0, &[0.0; 6], &kv, &mut out).is_err());
        assert!(Attention::new(isa, layout, 1.0, &[0.0; 12], &kv[1..], &mut out).is_err());
        assert_eq!(KvLayout { heads: usize::MAX / 2, head_dim: 7, tokens: 5 }.len(), None);

        let scores = || Scores::new(isa, layout, 1.0, &[0.0; 12], &kv).unwrap();
        let bias = RelativeBias { table: &[0.0; 24], grid: [2, 2], first_query: 3 };
        assert!(scores().with_bias(bias).is_ok());
        assert!(scores().with_bias(RelativeBias { first_query: 4, ..bias }).is_err());
        assert!(scores().with_bias(RelativeBias { grid: [4, 1], ..bias }).is_err());
        assert!(scores().with_bias(RelativeBias { grid: [usize::MAX, 2], ..bias }).is_err());
        assert!(scores().with_bias(RelativeBias { table: &[0.0; 23], ..bias }).is_err());
        assert!(scores().maps(3, &mut [0.0; 50]).is_ok() && scores().maps(4, &mut [0.0; 50]).is_err());
        assert!(scores().maps(0, &mut [0.0; 49]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_shape(rows in 1usize..20, heads in 1usize..4, head_dim in 1usize..40, tokens in 1usize..300, seed in 1u64..99) {
            for isa in levels() {
                check(isa, rows, KvLayout { heads, head_dim, tokens }, 0.4, 2.0, seed);
            }
        }
    }
}
