//! The product of int8 rows and int8 weights: exact sums in i32, then one fixed sequence of f32 operations.
//!
//! ```text
//! acc[M][P] = −zero point · Σ w
//! for each group of four inputs:
//!     w[P] = the group of each panel          64 bytes per panel
//!     for m: acc[m][:] += a[m]·w[:]           four bytes of a row, broadcast
//! out = finish((acc · weights' scale) · row's scale)
//! ```
#![allow(unsafe_code)] // The tile takes pointers.

use core::ops::Range;

use super::Matmul;
use super::epilogue::Finish;
use super::format::int8::{GROUP, Group, Int8Weights};
use super::part::even_tiles;
use super::tile::{self, MAX_TILE_COLUMNS, Prefetch};
use crate::quantise::Quantised;
use crate::simd::{Kernel, LANES, MAX_INT8_ROWS, MAX_TILE_PANELS, Simd};

/// A range of quantised rows times a range of int8 panels.
pub(super) struct Int8Part<'a> {
    pub(super) job: &'a Matmul<'a>,
    pub(super) a: Quantised<'a>,
    pub(super) weights: Int8Weights<'a>,
    pub(super) panels: Range<usize>,
    pub(super) rows: Range<usize>,
}

impl Kernel for Int8Part<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const { assert!(S::INT8_ROWS <= MAX_INT8_ROWS && S::INT8_PANELS <= MAX_TILE_PANELS) }
        for row in self.rows.clone().step_by(S::INT8_ROWS) {
            let rows = row..(row + S::INT8_ROWS).min(self.rows.end);
            for (panel, panels) in even_tiles(self.panels.clone(), S::INT8_PANELS) {
                self.tile(s, rows.clone(), panel..panel + panels);
            }
        }
    }
}

impl Int8Part<'_> {
    #[inline(always)]
    fn tile<S: Simd>(&self, s: S, rows: Range<usize>, panels: Range<usize>) {
        let Matmul { weights, epilogue, out, .. } = self.job;
        let (n, groups, row_len) = (weights.n(), self.weights.groups, self.weights.groups * GROUP);
        let columns = panels.start * LANES..(panels.end * LANES).min(n);
        let following =
            (panels.end * groups + rows.start / S::INT8_ROWS % 8 * (groups / 8)).min(self.weights.panels.len());
        let mut tile = Int8Tile {
            a: self.a.values[rows.start * row_len..rows.end * row_len].as_ptr(),
            a_row: row_len,
            a_step: GROUP,
            a_scales: &self.a.scales[rows.clone()],
            w: self.weights.panels[panels.start * groups..panels.end * groups].as_ptr(),
            w_panel: groups,
            w_step: 1,
            groups,
            w_scales: &self.weights.scales[panels.clone()],
            sums: &self.weights.sums[panels.clone()],
            out: core::ptr::null_mut(),
            out_row: n,
            finish: Finish::default(),
            prefetch: Prefetch { start: self.weights.panels.as_ptr().wrapping_add(following).cast(), step: 8 },
        };
        if columns.len() == panels.len() * LANES && !epilogue.needs_two_passes() {
            tile.finish = epilogue.finish(&columns);
            tile.out = out.at(rows.start * n + columns.start, (rows.len() - 1) * n + columns.len());
            // SAFETY: the slices above hold the rows and the panels; no other task touches these columns of these rows.
            unsafe { tile.run(s, rows.len(), panels.len()) }
            if let Some(activation) = epilogue.activation {
                for row in rows {
                    // SAFETY: as above; only one such reference lives at a time.
                    activation.slice(s, unsafe { out.part(row * n + columns.start..row * n + columns.end) });
                }
            }
            return;
        }
        // The tile writes to a buffer, then each row goes through the epilogue.
        let mut sums = [[0.0f32; MAX_TILE_COLUMNS]; MAX_INT8_ROWS];
        (tile.out, tile.out_row) = (sums.as_mut_ptr().cast(), MAX_TILE_COLUMNS);
        // SAFETY: as above; `sums` is local and has room for the largest tile.
        unsafe { tile.run(s, rows.len(), panels.len()) }
        for (row, sums) in rows.zip(&sums) {
            // SAFETY: as above; only one such reference lives at a time.
            epilogue.apply(s, sums, columns.start, unsafe { out.part(row * n + columns.start..row * n + columns.end) });
        }
    }
}

