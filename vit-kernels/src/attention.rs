//! Attention of one image: softmax(q·kᵀ·scale)·v per head, with a streaming softmax (Milakov and Gimelshein 2018,
//! <https://arxiv.org/abs/1805.02867>; Rabe and Staats 2021, <https://arxiv.org/abs/2112.05682>).
//!
//! ```text
//! for each tile of query rows
//!     max = −∞, sum = 0, out = 0
//!     for each block of KEY_BLOCK keys
//!         scores = q·kᵀ·scale                         the matmul's tile
//!         new max; rescale = e^(old max − new max)
//!         p = e^(scores − max); sum = sum·rescale + Σp
//!         out = out·rescale + p·v                     the matmul's tile
//!     out /= sum
//! ```
//! Never more than a tile's rows × [`KEY_BLOCK`] scores exist. The block is a constant and every query row runs alone,
//! so the bits do not depend on how the rows are cut.
#![allow(unsafe_code)] // The loops around the tile hand it pointers.

use crate::error::{ShapeError, expect_len};
use crate::gemm::even_tiles;
use crate::gemm::tile::{MAX_TILE_COLUMNS, Tile, panels_per_tile};
use crate::half::Storage;
use crate::isa::Isa;
use crate::job::{Job, Shared};
use crate::math::exp_lanes;
use crate::simd::{Kernel, LANES, MAX_TILE_ROWS, Simd, lanes_mut};

/// Keys whose scores exist at the same time: a tile's scores take at most 8 KB, and up to 256 tokens (224 × 224 at
/// patch 16 has 197) nothing has to be rescaled.
pub const KEY_BLOCK: usize = 256;

/// Query rows a task takes.
const TASK_ROWS: usize = 48;

/// The shape of an image's keys and values, stored as the matmul's tile reads them.
///
/// Keys: \[head\]\[panel of 16 tokens\]\[head_dim\]\[16\]; values: \[head\]\[panel of 16 dims\]\[token\]\[16\].
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
    /// Elements of the keys, tokens padded to whole panels. `None` on overflow.
    pub fn k_len(&self) -> Option<usize> {
        self.heads.checked_mul(self.head_k_len()?)
    }

    /// Elements of the values, head_dim padded to whole panels. `None` on overflow.
    pub fn v_len(&self) -> Option<usize> {
        self.heads.checked_mul(self.head_v_len()?)
    }

    fn head_k_len(&self) -> Option<usize> {
        self.tokens.checked_next_multiple_of(LANES)?.checked_mul(self.head_dim)
    }

    fn head_v_len(&self) -> Option<usize> {
        self.head_dim.checked_next_multiple_of(LANES)?.checked_mul(self.tokens)
    }

    /// heads × head_dim: the columns of q and of the output.
    fn inner(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Writes keys and values of consecutive tokens where [`Attention`] reads them; a task per head.
pub struct PackKv<'a> {
    layout: KvLayout,
    kv: &'a [f32],
    first: usize,
    k: Shared<'a, f32>,
    v: Shared<'a, f32>,
}

impl<'a> PackKv<'a> {
    /// `kv` is \[rows, 2·heads·head_dim\], a row being the keys of all heads and then the values of all heads, for
    /// tokens `first`, `first` + 1, …; `k` and `v` hold the whole image, as [`KvLayout`] says.
    ///
    /// # Errors
    /// When a length does not fit.
    pub fn new(
        layout: KvLayout,
        kv: &'a [f32],
        first: usize,
        k: &'a mut [f32],
        v: &'a mut [f32],
    ) -> Result<Self, ShapeError> {
        expect_len("pack_kv: k holds heads × head_dim × padded tokens", layout.k_len(), k.len())?;
        expect_len("pack_kv: v holds heads × padded head_dim × tokens", layout.v_len(), v.len())?;
        let row = 2 * layout.inner();
        let rows = kv.len().checked_div(row).unwrap_or(0).min(layout.tokens.saturating_sub(first));
        expect_len("pack_kv: kv is whole rows, of tokens that exist", Some(rows * row), kv.len())?;
        Ok(Self { layout, kv, first, k: Shared::new(k), v: Shared::new(v) })
    }
}

