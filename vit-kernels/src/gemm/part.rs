//! The loops around the register tile: a range of rows of A times a range of panels of weights.
#![allow(unsafe_code)] // The tile takes pointers.

use core::mem::MaybeUninit;
use core::ops::Range;

use ::half::bf16;

use super::Matmul;
use super::epilogue::Finish;
use super::format::Weights;
use super::pack::panel_len;
use super::tile::{MAX_TILE_COLUMNS, Prefetch, Tile, panels_per_tile};
use crate::job::Shared;
use crate::round::{bf16_len, round_row};
use crate::simd::{Kernel, LANES, MAX_TILE_ROWS, Simd};

/// The prefetch of a panel is spread over at most this many row tiles.
const PREFETCH_TILES: usize = 8;

/// A range of rows, in f32 or bf16, times a range of panels, whose weights are stored as `W`.
pub(super) struct FloatPart<'a, W: Weights> {
    pub(super) job: &'a Matmul<'a>,
    /// Rows of whole groups.
    pub(super) a: &'a [W::Inputs],
    pub(super) data: &'a [W::Element],
    pub(super) panels: Range<usize>,
    pub(super) rows: Range<usize>,
}

impl<W: Weights> Kernel for FloatPart<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if !S::FAST_F16 && W::IS_F16 && self.rows.len() > S::TILE_ROWS {
            return self.widened(s);
        }
        for row in self.rows.clone().step_by(S::TILE_ROWS) {
            let rows = row..(row + S::TILE_ROWS).min(self.rows.end);
            for (panel, panels) in even_tiles(self.panels.clone(), panels_per_tile::<S>(self.job.rows)) {
                self.tile(s, rows.clone(), panel..panel + panels);
            }
        }
    }
}

