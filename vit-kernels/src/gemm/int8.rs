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

use super::epilogue::Finish;
use super::format::int8::{GROUP, Group, Int8Weights};
use super::integer::{IntegerTile, IntegerWeights, Out, Rows, prefetch};
use super::tile::{self, Prefetch, QUAD};
use crate::simd::{LANES, Simd};

impl<'a> IntegerWeights<'a> for Int8Weights<'a> {
    type Tile = Int8Tile<'a>;

    #[inline(always)]
    fn tile(&self, rows: Rows<'a>, panels: Range<usize>, out: Out<'a>) -> Int8Tile<'a> {
        let groups = self.groups;
        Int8Tile {
            a: rows.values.as_ptr(),
            a_row: rows.len,
            a_step: GROUP,
            a_scales: rows.scales,
            w: self.panels[panels.start * groups..panels.end * groups].as_ptr(),
            w_panel: groups,
            w_step: 1,
            groups,
            w_scales: &self.scales[panels.clone()],
            sums: &self.sums[panels.clone()],
            out: out.out,
            out_row: out.row,
            finish: out.finish,
            prefetch: prefetch(self.panels, panels.end, groups, rows.prefetched),
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
    /// Weights: group g of panel p is at p·`w_panel` + g·`w_step`. On levels whose tiles have one panel `w_step` is 1.
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
    /// The sums, by the level's `dot`: [`Simd::int8_sums`] of levels that have registers for a tile's sums.
    ///
    /// # Safety
    /// As that.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    pub(crate) unsafe fn sums<S: Simd, const M: usize, const P: usize>(&self, s: S) -> [[S::I; P]; M] {
        let mut acc = [[s.start(&self.sums[0]); P]; M];
        for m in 0..M {
            for p in 0..P {
                acc[m][p] = s.start(&self.sums[p]);
            }
        }
        let mut first = 0;
        if S::BY_ELEMENT && self.a_step == GROUP {
            first = self.groups / QUAD * QUAD;
            for group in (0..first).step_by(QUAD) {
                // SAFETY: the caller's promise, passed on.
                unsafe { self.add_quad(s, &mut acc, group) }
            }
        } else if S::BY_ELEMENT && self.a_row == GROUP && M.is_multiple_of(QUAD) {
            first = self.groups;
            for group in 0..first {
                // SAFETY: the caller's promise, passed on.
                unsafe { self.add_column(s, &mut acc, group) }
            }
        }
        for group in first..self.groups {
            s.prefetch(self.prefetch.start.wrapping_add(group * self.prefetch.step));
            // SAFETY: the caller vouches for P panels and M rows of that many groups.
            unsafe {
                let w = self.weights::<S, P>(s, group);
                for m in 0..M {
                    let a = s.splat_activations(*self.a.add(m * self.a_row + group * self.a_step).cast());
                    for p in 0..P {
                        acc[m][p] = s.dot(acc[m][p], a, w[p]);
                    }
                }
            }
        }
        acc
    }

    /// Adds the products of [`QUAD`] groups, from `group` on, which are neighbours in each row of A.
    ///
    /// # Safety
    /// As [`sums`](Self::sums).
    #[inline(always)]
    unsafe fn add_quad<S: Simd, const M: usize, const P: usize>(&self, s: S, acc: &mut [[S::I; P]; M], group: usize) {
        s.prefetch(self.prefetch.start.wrapping_add(group * self.prefetch.step));
        // SAFETY: the caller's promise, passed on.
        unsafe {
            self.add_group::<S, M, P, 0>(s, acc, group);
            self.add_group::<S, M, P, 1>(s, acc, group);
            self.add_group::<S, M, P, 2>(s, acc, group);
            self.add_group::<S, M, P, 3>(s, acc, group);
        }
    }

    /// Adds the products of group `I` of a quad.
    ///
    /// # Safety
    /// As [`sums`](Self::sums).
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // As above.
    unsafe fn add_group<S: Simd, const M: usize, const P: usize, const I: i32>(
        &self,
        s: S,
        acc: &mut [[S::I; P]; M],
        group: usize,
    ) {
        // SAFETY: the caller vouches for P panels and M rows of these groups.
        unsafe {
            let w = self.weights::<S, P>(s, group + I as usize);
            for m in 0..M {
                let a = &*self.a.add(m * self.a_row + group * GROUP).cast();
                for p in 0..P {
                    acc[m][p] = s.dot_element::<I>(acc[m][p], a, w[p]);
                }
            }
        }
    }

    /// Adds the products of a group whose elements of A's rows are neighbours; `M` is a multiple of [`QUAD`].
    ///
    /// # Safety
    /// As [`sums`](Self::sums).
    #[inline(always)]
    unsafe fn add_column<S: Simd, const M: usize, const P: usize>(&self, s: S, acc: &mut [[S::I; P]; M], group: usize) {
        // SAFETY: the caller vouches for P panels and M rows of this group.
        unsafe {
            let w = self.weights::<S, P>(s, group);
            for m in (0..M).step_by(QUAD) {
                let a = &*self.a.add(m * GROUP + group * self.a_step).cast();
                for p in 0..P {
                    acc[m][p] = s.dot_element::<0>(acc[m][p], a, w[p]);
                    acc[m + 1][p] = s.dot_element::<1>(acc[m + 1][p], a, w[p]);
                    acc[m + 2][p] = s.dot_element::<2>(acc[m + 2][p], a, w[p]);
                    acc[m + 3][p] = s.dot_element::<3>(acc[m + 3][p], a, w[p]);
                }
            }
        }
    }

    /// A group of each panel.
    ///
    /// # Safety
    /// As [`sums`](Self::sums).
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // As above.
    unsafe fn weights<S: Simd, const P: usize>(&self, s: S, group: usize) -> [S::Weights; P] {
        // With one panel, as the tile's caller vouches; the compiler does not know.
        let step = if S::INT8_PANELS == 1 { 1 } else { self.w_step };
        // SAFETY: the caller vouches for P panels of this group.
        unsafe {
            let mut w = [s.load_weights(&*self.w.add(group * step)); P];
            for p in 1..P {
                w[p] = s.load_weights(&*self.w.add(p * self.w_panel + group * step));
            }
            w
        }
    }
}

