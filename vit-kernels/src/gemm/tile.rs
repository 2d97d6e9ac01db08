//! The register tile: `M` rows of A times `P` panels of B, kept in registers over the whole depth.
//!
//! ```text
//! acc[M][P] = 0, or the sums over the previous blocks of the depth
//! for each group of inputs, for each input k of it:
//!     b[P] = row k of each panel            one load per vector
//!     for m: acc[m][:] += a[m][k]·b[:]      one broadcast per row
//! out = finish(acc)
//! ```
//! Every output is one chain of additions over ascending k for any M and P: all tiles give the same bits.
//!
//! Levels that multiply [by element](Simd::BY_ELEMENT) load four elements of A at a time, of a row or of a column.
use crate::gemm::epilogue::{Accumulate, Finish};
use crate::gemm::format::Weights;
use crate::simd::{Kernel, LANES, MAX_TILE_PANELS, MAX_TILE_ROWS, Simd};

/// Columns of the widest tile.
pub(crate) const MAX_TILE_COLUMNS: usize = MAX_TILE_PANELS * LANES;

/// The operands of a tile. Strides of A are in groups of inputs, the others in elements.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a, W: Weights> {
    /// A: group g of inputs of row m is at m·`a_row` + g·`a_step`.
    pub(crate) a: *const W::Inputs,
    pub(crate) a_row: usize,
    pub(crate) a_step: usize,
    /// B: the elements of panel p for group g of inputs start at p·`b_panel` + g·`b_step`.
    pub(crate) b: *const W::Element,
    pub(crate) b_panel: usize,
    pub(crate) b_step: usize,
    /// Inputs.
    pub(crate) depth: usize,
    /// The initial sums, if not 0; rows are `out_row` apart. May be `out` itself.
    pub(crate) resume: Option<*const f32>,
    /// The rows written, `out_row` apart, LANES elements per panel.
    pub(crate) out: *mut f32,
    pub(crate) out_row: usize,
    /// Applied to the sums before they are written.
    pub(crate) finish: Finish<'a>,
    pub(crate) prefetch: Prefetch,
}

/// Prefetch stream: a cache line for each group of inputs, `step` bytes apart.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    pub(crate) start: *const u8,
    pub(crate) step: usize,
}

impl Prefetch {
    /// No prefetch stream: every prefetch is of `here`, which is in the cache already.
    pub(crate) fn nothing<T>(here: *const T) -> Self {
        Self { start: here.cast(), step: 0 }
    }
}

/// Most panels of a tile in a matmul of `rows` rows. With one row the matmul is bound by reading the weights.
#[inline(always)]
pub(crate) fn panels_per_tile<S: Simd>(rows: usize) -> usize {
    if rows == 1 { S::CHAINS } else { S::TILE_PANELS }
}

impl<W: Weights> Tile<'_, W> {
    /// Runs a tile of `rows` × `panels`.
    ///
    /// # Safety
    /// Everything that the fields span for that many rows and panels is readable, and writable for `out`; `out`
    /// overlaps neither A nor B. `rows` ≤ `S::TILE_ROWS` and `panels` ≤ [`panels_per_tile`]`(rows)`. If
    /// `S::TILE_PANELS` is 1, groups of a panel are neighbours: `b_step` is a group's elements.
    #[inline(always)]
    pub(crate) unsafe fn run<S: Simd>(self, s: S, rows: usize, panels: usize) {
        debug_assert!((1..=S::TILE_ROWS).contains(&rows) && (1..=panels_per_tile::<S>(rows)).contains(&panels));
        // The guards are constants of the level: tiles it does not use are not compiled.
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match panels {
                1 => self.with_panels::<S, 1>(s, rows),
                2 if S::TILE_PANELS >= 2 => self.with_panels::<S, 2>(s, rows),
                3 if S::TILE_PANELS >= 3 => self.with_panels::<S, 3>(s, rows),
                // Wider than the level's tile: a matmul of one row.
                2 if S::CHAINS >= 2 => s.call(Sweep::<W, 1, 2>(self)),
                3 if S::CHAINS >= 3 => s.call(Sweep::<W, 1, 3>(self)),
                4 if S::CHAINS >= 4 => s.call(Sweep::<W, 1, 4>(self)),
                _ => {}
            }
        }
    }

    /// # Safety
    /// As [`run`](Self::run).
    #[inline(always)]
    unsafe fn with_panels<S: Simd, const P: usize>(self, s: S, rows: usize) {
        const { assert!(S::TILE_ROWS <= MAX_TILE_ROWS && S::TILE_PANELS <= MAX_TILE_PANELS) }
        match rows {
            8 if S::TILE_ROWS >= 8 => s.call(Sweep::<W, 8, P>(self)),
            7 if S::TILE_ROWS >= 7 => s.call(Sweep::<W, 7, P>(self)),
            6 if S::TILE_ROWS >= 6 => s.call(Sweep::<W, 6, P>(self)),
            5 if S::TILE_ROWS >= 5 => s.call(Sweep::<W, 5, P>(self)),
            4 if S::TILE_ROWS >= 4 => s.call(Sweep::<W, 4, P>(self)),
            3 if S::TILE_ROWS >= 3 => s.call(Sweep::<W, 3, P>(self)),
            2 if S::TILE_ROWS >= 2 => s.call(Sweep::<W, 2, P>(self)),
            _ => s.call(Sweep::<W, 1, P>(self)),
        }
    }
}