// SAFETY: a task writes its own head's part of k and v alone.
unsafe impl Job for PackKv<'_> {
    fn tasks(&self) -> usize {
        self.layout.heads
    }

    unsafe fn task(&self, head: usize) {
        let KvLayout { heads, head_dim, tokens } = self.layout;
        let (Some(k_len), Some(v_len)) = (self.layout.head_k_len(), self.layout.head_v_len()) else { return };
        if head >= heads || head_dim == 0 {
            return;
        }
        // SAFETY: heads do not overlap, and no two calls with one index run at the same time.
        let (k, v) =
            unsafe { (self.k.part(head * k_len..(head + 1) * k_len), self.v.part(head * v_len..(head + 1) * v_len)) };
        let inner = self.layout.inner();
        for (i, row) in self.kv.chunks_exact(2 * inner).enumerate() {
            let token = self.first + i;
            let (keys, values) = (&row[head * head_dim..][..head_dim], &row[inner + head * head_dim..][..head_dim]);
            let column = token / LANES * head_dim * LANES + token % LANES;
            for (k, key) in k[column..].iter_mut().step_by(LANES).zip(keys) {
                *k = *key;
            }
            for (panel, values) in values.chunks(LANES).enumerate() {
                let v = &mut v[(panel * tokens + token) * LANES..][..LANES];
                v[..values.len()].copy_from_slice(values);
                v[values.len()..].fill(0.0);
            }
        }
    }
}

/// Attention of some query rows of an image over all its keys and values; a task per head and group of rows.
///
/// Error per output, with V = max|v| over the head and S = max over the keys of |scale|·Σ|qᵢ·kᵢ|: at most
/// (16 + tokens + head_dim·S)·2⁻²³·V. NaN in q or k makes a row's outputs NaN, NaN in v those of its column; a score
/// of +∞, or all of −∞, gives NaN, as in PyTorch. Without tokens the outputs are NaN (0/0).
pub struct Attention<'a> {
    isa: Isa,
    layout: KvLayout,
    scale: f32,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    out: Shared<'a, f32>,
}

impl<'a> Attention<'a> {
    /// `q` and `out` are \[rows, heads·head_dim\]; `k` and `v` as [`PackKv`] wrote them.
    ///
    /// # Errors
    /// When a length does not fit: rows come from `q`.
    pub fn new(
        isa: Isa,
        layout: KvLayout,
        scale: f32,
        q: &'a [f32],
        (k, v): (&'a [f32], &'a [f32]),
        out: &'a mut [f32],
    ) -> Result<Self, ShapeError> {
        expect_len("attention: k holds heads × head_dim × padded tokens", layout.k_len(), k.len())?;
        expect_len("attention: v holds heads × padded head_dim × tokens", layout.v_len(), v.len())?;
        let inner = layout.inner();
        let rows = q.len().checked_div(inner).unwrap_or(0);
        expect_len("attention: q is not a whole number of rows", Some(rows * inner), q.len())?;
        expect_len("attention: out is as long as q", Some(q.len()), out.len())?;
        Ok(Self { isa, layout, scale, q, k, v, out: Shared::new(out) })
    }

    fn rows(&self) -> usize {
        self.q.len().checked_div(self.layout.inner()).unwrap_or(0)
    }
}

// SAFETY: a task writes the columns of one head in its own rows alone.
unsafe impl Job for Attention<'_> {
    fn tasks(&self) -> usize {
        self.layout.heads * self.rows().div_ceil(TASK_ROWS)
    }

    unsafe fn task(&self, index: usize) {
        if index < self.tasks() {
            let groups = self.rows().div_ceil(TASK_ROWS);
            let (head, first) = (index / groups, index % groups * TASK_ROWS);
            self.isa.call(Rows { job: self, head, first, end: (first + TASK_ROWS).min(self.rows()) });
        }
    }
}

/// One head of some query rows.
struct Rows<'a> {
    job: &'a Attention<'a>,
    head: usize,
    first: usize,
    end: usize,
}

/// A tile of query rows and a block of keys: the first of each, and how many.
#[derive(Clone, Copy)]
struct Block {
    row: usize,
    rows: usize,
    key: usize,
    keys: usize,
}

/// A tile's scores.
type Scores = [[f32; KEY_BLOCK]; MAX_TILE_ROWS];

/// What a tile of query rows carries from one key block to the next.
struct Running {
    max: [f32; LANES],
    sum: [f32; LANES],
    scores: Scores,
}

const _: () = assert!(MAX_TILE_ROWS <= LANES && KEY_BLOCK.is_multiple_of(LANES));

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let tokens = self.job.layout.tokens;
        let mut running = Running { max: [0.0; LANES], sum: [0.0; LANES], scores: [[0.0; KEY_BLOCK]; MAX_TILE_ROWS] };
        for row in (self.first..self.end).step_by(S::TILE_ROWS) {
            let rows = S::TILE_ROWS.min(self.end - row);
            (running.max, running.sum) = ([f32::NEG_INFINITY; LANES], [0.0; LANES]);
            for key in (0..tokens).step_by(KEY_BLOCK) {
                let block = Block { row, rows, key, keys: KEY_BLOCK.min(tokens - key) };
                self.scores(s, block, &mut running.scores);
                let rescale = running.absorb(s, rows, block.keys, self.job.scale);
                self.values(s, block, &running.scores, (key > 0).then_some(&rescale));
            }
            for i in 0..rows {
                let out = self.out_row(row + i, 0..self.job.layout.head_dim);
                let (body, tail) = lanes_mut(out);
                let sum = s.splat(running.sum[i]);
                for chunk in body {
                    s.store(s.div(s.load(chunk), sum), chunk);
                }
                for x in tail {
                    *x /= running.sum[i];
                }
            }
        }
    }
}