impl Int8Tile<'_> {
    /// Scales the sums and writes them through the epilogue.
    ///
    /// # Safety
    /// The tile has `M` rows of `P` panels of output, which nothing else refers to.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    pub(crate) unsafe fn store<S: Simd, const M: usize, const P: usize>(&self, s: S, acc: [[S::I; P]; M]) {
        let t = self;
        let mut out = [[s.splat(0.0); P]; M];
        for p in 0..P {
            let scale = s.load(&t.w_scales[p]);
            for m in 0..M {
                out[m][p] = s.mul(s.mul(s.to_f32(acc[m][p]), scale), s.splat(t.a_scales[m]));
            }
        }
        // SAFETY: the caller vouches for M rows of `out`.
        unsafe { tile::finish(s, out, &t.finish, t.out, t.out_row) }
    }
}

#[cfg(wasm_simd)]
impl Int8Tile<'_> {
    /// One of the tile's panels.
    ///
    /// # Safety
    /// The tile has this panel.
    pub(crate) unsafe fn panel(&self, panel: usize) -> Self {
        let columns = panel * LANES..(panel + 1) * LANES;
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                w: self.w.add(panel * self.w_panel),
                w_scales: &self.w_scales[panel..],
                sums: &self.sums[panel..],
                out: self.out.add(columns.start),
                finish: self.finish.columns(columns),
                ..*self
            }
        }
    }
}

impl IntegerTile for Int8Tile<'_> {
    #[inline(always)]
    unsafe fn sweep<S: Simd, const M: usize, const P: usize>(self, s: S) {
        // SAFETY: the caller vouches for M rows and P panels.
        unsafe { s.int8_tile::<M, P>(&self) }
    }
}
