//! The product of int8 rows and quantised weights: the loops around the register tile, and its shapes.
#![allow(unsafe_code)] // The tile takes pointers.

use core::ops::Range;

use super::Matmul;
use super::epilogue::Finish;
use super::part::even_tiles;
use super::tile::{MAX_TILE_COLUMNS, Prefetch};
use crate::quantise::{Quantised, quantised_len};
use crate::simd::{Kernel, LANES, MAX_INT8_ROWS, MAX_TILE_PANELS, Simd};

/// Weights that int8 rows are multiplied with.
pub(super) trait IntegerWeights<'a>: Copy {
    type Tile: IntegerTile;

    /// The tile of these rows and panels.
    fn tile(&self, rows: Rows<'a>, panels: Range<usize>, out: Out<'a>) -> Self::Tile;
}

/// The operands of a register tile.
pub(crate) trait IntegerTile: Copy {
    /// Runs a tile of `rows` × `panels`.
    ///
    /// # Safety
    /// As [`sweep`](Self::sweep); `rows` ≤ `S::INT8_ROWS` and `panels` ≤ `S::INT8_PANELS`.
    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S, rows: usize, panels: usize) {
        debug_assert!((1..=S::INT8_ROWS).contains(&rows) && (1..=S::INT8_PANELS).contains(&panels));
        s.share(Run { tile: self, rows, panels });
    }

    /// Computes `M` rows × `P` panels and writes them.
    ///
    /// # Safety
    /// Everything that the fields span for that many rows and panels is readable, and writable for the output; nothing
    /// else refers to the output meanwhile.
    unsafe fn sweep<S: Simd, const M: usize, const P: usize>(self, s: S);
}

/// The rows of a tile.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// Rows of activations, `len` bytes apart.
    pub(super) values: &'a [i8],
    pub(super) len: usize,
    pub(super) scales: &'a [f32],
    /// 0 to 7: which eighth of the following panels the tile prefetches.
    pub(super) prefetched: usize,
}

/// Where a tile writes.
#[derive(Clone, Copy)]
pub(super) struct Out<'a> {
    /// Rows, `row` apart, LANES elements per panel.
    pub(super) out: *mut f32,
    pub(super) row: usize,
    pub(super) finish: Finish<'a>,
}

/// The prefetch stream of a tile of panels that end at `end`, of `len` lines each: an eighth of the panel after them.
pub(super) fn prefetch<T>(panels: &[T], end: usize, len: usize, eighth: usize) -> Prefetch {
    const { assert!(size_of::<T>() == 64) }
    let following = (end * len + eighth * (len / 8)).min(panels.len());
    Prefetch { start: panels.as_ptr().wrapping_add(following).cast(), step: 8 }
}

/// A range of quantised rows times a range of panels.
pub(super) struct IntegerPart<'a, W> {
    pub(super) job: &'a Matmul<'a>,
    pub(super) a: Quantised<'a>,
    pub(super) weights: W,
    pub(super) panels: Range<usize>,
    pub(super) rows: Range<usize>,
}

impl<'a, W: IntegerWeights<'a>> Kernel for IntegerPart<'a, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const { assert!(S::INT8_ROWS <= MAX_INT8_ROWS && S::INT8_PANELS <= MAX_TILE_PANELS) }
        let mut row = self.rows.start;
        while row < self.rows.end {
            let rows = row..row + rows_of_tile::<S>(self.rows.end - row);
            row = rows.end;
            for (panel, panels) in even_tiles(self.panels.clone(), S::INT8_PANELS) {
                self.tile(s, rows.clone(), panel..panel + panels);
            }
        }
    }
}

