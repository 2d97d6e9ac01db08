//! Attention over keys and values in int8.
//!
//! ```text
//! q8 = q·(127 / max|q|)                               per query and head
//! score = ((Σ q8·k8)·(max|q| / 127 · scale·log₂e))·key's scale
//! p = 2^(score − max)                                 within 2⁻¹³, which is little beside the rounding of p8
//! w = p·value's scale; largest = max w                per query and block of keys
//! p8 = w·(127 / largest)
//! (vᵀ·p)ᵀ = (Σ v8·p8)·(largest / 127)
//! ```
//! Sums are exact in i32, and every f32 step is one IEEE operation: the bits are the same on every machine. Heads of more
//! than [`DIM_BLOCK`] dimensions add the scores of each block of dimensions in f32.
use core::f32::consts::LOG2_E;
use core::ops::Range;

use super::block::{Block, lane_group_mut, written};
use super::quantised_kv::QuantisedKv;
use super::{KEY_BLOCK, Operand, Scope};
use crate::gemm::int8::Int8Tile;
use crate::gemm::integer::IntegerTile;
use crate::gemm::tile::Prefetch;
use crate::gemm::{Accumulate, Finish};
use crate::math::coarse_exp2_of_negative;
use crate::quantise::{GROUP, inverse_scales, poison, quantised_len, scales};
use crate::simd::{LANES, MAX_INT8_ROWS, Simd};

/// Dimensions of a head whose products are added in i32.
pub(super) const DIM_BLOCK: usize = 256;

/// Groups of a block of keys, or of dimensions.
const GROUPS: usize = KEY_BLOCK / GROUP;

const _: () = assert!(GROUPS == DIM_BLOCK / GROUP);

/// The queries, and their probabilities.
pub(super) struct Scratch<const Q: usize> {
    queries: Columns<Q>,
    probabilities: Columns<Q>,
}

/// An int8 matrix with a column, and a scale, for each query.
#[repr(align(64))]
struct Columns<const Q: usize> {
    groups: [[[i8; GROUP]; Q]; GROUPS],
    scales: [f32; Q],
    /// Σ of each column, for levels with a zero point.
    sums: [i32; Q],
}

impl<const Q: usize> Columns<Q> {
    #[inline(always)]
    fn new() -> Self {
        Self { groups: [[[0; GROUP]; Q]; GROUPS], scales: [0.0; Q], sums: [0; Q] }
    }
}

/// The sums of a panel's columns, kept in f32: their magnitudes stay below 2²⁴.
struct Sums<S: Simd>(S::V);

impl<S: Simd> Sums<S> {
    /// Rounds four rows of a panel into a group of its columns.
    #[inline(always)]
    fn store<const Q: usize>(&mut self, s: S, v: [S::V; GROUP], group: &mut [[i8; GROUP]; Q], first: usize) {
        s.store_groups(v, lane_group_mut(group, first));
        if S::ZERO_POINT != 0 {
            for v in v {
                self.0 = s.add(self.0, s.round(v));
            }
        }
    }

    #[inline(always)]
    fn finish(self, s: S, out: &mut [i32; LANES]) {
        let mut lanes = [0.0; LANES];
        s.store(self.0, &mut lanes);
        for (out, sum) in out.iter_mut().zip(lanes) {
            *out = sum as i32;
        }
    }
}

