//! Attention over int8 keys and values, a few queries at a time: for cores without vectors.
//!
//! The steps and the bits are those of [`int8`](super::int8), whose tiles need vectors and 20 KB of stack. Here the scores
//! of as many queries as the int8 tile has rows, or of one, are in a scratch of the caller's:
//!
//! ```text
//! q8      [groups of four dimensions][queries][4]
//! scores  [groups of four keys][queries][4]       then 2^(score − max)·value's scale, then p8
//! ```
//! q8 and p8 are widened for the multiplication once; p8 takes no more room than the numbers it replaces. (Attention in
//! f32 and attention maps go by tiles on such cores, too.)
use core::f32::consts::LOG2_E;
use core::ops::Range;

use super::int8::DIM_BLOCK;
use super::{Attention, KEY_BLOCK, KvLayout, QUERY_ROWS, QuantisedKv, RelativeBias, Scores};
use crate::arch::small::{ROWS, Scalar, WIDE, add_products, columns, widened};
use crate::job::Shared;
use crate::math::coarse_exp2_of_negative;
use crate::quantise::{GROUP, LARGEST, inverse_scale, largest_by_number, largest_of, quantised_len};
use crate::simd::MAGNITUDE;

/// Attention of several rows of queries, all heads.
struct FewQueries<'a> {
    scores: &'a Scores<'a>,
    kv: QuantisedKv<'a>,
    out: &'a Shared<'a, f32>,
}

/// How the rows of an [`Attention`] and its scratch are split into tasks: each has a part of both to itself.
struct Split {
    tasks: usize,
    /// Rows of a task.
    rows: usize,
    /// Elements of scratch of a task; 0 if there is not enough for even one, and tasks use the stack.
    scratch: usize,
}

impl Attention<'_> {
    fn split(&self) -> Split {
        let (layout, rows, len) = (&self.scores.layout, self.scores.rows(), self.scratch.len());
        let fits = |queries| layout.scratch_len(queries).and_then(|needed| len.checked_div(needed)).unwrap_or(0);
        let (tile, most) = match (fits(ROWS), fits(1)) {
            (0, 0) => return Split { tasks: rows.div_ceil(QUERY_ROWS), rows: QUERY_ROWS, scratch: 0 },
            (0, one) => (1, one),
            (several, _) => (ROWS, several),
        };
        let rows_of_task = rows.div_ceil(tile).div_ceil(most).max(1) * tile;
        let tasks = rows.div_ceil(rows_of_task);
        Split { tasks, rows: rows_of_task, scratch: len / tasks.max(1) }
    }

    /// The grid of tasks of [`attend_few`](Self::attend_few).
    pub(super) fn few_grid(&self) -> [usize; 2] {
        [self.split().tasks, 1]
    }

    /// A task of a grid of [`few_grid`](Self::few_grid).
    ///
    /// # Safety
    /// No two calls for the same task overlap in time.
    pub(super) unsafe fn attend_few(&self, kv: QuantisedKv<'_>, task: usize) {
        let Split { tasks, rows, scratch } = self.split();
        if task >= tasks {
            return;
        }
        let job = FewQueries { scores: &self.scores, kv, out: &self.out };
        let rows = task * rows..((task + 1) * rows).min(self.scores.rows());
        if scratch == 0 {
            return job.attend_on_stack(rows);
        }
        // SAFETY: each task has its own part.
        let scratch = unsafe { self.scratch.part(task * scratch..(task + 1) * scratch) };
        job.attend(rows, scratch);
    }
}

/// A query's softmax.
#[derive(Clone, Copy)]
struct Softmax {
    /// The largest score so far, and the sum of 2^(score − max).
    max: f32,
    sum: f32,
    /// For this block of keys, factors of the sum over the blocks before, of p8·v8, and of what they add up to.
    rescale: f32,
    scale: f32,
    last: f32,
    /// 127 / the largest probability times its value's scale.
    inverse: f32,
}