impl Rows<'_> {
    /// q·kᵀ of a tile of rows with a block of keys; whole panels, so that up to 15 scores past the last are junk.
    #[inline(always)]
    fn scores<S: Simd>(&self, s: S, Block { row, rows, key, keys }: Block, scores: &mut Scores) {
        let KvLayout { heads, head_dim, .. } = self.job.layout;
        let inner = heads * head_dim;
        let q = &self.job.q[row * inner..][..rows * inner];
        let head_len = self.job.k.len() / heads;
        let (k, _) = self.job.k[self.head * head_len..][..head_len].as_chunks::<LANES>();
        let first = key / LANES;
        for (panel, panels) in even_tiles(first..first + keys.div_ceil(LANES), panels_per_tile::<S>(rows)) {
            let tile = Tile {
                a: q[self.head * head_dim..].as_ptr(),
                a_stride: inner,
                b: k[panel * head_dim..][..panels * head_dim].as_ptr(),
                panel_stride: head_dim,
                depth: head_dim,
                out: scores.as_flattened_mut()[(panel - first) * LANES..].as_mut_ptr(),
                out_stride: KEY_BLOCK,
                resume: false,
            };
            // SAFETY: q has `rows` rows whose head starts at that column; k has `panels` panels from there on; the
            // scores have MAX_TILE_ROWS rows of a block's panels, and are ours.
            unsafe { tile.run(s, rows, panels) }
        }
    }

    /// out = out·rescale + p·v; without `rescale`, out = p·v.
    #[inline(always)]
    fn values<S: Simd>(
        &self,
        s: S,
        Block { row, rows, key, keys }: Block,
        scores: &Scores,
        rescale: Option<&[f32; LANES]>,
    ) {
        let KvLayout { heads, head_dim, tokens } = self.job.layout;
        let head_len = self.job.v.len() / heads;
        let (v, _) = self.job.v[self.head * head_len..][..head_len].as_chunks::<LANES>();
        let mut sums = [[0.0f32; MAX_TILE_COLUMNS]; MAX_TILE_ROWS];
        for (panel, panels) in even_tiles(0..head_dim.div_ceil(LANES), panels_per_tile::<S>(rows)) {
            let columns = panel * LANES..((panel + panels) * LANES).min(head_dim);
            if let Some(rescale) = rescale {
                for (i, sums) in sums[..rows].iter_mut().enumerate() {
                    for (sum, x) in sums.iter_mut().zip(self.out_row(row + i, columns.clone())) {
                        *sum = *x * rescale[i];
                    }
                }
            }
            let tile = Tile {
                a: scores.as_ptr().cast(),
                a_stride: KEY_BLOCK,
                b: v[panel * tokens + key..][..(panels - 1) * tokens + keys].as_ptr(),
                panel_stride: tokens,
                depth: keys,
                out: sums.as_mut_ptr().cast(),
                out_stride: MAX_TILE_COLUMNS,
                resume: rescale.is_some(),
            };
            // SAFETY: the scores have MAX_TILE_ROWS rows of KEY_BLOCK; v has `keys` rows in each of `panels` panels from
            // there on; `sums` has room for the largest tile and is ours.
            unsafe { tile.run(s, rows, panels) }
            for (i, sums) in sums[..rows].iter().enumerate() {
                self.out_row(row + i, columns.clone()).copy_from_slice(&sums[..columns.len()]);
            }
        }
    }

    /// Some of this head's columns in a row of the output.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    fn out_row(&self, row: usize, columns: core::ops::Range<usize>) -> &mut [f32] {
        let start = row * self.job.layout.inner() + self.head * self.job.layout.head_dim;
        // SAFETY: this head's columns of these rows belong to this task, which holds one such slice at a time.
        unsafe { self.job.out.part(start + columns.start..start + columns.end) }
    }
}