impl Operand for QuantisedKv<'_> {
    type Scratch<const Q: usize> = Scratch<Q>;

    #[inline(always)]
    fn panels<S: Simd>() -> usize {
        S::INT8_PANELS
    }

    #[inline(always)]
    fn scratch<const Q: usize>() -> Scratch<Q> {
        Scratch { queries: Columns::new(), probabilities: Columns::new() }
    }

    #[inline(always)]
    fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
        coarse_exp2_of_negative(s, x)
    }

    #[inline(always)]
    fn score<S: Simd, const Q: usize>(&self, s: S, at: &Scope<'_>, scratch: &mut Scratch<Q>, block: &mut Block<Q>) {
        let head_dim = self.layout.head_dim;
        for dim in (0..head_dim).step_by(DIM_BLOCK) {
            let dims = dim..(dim + DIM_BLOCK).min(head_dim);
            if at.keys.start == 0 || head_dim > DIM_BLOCK {
                quantise_queries(s, at, &dims, &mut scratch.queries);
            }
            let (row, scales) = (quantised_len(head_dim), self.key_scales(at.head));
            let accumulate = if dim == 0 { Accumulate::Replace } else { Accumulate::Add };
            for key in at.keys.clone().step_by(S::INT8_ROWS) {
                let count = S::INT8_ROWS.min(at.keys.end - key);
                let k = &self.keys(at.head)[key * row..(key + count) * row];
                let tile = Int8Tile {
                    a: k[dim..].as_ptr(),
                    a_row: row,
                    a_step: GROUP,
                    a_scales: &scales[key..key + count],
                    out: block.scores[key - at.keys.start..][..count].as_mut_ptr().cast(),
                    finish: Finish { accumulate, ..Finish::default() },
                    ..scratch.queries.tile(dims.len().div_ceil(GROUP))
                };
                // SAFETY: k has `count` rows with these dimensions, padded to a group; the queries and the scores have
                // Q columns, the panels of S's tile; the scores are local to this task, and the first block of
                // dimensions has written them before another adds.
                unsafe { tile.run(s, count, at.panels()) }
            }
        }
    }

    /// Multiplies the values' scales into the probabilities, and quantises them.
    #[inline(always)]
    fn prepare<S: Simd, const Q: usize>(&self, s: S, at: &Scope<'_>, scratch: &mut Scratch<Q>, block: &mut Block<Q>) {
        let value_scales = &self.value_scales(at.head)[at.keys.clone()];
        // `max` loses NaN; a sum does not.
        let poison = poison(s, value_scales);
        let columns = &mut scratch.probabilities;
        for first in (0..at.rows.len()).step_by(LANES) {
            let mut maxima = [s.splat(0.0); GROUP];
            for (rows, scale) in block.scores.chunks(GROUP).zip(value_scales.chunks(GROUP)) {
                for i in 0..scale.len() {
                    // SAFETY: `absorb` wrote the probabilities of every key.
                    let p = s.load(unsafe { written(&rows[i], first) });
                    maxima[i] = s.max(maxima[i], s.mul(p, s.splat(scale[i])));
                }
            }
            let largest = s.max(s.max(maxima[0], maxima[1]), s.max(maxima[2], maxima[3]));
            let inverse = inverse_scales(s, largest);
            s.store(scales(s, s.add(largest, s.splat(poison))), lane_group_mut(&mut columns.scales, first));
            let mut sums = Sums::<S>(s.splat(0.0));
            let blocks = block.scores.chunks(GROUP).zip(value_scales.chunks(GROUP));
            for ((rows, scale), group) in blocks.zip(&mut columns.groups) {
                let mut p = [s.splat(0.0); GROUP];
                for i in 0..scale.len() {
                    // SAFETY: as above.
                    let row = s.load(unsafe { written(&rows[i], first) });
                    p[i] = s.mul(s.mul(row, s.splat(scale[i])), inverse);
                }
                sums.store(s, p, group, first);
            }
            sums.finish(s, lane_group_mut(&mut columns.sums, first));
        }
    }

    #[inline(always)]
    fn values<S: Simd, const Q: usize>(
        &self,
        s: S,
        at: &Scope<'_>,
        dims: &Range<usize>,
        scratch: &Scratch<Q>,
        block: &mut Block<Q>,
    ) {
        let (group, groups) = (self.layout.head_dim * GROUP, at.keys.len().div_ceil(GROUP));
        let v = &self.values(at.head)[at.keys.start / GROUP * group..][..groups * group];
        // As many tiles as the level's size needs, of about the same size.
        let rows = dims.len().div_ceil(dims.len().div_ceil(S::INT8_ROWS));
        for first in (0..dims.len()).step_by(rows) {
            let count = rows.min(dims.len() - first);
            let tile = Int8Tile {
                a: v[(dims.start + first) * GROUP..][..(groups - 1) * group + count * GROUP].as_ptr(),
                a_row: GROUP,
                a_step: group,
                a_scales: &[1.0; MAX_INT8_ROWS],
                out: block.context[first..first + count].as_mut_ptr().cast(),
                ..scratch.probabilities.tile(groups)
            };
            // SAFETY: v has `count` dimensions of each group of keys; the probabilities have Q columns, the panels of
            // S's tile, and so has `context`, which is local to this task.
            unsafe { tile.run(s, count, at.panels()) }
        }
    }
}

