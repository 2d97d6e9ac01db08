//! Attention over keys and values in bf16: queries and probabilities are rounded to bf16 too, and products are added in
//! f32.
use core::mem::MaybeUninit;
use core::ops::Range;

use ::half::bf16;

use super::bf16_kv::Bf16Kv;
use super::block::{Block, Fresh, fresh};
use super::{KEY_BLOCK, Operand, Scope};
use crate::gemm::tile::{Prefetch, Tile};
use crate::gemm::{Bf16, Finish};
use crate::math::coarse_exp2_of_negative;
use crate::round::{PAIR, bf16_len};
use crate::simd::{LANES, Simd};

/// Dimensions of a head that are transposed at a time.
const DIM_BLOCK: usize = 64;

/// The queries, times scale·log₂e, and their probabilities: pairs of dimensions and of keys, a column for each query. Each
/// f32 is the place of a pair of bf16.
#[repr(align(64))]
pub(super) struct Scratch<const Q: usize> {
    queries: Fresh<Q, { DIM_BLOCK / PAIR }>,
    probabilities: Fresh<Q, { KEY_BLOCK / PAIR }>,
}

/// Rounds a vector of pairs and stores it from column `first` on.
#[inline(always)]
fn store<S: Simd>(s: S, v: [S::V; PAIR], columns: &mut [MaybeUninit<f32>], first: usize) {
    s.store_bf16_pairs(v, bytemuck::cast_mut(fresh(columns, first)));
}

const _: () = assert!(DIM_BLOCK.is_multiple_of(LANES) && KEY_BLOCK.is_multiple_of(PAIR));

impl Operand for Bf16Kv<'_> {
    type Scratch<const Q: usize> = Scratch<Q>;

    #[inline(always)]
    fn panels<S: Simd>() -> usize {
        S::TILE_PANELS
    }

    #[inline(always)]
    fn scratch<const Q: usize>() -> Scratch<Q> {
        Scratch {
            queries: [[MaybeUninit::uninit(); Q]; DIM_BLOCK / PAIR],
            probabilities: [[MaybeUninit::uninit(); Q]; KEY_BLOCK / PAIR],
        }
    }

    #[inline(always)]
    fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
        coarse_exp2_of_negative(s, x)
    }

    /// A head of up to [`DIM_BLOCK`] dimensions is transposed only once.
    #[inline(always)]
    fn score<S: Simd, const Q: usize>(&self, s: S, at: &Scope<'_>, scratch: &mut Scratch<Q>, block: &mut Block<Q>) {
        let head_dim = self.layout.head_dim;
        let row = bf16_len(head_dim) / PAIR;
        for dim in (0..head_dim).step_by(DIM_BLOCK) {
            let dims = dim..(dim + DIM_BLOCK).min(head_dim);
            if at.keys.start == 0 || head_dim > DIM_BLOCK {
                transpose(s, at, &dims, scratch);
            }
            for key in at.keys.clone().step_by(S::TILE_ROWS) {
                let count = S::TILE_ROWS.min(at.keys.end - key);
                let k = &self.keys(at.head)[key * row..(key + count) * row];
                let out = block.scores[key - at.keys.start..][..count].as_mut_ptr().cast::<f32>();
                let tile = Tile::<Bf16> {
                    a: k[dim / PAIR..].as_ptr(),
                    a_row: row,
                    a_step: 1,
                    depth: dims.len(),
                    resume: (dim > 0).then_some(out.cast_const()),
                    out,
                    ..tile(&scratch.queries)
                };
                // SAFETY: k has `count` rows with these dimensions, padded to a pair; the queries and the scores have Q
                // columns, the panels of S's tile; the scores are local to this task.
                unsafe { tile.run(s, count, at.panels()) }
            }
        }
    }

    #[inline(always)]
    fn keep<S: Simd, const Q: usize>(
        s: S,
        p: [S::V; PAIR],
        _: &mut [[MaybeUninit<f32>; Q]],
        pair: usize,
        first: usize,
        scratch: &mut Scratch<Q>,
    ) {
        store(s, p, &mut scratch.probabilities[pair], first);
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
        let (head_dim, pairs) = (self.layout.head_dim, at.keys.len().div_ceil(PAIR));
        let v = &self.values(at.head)[at.keys.start / PAIR * head_dim..][..pairs * head_dim];
        // As many tiles as the level's size needs, of about the same size.
        let rows = dims.len().div_ceil(dims.len().div_ceil(S::TILE_ROWS));
        for first in (0..dims.len()).step_by(rows) {
            let count = rows.min(dims.len() - first);
            let tile = Tile::<Bf16> {
                a: v[dims.start + first..][..(pairs - 1) * head_dim + count].as_ptr(),
                a_row: 1,
                a_step: head_dim,
                depth: at.keys.len(),
                out: block.context[first..first + count].as_mut_ptr().cast(),
                ..tile(&scratch.probabilities)
            };
            // SAFETY: v has `count` dimensions of each pair of keys; the probabilities have Q columns, the panels of S's
            // tile, and so has `context`, which is local to this task.
            unsafe { tile.run(s, count, at.panels()) }
        }
    }
}

