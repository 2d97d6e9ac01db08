//! The softmax of a tile of queries, one block of keys after another.
use core::mem::MaybeUninit;

use super::KEY_BLOCK;
use super::Operand;
use crate::simd::{Kernel, LANES, Simd};

/// Independent running maxima of a column of scores.
const MAXIMA: usize = 4;

/// Uninitialised memory: a task writes it before it reads it. Zeroing it would take a tenth of the task's time.
pub(super) type Fresh<const Q: usize, const N: usize> = [[MaybeUninit<f32>; Q]; N];

/// What every format of keys and values needs for a tile of `Q` queries. Aligned to cache lines: an access across two
/// lines takes twice as long.
#[repr(align(64))]
pub(super) struct Block<const Q: usize> {
    /// \[keys, queries\].
    pub(super) scores: Fresh<Q, KEY_BLOCK>,
    /// The largest score so far, and the sum of 2^(score − max).
    pub(super) max: [f32; Q],
    pub(super) sum: [f32; Q],
    /// A range of dimensions of (pᵀ·v)ᵀ: \[dimensions, queries\].
    pub(super) context: Fresh<Q, LANES>,
}

/// How a block of keys updates each query's outputs.
pub(super) struct Factors<const Q: usize> {
    /// Multiplies the sums over the previous blocks: 2^(old max − new max).
    pub(super) rescale: [f32; Q],
    /// Multiplies the result: 1 / sum after the last block, else 1.
    pub(super) scale: [f32; Q],
}

impl<const Q: usize> Block<Q> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self {
            scores: [[MaybeUninit::uninit(); Q]; KEY_BLOCK],
            max: [f32::NEG_INFINITY; Q],
            sum: [0.0; Q],
            context: [[MaybeUninit::uninit(); Q]; LANES],
        }
    }

    /// Begins the softmax of another tile of queries.
    #[inline(always)]
    pub(super) fn restart(&mut self) {
        (self.max, self.sum) = ([f32::NEG_INFINITY; Q], [0.0; Q]);
    }

    /// Replaces a block's scores by the probabilities 2^(score − max), or keeps these in `scratch`; returns the factors of
    /// the outputs.
    #[inline(always)]
    pub(super) fn absorb<S: Simd, O: Operand>(
        &mut self,
        s: S,
        rows: usize,
        keys: usize,
        last: bool,
        scratch: &mut O::Scratch<Q>,
    ) -> Factors<Q> {
        s.share(Absorb::<O, Q> { block: self, rows, keys, last, scratch })
    }
}

/// [`Block::absorb`].
struct Absorb<'a, O: Operand, const Q: usize> {
    block: &'a mut Block<Q>,
    rows: usize,
    keys: usize,
    last: bool,
    scratch: &'a mut O::Scratch<Q>,
}

impl<O: Operand, const Q: usize> Kernel for Absorb<'_, O, Q> {
    type Output = Factors<Q>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Factors<Q> {
        let Self { block, rows, keys, last, scratch } = self;
        let mut factors = Factors { rescale: [1.0; Q], scale: [1.0; Q] };
        for panel in 0..rows.div_ceil(LANES) {
            let first = panel * LANES;
            let before = s.load(lane_group(&block.max, first));
            // Several maxima at once, because one would be a dependent chain.
            let mut maxima = [before; MAXIMA];
            let (fours, rest) = block.scores[..keys].as_chunks::<MAXIMA>();
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
            for (pair, rows) in block.scores[..keys].chunks_mut(2).enumerate() {
                let mut p = [s.splat(0.0); 2];
                for (p, row) in p.iter_mut().zip(&*rows) {
                    // SAFETY: as above.
                    let score = s.load(unsafe { written(row, first) });
                    *p = O::exp2(s, s.sub(score, max));
                    sum = s.add(sum, *p);
                }
                O::keep(s, p, rows, pair, first, scratch);
            }
            let factor = O::exp2(s, s.sub(before, max));
            let total = s.mul_add(s.load(lane_group(&block.sum, first)), factor, sum);
            s.store(max, lane_group_mut(&mut block.max, first));
            s.store(total, lane_group_mut(&mut block.sum, first));
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
pub(super) fn lane_group<T>(x: &[T], first: usize) -> &[T; LANES] {
    &x.as_chunks().0[first / LANES]
}

/// [`lane_group`] of possibly uninitialised memory.
///
/// # Safety
/// These lanes have been written.
#[inline(always)]
pub(super) unsafe fn written(x: &[MaybeUninit<f32>], first: usize) -> &[f32; LANES] {
    // SAFETY: the caller's promise.
    unsafe { &*(&raw const x.as_chunks::<LANES>().0[first / LANES]).cast() }
}

/// [`lane_group`] of possibly uninitialised memory, to write.
#[inline(always)]
pub(super) fn fresh(x: &mut [MaybeUninit<f32>], first: usize) -> &mut [f32; LANES] {
    let group = &mut x.as_chunks_mut::<LANES>().0[first / LANES];
    *group = [MaybeUninit::new(0.0); LANES];
    // SAFETY: written just now. The caller overwrites the zeros, so the compiler drops them.
    unsafe { &mut *(&raw mut *group).cast() }
}

/// [`lane_group`] to write.
#[inline(always)]
pub(super) fn lane_group_mut<T>(x: &mut [T], first: usize) -> &mut [T; LANES] {
    &mut x.as_chunks_mut().0[first / LANES]
}
