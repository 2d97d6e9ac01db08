//! The int8 tiles of many rows. WebAssembly multiplies i16, and widening takes a third of the time if each product does it for
//! itself: here weights are widened once for all rows, and activations once for all outputs of the tile.
//!
//! ```text
//! for each block of inputs:
//!     weights = the panels', widened                                on the stack
//!     for each two rows:
//!         activations = the rows', widened                          on the stack
//!         for each panel:                                           eight sums in registers
//!             for each pair of inputs: sums += activations·weights
//! ```
//! A step of the innermost loop has two rows, sixteen outputs and a pair of inputs, as many registers as the f32 tile: a
//! larger one goes through the stack.
use core::arch::wasm32::*;
use core::mem::MaybeUninit;

use super::simd128::{Simd128, even_and_odd, transposed};
use crate::gemm::int8::Int8Tile;
use crate::quantise::GROUP;
use crate::simd::{LANES, MAX_INT8_ROWS};

/// Panels of a tile.
pub(super) const PANELS: usize = 3;

/// Groups that are widened at a time, to 8 KB of weights a panel; a multiple of 4.
const DEPTH: usize = 64;

/// Pairs of inputs of a group.
const PAIRS: usize = GROUP / 2;

/// A panel's group of inputs.
type Group = [[i8; GROUP]; LANES];

/// A pair of inputs of the panel's outputs, as i16: the even or the odd inputs of a group.
type Weights = [v128; 4];

/// The same pair of two rows.
type Activations = [u32; 2];

/// A tile of up to [`MAX_INT8_ROWS`] rows and [`PANELS`] panels. One function for all of them: rows and panels are loops.
///
/// # Safety
/// As [`Simd::int8_tile`](crate::simd::Simd::int8_tile) of that many rows and panels.
#[inline(never)]
pub(super) unsafe fn tile(s: Simd128, tile: &Int8Tile<'_>, [rows, panels]: [usize; 2]) {
    let mut sums = [[[[i32x4_splat(0); 4]; 2]; MAX_INT8_ROWS / 2]; PANELS];
    let mut weights = [const { MaybeUninit::<[Weights; PAIRS * DEPTH]>::uninit() }; PANELS];
    let mut activations = MaybeUninit::<[Activations; PAIRS * DEPTH]>::uninit();
    for first in (0..tile.groups).step_by(DEPTH) {
        let groups = DEPTH.min(tile.groups - first);
        for (panel, weights) in weights.iter_mut().enumerate().take(panels) {
            // SAFETY: the caller vouches for these groups of the panel; there is room for as many.
            unsafe {
                let from = tile.w.add(panel * tile.w_panel + first * tile.w_step);
                widen_weights(from, tile.w_step, groups, weights.as_mut_ptr().cast());
            }
        }
        for row in (0..rows).step_by(2) {
            // Without a second row the first one is taken twice.
            let second = if row + 1 < rows { tile.a_row } else { 0 };
            // SAFETY: the caller vouches for these groups of the rows; there is room for as many, and as many were written.
            unsafe {
                let from = tile.a.add(row * tile.a_row + first * tile.a_step);
                widen_rows(from, [second, tile.a_step], groups, activations.as_mut_ptr().cast());
                for (weights, sums) in weights.iter().zip(&mut sums).take(panels) {
                    add(weights.as_ptr().cast(), activations.as_ptr().cast(), PAIRS * groups, &mut sums[row / 2]);
                }
            }
        }
    }
    for (panel, sums) in sums.iter().enumerate().take(panels) {
        // SAFETY: the caller's promise, passed on.
        let tile = unsafe { tile.panel(panel) };
        for (row, sums) in sums.as_flattened().iter().enumerate().take(rows) {
            // SAFETY: the caller vouches for this row of the output.
            unsafe {
                let out = tile.out.add(row * tile.out_row);
                Int8Tile { a_scales: &tile.a_scales[row..], out, ..tile }.store(s, [[*sums]]);
            }
        }
    }
}

/// A tile of one row, of which nothing is used again.
///
/// # Safety
/// As [`tile`].
#[inline(never)]
pub(super) unsafe fn one_row(s: Simd128, tile: &Int8Tile<'_>, panels: usize) {
    for panel in 0..panels {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            let tile = tile.panel(panel);
            tile.store::<_, 1, 1>(s, tile.sums(s));
        }
    }
}

/// Widens `groups` groups, `step` apart.
///
/// # Safety
/// They are readable, and their pairs are writable.
#[inline(never)]
unsafe fn widen_weights(from: *const Group, step: usize, groups: usize, to: *mut Weights) {
    for group in 0..groups {
        for i in 0..4 {
            // SAFETY: the caller's promise; a group is four times sixteen bytes.
            unsafe {
                let [even, odd] = even_and_odd(v128_load(from.add(group * step).cast::<v128>().add(i)));
                (*to.add(PAIRS * group))[i] = even;
                (*to.add(PAIRS * group + 1))[i] = odd;
            }
        }
    }
}

/// Widens `groups` groups of two rows, which are `row` apart; groups are `step` apart.
///
/// # Safety
/// They are readable; the pairs of as many groups, rounded up to four, are writable.
#[inline(never)]
unsafe fn widen_rows(from: *const i8, [row, step]: [usize; 2], groups: usize, to: *mut Activations) {
    for first in (0..groups).step_by(4) {
        let count = (groups - first).min(4);
        // SAFETY: the caller's promise.
        unsafe {
            let from = from.add(first * step);
            let [even, odd] = even_and_odd(load_groups(from, step, count));
            let [even_1, odd_1] = even_and_odd(load_groups(from.add(row), step, count));
            for (i, pairs) in transposed([even, even_1, odd, odd_1]).into_iter().enumerate() {
                v128_store(to.add(PAIRS * (first + i)).cast(), pairs);
            }
        }
    }
}

/// `count`, one to four, groups of a row.
///
/// # Safety
/// They are readable.
#[inline(always)]
unsafe fn load_groups(from: *const i8, step: usize, count: usize) -> v128 {
    // SAFETY: the caller's promise.
    unsafe {
        if step == GROUP && count == 4 {
            return v128_load(from.cast());
        }
        let mut groups = [0; 4];
        for (i, group) in groups.iter_mut().enumerate().take(count) {
            *group = from.add(i * step).cast::<u32>().read_unaligned();
        }
        v128_load((&raw const groups).cast())
    }
}

/// Adds the products of `pairs` pairs of inputs.
///
/// # Safety
/// As many were written of the weights and of the activations.
#[inline(never)]
unsafe fn add(mut w: *const Weights, mut a: *const Activations, pairs: usize, sums: &mut [[v128; 4]; 2]) {
    let mut acc = *sums;
    // SAFETY: the caller's promise.
    unsafe {
        let end = w.add(pairs);
        while w != end {
            let (first, second) = (u32x4_splat((*a)[0]), u32x4_splat((*a)[1]));
            for j in 0..4 {
                acc[0][j] = i32x4_add(acc[0][j], i32x4_dot_i16x8(first, (*w)[j]));
                acc[1][j] = i32x4_add(acc[1][j], i32x4_dot_i16x8(second, (*w)[j]));
            }
            (w, a) = (w.add(1), a.add(1));
        }
    }
    *sums = acc;
}
