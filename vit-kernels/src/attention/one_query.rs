//! Attention over int8 keys and values, one query at a time: for cores without vectors, whose stack is small.
//!
//! The steps and the bits are those of [`int8`](super::int8). There queries are lanes; here sixteen keys are, where a step
//! treats every key alike, and the rest is scalar. The stack holds [`KEY_BLOCK`] scores, their int8 form and the query.
//! (Attention in f32 and attention maps go by tiles on such cores, too, with some 20 KB of stack.)
use core::ops::Range;

use super::int8::DIM_BLOCK;
use super::{KEY_BLOCK, QuantisedKv, Scope};
use crate::half::Storage;
use crate::job::Shared;
use crate::math::coarse_exp2_of_negative;
use crate::quantise::{GROUP, LARGEST, inverse_scale, largest_magnitude, poison, quantise_row_by, quantised_len};
use crate::simd::{Kernel, LANES, Simd, lanes_mut};

/// A task of [`Attention`](super::Attention).
pub(super) struct AttendOneByOne<'a> {
    pub(super) scope: Scope<'a>,
    pub(super) kv: QuantisedKv<'a>,
    pub(super) out: &'a Shared<'a, f32>,
}

impl Kernel for AttendOneByOne<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let layout = self.scope.scores.layout;
        for row in self.scope.rows.clone() {
            let start = row * layout.inner() + self.scope.head * layout.head_dim;
            // SAFETY: this head's columns of these rows belong to this task, which holds only one such slice at a time.
            let out = unsafe { self.out.part(start..start + layout.head_dim) };
            self.attend(s, row, out);
        }
    }
}

impl AttendOneByOne<'_> {
    #[inline(always)]
    fn attend<S: Simd>(&self, s: S, row: usize, out: &mut [f32]) {
        let (head, layout) = (self.scope.head, self.kv.layout);
        let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0);
        let (mut scores, mut p8) = ([0.0; KEY_BLOCK], [0; KEY_BLOCK]);
        for Scope { keys, .. } in self.scope.blocks() {
            let scores = &mut scores[..keys.len()];
            self.score(s, row, &keys, scores);
            let before = max;
            max = scores.iter().fold(max, |max, score| if max > *score { max } else { *score });
            let mut added = 0.0;
            exp2_of_differences(s, scores, max);
            for p in &*scores {
                added += p;
            }
            let rescale = exp2_of_difference(s, before, max);
            sum = sum * rescale + added;

            let scales = &self.kv.value_scales(head)[keys.clone()];
            for (p, scale) in scores.iter_mut().zip(scales) {
                *p *= scale;
            }
            let largest = largest_magnitude(s, scores);
            let p8 = &mut p8[..quantised_len(keys.len())];
            quantise_row_by(s, scores, inverse_scale(largest), p8);
            flip(p8, S::ZERO_POINT);
            let scale = (largest + poison(s, scales)) / LARGEST;
            let last = if keys.end == layout.tokens { 1.0 / sum } else { 1.0 };
            let (groups, row) = (p8.as_chunks().0, layout.head_dim * GROUP);
            let values = &self.kv.values(head)[keys.start / GROUP * row..];
            for (out, dim) in out.chunks_mut(LANES).zip((0..).step_by(LANES)) {
                let mut sums = [0; LANES];
                let sums = &mut sums[..out.len()];
                s.dot_columns(&values[dim * GROUP..], row, groups, sums);
                for (out, sum) in out.iter_mut().zip(sums) {
                    let context = *sum as f32 * scale;
                    *out = if keys.start > 0 { *out * rescale + context } else { context } * last;
                }
            }
        }
        if layout.tokens == 0 {
            out.fill(f32::NAN);
        }
    }

    /// The scores of a block of keys with their bias, times log₂e.
    #[inline(always)]
    fn score<S: Simd>(&self, s: S, row: usize, keys: &Range<usize>, scores: &mut [f32]) {
        let (head, head_dim) = (self.scope.head, self.kv.layout.head_dim);
        let q = self.scope.query(row, 0..head_dim);
        let largest = largest_magnitude(s, q);
        let scale = largest / LARGEST * (self.scope.scores.scale * core::f32::consts::LOG2_E);
        let (len, scales) = (quantised_len(head_dim), self.kv.key_scales(head));
        let mut q8 = [0; DIM_BLOCK];
        for dim in (0..head_dim).step_by(DIM_BLOCK) {
            let q = &q[dim..(dim + DIM_BLOCK).min(head_dim)];
            let q8 = &mut q8[..quantised_len(q.len())];
            quantise_row_by(s, q, inverse_scale(largest), q8);
            flip(q8, S::ZERO_POINT);
            for (scores, key) in scores.chunks_mut(LANES).zip(keys.clone().step_by(LANES)) {
                let mut sums = [0; LANES];
                let sums = &mut sums[..scores.len()];
                s.dot_rows(&self.kv.keys(head)[key * len + dim..], len, q8.as_chunks().0, sums);
                for ((score, sum), k_scale) in scores.iter_mut().zip(sums).zip(&scales[key..]) {
                    let part = *sum as f32 * scale * k_scale;
                    *score = if dim > 0 { *score + part } else { part };
                }
            }
        }
        if let Some(bias) = &self.scope.scores.bias {
            for (key, score) in keys.clone().zip(scores) {
                *score += bias.at(head, row, key) * core::f32::consts::LOG2_E;
            }
        }
    }
}

/// Rows are stored with the level's zero point, which only keys and values should have.
#[inline(always)]
fn flip(bytes: &mut [i8], zero_point: u8) {
    for byte in bytes {
        *byte ^= zero_point.cast_signed();
    }
}

/// 2^(x − max) of each element.
#[inline(always)]
fn exp2_of_differences<S: Simd>(s: S, x: &mut [f32], max: f32) {
    for x in &mut *x {
        *x -= max;
    }
    let (body, tail) = lanes_mut(x);
    for x in body {
        s.store(coarse_exp2_of_negative(s, s.load(x)), x);
    }
    if !tail.is_empty() {
        let p = coarse_exp2_of_negative(s, f32::load_tail(s, tail, 0.0));
        f32::store_tail(s, p, tail);
    }
}

#[inline(always)]
fn exp2_of_difference<S: Simd>(s: S, x: f32, max: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    s.store(coarse_exp2_of_negative(s, s.sub(s.splat(x), s.splat(max))), &mut lanes);
    lanes[0]
}