impl<'a, W: IntegerWeights<'a>> IntegerPart<'a, W> {
    #[inline(always)]
    fn tile<S: Simd>(&self, s: S, rows: Range<usize>, panels: Range<usize>) {
        let Matmul { weights, epilogue, out, .. } = self.job;
        let (n, len) = (weights.n(), quantised_len(weights.k()));
        let columns = panels.start * LANES..(panels.end * LANES).min(n);
        let a = Rows {
            values: &self.a.values[rows.start * len..rows.end * len],
            len,
            scales: &self.a.scales[rows.clone()],
            prefetched: rows.start / S::INT8_ROWS % 8,
        };
        if columns.len() == panels.len() * LANES && !epilogue.needs_two_passes() {
            let to = Out {
                out: out.at(rows.start * n + columns.start, (rows.len() - 1) * n + columns.len()),
                row: n,
                finish: epilogue.finish(&columns),
            };
            let tile = self.weights.tile(a, panels.clone(), to);
            // SAFETY: the slices above hold the rows and the panels; no other task touches these columns of these rows.
            unsafe { tile.run(s, rows.len(), panels.len()) }
            if let Some(activation) = epilogue.activation {
                for row in rows {
                    // SAFETY: as above; only one such reference lives at a time.
                    activation.slice::<S, true>(s, unsafe { out.part(row * n + columns.start..row * n + columns.end) });
                }
            }
            return;
        }
        // No larger than the level's tile, and out of line: cores without vectors have little stack.
        if !S::VECTORS {
            s.call(Buffered { part: self, a, panels, rows, columns });
        } else {
            self.buffered::<S, MAX_INT8_ROWS, MAX_TILE_COLUMNS>(s, a, panels, rows, &columns);
        }
    }

    /// Has the tile write to a buffer of `M` rows and `N` columns, from which each row goes through the epilogue.
    #[inline(always)]
    fn buffered<S: Simd, const M: usize, const N: usize>(
        &self,
        s: S,
        a: Rows<'a>,
        panels: Range<usize>,
        rows: Range<usize>,
        columns: &Range<usize>,
    ) {
        let Matmul { weights, epilogue, out, .. } = self.job;
        let (n, mut sums) = (weights.n(), [[0.0f32; N]; M]);
        let to = Out { out: sums.as_mut_ptr().cast(), row: N, finish: Finish::default() };
        let tile = self.weights.tile(a, panels.clone(), to);
        // SAFETY: the operands are slices of the rows and panels; `sums` is local and has room for the level's tile.
        unsafe { tile.run(s, rows.len(), panels.len()) }
        for (row, sums) in rows.zip(&mut sums) {
            // SAFETY: no other task touches these columns of these rows; only one such reference lives at a time.
            epilogue.apply::<S, true>(s, sums, columns.start, unsafe {
                out.part(row * n + columns.start..row * n + columns.end)
            });
        }
    }
}

/// Rows of the next tile when so many are left. On cores without vectors three are two and one: a tile of three would take
/// half a kilobyte of flash.
#[inline(always)]
fn rows_of_tile<S: Simd>(left: usize) -> usize {
    match left.min(S::INT8_ROWS) {
        3 if !S::VECTORS => 2,
        rows => rows,
    }
}

/// [`IntegerPart::buffered`], out of line.
struct Buffered<'p, 'a, W> {
    part: &'p IntegerPart<'a, W>,
    a: Rows<'a>,
    panels: Range<usize>,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl<'a, W: IntegerWeights<'a>> Kernel for Buffered<'_, 'a, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const { assert!(S::VECTORS || S::INT8_ROWS <= 4 && S::INT8_PANELS == 1) }
        self.part.buffered::<S, 4, LANES>(s, self.a, self.panels, self.rows, &self.columns);
    }
}

/// A tile of that many rows and panels. Only [`IntegerTile::run`] makes one; its caller vouches for the pointers.
struct Run<T> {
    tile: T,
    rows: usize,
    panels: usize,
}

impl<T: IntegerTile> Kernel for Run<T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { tile, rows, panels } = self;
        // The guards are constants of the level: tiles it does not use are not compiled.
        match panels {
            3 if S::INT8_PANELS >= 3 => with_panels::<S, T, 3>(s, tile, rows),
            2 if S::INT8_PANELS >= 2 => with_panels::<S, T, 2>(s, tile, rows),
            _ => with_panels::<S, T, 1>(s, tile, rows),
        }
    }
}

#[inline(always)]
fn with_panels<S: Simd, T: IntegerTile, const P: usize>(s: S, tile: T, rows: usize) {
    match rows {
        8 if S::INT8_ROWS >= 8 => s.call(Sweep::<T, 8, P>(tile)),
        7 if S::INT8_ROWS >= 7 => s.call(Sweep::<T, 7, P>(tile)),
        6 if S::INT8_ROWS >= 6 => s.call(Sweep::<T, 6, P>(tile)),
        5 if S::INT8_ROWS >= 5 => s.call(Sweep::<T, 5, P>(tile)),
        4 if S::INT8_ROWS >= 4 => s.call(Sweep::<T, 4, P>(tile)),
        3 if S::INT8_ROWS >= 3 && S::VECTORS => s.call(Sweep::<T, 3, P>(tile)),
        2 if S::INT8_ROWS >= 2 => s.call(Sweep::<T, 2, P>(tile)),
        _ => s.call(Sweep::<T, 1, P>(tile)),
    }
}

/// A tile of `M` rows × `P` panels. Only [`IntegerTile::run`] makes one; its caller vouches for the pointers.
struct Sweep<T, const M: usize, const P: usize>(T);

impl<T: IntegerTile, const M: usize, const P: usize> Kernel for Sweep<T, M, P> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the caller of `IntegerTile::run` vouches for M rows and P panels.
        unsafe { self.0.sweep::<S, M, P>(s) }
    }
}

#[cfg(test)]
mod tests;