/// Elements of A that levels which multiply [by element](Simd::BY_ELEMENT) load at once; of int8, groups of inputs.
pub(super) const QUAD: usize = 4;

impl<W: Weights> Tile<'_, W> {
    /// Adds the products of [`QUAD`] inputs, from a group on, which are neighbours in each row of A.
    ///
    /// # Safety
    /// As [`run`](Self::run), for `M` rows and `P` panels.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    unsafe fn add_quad<S: Simd, const M: usize, const P: usize>(&self, s: S, acc: &mut [[S::V; P]; M], group: usize) {
        // A tile of many rows takes so long for a line of weights that the CPU's own prefetch keeps up.
        for group in (group..group + QUAD / W::GROUP).step_by(if M < QUAD { 1 } else { QUAD }) {
            s.prefetch(self.prefetch.start.wrapping_add(group * self.prefetch.step));
        }
        let mut a = [[0.0; QUAD]; M];
        // SAFETY: the caller's promise: these inputs of M rows of A and of P panels are readable.
        unsafe {
            for m in 0..M {
                a[m] = W::widen(s, &*self.a.add(m * self.a_row + group).cast());
            }
            if W::GROUP == 1 {
                self.add_elements::<S, M, P, 0, 0>(s, acc, &a, group);
                self.add_elements::<S, M, P, 1, 1>(s, acc, &a, group + 1);
                self.add_elements::<S, M, P, 2, 2>(s, acc, &a, group + 2);
                self.add_elements::<S, M, P, 3, 3>(s, acc, &a, group + 3);
            } else {
                self.add_elements::<S, M, P, 0, 1>(s, acc, &a, group);
                self.add_elements::<S, M, P, 2, 3>(s, acc, &a, group + 1);
            }
        }
    }

    /// Adds the products of a group of inputs, which are the elements from `I` to `J` of each row's quad.
    ///
    /// # Safety
    /// As [`add_quad`](Self::add_quad).
    #[inline(always)]
    unsafe fn add_elements<S: Simd, const M: usize, const P: usize, const I: i32, const J: i32>(
        &self,
        s: S,
        acc: &mut [[S::V; P]; M],
        a: &[[f32; QUAD]; M],
        group: usize,
    ) {
        for p in 0..P {
            // SAFETY: the caller's promise: this group of P panels is readable.
            let weights = unsafe { &*self.b.add(p * self.b_panel + group * self.b_step).cast() };
            W::add_elements::<S, M, P, I, J>(s, acc, p, a, weights);
        }
    }

    /// Adds the products of one group, whose elements of A's rows are neighbours; `M` is a multiple of [`QUAD`].
    ///
    /// # Safety
    /// As [`run`](Self::run), for `M` rows and `P` panels.
    #[inline(always)]
    unsafe fn add_column<S: Simd, const M: usize, const P: usize>(&self, s: S, acc: &mut [[S::V; P]; M], group: usize) {
        // SAFETY: the caller's promise: this group of M rows of A and of P panels is readable.
        unsafe {
            for i in 0..W::GROUP {
                let b = self.weights::<S, P>(s, group, i);
                for m in (0..M).step_by(QUAD) {
                    let a = W::widen_column(s, &*self.a.add(m + group * self.a_step).cast(), i);
                    for p in 0..P {
                        acc[m][p] = s.mul_add_element::<0>(&a, b[p], acc[m][p]);
                        acc[m + 1][p] = s.mul_add_element::<1>(&a, b[p], acc[m + 1][p]);
                        acc[m + 2][p] = s.mul_add_element::<2>(&a, b[p], acc[m + 2][p]);
                        acc[m + 3][p] = s.mul_add_element::<3>(&a, b[p], acc[m + 3][p]);
                    }
                }
            }
        }
    }

    /// Input `i` of a group of each panel.
    ///
    /// # Safety
    /// As [`run`](Self::run), for `P` panels.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // As above.
    unsafe fn weights<S: Simd, const P: usize>(&self, s: S, group: usize, i: usize) -> [S::V; P] {
        let mut b = [s.splat(0.0); P];
        for p in 0..P {
            // SAFETY: the caller's promise.
            b[p] = W::load(s, unsafe { &*self.b.add(p * self.b_panel + group * self.b_step).cast() }, i);
        }
        b
    }

    /// Adds the products of a group of inputs.
    ///
    /// # Safety
    /// As [`run`](Self::run), for `M` rows and `P` panels.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    unsafe fn add_group<S: Simd, const M: usize, const P: usize>(&self, s: S, acc: &mut [[S::V; P]; M], group: usize) {
        // SAFETY: the caller's promise: these inputs of M rows of A and of P panels are readable.
        unsafe {
            let row = |m: usize| &*self.a.add(m * self.a_row + group * self.a_step);
            if W::has_dot::<S>() {
                let b = self.b.add(group * self.b_step);
                for m in 0..M {
                    for p in 0..P {
                        acc[m][p] = W::dot(s, acc[m][p], row(m), &*b.add(p * self.b_panel).cast());
                    }
                }
                return;
            }
            for i in 0..W::GROUP {
                let b = self.weights::<S, P>(s, group, i);
                for m in 0..M {
                    let a = W::splat(s, row(m), i);
                    for p in 0..P {
                        acc[m][p] = s.mul_add(a, b[p], acc[m][p]);
                    }
                }
            }
        }
    }
}

