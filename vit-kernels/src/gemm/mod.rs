//! Tiled matmul over weights packed once: out = epilogue(A·Wᵀ).
//!
//! ```text
//! for each group of weight panels        a task; the group stays in L2
//!     for each tile of rows of A         read in place, row-major
//!         tile: the whole depth, sums in registers
//!         epilogue on the tile's rows, into `out`
//! ```
//! Neither A nor the depth is blocked: A's few rows sit in L1 while a panel streams by. Rows and columns that are left
//! over get tiles of exactly their size.
#![allow(unsafe_code)] // The loops around the tile hand it pointers.

mod epilogue;
mod pack;
pub(crate) mod tile;

use core::ops::Range;

pub use epilogue::Epilogue;
pub use pack::{PackError, Packed, Panels, pack, packed_len};

use crate::error::{ShapeError, expect_len};
use crate::half::{Storage, f16};
use crate::isa::Isa;
use crate::job::{Job, Shared};
use crate::simd::{Kernel, LANES, MAX_TILE_ROWS, Simd};
use tile::{MAX_TILE_COLUMNS, Tile, panels_per_tile};

/// out = epilogue(A·Wᵀ): `a` is \[rows, k\], `weights` \[n, k\] packed, `out` \[rows, n\]; all row-major.
///
/// Before the epilogue every output is one chain of k multiply–adds over ascending k (fused on levels that have it),
/// from 0: its error is at most (k + 1)·2⁻²⁴·Σ|aₖ·wₖ| against the weights as they are stored. The same rows give the
/// same bits whatever the number of rows beside them. NaN and infinities follow IEEE 754. With k = 0 the sums are 0;
/// with n or rows 0 nothing happens.
///
/// # Errors
/// When a length does not fit: rows come from `out`.
pub fn matmul(
    isa: Isa,
    a: &[f32],
    weights: Packed<'_>,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    Matmul::new(isa, a, weights, epilogue, out)?.run();
    Ok(())
}

/// A prepared [`matmul`], cut into groups of columns.
pub struct Matmul<'a> {
    isa: Isa,
    a: &'a [f32],
    rows: usize,
    weights: Packed<'a>,
    epilogue: Epilogue<'a>,
    out: Shared<'a, f32>,
}

/// Multiply–accumulates below which a task is not worth handing out: some microseconds.
const TASK_MACS: usize = 1 << 18;

impl<'a> Matmul<'a> {
    /// Checks the shapes; see [`matmul`].
    ///
    /// # Errors
    /// As [`matmul`].
    pub fn new(
        isa: Isa,
        a: &'a [f32],
        weights: Packed<'a>,
        epilogue: Epilogue<'a>,
        out: &'a mut [f32],
    ) -> Result<Self, ShapeError> {
        let (n, k) = (weights.n(), weights.k());
        let rows = out.len().checked_div(n).unwrap_or(0);
        expect_len("matmul: out is not a whole number of rows", Some(rows * n), out.len())?;
        if n > 0 {
            expect_len("matmul: a has k elements for each row of out", rows.checked_mul(k), a.len())?;
        }
        epilogue.check(n)?;
        Ok(Self { isa, a, rows, weights, epilogue, out: Shared::new(out) })
    }

    fn panels(&self) -> usize {
        self.weights.n().div_ceil(LANES)
    }

    /// Panels a task takes: a multiple of every tile's width, so that no tile is cut.
    fn task_panels(&self) -> usize {
        const TILES: usize = 12;
        let macs = self.rows * self.weights.k() * LANES;
        let panels = TASK_MACS.div_ceil(macs.max(1)).min(self.panels().max(1));
        let unit = if self.rows == 1 { TILES } else { 3 };
        panels.next_multiple_of(unit)
    }
}

// SAFETY: a task writes the columns of its own panels alone.
unsafe impl Job for Matmul<'_> {
    fn tasks(&self) -> usize {
        if self.rows == 0 { 0 } else { self.panels().div_ceil(self.task_panels()) }
    }

    unsafe fn task(&self, index: usize) {
        if index >= self.tasks() {
            return;
        }
        let start = index * self.task_panels();
        let panels = start..(start + self.task_panels()).min(self.panels());
        match self.weights.panels() {
            Panels::F32(data) => self.isa.call(Columns { job: self, data, panels }),
            Panels::F16(data) => self.isa.call(Columns::<f16> { job: self, data, panels }),
        }
    }
}