impl<const Q: usize> Columns<Q> {
    /// A tile's right operand and the width of its output; the rest is for the caller to set.
    #[inline(always)]
    fn tile(&self, groups: usize) -> Int8Tile<'_> {
        let w = self.groups.as_ptr().cast();
        Int8Tile {
            a: core::ptr::null(),
            a_row: 0,
            a_step: 0,
            a_scales: &[],
            w,
            w_panel: 1,
            w_step: Q / LANES,
            groups,
            w_scales: self.scales.as_chunks().0,
            sums: self.sums.as_chunks().0,
            out: core::ptr::null_mut(),
            out_row: Q,
            finish: Finish::default(),
            prefetch: Prefetch::nothing(w),
        }
    }
}

/// Transposes and quantises a range of the queries' dimensions; a query has one scale for all its dimensions.
#[inline(always)]
fn quantise_queries<S: Simd, const Q: usize>(s: S, at: &Scope<'_>, dims: &Range<usize>, columns: &mut Columns<Q>) {
    let factor = s.splat(at.scores.scale * LOG2_E);
    for first in (0..at.rows.len()).step_by(LANES) {
        let largest = largest(s, at, first);
        let inverse = inverse_scales(s, largest);
        s.store(s.mul(scales(s, largest), factor), lane_group_mut(&mut columns.scales, first));
        let mut sums = Sums::<S>(s.splat(0.0));
        let (fours, _) = columns.groups.as_chunks_mut::<{ LANES / GROUP }>();
        for (dim, groups) in dims.clone().step_by(LANES).zip(fours) {
            let square = s.transpose(at.square(s, first, dim..(dim + LANES).min(dims.end)));
            let (quarters, _) = square.as_chunks::<GROUP>();
            for (quarter, group) in quarters.iter().zip(groups) {
                let mut v = *quarter;
                for v in &mut v {
                    *v = s.mul(*v, inverse);
                }
                sums.store(s, v, group, first);
            }
        }
        sums.finish(s, lane_group_mut(&mut columns.sums, first));
    }
}