impl Running {
    /// Turns a block's raw scores into e^(score·scale − max), and says by what to multiply what was summed before.
    #[inline(always)]
    fn absorb<S: Simd>(&mut self, s: S, rows: usize, keys: usize, scale: f32) -> [f32; LANES] {
        let scale = s.splat(scale);
        let mut max = self.max;
        for (row, max) in self.scores[..rows].iter_mut().zip(&mut max) {
            let (chunks, _) = lanes_mut(&mut row[..keys.next_multiple_of(LANES)]);
            let mut largest = s.splat(*max);
            for (i, chunk) in chunks.iter_mut().enumerate() {
                let mut v = s.mul(s.load(chunk), scale);
                s.store(v, chunk);
                if (i + 1) * LANES > keys {
                    // Keys past the last one weigh nothing.
                    v = f32::load_tail(s, &chunk[..keys - i * LANES], f32::NEG_INFINITY);
                    s.store(v, chunk);
                }
                largest = s.max(largest, v);
            }
            *max = s.largest(largest);
        }
        let mut rescale = [0.0; LANES];
        s.store(exp_lanes(s, s.sub(s.load(&self.max), s.load(&max))), &mut rescale);
        for (i, row) in self.scores[..rows].iter_mut().enumerate() {
            let (chunks, _) = lanes_mut(&mut row[..keys.next_multiple_of(LANES)]);
            let max = s.splat(max[i]);
            let mut sum = s.splat(0.0);
            for chunk in chunks {
                let p = exp_lanes(s, s.sub(s.load(chunk), max));
                sum = s.add(sum, p);
                s.store(p, chunk);
            }
            self.sum[i] = self.sum[i] * rescale[i] + s.sum(sum);
        }
        self.max = max;
        rescale
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::reference;
    use crate::testing::{levels, noise};

    /// Runs over q, k, v as rows of [heads·head_dim], the query rows in blocks and the keys packed in blocks.
    fn run(isa: Isa, layout: KvLayout, scale: f32, [q, k, v]: [&[f32]; 3], block: usize) -> Vec<f32> {
        let inner = layout.inner();
        let (mut keys, mut values) = (vec![f32::NAN; layout.k_len().unwrap()], vec![f32::NAN; layout.v_len().unwrap()]);
        let kv: Vec<f32> =
            (0..layout.tokens).flat_map(|t| [&k[t * inner..][..inner], &v[t * inner..][..inner]].concat()).collect();
        for (i, kv) in kv.chunks(block * 2 * inner).enumerate() {
            PackKv::new(layout, kv, i * block, &mut keys, &mut values).unwrap().run();
        }
        let mut out = vec![7.0; q.len()];
        for (q, out) in q.chunks(block * inner).zip(out.chunks_mut(block * inner)) {
            Attention::new(isa, layout, scale, q, (&keys, &values), out).unwrap().run();
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
            let out = run(isa, layout, 0.5, [&with(&q, 1, f32::NAN), &k, &v], 20);
            assert!(out[..4].iter().all(|x| x.is_nan()) && out[4..].iter().all(|x| x.is_finite()), "{isa}");
            let out = run(isa, layout, 0.5, [&q, &with(&k, 77, f32::NAN), &v], 20);
            assert!(out.iter().all(|x| x.is_nan()), "{isa}");
            let out = run(isa, layout, 0.5, [&q, &k, &with(&v, 77, f32::NAN)], 20);
            assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (i % 4 == 1)), "{isa}");
        }
    }

    #[test]
    fn shapes() {
        let (isa, layout) = (Isa::best(), KvLayout { heads: 2, head_dim: 3, tokens: 5 });
        let (k, v) = (vec![0.0; layout.k_len().unwrap()], vec![0.0; layout.v_len().unwrap()]);
        let mut out = [0.0; 12];
        assert!(Attention::new(isa, layout, 1.0, &[0.0; 12], (&k, &v), &mut out).is_ok());
        assert!(Attention::new(isa, layout, 1.0, &[0.0; 11], (&k, &v), &mut out[..11]).is_err());
        assert!(Attention::new(isa, layout, 1.0, &[0.0; 6], (&k, &v), &mut out).is_err());
        assert!(Attention::new(isa, layout, 1.0, &[0.0; 12], (&k[1..], &v), &mut out).is_err());
        assert!(Attention::new(isa, layout, 1.0, &[0.0; 12], (&k, &v[1..]), &mut out).is_err());
        let (mut k, mut v) = (k.clone(), v.clone());
        assert!(PackKv::new(layout, &[0.0; 24], 3, &mut k, &mut v).is_ok());
        assert!(PackKv::new(layout, &[0.0; 24], 4, &mut k, &mut v).is_err());
        assert!(PackKv::new(layout, &[0.0; 13], 0, &mut k, &mut v).is_err());
        let huge = KvLayout { heads: usize::MAX / 2, head_dim: 7, tokens: 5 };
        assert_eq!(huge.k_len(), None);
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