/// The operands of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Int8Tile<'a> {
    /// Activations: the four bytes of row m and group g start at m·`a_row` + g·`a_step`.
    pub(crate) a: *const i8,
    pub(crate) a_row: usize,
    pub(crate) a_step: usize,
    /// One for each row.
    pub(crate) a_scales: &'a [f32],
    /// Weights: group g of panel p is at p·`w_panel` + g·`w_step`.
    pub(crate) w: *const Group,
    pub(crate) w_panel: usize,
    pub(crate) w_step: usize,
    pub(crate) groups: usize,
    /// One vector for each panel.
    pub(crate) w_scales: &'a [[f32; LANES]],
    /// Σ w of each output, one vector for each panel.
    pub(crate) sums: &'a [[i32; LANES]],
    /// The rows written, `out_row` apart, LANES elements per panel.
    pub(crate) out: *mut f32,
    pub(crate) out_row: usize,
    pub(crate) finish: Finish<'a>,
    pub(crate) prefetch: Prefetch,
}

impl Int8Tile<'_> {
    /// # Safety
    /// Everything that the fields span for that many rows and panels is readable, and writable for `out`; nothing else
    /// refers to `out` meanwhile. `rows` ≤ `S::INT8_ROWS` and `panels` ≤ `S::INT8_PANELS`.
    #[inline(always)]
    pub(crate) unsafe fn run<S: Simd>(self, s: S, rows: usize, panels: usize) {
        debug_assert!((1..=S::INT8_ROWS).contains(&rows) && (1..=S::INT8_PANELS).contains(&panels));
        match panels {
            3 if S::INT8_PANELS >= 3 => self.with_panels::<S, 3>(s, rows),
            2 if S::INT8_PANELS >= 2 => self.with_panels::<S, 2>(s, rows),
            _ => self.with_panels::<S, 1>(s, rows),
        }
    }

    #[inline(always)]
    fn with_panels<S: Simd, const P: usize>(self, s: S, rows: usize) {
        match rows {
            8 if S::INT8_ROWS >= 8 => s.call(Int8Sweep::<8, P>(self)),
            7 if S::INT8_ROWS >= 7 => s.call(Int8Sweep::<7, P>(self)),
            6 if S::INT8_ROWS >= 6 => s.call(Int8Sweep::<6, P>(self)),
            5 if S::INT8_ROWS >= 5 => s.call(Int8Sweep::<5, P>(self)),
            4 if S::INT8_ROWS >= 4 => s.call(Int8Sweep::<4, P>(self)),
            3 if S::INT8_ROWS >= 3 => s.call(Int8Sweep::<3, P>(self)),
            2 => s.call(Int8Sweep::<2, P>(self)),
            _ => s.call(Int8Sweep::<1, P>(self)),
        }
    }
}

/// A tile of `M` rows × `P` panels. Only [`Int8Tile::run`] makes one; its caller vouches for the pointers.
struct Int8Sweep<'a, const M: usize, const P: usize>(Int8Tile<'a>);