impl FewQueries<'_> {
    /// For callers without scratch.
    #[inline(never)]
    fn attend_on_stack(&self, rows: Range<usize>) {
        self.attend(rows, &mut [0.0; KEY_BLOCK + DIM_BLOCK]);
    }

    /// Attention of these rows; `scratch` is enough for one at least.
    #[inline(never)]
    fn attend(&self, rows: Range<usize>, scratch: &mut [f32]) {
        let layout = self.scores.layout;
        let together = layout.scratch_len(ROWS).is_some_and(|len| len <= scratch.len());
        let (scratch, _) = scratch.as_chunks_mut();
        for head in 0..layout.heads {
            let mut row = rows.start;
            while row < rows.end {
                if together && rows.end - row >= ROWS {
                    self.tile::<ROWS>(head, row, scratch);
                    row += ROWS;
                } else {
                    self.tile::<1>(head, row, scratch);
                    row += 1;
                }
            }
        }
    }

    /// `M` queries of a head, from `row` on.
    #[inline(never)]
    fn tile<const M: usize>(&self, head: usize, row: usize, scratch: &mut [[f32; GROUP]]) {
        let KvLayout { head_dim, tokens, .. } = self.scores.layout;
        let (q8, scores) = scratch.split_at_mut(head_dim.min(DIM_BLOCK).div_ceil(GROUP) * M);
        let start = Softmax { max: f32::NEG_INFINITY, sum: 0.0, rescale: 0.0, scale: 0.0, last: 1.0, inverse: 0.0 };
        let mut softmax = [start; M];
        for start in (0..tokens).step_by(KEY_BLOCK) {
            let keys = start..(start + KEY_BLOCK).min(tokens);
            let scores = &mut scores[..keys.len().div_ceil(GROUP) * M];
            self.score::<M>(head, row, &keys, q8, scores);
            let value_scales = &self.kv.value_scales(head)[keys.clone()];
            let poison = value_scales.iter().fold(0.0, |poison, scale| poison + scale * 0.0);
            for (m, softmax) in softmax.iter_mut().enumerate() {
                softmax.absorb(&mut scores[m..], M, value_scales, poison);
                if keys.end == tokens {
                    softmax.last = 1.0 / softmax.sum;
                }
            }
            let p8 = quantise_probabilities(scores, &softmax.map(|softmax| softmax.inverse));
            self.values::<M>(head, row, &keys, p8, &softmax);
        }
        if tokens == 0 {
            (row..row + M).for_each(|row| self.out_row(row, head).fill(f32::NAN));
        }
    }

    /// The scores of a block of keys with their bias, times log₂e; −∞ in the last group for keys that are missing.
    #[inline(always)]
    fn score<const M: usize>(
        &self,
        head: usize,
        row: usize,
        keys: &Range<usize>,
        q8: &mut [[f32; GROUP]],
        scores: &mut [[f32; GROUP]],
    ) {
        let head_dim = self.scores.layout.head_dim;
        let (len, scales) = (quantised_len(head_dim), &self.kv.key_scales(head)[keys.clone()]);
        let rows = &self.kv.keys(head)[keys.start * len..keys.end * len];
        scores.fill([0.0; GROUP]);
        if let [.., last] = scores.as_chunks_mut::<M>().0 {
            for last in last {
                last[(keys.len() - 1) % GROUP + 1..].fill(f32::NEG_INFINITY);
            }
        }
        let words: &mut [[u32; GROUP]] = bytemuck::must_cast_slice_mut(q8);
        let q8 = words.as_flattened_mut();
        for dim in (0..head_dim).step_by(DIM_BLOCK) {
            let dims = dim..(dim + DIM_BLOCK).min(head_dim);
            let bytes = quantised_len(dims.len());
            let mut scale = [0.0; M];
            for (m, scale) in scale.iter_mut().enumerate() {
                *scale = self.quantise_query(head, row + m, &dims, &mut q8[WIDE * m..], WIDE * M);
            }
            let q8 = &q8[..bytes / GROUP * M * WIDE];
            let groups = scores.as_chunks_mut::<M>().0.iter_mut();
            for ((scores, keys), scales) in groups.zip(rows.chunks(GROUP * len)).zip(scales.chunks(GROUP)) {
                for (i, (key, k_scale)) in keys.chunks_exact(len).zip(scales).enumerate() {
                    let mut sums = [[0]; M];
                    add_products(q8, &key[dim..dim + bytes], GROUP, &mut sums);
                    for m in 0..M {
                        let part = sums[m][0] as f32 * scale[m] * k_scale;
                        scores[m][i % GROUP] += part;
                    }
                }
            }
        }
        if let Some(bias) = &self.scores.bias {
            for m in 0..M {
                add_bias(bias, head, row + m, keys, &mut scores[m..], M);
            }
        }
    }

    /// Quantises a range of a query's dimensions; group g goes to `out[g·step..]`. Returns what the sums are multiplied
    /// with.
    #[inline(never)]
    fn quantise_query(&self, head: usize, row: usize, dims: &Range<usize>, out: &mut [u32], step: usize) -> f32 {
        let layout = self.scores.layout;
        let q = &self.scores.q[row * layout.inner() + head * layout.head_dim..][..layout.head_dim];
        let largest = largest_by_number(q);
        let inverse = inverse_scale(largest);
        for (q, out) in q[dims.clone()].chunks(GROUP).zip(out.chunks_mut(step)) {
            let mut group = [0.0; GROUP];
            for (group, q) in group.iter_mut().zip(q) {
                *group = q * inverse;
            }
            out[..WIDE].copy_from_slice(&widened(group));
        }
        largest / LARGEST * (self.scores.scale * LOG2_E)
    }

    /// out = (out·rescale + p8·v8·scale)·last; the first block of keys does not read `out`.
    #[inline(always)]
    fn values<const M: usize>(&self, head: usize, row: usize, keys: &Range<usize>, p8: &[u32], softmax: &[Softmax; M]) {
        let head_dim = self.scores.layout.head_dim;
        let values = &self.kv.values(head)[keys.start * head_dim..];
        let mut out = core::array::from_fn(|m| self.out_row(row + m, head));
        let is_first = keys.start == 0;
        // A few columns at a time, as the core's registers allow, then one.
        let done = match columns(M) {
            4 => value_columns::<M, 4>(p8, values, 0, is_first, softmax, &mut out),
            2 => value_columns::<M, 2>(p8, values, 0, is_first, softmax, &mut out),
            _ => 0,
        };
        value_columns::<M, 1>(p8, values, done, is_first, softmax, &mut out);
    }

    /// The head's dimensions of an output row.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    fn out_row(&self, row: usize, head: usize) -> &mut [f32] {
        let layout = self.scores.layout;
        let start = row * layout.inner() + head * layout.head_dim;
        // SAFETY: these rows belong to this task, which holds only one such slice of each at a time.
        unsafe { self.out.part(start..start + layout.head_dim) }
    }
}