/// A tile of `M` rows × `P` panels. Only [`Tile::run`] makes one; its caller vouches for the pointers.
struct Sweep<'a, W: Weights, const M: usize, const P: usize>(Tile<'a, W>);

impl<W: Weights, const M: usize, const P: usize> Kernel for Sweep<'_, W, M, P> {
    type Output = ();
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    fn run<S: Simd>(self, s: S) {
        let mut t = self.0;
        if S::TILE_PANELS == 1 {
            // So it is already; now the compiler knows, and addresses take fewer instructions.
            debug_assert_eq!(t.b_step, W::GROUP * LANES);
            t.b_step = W::GROUP * LANES;
        }
        let mut acc = [[s.splat(0.0); P]; M];
        // SAFETY: the caller of `Tile::run` vouches for M rows of A, P panels, and M rows of `out`; all offsets stay
        // within those, and `out` is not read or written through anything else meanwhile.
        unsafe {
            let at = |m: usize, p: usize| m * t.out_row + p * LANES;
            if let Some(sums) = t.resume {
                for m in 0..M {
                    for p in 0..P {
                        acc[m][p] = s.load(&*sums.add(at(m, p)).cast());
                    }
                }
            }
            // The last group may be padded.
            let (groups, mut first) = (t.depth.div_ceil(W::GROUP), 0);
            if S::BY_ELEMENT && t.a_step == 1 {
                let quad = const { QUAD / W::GROUP };
                first = groups / quad * quad;
                for group in (0..first).step_by(quad) {
                    t.add_quad(s, &mut acc, group);
                }
            } else if S::BY_ELEMENT && t.a_row == 1 && M.is_multiple_of(QUAD) {
                first = groups;
                for group in 0..groups {
                    t.add_column(s, &mut acc, group);
                }
            }
            for group in first..groups {
                s.prefetch(t.prefetch.start.wrapping_add(group * t.prefetch.step));
                t.add_group(s, &mut acc, group);
            }
            finish(s, acc, &t.finish, t.out, t.out_row);
        }
    }
}

/// Applies `finish` to a tile's sums and writes them.
///
/// # Safety
/// `out` has `M` rows of `P` panels, `out_row` apart, that nothing else refers to; the vectors of `finish` have as many
/// columns.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // As above.
pub(super) unsafe fn finish<S: Simd, const M: usize, const P: usize>(
    s: S,
    mut acc: [[S::V; P]; M],
    finish: &Finish<'_>,
    out: *mut f32,
    out_row: usize,
) {
    let at = |m: usize, p: usize| m * out_row + p * LANES;
    // SAFETY: the caller's promise; all offsets stay within it.
    unsafe {
        if let Some(bias) = finish.bias {
            for p in 0..P {
                let bias = s.load(&*bias.as_ptr().add(p * LANES).cast());
                for m in 0..M {
                    acc[m][p] = s.add(acc[m][p], bias);
                }
            }
        }
        if let Some(scale) = finish.scale {
            for p in 0..P {
                let scale = s.load(&*scale.as_ptr().add(p * LANES).cast());
                for m in 0..M {
                    acc[m][p] = s.mul(acc[m][p], scale);
                }
            }
        }
        if finish.accumulate != Accumulate::Replace {
            for m in 0..M {
                for p in 0..P {
                    acc[m][p] = finish.accumulate.merge(s, s.load(&*out.add(at(m, p)).cast()), acc[m][p]);
                }
            }
        }
        for m in 0..M {
            for p in 0..P {
                s.store(acc[m][p], &mut *out.add(at(m, p)).cast());
            }
        }
    }
}