impl<const M: usize, const P: usize> Kernel for Int8Sweep<'_, M, P> {
    type Output = ();
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        let mut acc = [[s.start(&t.sums[0]); P]; M];
        for m in 0..M {
            for p in 0..P {
                acc[m][p] = s.start(&t.sums[p]);
            }
        }
        for group in 0..t.groups {
            s.prefetch(t.prefetch.start.wrapping_add(group * t.prefetch.step));
            // SAFETY: the caller of `Int8Tile::run` vouches for P panels and M rows of that many groups.
            unsafe {
                let mut w = [s.load_weights(&*t.w.add(group * t.w_step)); P];
                for p in 1..P {
                    w[p] = s.load_weights(&*t.w.add(p * t.w_panel + group * t.w_step));
                }
                for m in 0..M {
                    let a = s.splat_activations(*t.a.add(m * t.a_row + group * t.a_step).cast());
                    for p in 0..P {
                        acc[m][p] = s.dot(acc[m][p], a, w[p]);
                    }
                }
            }
        }
        let mut out = [[s.splat(0.0); P]; M];
        for p in 0..P {
            let scale = s.load(&t.w_scales[p]);
            for m in 0..M {
                out[m][p] = s.mul(s.mul(s.to_f32(acc[m][p]), scale), s.splat(t.a_scales[m]));
            }
        }
        // SAFETY: the caller of `Int8Tile::run` vouches for M rows of `out`.
        unsafe { tile::finish(s, out, &t.finish, t.out, t.out_row) }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::format::int8::MOST_INPUTS;
    use super::super::{Accumulate, Epilogue, Format, Line, PackError, Packed};
    use super::*;
    use crate::quantise::{Quantise, quantised_len};
    use crate::testing::{levels, nans, noise};
    use crate::{Activation, Isa, Job, activate};

    fn packed(w: &[f32], n: usize, k: usize) -> Vec<Line> {
        let mut out = vec![Line::ZERO; Format::Int8.lines(n, k).unwrap()];
        let read =
            |row: usize, start: usize, into: &mut [f32]| into.copy_from_slice(&w[row * k + start..][..into.len()]);
        Format::Int8.pack(n, k, read, &mut out).unwrap();
        out
    }

    fn quantised(isa: Isa, a: &[f32], k: usize) -> (Vec<i8>, Vec<f32>) {
        let rows = a.len().checked_div(k).unwrap_or(0);
        let (mut values, mut scales) = (vec![1; rows * quantised_len(k)], vec![9.0; rows]);
        Quantise::new(isa, a, k, &mut values, &mut scales).unwrap().run();
        (values, scales)
    }

    fn product(isa: Isa, a: &[f32], w: &[Line], [n, k]: [usize; 2], epilogue: Epilogue<'_>, out: &mut [f32]) {
        let (values, scales) = quantised(isa, a, k);
        let a = Quantised::new(isa, k, &values, &scales).unwrap();
        Matmul::new(isa, a, Packed::new(Format::Int8, n, k, w).unwrap(), epilogue, out).unwrap().run();
    }

    /// The documented formula: exact sums, then the f32 operations in order.
    fn formula(a: &[f32], w: &[f32], k: usize) -> Vec<f32> {
        let quantise = |row: &[f32]| -> (Vec<i64>, f32) {
            let largest = row.iter().fold(0.0f32, |a, x| a.max(x.abs()));
            let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
            (row.iter().map(|x| (x * inverse).round_ties_even() as i64).collect(), largest / 127.0)
        };
        let (a, w): (Vec<_>, Vec<_>) = (a.chunks(k).map(quantise).collect(), w.chunks(k).map(quantise).collect());
        let dot = |a: &[i64], w: &[i64]| a.iter().zip(w).map(|(a, w)| a * w).sum::<i64>() as f32;
        a.iter().flat_map(|(a, sa)| w.iter().map(move |(w, sw)| dot(a, w) * sw * sa)).collect()
    }

    fn check(isa: Isa, rows: usize, n: usize, k: usize, seed: u64) {
        let (a, w) = (noise(rows * k, seed, 2.0), noise(n * k, seed + 1, 1.0));
        let lines = packed(&w, n, k);
        let mut got = vec![9.0; rows * n];
        product(isa, &a, &lines, [n, k], Epilogue::default(), &mut got);
        let want = formula(&a, &w, k);
        assert_eq!(got, want, "{isa} {rows}x{n}x{k}");
        // Rounding changes each factor by at most half a step.
        for (row, a) in a.chunks(k).enumerate() {
            let of = |x: &[f32]| x.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
            for (column, w) in w.chunks(k).enumerate() {
                let exact: f64 = a.iter().zip(w).map(|(a, w)| f64::from(*a) * f64::from(*w)).sum();
                let (step_a, step_w) = (of(a) / 254.0, of(w) / 254.0);
                let sizes = |x: &[f32]| x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
                let bound = step_w * sizes(a) + step_a * sizes(w) + k as f64 * step_a * step_w;
                let error = (f64::from(got[row * n + column]) - exact).abs();
                assert!(error <= bound * 1.001, "{isa} {rows}x{n}x{k}: {error} > {bound}");
            }
        }
    }

    #[test]
    fn every_level_gives_the_formulas_bits_around_every_edge() {
        for isa in levels() {
            for rows in (1..=18).chain([50]) {
                for n in [1, 15, 16, 17, 33, 48, 49, 65, 113] {
                    for k in [1, 3, 4, 5, 16, 33, 64] {
                        check(isa, rows, n, k, 3);
                    }
                }
            }
            check(isa, 197, 192, 768, 4);
            check(isa, 3, 50, 3072, 5);
        }
    }

    #[test]
    fn largest_values_do_not_saturate() {
        for isa in levels() {
            for sign in [1.0, -1.0] {
                let (k, n) = (MOST_INPUTS, 17);
                let (a, w) = (vec![3.0; 2 * k], vec![2.0 * sign; n * k]);
                let mut got = vec![0.0; 2 * n];
                product(isa, &a, &packed(&w, n, k), [n, k], Epilogue::default(), &mut got);
                assert_eq!(got, formula(&a, &w, k), "{isa}");
            }
        }
        let too_many = Format::Int8.pack(
            1,
            MOST_INPUTS + 1,
            |_, _, _| (),
            &mut vec![Line::ZERO; Format::Int8.lines(1, MOST_INPUTS + 1).unwrap()],
        );
        assert!(matches!(too_many, Err(PackError::TooManyInputs { .. })), "{too_many:?}");
    }

    #[test]
    fn epilogues_are_the_same_on_every_level() {
        let (rows, k) = (11, 40);
        for n in [1, 16, 37, 100] {
            let (a, w) = (noise(rows * k, 1, 1.0), noise(n * k, 2, 1.0));
            let (bias, scale, before) = (noise(n, 3, 1.0), noise(n, 4, 1.0), noise(rows * n, 5, 1.0));
            let lines = packed(&w, n, k);
            for (bits, accumulate) in (0..8).flat_map(|bits| {
                [Accumulate::Replace, Accumulate::Add, Accumulate::Multiply].map(|accumulate| (bits, accumulate))
            }) {
                let epilogue = Epilogue {
                    bias: (bits & 1 > 0).then_some(&*bias),
                    activation: (bits & 4 > 0).then_some(Activation::Gelu),
                    scale: (bits & 2 > 0).then_some(&*scale),
                    accumulate,
                };
                let mut want = formula(&a, &w, k);
                for (i, x) in want.iter_mut().enumerate() {
                    *x += epilogue.bias.map_or(0.0, |bias| bias[i % n]);
                }
                if let Some(form) = epilogue.activation {
                    activate(Isa::PORTABLE.unfused(), form, &mut want);
                }
                for (i, x) in want.iter_mut().enumerate() {
                    *x *= epilogue.scale.map_or(1.0, |scale| scale[i % n]);
                    match accumulate {
                        Accumulate::Replace => {}
                        Accumulate::Add => *x += before[i],
                        Accumulate::Multiply => *x *= before[i],
                    }
                }
                for isa in levels() {
                    let mut got = before.clone();
                    product(isa, &a, &lines, [n, k], epilogue, &mut got);
                    assert_eq!(got, want, "{isa} n {n} {epilogue:?}");
                }
            }
        }
    }

    #[test]
    fn special_rows() {
        let (n, k) = (20, 9);
        let w = noise(n * k, 2, 1.0);
        let lines = packed(&w, n, k);
        for isa in levels() {
            for special in nans().into_iter().chain([f32::INFINITY, f32::NEG_INFINITY]) {
                let (mut a, mut out) = (noise(3 * k, 1, 1.0), vec![0.0; 3 * n]);
                a[k + 4] = special;
                product(isa, &a, &lines, [n, k], Epilogue::default(), &mut out);
                assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (i / n == 1)), "{isa} {special}");
            }
            // A row of zeros, a row that becomes zeros, and a row with one huge value.
            let mut a = vec![0.0; 3 * k];
            (a[k], a[2 * k + 3]) = (1e-37, f32::MAX);
            let mut out = vec![9.0; 3 * n];
            product(isa, &a, &lines, [n, k], Epilogue::default(), &mut out);
            assert!(out[..2 * n].iter().all(|x| *x == 0.0) && out[2 * n..].iter().all(|x| x.is_finite()), "{isa}");
        }
    }

    #[test]
    fn operands_that_do_not_fit() {
        let isa = Isa::best();
        let lines = packed(&[1.0; 12], 2, 6);
        let weights = Packed::new(Format::Int8, 2, 6, &lines).unwrap();
        let (values, scales) = quantised(isa, &[1.0; 18], 6);
        let rows = Quantised::new(isa, 6, &values, &scales).unwrap();
        let mut out = [0.0; 6];
        assert!(Matmul::new(isa, rows, weights, Epilogue::default(), &mut out).is_ok());
        assert!(Matmul::new(isa, rows, weights, Epilogue::default(), &mut out[..4]).is_err());
        assert!(Matmul::new(isa, &[0.0; 18], weights, Epilogue::default(), &mut out).is_err());
        let floats = [Line::ZERO; 6];
        let floats = Packed::new(Format::F32, 2, 6, &floats).unwrap();
        assert!(Matmul::new(isa, rows, floats, Epilogue::default(), &mut out).is_err());
        assert!(Quantised::new(isa, 6, &values[1..], &scales).is_err());
    }

    proptest! {
        #[test]
        fn any_shape(rows in 1usize..40, n in 1usize..120, k in 1usize..90, seed in 1u64..1000) {
            for isa in levels() {
                check(isa, rows, n, k, seed);
            }
        }
    }
}
