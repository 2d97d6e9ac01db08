//! Tiled matmul over weights packed once: out = epilogue(A·Wᵀ).
//!
//! ```text
//! for each block of the depth            usually one; A's share of it stays in L2
//!     for each group of weight panels    with some rows a task; the group stays in L2
//!         for each tile of rows of A     read in place, row-major
//!             tile: sums in registers, epilogue, out; the next group comes from memory meanwhile
//! ```
//! Rows and columns that are left over get tiles of exactly their size.
#![allow(unsafe_code)] // The loops around the tile hand it pointers.

mod epilogue;
mod format;
mod pack;
pub(crate) mod tile;

use core::ops::Range;

pub(crate) use epilogue::Finish;
pub use epilogue::{Accumulate, Epilogue};
pub(crate) use format::F32;
pub use format::{Format, Line};
pub use pack::{PackError, Packed};

use crate::error::{ShapeError, expect_len};
use crate::isa::Isa;
use crate::job::{Job, Shared, TASK_ROWS};
use crate::simd::{Kernel, LANES, MAX_TILE_ROWS, Simd};
use format::{Visitor, Weights};
use pack::panel_len;
use tile::{MAX_TILE_COLUMNS, Prefetch, Tile, panels_per_tile};

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

/// A prepared [`matmul`], cut into groups of columns and of rows.
pub struct Matmul<'a> {
    isa: Isa,
    a: &'a [f32],
    rows: usize,
    weights: Packed<'a>,
    epilogue: Epilogue<'a>,
    out: Shared<'a, f32>,
    /// Sums of the depth so far, laid out as `out`; where there are none, `out` itself serves.
    partial: Option<Shared<'a, f32>>,
    depth: Range<usize>,
}

/// Multiply–accumulates that a task should have, so that handing it out costs nothing that can be noticed: some
/// microseconds' worth.
const TASK_MACS: usize = 3 << 17;

/// Inputs that a block of the depth has at most: a few hundred rows of them stay in an L2 of 1 or 2 MB.
const DEPTH_BLOCK: usize = 1024;

/// Blocks of the depth start at multiples of it, where every format's groups do.
const DEPTH_UNIT: usize = 32;

/// Most row tiles over which the prefetching of a panel is spread.
const PREFETCH_TILES: usize = 8;

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
        Ok(Self { isa, a, rows, weights, epilogue, out: Shared::new(out), partial: None, depth: 0..k })
    }

    /// The same product in blocks of the depth, to be run one after the other: faster where A's rows are so long that
    /// they leave the cache. The bits are the same.
    ///
    /// `partial` is scratch as long as `out`, or empty: then `out` itself serves where it is replaced, and where it is not
    /// there is one block.
    ///
    /// # Errors
    /// When `partial` has another length.
    pub fn blocks(mut self, partial: &'a mut [f32]) -> Result<Blocks<'a>, ShapeError> {
        let no_room = partial.is_empty() && self.epilogue.accumulate != Accumulate::Replace;
        if !partial.is_empty() {
            expect_len("matmul: partial is as long as out", Some(self.out.len()), partial.len())?;
            self.partial = Some(Shared::new(partial));
        }
        let k = self.weights.k();
        // One row has nothing that could stay in a cache.
        let count = if self.rows > 1 && !no_room { k.div_ceil(DEPTH_BLOCK).max(1) } else { 1 };
        let size = k.div_ceil(count).next_multiple_of(DEPTH_UNIT);
        self.depth = 0..0;
        Ok(Blocks { job: self, size, left: k.div_ceil(size).max(1) })
    }

    fn panels(&self) -> usize {
        self.weights.n().div_ceil(LANES)
    }

    /// Groups of panels: a tile of the widest level each; more where rows are so few that this is no work.
    fn groups(&self) -> usize {
        let per_panel = (self.rows * self.weights.k() * LANES).max(1);
        let unit = if self.rows == 1 { 4 } else { 3 };
        self.panels().div_ceil((TASK_MACS / per_panel).max(1).next_multiple_of(unit))
    }

    /// Rows of a task.
    fn task_rows(&self) -> usize {
        let per_row = (self.weights.k() * LANES * 3).max(1);
        TASK_MACS.div_ceil(per_row).min(self.rows.max(1)).next_multiple_of(TASK_ROWS)
    }
}

/// A [`Matmul`] in blocks of the depth.
pub struct Blocks<'a> {
    job: Matmul<'a>,
    size: usize,
    left: usize,
}

impl<'a> Blocks<'a> {
    /// The next block, once the one before has run.
    #[allow(clippy::should_implement_trait)] // It lends what it yields.
    pub fn next(&mut self) -> Option<&mut Matmul<'a>> {
        self.left = self.left.checked_sub(1)?;
        let start = self.job.depth.end;
        self.job.depth = start..(start + self.size).min(self.job.weights.k());
        Some(&mut self.job)
    }
}