/// max|q| of sixteen queries, each in its lane; NaN for a query that is not finite.
#[inline(always)]
fn largest<S: Simd>(s: S, at: &Scope<'_>, first: usize) -> S::V {
    let mut square = [s.splat(0.0); LANES];
    for dim in (0..at.scores.layout.head_dim).step_by(LANES) {
        let dims = dim..(dim + LANES).min(at.scores.layout.head_dim);
        for (x, largest) in at.square(s, first, dims).into_iter().zip(&mut square) {
            *largest = s.max_magnitude(*largest, x);
        }
    }
    let mut largest = s.splat(0.0);
    for v in s.transpose(square) {
        largest = s.max_magnitude(largest, v);
    }
    // Infinity becomes NaN.
    s.add(largest, s.sub(largest, largest))
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::quantised_kv::QuantiseKv;
    use super::super::{KvLayout, RelativeBias, Scores};
    use super::*;
    use crate::quantise::{LARGEST, inverse_scale, round_to_i8};
    use crate::simd::Kernel;
    use crate::testing::{levels, nans, noise};
    use crate::{Isa, Job, reference};

    const SCALE: f32 = 0.3;

    /// Rows of queries, \[rows, heads·head_dim\], and of keys and values, \[tokens, 2·heads·head_dim\].
    struct Case {
        layout: KvLayout,
        q: Vec<f32>,
        kv: Vec<f32>,
    }

    impl Case {
        fn new(rows: usize, layout: KvLayout, seed: u64) -> Self {
            let mut kv = noise(layout.len().unwrap(), seed + 1, 1.5);
            // Scales that differ from token to token.
            for (token, row) in kv.chunks_mut(2 * layout.inner()).enumerate() {
                row.iter_mut().for_each(|x| *x *= 1.0 + (token % 5) as f32);
            }
            Self { layout, q: noise(rows * layout.inner(), seed, 1.5), kv }
        }

        /// Keys and values are quantised in blocks of that many tokens.
        fn quantised(&self, isa: Isa, block: usize) -> (Vec<i8>, Vec<f32>) {
            let mut values = vec![55; self.layout.int8_len().unwrap()];
            let mut scales = vec![9.0; self.layout.scales_len().unwrap()];
            for (i, kv) in self.kv.chunks(block * 2 * self.layout.inner()).enumerate() {
                QuantiseKv::new(isa, self.layout, kv, i * block, &mut values, &mut scales).unwrap().run();
            }
            (values, scales)
        }

        fn run(&self, isa: Isa, rows: usize, block: usize, bias: Option<RelativeBias<'_>>) -> Vec<f32> {
            let (values, scales) = self.quantised(isa, block);
            let kv = QuantisedKv::new(isa, self.layout, &values, &scales).unwrap();
            let mut out = vec![7.0; self.q.len()];
            let len = rows * self.layout.inner();
            for (i, (q, out)) in self.q.chunks(len).zip(out.chunks_mut(len)).enumerate() {
                let mut scores = Scores::new(isa, self.layout, SCALE, q, kv).unwrap();
                if let Some(bias) = bias {
                    let first_query = bias.first_query + i * rows;
                    scores = scores.with_bias(RelativeBias { first_query, ..bias }).unwrap();
                }
                scores.attend(out).unwrap().run();
            }
            out
        }

        /// On the level of cores without vectors, with that much scratch.
        fn run_with_scratch(&self, len: usize, bias: Option<RelativeBias<'_>>) -> Vec<f32> {
            let (values, scales) = self.quantised(Isa::SMALL, 1000);
            let kv = QuantisedKv::new(Isa::SMALL, self.layout, &values, &scales).unwrap();
            let mut out = vec![7.0; self.q.len()];
            let mut scores = Scores::new(Isa::SMALL, self.layout, SCALE, &self.q[..], kv).unwrap();
            if let Some(bias) = bias {
                scores = scores.with_bias(bias).unwrap();
            }
            // Tasks may use what the others left.
            let mut scratch = vec![f32::NAN; len];
            let mut job = scores.attend(&mut out).unwrap();
            job.set_scratch(&mut scratch);
            job.run();
            out
        }

        /// No scratch, too little, that of one query, of several, and of several tasks.
        fn scratch_lens(&self) -> impl Iterator<Item = usize> {
            let one = self.layout.scratch_len(1).unwrap();
            [0, one - 1, one, one + 3, 2 * one, 4 * one, 9 * one].into_iter()
        }

        /// A head's queries, keys or values, one row after another.
        fn head(&self, x: &[f32], stride: usize, column: usize, head: usize) -> Vec<Vec<f32>> {
            let head_dim = self.layout.head_dim;
            x.chunks(stride).map(|row| row[column + head * head_dim..][..head_dim].to_vec()).collect()
        }

        fn parts(&self, head: usize) -> [Vec<Vec<f32>>; 3] {
            let inner = self.layout.inner();
            [(&self.q, inner, 0), (&self.kv, 2 * inner, 0), (&self.kv, 2 * inner, inner)]
                .map(|(x, stride, column)| self.head(x, stride, column, head))
        }
    }

    struct Exp2<'a>(&'a mut [f32; LANES]);

    impl Kernel for Exp2<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            s.store(coarse_exp2_of_negative(s, s.load(self.0)), self.0);
        }
    }

    fn exp2(x: f32) -> f32 {
        let mut lanes = [x; LANES];
        Isa::PORTABLE.unfused().call(Exp2(&mut lanes));
        lanes[0]
    }

    /// A row's int8 numbers and its scale.
    type Row = (Vec<i32>, f32);

    fn quantise(x: &[f32]) -> Row {
        let largest = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let inverse = inverse_scale(largest);
        (x.iter().map(|x| round_to_i8(*x, inverse).into()).collect(), largest / LARGEST)
    }

    fn dot(a: &[i32], b: &[i32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum::<i32>() as f32
    }

    /// Attention of one query, step by step.
    fn formula(q: &[f32], keys: &[Row], values: &[Row]) -> Vec<f32> {
        let (q8, q_scale) = quantise(q);
        let q_scale = q_scale * (SCALE * LOG2_E);
        let (mut max, mut sum, mut out) = (f32::NEG_INFINITY, 0.0, vec![0.0; q.len()]);
        for (keys, values) in keys.chunks(KEY_BLOCK).zip(values.chunks(KEY_BLOCK)) {
            let score = |(k8, scale): &Row| {
                let mut score = 0.0;
                for (at, (q8, k8)) in q8.chunks(DIM_BLOCK).zip(k8.chunks(DIM_BLOCK)).enumerate() {
                    let part = (dot(q8, k8) * q_scale) * *scale;
                    score = if at == 0 { part } else { score + part };
                }
                score
            };
            let scores: Vec<f32> = keys.iter().map(score).collect();
            let before = max;
            max = scores.iter().fold(max, |a, x| a.max(*x));
            let p: Vec<f32> = scores.iter().map(|score| exp2(score - max)).collect();
            let rescale = exp2(before - max);
            sum = sum * rescale + p.iter().fold(0.0, |a, p| a + p);
            let weighted: Vec<f32> = p.iter().zip(values).map(|(p, v)| p * v.1).collect();
            let (p8, scale) = quantise(&weighted);
            for (dim, out) in out.iter_mut().enumerate() {
                let column: Vec<i32> = values.iter().map(|v| v.0[dim]).collect();
                *out = *out * rescale + dot(&p8, &column) * scale;
            }
        }
        out.iter().map(|x| x * (1.0 / sum)).collect()
    }

    /// Compares with [`formula`] to the bit, and with f64 within the documented bound.
    fn check(rows: usize, layout: KvLayout, seed: u64) {
        let case = Case::new(rows, layout, seed);
        let KvLayout { heads, head_dim, tokens } = layout;
        let mut want = vec![0.0; case.q.len()];
        for head in 0..heads {
            let [q, k, v] = case.parts(head);
            let rows8 = |x: &[Vec<f32>]| x.iter().map(|row| quantise(row)).collect::<Vec<_>>();
            let (k8, v8) = (rows8(&k), rows8(&v));
            for (row, q) in q.iter().enumerate() {
                want[(row * heads + head) * head_dim..][..head_dim].copy_from_slice(&formula(q, &k8, &v8));
            }
            let wide = |x: &[Vec<f32>]| x.concat().into_iter().map(f64::from).collect::<Vec<_>>();
            let (q64, k64, v64) = (wide(&q), wide(&k), wide(&v));
            let (mut p, mut exact) = (vec![0.0; tokens], vec![0.0; rows * head_dim]);
            let largest = |x: &[f64]| x.iter().fold(0.0f64, |a, x| a.max(x.abs()));
            reference::attention(&q64, &k64, &v64, head_dim, SCALE.into(), &mut p, &mut exact);
            for (row, exact) in exact.chunks(head_dim).enumerate() {
                let s =
                    f64::from(SCALE) * head_dim as f64 * largest(&q64[row * head_dim..][..head_dim]) * largest(&k64);
                let d = s / 126.0;
                let bound = largest(&v64)
                    * ((2.0 * d).exp() - 1.0
                        + (1.0 + tokens as f64) / 250.0
                        + (16.0 + tokens as f64 + s) * 2f64.powi(-23));
                for (dim, exact) in exact.iter().enumerate() {
                    let got = f64::from(want[(row * heads + head) * head_dim + dim]);
                    assert!((got - exact).abs() <= bound, "{layout:?}: {got} not {exact}");
                }
            }
        }
        for isa in levels() {
            assert_eq!(case.run(isa, rows, tokens, None), want, "{isa} {layout:?}");
        }
        for len in case.scratch_lens() {
            assert_eq!(case.run_with_scratch(len, None), want, "{layout:?}, scratch of {len}");
        }
    }

    #[test]
    fn bits_of_the_formula() {
        for tokens in (1..=9).chain([50, 197, 255, 256, 257, 513]) {
            for (heads, head_dim) in [(1, 1), (2, 8), (3, 20), (1, 64)] {
                check([1, 3, 17][tokens % 3], KvLayout { heads, head_dim, tokens }, tokens as u64);
            }
        }
        check(100, KvLayout { heads: 2, head_dim: 16, tokens: 70 }, 1);
        for head_dim in [255, 256, 257, 600] {
            check(3, KvLayout { heads: 2, head_dim, tokens: 300 }, 2);
        }
    }

    #[test]
    fn typical_errors_are_far_below_the_bound() {
        let case = Case::new(50, KvLayout { heads: 1, head_dim: 64, tokens: 197 }, 3);
        let [q, k, v] = case.parts(0).map(|x| x.concat().into_iter().map(f64::from).collect::<Vec<_>>());
        let (mut p, mut want) = (vec![0.0; 197], vec![0.0; case.q.len()]);
        reference::attention(&q, &k, &v, 64, SCALE.into(), &mut p, &mut want);
        let got = case.run(Isa::best(), 50, 197, None);
        let power = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
        let error = power(&mut got.iter().zip(&want).map(|(got, want)| f64::from(*got) - want));
        let decibels = 10.0 * (power(&mut want.iter().copied()) / error).log10();
        assert!(decibels > 30.0, "{decibels} dB");
    }

    #[test]
    fn bits_do_not_depend_on_the_blocks() {
        let layout = KvLayout { heads: 2, head_dim: 24, tokens: 281 };
        let case = Case::new(281, layout, 5);
        let table = noise(2 * RelativeBias::row_len([20, 14]).unwrap(), 3, 2.0);
        for bias in [None, Some(RelativeBias { table: &table, grid: [20, 14], first_query: 0 })] {
            let whole = case.run(Isa::PORTABLE, 281, 281, bias);
            for isa in levels() {
                for (rows, block) in [(1, 1), (2, 3), (5, 7), (47, 24), (48, 25), (49, 48), (280, 280), (281, 281)] {
                    assert_eq!(case.run(isa, rows, block, bias), whole, "{isa} {rows} rows, {block} keys");
                }
            }
            for len in case.scratch_lens() {
                assert_eq!(case.run_with_scratch(len, bias), whole, "scratch of {len}");
            }
        }
    }

    #[test]
    fn maps_are_those_of_the_scores() {
        let (heads, tokens) = (2, 61);
        let case = Case::new(tokens, KvLayout { heads, head_dim: 24, tokens }, 6);
        let maps = |isa| {
            let (values, scales) = case.quantised(isa, 61);
            let mut maps = vec![9.0; heads * tokens * tokens];
            let kv = QuantisedKv::new(isa, case.layout, &values, &scales).unwrap();
            Scores::new(isa, case.layout, SCALE, &case.q, kv).unwrap().maps(0, tokens, &mut maps).unwrap().run();
            maps
        };
        let portable = maps(Isa::PORTABLE);
        for isa in levels() {
            assert_eq!(maps(isa), portable, "{isa}");
        }
        let [q, k, _] = case.parts(1);
        let q = q.concat().into_iter().map(f64::from).collect::<Vec<_>>();
        let k = k.concat().into_iter().map(f64::from).collect::<Vec<_>>();
        let mut want = vec![0.0; tokens * tokens];
        reference::matmul(&q, &k, 24, &mut want);
        want.iter_mut().for_each(|x| *x *= f64::from(SCALE));
        reference::softmax(&mut want, tokens);
        for (got, want) in portable[tokens * tokens..].iter().zip(&want) {
            assert!((f64::from(*got) - want).abs() <= 0.3 * want + 1e-3, "{got} not {want}");
        }
    }

    #[test]
    fn special_values() {
        let layout = KvLayout { heads: 2, head_dim: 6, tokens: 270 };
        let nan = |out: Vec<f32>| out.iter().map(|x| x.is_nan()).collect::<Vec<_>>();
        for isa in levels() {
            for special in nans().into_iter().chain([f32::INFINITY, f32::NEG_INFINITY]) {
                for token in [0, 77, 269] {
                    let mut query = Case::new(3, layout, 1);
                    query.q[12 + 7] = special;
                    let out = query.run(isa, 3, 270, None);
                    assert!(
                        out.iter().enumerate().all(|(i, x)| x.is_nan() == (18..24).contains(&i)),
                        "{isa} {special}"
                    );
                    for at in [3, 12 + 3] {
                        let mut case = Case::new(3, layout, 1);
                        case.kv[24 * token + at] = special;
                        let out = case.run(isa, 3, 270, None);
                        assert_eq!(nan(case.run_with_scratch(100, None)), nan(out.clone()));
                        assert!(
                            out.iter().enumerate().all(|(i, x)| x.is_nan() == (i % 12 < 6)),
                            "{isa} {special} {at}"
                        );
                    }
                }
            }
            let zeros = Case { layout, q: vec![0.0; 12], kv: vec![0.0; 24 * 270] };
            assert_eq!(zeros.run(isa, 1, 270, None), [0.0; 12]);
            let huge = Case { layout, q: vec![1e-30; 12], kv: vec![1e35; 24 * 270] };
            assert!(huge.run(isa, 1, 270, None).iter().all(|x| (x / 1e35 - 1.0).abs() < 0.01));
            let none = KvLayout { tokens: 0, ..layout };
            let none = Case { layout: none, q: vec![0.0; 12], kv: vec![] };
            assert!(none.run(isa, 1, 1, None).iter().all(|x| x.is_nan()));
        }
    }

    #[test]
    fn shapes() {
        let (isa, layout) = (Isa::best(), KvLayout { heads: 2, head_dim: 3, tokens: 5 });
        assert_eq!((layout.int8_len(), layout.scales_len()), (Some(2 * (5 * 4 + 8 * 3)), Some(20)));
        let (mut values, mut scales) = ([0; 88], [0.0; 20]);
        assert!(QuantiseKv::new(isa, layout, &[0.0; 60], 0, &mut values, &mut scales).is_ok());
        assert!(QuantiseKv::new(isa, layout, &[0.0; 24], 4, &mut values, &mut scales).is_err());
        assert!(QuantiseKv::new(isa, layout, &[0.0; 24], usize::MAX, &mut values, &mut scales).is_err());
        assert!(QuantiseKv::new(isa, layout, &[0.0; 13], 0, &mut values, &mut scales).is_err());
        assert!(QuantiseKv::new(isa, layout, &[0.0; 12], 0, &mut values[1..], &mut scales).is_err());
        assert!(QuantisedKv::new(isa, layout, &values, &scales[1..]).is_err());
        let kv = QuantisedKv::new(isa, layout, &values, &scales).unwrap();
        assert!(Scores::new(isa, layout, 1.0, &[0.0; 6], kv).is_ok());
        let other = KvLayout { heads: 3, head_dim: 2, tokens: 5 };
        assert!(Scores::new(isa, other, 1.0, &[0.0; 6], kv).is_err());
        let huge = KvLayout { heads: usize::MAX / 2, head_dim: 7, tokens: 5 };
        assert_eq!((huge.int8_len(), huge.scales_len()), (None, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_shape(
            rows in 1usize..20, heads in 1usize..4, head_dim in 1usize..40, tokens in 1usize..99, seed in 1u64..99,
        ) {
            check(rows, KvLayout { heads, head_dim, tokens }, seed);
        }
    }
}