/// All rows of some panels.
struct Columns<'a, E> {
    job: &'a Matmul<'a>,
    data: &'a [E],
    panels: Range<usize>,
}

impl<E: Storage> Kernel for Columns<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Matmul { a, rows, weights, epilogue, out, .. } = self.job;
        let (n, k, rows) = (weights.n(), weights.k(), *rows);
        let (data, _) = self.data.as_chunks::<LANES>();
        let mut sums = [[0.0f32; MAX_TILE_COLUMNS]; MAX_TILE_ROWS];
        for (panel, panels) in even_tiles(self.panels, panels_per_tile::<S>(rows)) {
            let column = panel * LANES;
            let columns = (panels * LANES).min(n - column);
            for row in (0..rows).step_by(S::TILE_ROWS) {
                let tile_rows = S::TILE_ROWS.min(rows - row);
                let tile = Tile {
                    a: a[row * k..][..tile_rows * k].as_ptr(),
                    a_stride: k,
                    b: data[panel * k..][..panels * k].as_ptr(),
                    panel_stride: k,
                    depth: k,
                    out: sums.as_mut_ptr().cast(),
                    out_stride: MAX_TILE_COLUMNS,
                    resume: false,
                };
                // SAFETY: the slices above hold `tile_rows` rows of A and `panels` panels; `sums` has room for the
                // largest tile and is ours.
                unsafe { tile.run(s, tile_rows, panels) }
                for (i, sums) in sums[..tile_rows].iter().enumerate() {
                    let at = (row + i) * n + column;
                    // SAFETY: no other task writes these columns, and this one makes no second reference to them.
                    let out = unsafe { out.part(at..at + columns) };
                    epilogue.apply(s, sums, column, out);
                }
            }
        }
    }
}