/// A tile's right operand, and the width of its output; the rest is for the caller to set.
#[inline(always)]
fn tile<const Q: usize>(columns: &[[MaybeUninit<f32>; Q]]) -> Tile<'_, Bf16> {
    let b = columns.as_ptr().cast::<bf16>();
    Tile {
        a: core::ptr::null(),
        a_row: 0,
        a_step: 0,
        b,
        b_panel: PAIR * LANES,
        b_step: PAIR * Q,
        depth: 0,
        resume: None,
        out: core::ptr::null_mut(),
        out_row: Q,
        finish: Finish::default(),
        prefetch: Prefetch::nothing(b),
    }
}

/// Transposes, scales and rounds a range of the queries' dimensions.
#[inline(always)]
fn transpose<S: Simd, const Q: usize>(s: S, at: &Scope<'_>, dims: &Range<usize>, scratch: &mut Scratch<Q>) {
    for first in (0..at.rows.len()).step_by(LANES) {
        for dim in dims.clone().step_by(LANES) {
            let len = LANES.min(dims.end - dim);
            let columns = at.scaled_columns(s, first, dim..dim + len);
            let out = &mut scratch.queries[(dim - dims.start) / PAIR..][..len.div_ceil(PAIR)];
            for (pair, out) in columns.as_chunks::<PAIR>().0.iter().zip(out) {
                store(s, *pair, out, first);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::bf16_kv::RoundKv;
    use super::super::{KvLayout, Scores};
    use super::*;
    use crate::testing::{levels, nans, noise};
    use crate::{Isa, Job, reference};

    const SCALE: f32 = 0.3;

    /// Keys and values, \[tokens, 2·heads·head_dim\], rounded in blocks of that many tokens.
    fn rounded(isa: Isa, layout: KvLayout, kv: &[f32], block: usize) -> Vec<bf16> {
        let mut values = vec![bf16::NAN; layout.bf16_len().unwrap()];
        for (i, kv) in kv.chunks(block * 2 * layout.inner()).enumerate() {
            RoundKv::new(isa, layout, kv, i * block, &mut values).unwrap().run();
        }
        values
    }

    /// Attention in blocks of that many rows of queries and of tokens.
    fn run(isa: Isa, layout: KvLayout, q: &[f32], kv: &[f32], [rows, tokens]: [usize; 2]) -> Vec<f32> {
        let values = rounded(isa, layout, kv, tokens);
        let kv = Bf16Kv::new(layout, &values).unwrap();
        let mut out = vec![7.0; q.len()];
        for (q, out) in q.chunks(rows * layout.inner()).zip(out.chunks_mut(rows * layout.inner())) {
            Scores::new(isa, layout, SCALE, q, kv).unwrap().attend(out).unwrap().run();
        }
        out
    }

    /// Checks the documented bound; returns the energy of the exact outputs and of the errors.
    fn check(isa: Isa, rows: usize, layout: KvLayout, seed: u64) -> [f64; 2] {
        let KvLayout { heads, head_dim, tokens } = layout;
        let inner = layout.inner();
        let (q, kv) = (noise(rows * inner, seed, 1.5), noise(layout.len().unwrap(), seed + 1, 1.5));
        let got = run(isa, layout, &q, &kv, [1000, 1000]);
        let part = |x: &[f32], row: usize, column: usize| -> Vec<f64> {
            x.chunks(row).flat_map(|x| &x[column..][..head_dim]).map(|&x| x.into()).collect()
        };
        let mut energy = [0.0; 2];
        for head in 0..heads {
            let (q, k) = (part(&q, inner, head * head_dim), part(&kv, 2 * inner, head * head_dim));
            let (v, got) = (part(&kv, 2 * inner, inner + head * head_dim), part(&got, inner, head * head_dim));
            let (mut scores, mut want) = (vec![0.0; tokens], vec![0.0; rows * head_dim]);
            reference::attention(&q, &k, &v, head_dim, SCALE.into(), &mut scores, &mut want);
            let largest_v = v.iter().fold(0.0f64, |a, v| a.max(v.abs()));
            for row in 0..rows {
                let q = &q[row * head_dim..][..head_dim];
                let size = |k: &[f64]| q.iter().zip(k).map(|(q, k)| (q * k).abs()).sum::<f64>() * f64::from(SCALE);
                let s = k.chunks(head_dim).map(size).fold(0.0, f64::max);
                let exact = (16.0 + tokens as f64 + head_dim as f64 * s) * 2f64.powi(-23);
                let bound = (exact + (s / 63.0).exp_m1() + 1.0 / 120.0) * largest_v;
                for i in row * head_dim..(row + 1) * head_dim {
                    let error = got[i] - want[i];
                    assert!(error.abs() <= bound, "{isa} {layout:?} row {row}: {} not {}", got[i], want[i]);
                    energy[0] += want[i] * want[i];
                    energy[1] += error * error;
                }
            }
        }
        energy
    }

    #[test]
    fn bound_holds_around_every_edge() {
        for isa in levels() {
            for tokens in (1..=18).chain([50, 197, 255, 256, 257, 511, 513]) {
                for (heads, head_dim) in [(1, 1), (2, 8), (1, 16), (3, 21), (1, 64), (2, 72), (1, 129)] {
                    check(isa, [1, 5, 17][tokens % 3], KvLayout { heads, head_dim, tokens }, tokens as u64);
                }
            }
        }
    }

    #[test]
    fn noise_is_far_below_the_signal() {
        for isa in levels() {
            let [signal, noise] = check(isa, 197, KvLayout { heads: 1, head_dim: 64, tokens: 197 }, 1);
            let decibels = 10.0 * (signal / noise).log10();
            assert!(decibels > 40.0, "{isa} {decibels}");
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_blocks() {
        for isa in levels() {
            for tokens in [299, 300] {
                let layout = KvLayout { heads: 2, head_dim: 23, tokens };
                let (q, kv) = (noise(100 * 46, 1, 2.0), noise(layout.len().unwrap(), 2, 2.0));
                let whole = run(isa, layout, &q, &kv, [100, 300]);
                for block in [1, 2, 3, 7, 8, 24, 25, 47, 48, 49, 99] {
                    assert_eq!(run(isa, layout, &q, &kv, [block, block]), whole, "{isa} blocks of {block}");
                }
            }
        }
    }

    #[test]
    fn maps_are_the_probabilities() {
        let (rows, layout) = (19, KvLayout { heads: 2, head_dim: 20, tokens: 270 });
        let (q, kv) = (noise(rows * 40, 1, 1.5), noise(layout.len().unwrap(), 2, 1.5));
        for isa in levels() {
            let values = rounded(isa, layout, &kv, 300);
            let mut maps = vec![9.0; 2 * rows * 270];
            let scores = Scores::new(isa, layout, SCALE, &q, Bf16Kv::new(layout, &values).unwrap()).unwrap();
            scores.maps(0, rows, &mut maps).unwrap().run();
            for (i, map) in maps.chunks(270).enumerate() {
                let (head, row) = (i / rows, i % rows);
                let part = |x: &[f32]| -> Vec<f64> { x[head * 20..][..20].iter().map(|x| f64::from(*x)).collect() };
                let mut want = vec![0.0; 270];
                let keys: Vec<f64> = kv.chunks(80).flat_map(part).collect();
                reference::matmul(&part(&q[row * 40..]), &keys, 20, &mut want);
                want.iter_mut().for_each(|score| *score *= f64::from(SCALE));
                reference::softmax(&mut want, 270);
                // The scores' magnitude is below 0.3·20·1.5².
                let bound = (13.5f64 / 63.0).exp_m1() + 2e-3;
                assert!(map.iter().zip(&want).all(|(p, want)| (f64::from(*p) - want).abs() <= bound * want), "{isa}");
            }
        }
    }

    #[test]
    fn nan_shows() {
        let layout = KvLayout { heads: 1, head_dim: 4, tokens: 275 };
        for isa in levels() {
            let (q, kv) = (noise(8, 1, 1.0), noise(layout.len().unwrap(), 2, 1.0));
            let with = |x: &[f32], at: usize, value: f32| {
                let mut x = x.to_vec();
                x[at] = value;
                x
            };
            for nan in nans() {
                let out = run(isa, layout, &with(&q, 1, nan), &kv, [2, 275]);
                assert!(out[..4].iter().all(|x| x.is_nan()) && out[4..].iter().all(|x| x.is_finite()), "{isa}");
                for token in [0, 3, 260, 274] {
                    let out = run(isa, layout, &q, &with(&kv, 8 * token + 2, nan), [2, 275]);
                    assert!(out.iter().all(|x| x.is_nan()), "{isa}");
                    let out = run(isa, layout, &q, &with(&kv, 8 * token + 5, nan), [2, 275]);
                    assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (i % 4 == 1)), "{isa}");
                }
            }
        }
    }

    #[test]
    fn shapes() {
        let layout = KvLayout { heads: 2, head_dim: 3, tokens: 5 };
        // Keys of 4 elements, values of 6 tokens.
        assert_eq!(layout.bf16_len(), Some(2 * (5 * 4 + 6 * 3)));
        assert_eq!(KvLayout { tokens: usize::MAX, ..layout }.bf16_len(), None);
        let (isa, mut values) = (Isa::best(), vec![bf16::ZERO; 76]);
        assert!(Bf16Kv::new(layout, &values[1..]).is_err());
        assert!(RoundKv::new(isa, layout, &[0.0; 24], 3, &mut values).is_ok());
        assert!(RoundKv::new(isa, layout, &[0.0; 24], 4, &mut values).is_err());
        assert!(RoundKv::new(isa, layout, &[0.0; 23], 0, &mut values).is_err());
        let kv = Bf16Kv::new(layout, &values).unwrap();
        assert!(Scores::new(isa, layout, 1.0, &[0.0; 12], kv).is_ok());
        assert!(Scores::new(isa, KvLayout { tokens: 6, ..layout }, 1.0, &[0.0; 12], kv).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_shape(
            rows in 1usize..20, heads in 1usize..4, head_dim in 1usize..40, tokens in 1usize..300, seed in 1u64..99,
        ) {
            for isa in levels() {
                check(isa, rows, KvLayout { heads, head_dim, tokens }, seed);
            }
        }
    }
}