impl<W: Weights> FloatPart<'_, W> {
    #[inline(always)]
    fn tile<S: Simd>(&self, s: S, rows: Range<usize>, panels: Range<usize>) {
        let Matmul { weights, epilogue, out, partial, depth, .. } = self.job;
        let (n, k) = (weights.n(), weights.k());
        let (panel_len, row) = (panel_len::<W>(k), k.div_ceil(W::GROUP));
        let columns = panels.start * LANES..(panels.end * LANES).min(n);
        let (first, last) = (depth.start == 0, depth.end == k);
        let partial = partial.as_ref().unwrap_or(out);
        let mut tile = Tile::<W> {
            a: self.a[rows.start * row..rows.end * row][(depth.start / W::GROUP).min(row)..].as_ptr(),
            a_row: row,
            a_step: 1,
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
        let one_pass = whole && !(last && epilogue.needs_two_passes());
        let rounded = self.rounded();
        if let (true, true, Some(rounded)) = (one_pass, first, rounded) {
            return self.round_tile(s, tile, &rows, &columns, rounded);
        }
        if one_pass && rounded.is_none() {
            // SAFETY: no other task touches these columns of these rows; the tile gets only whole panels.
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
                    // SAFETY: as above; only one such reference lives at a time.
                    let out = unsafe { out.part(row * n + columns.start..row * n + columns.end) };
                    if W::COARSE { activation.slice::<S, true>(s, out) } else { activation.slice::<S, false>(s, out) }
                }
            }
            return;
        }
        // No larger than the level's tile: small cores have little stack.
        if S::TILE_ROWS == 1 && S::CHAINS == 1 {
            self.buffered::<S, 1, LANES>(s, tile, &rows, &columns);
        } else {
            self.buffered::<S, MAX_TILE_ROWS, MAX_TILE_COLUMNS>(s, tile, &rows, &columns);
        }
    }

    /// Where the result goes if it is rounded and complete with this block of the depth; weights in f32 and f16 are without.
    #[inline(always)]
    fn rounded(&self) -> Option<&Shared<'_, bf16>> {
        let last = self.job.depth.end == self.job.weights.k();
        if W::COARSE && last { self.job.rounded.as_ref() } else { None }
    }

    /// Has the tile write whole panels to a buffer, which is in L1 when the activation and the rounding read it.
    #[inline(always)]
    fn round_tile<S: Simd>(
        &self,
        s: S,
        tile: Tile<'_, W>,
        rows: &Range<usize>,
        columns: &Range<usize>,
        rounded: &Shared<'_, bf16>,
    ) {
        let Matmul { weights, epilogue, .. } = self.job;
        let mut sums = [MaybeUninit::<f32>::uninit(); MAX_TILE_ROWS * MAX_TILE_COLUMNS];
        let out = sums.as_mut_ptr().cast();
        let tile = Tile { out, out_row: columns.len(), finish: epilogue.finish(columns), ..tile };
        // SAFETY: the operands are slices of the rows of A and the panels; `sums`, a local, has room for the level's
        // tile, which writes every column of its rows, one row after the other.
        let sums = unsafe {
            tile.run(s, rows.len(), columns.len() / LANES);
            sums[..rows.len() * columns.len()].assume_init_mut()
        };
        if let Some(activation) = epilogue.activation {
            activation.slice::<S, true>(s, sums);
        }
        for (row, sums) in rows.clone().zip(sums.chunks_exact(columns.len())) {
            let start = row * bf16_len(weights.n()) + columns.start;
            // SAFETY: no other task touches these columns of these rows; only one such slice lives at a time.
            round_row(s, sums, unsafe { rounded.part(start..start + columns.len()) });
        }
    }

    /// Has the tile write to a buffer of `M` rows and `N` columns, from which each row goes through the epilogue.
    #[inline(always)]
    fn buffered<S: Simd, const M: usize, const N: usize>(
        &self,
        s: S,
        mut tile: Tile<'_, W>,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) {
        let (first, mut sums) = (self.job.depth.start == 0, [[0.0f32; N]; M]);
        if !first {
            self.load_sums(rows, columns, &mut sums);
        }
        // One pointer for reading and writing: a second mutable borrow would invalidate the first.
        (tile.out, tile.out_row) = (sums.as_mut_ptr().cast(), N);
        tile.resume = (!first).then(|| tile.out.cast_const());
        // SAFETY: the operands are slices of the rows of A and the panels; `sums`, a local, has room for the level's
        // tile.
        unsafe { tile.run(s, rows.len(), columns.len().div_ceil(LANES)) }
        self.store_sums(s, rows, columns, &mut sums);
    }

    /// Copies the sums over the previous blocks of the depth to a buffer of `N` columns.
    #[inline(always)]
    pub(super) fn load_sums<const N: usize>(&self, rows: &Range<usize>, columns: &Range<usize>, sums: &mut [[f32; N]]) {
        let Matmul { out, partial, .. } = self.job;
        let n = self.job.weights.n();
        for (row, sums) in rows.clone().zip(sums) {
            // SAFETY: no other task touches these columns of these rows; only one such slice lives at a time.
            let so_far =
                unsafe { partial.as_ref().unwrap_or(out).part(row * n + columns.start..row * n + columns.end) };
            sums[..columns.len()].copy_from_slice(so_far);
        }
    }

    /// Stores sums from a buffer of `N` columns; after the last block of the depth, applies the epilogue to them, and rounds
    /// what is to be rounded.
    #[inline(always)]
    pub(super) fn store_sums<S: Simd, const N: usize>(
        &self,
        s: S,
        rows: &Range<usize>,
        columns: &Range<usize>,
        sums: &mut [[f32; N]],
    ) {
        let Matmul { weights, epilogue, out, partial, depth, .. } = self.job;
        let (n, last) = (weights.n(), depth.end == weights.k());
        for (row, sums) in rows.clone().zip(sums) {
            let elements = row * n + columns.start..row * n + columns.end;
            if let Some(rounded) = self.rounded() {
                let mut result = [0.0; N];
                let result = &mut result[..columns.len()];
                epilogue.apply::<S, true>(s, sums, columns.start, result);
                let start = row * bf16_len(n) + columns.start;
                // SAFETY: as below; a pair of columns is never in two tasks.
                round_row(s, result, unsafe { rounded.part(start..start + bf16_len(columns.len())) });
            } else if last {
                // SAFETY: no other task touches these columns of these rows; only one such slice lives at a time.
                let out = unsafe { out.part(elements) };
                if W::COARSE {
                    epilogue.apply::<S, true>(s, sums, columns.start, out);
                } else {
                    epilogue.apply::<S, false>(s, sums, columns.start, out);
                }
            } else {
                // SAFETY: as above.
                unsafe { partial.as_ref().unwrap_or(out).part(elements) }.copy_from_slice(&sums[..columns.len()]);
            }
        }
    }

    /// A tile prefetches a part of the next group's panels. Half of the row tiles cover all of it; the others repeat
    /// it, because they may run on another core.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, rows: &Range<usize>, panels: &Range<usize>) -> Prefetch {
        let (panel_len, depth) = (panel_len::<W>(self.job.weights.k()), &self.job.depth);
        // A power of two: divisions would double a tile's overhead.
        let most = (self.job.rows / S::TILE_ROWS / (2 * panels.len())).clamp(1, PREFETCH_TILES);
        let shift = most.ilog2();
        let tile = rows.start / S::TILE_ROWS;
        let (part, parts) = (tile % (1 << shift), 1 << shift);
        let panel =
            panels.start + self.panels.len() + ((tile >> shift) as u32 as usize).checked_rem(panels.len()).unwrap_or(0);
        let start = panel * panel_len + (depth.start + ((part * depth.len()) >> shift)) * LANES;
        match self.data.get(start) {
            Some(start) => Prefetch { start: (&raw const *start).cast(), step: size_of::<W::Group>() / parts },
            // Past the end of the weights: a prefetch of unmapped pages is slow.
            None => Prefetch::nothing(self.data.as_ptr().wrapping_add(panels.start * panel_len)),
        }
    }
}

/// Splits `panels` into tiles (first, count) of at most `most`, as even as possible: four panels are two and two, not
/// three and one, because a narrow tile has too few chains to keep the multipliers busy.
#[inline(always)]
pub(super) fn even_tiles(panels: Range<usize>, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut start = panels.start;
    core::iter::from_fn(move || {
        let left = panels.end - start;
        let width = left.checked_div(left.div_ceil(most))?;
        start += width;
        Some((start - width, width))
    })
}