/// Cuts `panels` into tiles of at most `most`, as even as can be: four panels are two and two, not three and one,
/// because a narrow tile has too few chains to keep the multipliers busy.
#[inline(always)]
pub(crate) fn even_tiles(panels: Range<usize>, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut start = panels.start;
    core::iter::from_fn(move || {
        let left = panels.end - start;
        let width = left.checked_div(left.div_ceil(most))?;
        start += width;
        Some((start - width, width))
    })
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::half::Element;
    use crate::reference;
    use crate::testing::{levels, noise};
    use crate::{Gelu, gelu};

    fn packed<E: Element>(w: &[f32], n: usize, k: usize) -> Vec<E> {
        let mut out = vec![E::default(); packed_len(n, k).unwrap()];
        pack(n, k, |row, start, into| into.copy_from_slice(&w[row * k + start..][..into.len()]), &mut out).unwrap();
        out
    }

    fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| x.into()).collect()
    }

    fn check(isa: Isa, rows: usize, n: usize, k: usize, a: &[f32], w: &[f32], got: &[f32]) {
        let mut want = vec![0.0; rows * n];
        let mut magnitude = vec![0.0; rows * n];
        let abs = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x).abs()).collect() };
        reference::matmul(&wide(a), &wide(w), k, &mut want);
        reference::matmul(&abs(a), &abs(w), k, &mut magnitude);
        for i in 0..rows * n {
            let bound = (k + 1) as f64 * 2f64.powi(-24) * magnitude[i];
            assert!(
                (f64::from(got[i]) - want[i]).abs() <= bound,
                "{isa} {rows}x{n}x{k} at {i}: {} not {}",
                got[i],
                want[i]
            );
        }
    }

    /// Both storage types against the reference; f16's truth is what the weights were rounded to.
    fn run(isa: Isa, rows: usize, n: usize, k: usize, seed: u64) {
        let (a, w) = (noise(rows * k, seed, 2.0), noise(n * k, seed + 1, 1.0));
        let mut got = vec![9.0; rows * n];
        let panels = packed::<f32>(&w, n, k);
        matmul(isa, &a, Packed::new(n, k, Panels::F32(&panels)).unwrap(), Epilogue::default(), &mut got).unwrap();
        check(isa, rows, n, k, &a, &w, &got);
        let panels = packed::<f16>(&w, n, k);
        let rounded: Vec<f32> = w.iter().map(|&w| f16::from_f32_const(w).to_f32_const()).collect();
        matmul(isa, &a, Packed::new(n, k, Panels::F16(&panels)).unwrap(), Epilogue::default(), &mut got).unwrap();
        check(isa, rows, n, k, &a, &rounded, &got);
    }

    #[test]
    fn bound_holds_around_every_tile_edge() {
        for isa in levels() {
            for rows in (0..=26).chain([48, 50]) {
                for n in [0, 1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 80, 97, 113] {
                    for k in [0, 1, 2, 7, 33] {
                        run(isa, rows, n, k, 3);
                    }
                }
            }
            run(isa, 197, 192, 192, 4);
            run(isa, 1, 1000, 768, 5);
        }
    }

    #[test]
    fn agrees_with_matrixmultiply() {
        let (rows, n, k) = (61, 130, 97);
        let (a, w) = (noise(rows * k, 1, 1.0), noise(n * k, 2, 1.0));
        let mut other = vec![0.0f32; rows * n];
        let (rs, cs) = (n as isize, k as isize);
        // SAFETY: the three matrices have the shapes that the strides say; B is W seen transposed.
        unsafe {
            let (a, b, c) = (a.as_ptr(), w.as_ptr(), other.as_mut_ptr());
            matrixmultiply::sgemm(rows, k, n, 1.0, a, cs, 1, b, 1, cs, 0.0, c, rs, 1);
        }
        for isa in levels() {
            let (panels, mut got) = (packed::<f32>(&w, n, k), vec![0.0; rows * n]);
            matmul(isa, &a, Packed::new(n, k, Panels::F32(&panels)).unwrap(), Epilogue::default(), &mut got).unwrap();
            assert!(got.iter().zip(&other).all(|(got, other)| (got - other).abs() < 1e-4), "{isa}");
        }
    }

    /// A row's bits do not depend on the rows beside it, nor on the tile that computed it.
    #[test]
    fn rows_are_independent_to_the_bit() {
        for isa in levels() {
            for (n, k) in [(100, 70), (16, 5), (200, 33)] {
                let (a, w) = (noise(40 * k, 1, 1.0), noise(n * k, 2, 1.0));
                let panels = packed::<f32>(&w, n, k);
                let weights = Packed::new(n, k, Panels::F32(&panels)).unwrap();
                let mut whole = vec![0.0; 40 * n];
                matmul(isa, &a, weights, Epilogue::default(), &mut whole).unwrap();
                for block in 1..40 {
                    let mut cut = vec![0.0; 40 * n];
                    for (a, out) in a.chunks(block * k).zip(cut.chunks_mut(block * n)) {
                        matmul(isa, a, weights, Epilogue::default(), out).unwrap();
                    }
                    assert_eq!(cut, whole, "{isa} blocks of {block}");
                }
            }
        }
    }

    #[test]
    fn fused_levels_agree_to_the_bit() {
        let fused: Vec<Isa> = levels().into_iter().filter(|&isa| isa != Isa::PORTABLE).collect();
        let (rows, n, k) = (29, 75, 131);
        let (a, w, bias) = (noise(rows * k, 1, 1.0), noise(n * k, 2, 1.0), noise(n, 3, 1.0));
        let panels = packed::<f32>(&w, n, k);
        let run = |isa| {
            let mut out = noise(rows * n, 4, 1.0);
            let epilogue =
                Epilogue { bias: Some(&bias), activation: Some(Gelu::Erf), residual: true, ..Epilogue::default() };
            matmul(isa, &a, Packed::new(n, k, Panels::F32(&panels)).unwrap(), epilogue, &mut out).unwrap();
            out
        };
        for pair in fused.windows(2) {
            assert_eq!(run(pair[0]), run(pair[1]), "{} {}", pair[0], pair[1]);
        }
        // On a machine with one such level alone the truth stands in: one chain of fused multiply-adds.
        for &isa in &fused {
            let mut out = vec![0.0; rows * n];
            let weights = Packed::new(n, k, Panels::F32(&panels)).unwrap();
            matmul(isa, &a, weights, Epilogue::default(), &mut out).unwrap();
            for (i, &out) in out.iter().enumerate() {
                let (a, w) = (&a[i / n * k..][..k], &w[i % n * k..][..k]);
                let chain = a.iter().zip(w).fold(0.0f32, |sum, (a, w)| a.mul_add(*w, sum));
                assert_eq!(out.to_bits(), chain.to_bits(), "{isa}");
            }
        }
    }

    #[test]
    fn epilogue_is_the_formula() {
        let (rows, k) = (11, 9);
        for isa in levels() {
            for n in [1, 16, 37, 100] {
                let (a, w) = (noise(rows * k, 1, 1.0), noise(n * k, 2, 1.0));
                let (bias, factor, before) = (noise(n, 3, 1.0), noise(n, 4, 1.0), noise(rows * n, 5, 1.0));
                let panels = packed::<f32>(&w, n, k);
                let weights = Packed::new(n, k, Panels::F32(&panels)).unwrap();
                let mut sums = before.clone();
                matmul(isa, &a, weights, Epilogue::default(), &mut sums).unwrap();
                for bits in 0..8 {
                    for activation in [None, Some(Gelu::Erf), Some(Gelu::Tanh), Some(Gelu::Quick)] {
                        let epilogue = Epilogue {
                            bias: (bits & 1 > 0).then_some(&*bias),
                            activation,
                            scale: (bits & 2 > 0).then_some(&*factor),
                            residual: bits & 4 > 0,
                        };
                        let mut want = sums.clone();
                        for (i, x) in want.iter_mut().enumerate() {
                            *x += epilogue.bias.map_or(0.0, |bias| bias[i % n]);
                        }
                        if let Some(form) = activation {
                            gelu(isa, form, &mut want);
                        }
                        for (i, x) in want.iter_mut().enumerate() {
                            *x *= epilogue.scale.map_or(1.0, |factor| factor[i % n]);
                            *x += if epilogue.residual { before[i] } else { 0.0 };
                        }
                        let mut got = before.clone();
                        matmul(isa, &a, weights, epilogue, &mut got).unwrap();
                        assert_eq!(got, want, "{isa} n {n} {epilogue:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_are_even() {
        for most in 1..5 {
            for end in 2..30 {
                let tiles: Vec<_> = even_tiles(2..end, most).collect();
                assert_eq!(tiles.iter().map(|tile| tile.1).sum::<usize>(), end - 2);
                let widths = || tiles.iter().map(|tile| tile.1);
                assert!(widths().max().unwrap_or(1) <= most);
                assert!(widths().max().unwrap_or(1) - widths().min().unwrap_or(1) <= 1, "{tiles:?}");
            }
        }
    }

    #[test]
    fn shapes() {
        let (isa, plain) = (Isa::best(), Epilogue::default());
        let weights = Packed::new(2, 3, Panels::F32(&[0.0; 48])).unwrap();
        assert!(matmul(isa, &[0.0; 6], weights, plain, &mut [0.0; 4]).is_ok());
        assert!(matmul(isa, &[0.0; 6], weights, plain, &mut [0.0; 3]).is_err());
        assert!(matmul(isa, &[0.0; 5], weights, plain, &mut [0.0; 4]).is_err());
        let biased = Epilogue { bias: Some(&[0.0; 3]), ..plain };
        assert!(matmul(isa, &[0.0; 6], weights, biased, &mut [0.0; 4]).is_err());
        let scaled = Epilogue { scale: Some(&[0.0; 1]), ..plain };
        assert!(matmul(isa, &[0.0; 6], weights, scaled, &mut [0.0; 4]).is_err());
        let none = Packed::new(0, 3, Panels::F32(&[])).unwrap();
        assert!(matmul(isa, &[0.0; 6], none, plain, &mut []).is_ok());
        assert!(matmul(isa, &[0.0; 6], none, plain, &mut [0.0]).is_err());
    }

    proptest! {
        #[test]
        fn any_shape(rows in 0usize..40, n in 0usize..120, k in 0usize..90, seed in 1u64..1000) {
            for isa in levels() {
                run(isa, rows, n, k, seed);
            }
        }
    }
}