// SAFETY: a task writes its own rows' part of the columns of its own panels alone.
unsafe impl Job for Matmul<'_> {
    fn grid(&self) -> [usize; 2] {
        [self.rows.div_ceil(self.task_rows()), self.groups()]
    }

    unsafe fn task(&self, row: usize, group: usize) {
        let [rows, groups] = self.grid();
        if row >= rows || group >= groups {
            return;
        }
        let first = row * self.task_rows();
        let panel = |group: usize| group * self.panels() / groups;
        let panels = panel(group)..panel(group + 1);
        let rows = first..(first + self.task_rows()).min(self.rows);
        self.weights.format().visit(Task { job: self, panels, rows });
    }
}

/// Some rows of some panels.
struct Task<'a> {
    job: &'a Matmul<'a>,
    panels: Range<usize>,
    rows: Range<usize>,
}

impl Visitor for Task<'_> {
    type Output = ();
    fn visit<W: Weights>(self) {
        let Self { job, panels, rows } = self;
        job.isa.call(Part::<W> { job, data: job.weights.elements::<W>(), panels, rows });
    }
}

/// A [`Task`] whose weights are stored as `W`.
struct Part<'a, W: Weights> {
    job: &'a Matmul<'a>,
    data: &'a [W::Element],
    panels: Range<usize>,
    rows: Range<usize>,
}

impl<W: Weights> Kernel for Part<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.rows.clone().step_by(S::TILE_ROWS) {
            let rows = row..(row + S::TILE_ROWS).min(self.rows.end);
            for (panel, panels) in even_tiles(self.panels.clone(), panels_per_tile::<S>(self.job.rows)) {
                self.tile(s, rows.clone(), panel..panel + panels);
            }
        }
    }
}