/// Adds a query's bias, times log₂e, to its scores, a group of keys every `step` groups.
#[inline(never)]
fn add_bias(
    bias: &RelativeBias<'_>,
    head: usize,
    row: usize,
    keys: &Range<usize>,
    scores: &mut [[f32; GROUP]],
    step: usize,
) {
    for (i, key) in keys.clone().enumerate() {
        scores[i / GROUP * step][i % GROUP] += bias.at(head, row, key) * LOG2_E;
    }
}

/// Rounds what softmax left of the scores to int8, by each query's `inverse`, and widens it for the multiplication: in
/// place, as it takes no more room.
#[inline(never)]
fn quantise_probabilities<'a>(scores: &'a mut [[f32; GROUP]], inverse: &[f32]) -> &'a [u32] {
    let slots = scores.len();
    let words: &mut [[u32; GROUP]] = bytemuck::must_cast_slice_mut(scores);
    let words = words.as_flattened_mut();
    for (slot, inverse) in (0..slots).zip(inverse.iter().cycle()) {
        let Some(p) = words[slot * GROUP..].first_chunk() else { break };
        let p = widened(p.map(|p| f32::from_bits(p) * inverse));
        // Not beyond what was read.
        words[slot * WIDE..(slot + 1) * WIDE].copy_from_slice(&p);
    }
    &words[..slots * WIDE]
}

/// A step of [`FewQueries::values`]: `C` dimensions at a time, from `dim` on, as long as there are so many. Returns the
/// first that is left.
#[inline(always)]
fn value_columns<const M: usize, const C: usize>(
    p8: &[u32],
    values: &[i8],
    mut dim: usize,
    is_first: bool,
    softmax: &[Softmax; M],
    out: &mut [&mut [f32]; M],
) -> usize {
    let step = out.first().map_or(0, |out| out.len());
    while dim + C <= step {
        let mut sums = [[0; C]; M];
        add_products(p8, &values[dim * GROUP..], step * GROUP, &mut sums);
        for ((out, sums), softmax) in out.iter_mut().zip(sums).zip(softmax) {
            for (out, sum) in out[dim..dim + C].iter_mut().zip(sums) {
                let context = sum as f32 * softmax.scale;
                *out = if is_first { context } else { *out * softmax.rescale + context } * softmax.last;
            }
        }
        dim += C;
    }
    dim
}

impl Softmax {
    /// Replaces a query's scores, a group every `step` groups, by 2^(score − max)·value's scale, 0 where there is no key,
    /// and sets the block's factors.
    #[inline(never)]
    fn absorb(&mut self, scores: &mut [[f32; GROUP]], step: usize, value_scales: &[f32], poison: f32) {
        let before = self.max;
        for group in scores.iter().step_by(step) {
            for score in *group {
                self.max = if self.max > score { self.max } else { score };
            }
        }
        let (mut added, mut largest) = (0.0, 0);
        for (group, scales) in scores.iter_mut().step_by(step).zip(value_scales.chunks(GROUP)) {
            let mut all = [0.0; GROUP];
            let scales = scales.first_chunk().unwrap_or_else(|| {
                all[..scales.len()].copy_from_slice(scales);
                &all
            });
            for (score, scale) in group.iter_mut().zip(scales) {
                let p = coarse_exp2_of_negative(Scalar, *score - self.max);
                added += p;
                *score = p * scale;
                largest = largest.max(score.to_bits() & MAGNITUDE);
            }
        }
        let largest = largest_of([largest]);
        self.rescale = coarse_exp2_of_negative(Scalar, before - self.max);
        self.sum = self.sum * self.rescale + added;
        self.inverse = inverse_scale(largest);
        self.scale = (largest + poison) / LARGEST;
    }
}
