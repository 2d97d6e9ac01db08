//! The product of int8 rows and int4 weights: exact i32 sums over groups of 32 inputs, added in f32.
//!
//! ```text
//! sum[M][P] = 0
//! for each group of 32 inputs:
//!     acc[M][P] = 0
//!     for each line of eight inputs:
//!         w[P] = the nibbles of each panel, widened       64 bytes per panel
//!         for m: acc[m][:] += a[m]·w[:]                   four bytes of a row, broadcast, twice
//!     sum += (acc − zero point · Σ w) · the group's scales
//! out = finish(sum · row's scale)
//! ```
//! Every f32 operation rounds for itself. The error of a sum, given the weights and activations as stored, is at most
//! (k/32 + 3)·2⁻²⁴·Σ|aₖ·wₖ|.
//!
//! Σ w is summed up beside the product, as for one more row: stored, it would take 2 bytes for 16 of weights and 2 of
//! scales.
#![allow(unsafe_code)] // The tile takes pointers.

use core::ops::Range;

use ::half::f16;

use super::format::int4::{BLOCK, GROUP, Int4Weights, Nibbles};
use super::format::int8;
use super::integer::{IntegerTile, IntegerWeights, Out, Rows, prefetch};
use super::tile::{self, Prefetch};
use crate::simd::{LANES, Simd};

/// Int8's groups of four inputs in a group of 32.
const BLOCK_GROUPS: usize = BLOCK / int8::GROUP;

impl<'a> IntegerWeights<'a> for Int4Weights<'a> {
    type Tile = Int4Tile<'a>;

    #[inline(always)]
    fn tile(&self, rows: Rows<'a>, panels: Range<usize>, out: Out<'a>) -> Int4Tile<'a> {
        let (lines, blocks) = (self.lines(), self.blocks());
        Int4Tile {
            a: rows.values.as_ptr(),
            a_row: rows.len,
            a_scales: rows.scales,
            w: self.panels[panels.start * lines..panels.end * lines].as_ptr(),
            w_panel: lines,
            groups: self.k.div_ceil(int8::GROUP),
            scales: &self.scales[panels.start * blocks..panels.end * blocks],
            blocks,
            out,
            prefetch: prefetch(self.panels, panels.end, lines, rows.prefetched),
        }
    }
}

/// The operands of a tile.
#[derive(Clone, Copy)]
pub(super) struct Int4Tile<'a> {
    /// Activations: the four bytes of row m and group g start at m·`a_row` + 4·g.
    a: *const i8,
    a_row: usize,
    /// One for each row.
    a_scales: &'a [f32],
    /// Weights: line i of panel p is at p·`w_panel` + i.
    w: *const Nibbles,
    w_panel: usize,
    /// Groups of four inputs.
    groups: usize,
    /// \[panels\]\[blocks\].
    scales: &'a [[f16; LANES]],
    blocks: usize,
    out: Out<'a>,
    prefetch: Prefetch,
}

impl IntegerTile for Int4Tile<'_> {
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    unsafe fn sweep<S: Simd, const M: usize, const P: usize>(self, s: S) {
        let mut sums = [[s.splat(0.0); P]; M];
        // SAFETY: the caller vouches for P panels and M rows of `groups` groups, and for M rows of `out`.
        unsafe {
            for block in 0..self.groups / BLOCK_GROUPS {
                self.add_block(s, &mut sums, block, BLOCK_GROUPS);
            }
            if !self.groups.is_multiple_of(BLOCK_GROUPS) {
                self.add_block(s, &mut sums, self.groups / BLOCK_GROUPS, self.groups % BLOCK_GROUPS);
            }
            for m in 0..M {
                for p in 0..P {
                    sums[m][p] = s.mul(sums[m][p], s.splat(self.a_scales[m]));
                }
            }
            tile::finish(s, sums, &self.out.finish, self.out.out, self.out.row);
        }
    }
}

impl Int4Tile<'_> {
    /// Adds the products of a group of 32 inputs, or of the first `groups` groups of four of it.
    ///
    /// # Safety
    /// As [`IntegerTile::sweep`], for these inputs.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // As above.
    unsafe fn add_block<S: Simd, const M: usize, const P: usize>(
        &self,
        s: S,
        sums: &mut [[S::V; P]; M],
        block: usize,
        groups: usize,
    ) {
        let zero = s.start(&[0; LANES]);
        // Of the rows, and of a row of zeros as it is stored: what the zero point adds.
        let (mut acc, mut offsets) = ([[zero; P]; M], [zero; P]);
        for line in 0..groups / 2 {
            // SAFETY: the caller's promise, passed on.
            unsafe { self.add_line(s, &mut acc, &mut offsets, block * (BLOCK / GROUP) + line, 2) }
        }
        if !groups.is_multiple_of(2) {
            // SAFETY: as above.
            unsafe { self.add_line(s, &mut acc, &mut offsets, block * (BLOCK / GROUP) + groups / 2, 1) }
        }
        for p in 0..P {
            // Exact: the factor is a power of two, and f32 has the exponents.
            let scale = s.mul(s.load_f16(&self.scales[p * self.blocks + block]), s.splat(1.0 / S::INT4_FACTOR));
            for m in 0..M {
                let product = s.mul(s.int4_to_f32(acc[m][p], offsets[p]), scale);
                sums[m][p] = s.add(sums[m][p], product);
            }
        }
    }

    /// Adds the products of the first `groups`, one or two, groups of four inputs of a line.
    ///
    /// # Safety
    /// As [`IntegerTile::sweep`], for these inputs.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // As above.
    unsafe fn add_line<S: Simd, const M: usize, const P: usize>(
        &self,
        s: S,
        acc: &mut [[S::I; P]; M],
        offsets: &mut [S::I; P],
        line: usize,
        groups: usize,
    ) {
        s.prefetch(self.prefetch.start.wrapping_add(line * self.prefetch.step));
        // SAFETY: the caller's promise: this line of P panels, and as many groups of M rows, are readable.
        unsafe {
            let mut w = [s.load_int4(&*self.w.add(line)); P];
            for p in 1..P {
                w[p] = s.load_int4(&*self.w.add(p * self.w_panel + line));
            }
            for group in 0..groups {
                if S::ZERO_POINT > 0 {
                    let a = s.splat_activations([S::ZERO_POINT.cast_signed(); 4]);
                    for p in 0..P {
                        offsets[p] = s.dot_int4(offsets[p], a, w[p][group]);
                    }
                }
                for m in 0..M {
                    let at = m * self.a_row + (2 * line + group) * int8::GROUP;
                    let a = s.splat_activations(*self.a.add(at).cast());
                    for p in 0..P {
                        acc[m][p] = s.dot_int4(acc[m][p], a, w[p][group]);
                    }
                }
            }
        }
    }
}