impl<W: Weights> Part<'_, W> {
    #[inline(always)]
    fn tile<S: Simd>(&self, s: S, rows: Range<usize>, panels: Range<usize>) {
        let Matmul { a, weights, epilogue, out, partial, depth, .. } = self.job;
        let (n, k) = (weights.n(), weights.k());
        let panel_len = panel_len::<W>(k);
        let columns = panels.start * LANES..(panels.end * LANES).min(n);
        let (first, last) = (depth.start == 0, depth.end == k);
        let partial = partial.as_ref().unwrap_or(out);
        let mut tile = Tile::<W> {
            a: a[rows.start * k..rows.end * k][depth.start.min(k)..].as_ptr(),
            a_row: k,
            a_step: W::GROUP,
            b: self.data[panels.start * panel_len..panels.end * panel_len][depth.start * LANES..].as_ptr(),
            b_panel: panel_len,
            b_step: W::GROUP * LANES,
            depth: depth.len(),
            resume: None,
            out: core::ptr::null_mut(),
            out_row: n,
            finish: Finish::default(),
            prefetch: self.prefetch::<S>(&rows, &panels),
        };
        let whole = columns.len() == panels.len() * LANES;
        if whole && !(last && epilogue.needs_two_passes()) {
            // SAFETY: no other task touches these columns of these rows; the tile is given none but whole panels.
            unsafe {
                let at = |sums: &Shared<'_, f32>| {
                    sums.at(rows.start * n + columns.start, (rows.len() - 1) * n + columns.len())
                };
                tile.resume = (!first).then(|| at(partial).cast_const());
                tile.out = at(if last { out } else { partial });
                tile.finish = if last { epilogue.finish(&columns) } else { Finish::default() };
                tile.run(s, rows.len(), panels.len());
            }
            if let (true, Some(activation)) = (last, epilogue.activation) {
                for row in rows {
                    // SAFETY: as above; one such reference at a time.
                    activation.slice(s, unsafe { out.part(row * n + columns.start..row * n + columns.end) });
                }
            }
            return;
        }
        // By way of a buffer, one row after the other.
        let mut sums = [[0.0f32; MAX_TILE_COLUMNS]; MAX_TILE_ROWS];
        let elements = |row: usize| row * n + columns.start..row * n + columns.end;
        if !first {
            for (row, sums) in rows.clone().zip(&mut sums) {
                // SAFETY: no other task touches these columns of these rows; one such slice at a time, here and below.
                let so_far = unsafe { partial.part(elements(row)) };
                sums[..columns.len()].copy_from_slice(so_far);
            }
        }
        // One pointer for reading and writing: a second one would make the first invalid.
        (tile.out, tile.out_row) = (sums.as_mut_ptr().cast(), MAX_TILE_COLUMNS);
        tile.resume = (!first).then(|| tile.out.cast_const());
        // SAFETY: the slices above hold the rows of A and the panels; `sums` has room for the largest tile, and is ours.
        unsafe { tile.run(s, rows.len(), panels.len()) }
        for (row, sums) in rows.zip(&sums) {
            if last {
                // SAFETY: as above.
                let out = unsafe { out.part(elements(row)) };
                epilogue.apply(s, sums, columns.start, out);
            } else {
                // SAFETY: as above.
                unsafe { partial.part(elements(row)) }.copy_from_slice(&sums[..columns.len()]);
            }
        }
    }

    /// What a tile prefetches while it computes: a part of the next group's panels. Half of all tiles of rows fetch all of
    /// it, and so do the others, for they may run on another core.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, rows: &Range<usize>, panels: &Range<usize>) -> Prefetch {
        let (panel_len, depth) = (panel_len::<W>(self.job.weights.k()), &self.job.depth);
        // A power of two, for divisions would take as long as a tile's overhead otherwise.
        let most = (self.job.rows / S::TILE_ROWS / (2 * panels.len())).clamp(1, PREFETCH_TILES);
        let shift = most.ilog2();
        let tile = rows.start / S::TILE_ROWS;
        let (part, parts) = (tile % (1 << shift), 1 << shift);
        let panel = panels.start + self.panels.len() + (tile >> shift) as u32 as usize % panels.len();
        let start = panel * panel_len + (depth.start + ((part * depth.len()) >> shift)) * LANES;
        match self.data.get(start) {
            Some(start) => Prefetch { start: (&raw const *start).cast(), step: size_of::<W::Group>() / parts },
            // Nothing behind the weights: looking for pages that are not there costs more than it brings.
            None => Prefetch::nothing(self.data.as_ptr().wrapping_add(panels.start * panel_len)),
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
    use crate::reference;
    use crate::testing::{levels, nans, noise};
    use crate::{Activation, activate};

    fn packed(format: Format, w: &[f32], n: usize, k: usize) -> Vec<Line> {
        let mut out = vec![Line::ZERO; format.lines(n, k).unwrap()];
        format
            .pack(n, k, |row, start, into| into.copy_from_slice(&w[row * k + start..][..into.len()]), &mut out)
            .unwrap();
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

    /// Every format against the reference, whose weights are those that were rounded.
    fn run(isa: Isa, rows: usize, n: usize, k: usize, seed: u64) {
        let (a, w) = (noise(rows * k, seed, 2.0), noise(n * k, seed + 1, 1.0));
        for format in Format::ALL {
            let mut got = vec![9.0; rows * n];
            let lines = packed(format, &w, n, k);
            let weights = Packed::new(format, n, k, &lines).unwrap();
            matmul(isa, &a, weights, Epilogue::default(), &mut got).unwrap();
            let rounded: Vec<f32> = (0..n * k).map(|i| weights.get(i / k, i % k).unwrap()).collect();
            check(isa, rows, n, k, &a, &rounded, &got);
        }
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
            let (panels, mut got) = (packed(Format::F32, &w, n, k), vec![0.0; rows * n]);
            matmul(isa, &a, Packed::new(Format::F32, n, k, &panels).unwrap(), Epilogue::default(), &mut got).unwrap();
            assert!(got.iter().zip(&other).all(|(got, other)| (got - other).abs() < 1e-4), "{isa}");
        }
    }

    /// A row's bits do not depend on the rows beside it, nor on the tile that computed it.
    #[test]
    fn rows_are_independent_to_the_bit() {
        for isa in levels() {
            for (n, k) in [(100, 70), (16, 5), (200, 33)] {
                let (a, w) = (noise(40 * k, 1, 1.0), noise(n * k, 2, 1.0));
                let panels = packed(Format::F32, &w, n, k);
                let weights = Packed::new(Format::F32, n, k, &panels).unwrap();
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
        let panels = packed(Format::F32, &w, n, k);
        let run = |isa| {
            let mut out = noise(rows * n, 4, 1.0);
            let epilogue = Epilogue {
                bias: Some(&bias),
                activation: Some(Activation::Gelu),
                accumulate: Accumulate::Add,
                ..Epilogue::default()
            };
            matmul(isa, &a, Packed::new(Format::F32, n, k, &panels).unwrap(), epilogue, &mut out).unwrap();
            out
        };
        for pair in fused.windows(2) {
            assert_eq!(run(pair[0]), run(pair[1]), "{} {}", pair[0], pair[1]);
        }
        // On a machine with one such level alone the truth stands in: one chain of fused multiply-adds.
        for &isa in &fused {
            let mut out = vec![0.0; rows * n];
            let weights = Packed::new(Format::F32, n, k, &panels).unwrap();
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
                let panels = packed(Format::F32, &w, n, k);
                let weights = Packed::new(Format::F32, n, k, &panels).unwrap();
                let mut sums = before.clone();
                matmul(isa, &a, weights, Epilogue::default(), &mut sums).unwrap();
                for (bits, accumulate) in (0..4).flat_map(|bits| {
                    [Accumulate::Replace, Accumulate::Add, Accumulate::Multiply].map(|accumulate| (bits, accumulate))
                }) {
                    for activation in
                        [None, Some(Activation::Gelu), Some(Activation::GeluTanh), Some(Activation::QuickGelu)]
                    {
                        let epilogue = Epilogue {
                            bias: (bits & 1 > 0).then_some(&*bias),
                            activation,
                            scale: (bits & 2 > 0).then_some(&*factor),
                            accumulate,
                        };
                        let mut want = sums.clone();
                        for (i, x) in want.iter_mut().enumerate() {
                            *x += epilogue.bias.map_or(0.0, |bias| bias[i % n]);
                        }
                        if let Some(form) = activation {
                            activate(isa, form, &mut want);
                        }
                        for (i, x) in want.iter_mut().enumerate() {
                            *x *= epilogue.scale.map_or(1.0, |factor| factor[i % n]);
                            match accumulate {
                                Accumulate::Replace => {}
                                Accumulate::Add => *x += before[i],
                                Accumulate::Multiply => *x *= before[i],
                            }
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
    fn blocks_of_the_depth_give_the_same_bits() {
        for isa in levels() {
            for k in [1, DEPTH_BLOCK, DEPTH_BLOCK + 1, 3 * DEPTH_BLOCK - 5] {
                for (rows, n) in [(1, 20), (2, 16), (11, 37), (30, 100)] {
                    let (a, w) = (noise(rows * k, 1, 1.0), noise(n * k, 2, 1.0));
                    let (bias, before) = (noise(n, 3, 1.0), noise(rows * n, 4, 1.0));
                    let panels = packed(Format::F32, &w, n, k);
                    let weights = Packed::new(Format::F32, n, k, &panels).unwrap();
                    for (activation, accumulate) in [
                        (None, Accumulate::Replace),
                        (None, Accumulate::Add),
                        (Some(Activation::Gelu), Accumulate::Multiply),
                    ] {
                        let epilogue = Epilogue { bias: Some(&bias), activation, accumulate, ..Epilogue::default() };
                        let (mut whole, mut cut) = (before.clone(), before.clone());
                        matmul(isa, &a, weights, epilogue, &mut whole).unwrap();
                        let mut partial = vec![f32::NAN; if accumulate == Accumulate::Replace { 0 } else { rows * n }];
                        let job = Matmul::new(isa, &a, weights, epilogue, &mut cut).unwrap();
                        let mut blocks = job.blocks(&mut partial).unwrap();
                        let mut count = 0;
                        while let Some(job) = blocks.next() {
                            job.run();
                            count += 1;
                        }
                        assert_eq!(count, if rows == 1 { 1 } else { k.div_ceil(DEPTH_BLOCK) });
                        assert_eq!(cut, whole, "{isa} {rows}x{n}x{k} {epilogue:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn nan_reaches_every_output_of_its_row() {
        for isa in levels() {
            let (n, k) = (50, 9);
            let panels = packed(Format::F32, &noise(n * k, 2, 1.0), n, k);
            let weights = Packed::new(Format::F32, n, k, &panels).unwrap();
            let forms =
                [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu, Activation::Relu];
            for (nan, form) in nans().into_iter().flat_map(|nan| forms.map(|form| (nan, form))) {
                let (mut a, mut out) = (noise(3 * k, 1, 1.0), vec![0.0; 3 * n]);
                a[k + 4] = nan;
                let epilogue = Epilogue { activation: Some(form), ..Epilogue::default() };
                matmul(isa, &a, weights, epilogue, &mut out).unwrap();
                assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (i / n == 1)), "{isa} {form:?}");
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
        let weights = Packed::new(Format::F32, 2, 3, &[Line::ZERO; 3]).unwrap();
        assert!(matmul(isa, &[0.0; 6], weights, plain, &mut [0.0; 4]).is_ok());
        assert!(matmul(isa, &[0.0; 6], weights, plain, &mut [0.0; 3]).is_err());
        assert!(matmul(isa, &[0.0; 5], weights, plain, &mut [0.0; 4]).is_err());
        let biased = Epilogue { bias: Some(&[0.0; 3]), ..plain };
        assert!(matmul(isa, &[0.0; 6], weights, biased, &mut [0.0; 4]).is_err());
        let scaled = Epilogue { scale: Some(&[0.0; 1]), ..plain };
        assert!(matmul(isa, &[0.0; 6], weights, scaled, &mut [0.0; 4]).is_err());
        let none = Packed::new(Format::F32, 0, 3, &[]).unwrap();
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
