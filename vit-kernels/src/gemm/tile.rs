//! The register tile: `M` rows of A times `P` panels of weights, kept in registers over the whole depth.
//!
//! ```text
//! acc[M][P] = 0, or what `out` holds
//! for k in 0..depth:
//!     b[P] = row k of each panel            one load a vector
//!     for m: acc[m][:] += a[m][k]·b[:]      one broadcast a row
//! out = acc
//! ```
//! Every output is one chain of additions over ascending k, whatever M and P are: all tiles give the same bits.
use crate::half::Storage;
use crate::simd::{Kernel, LANES, MAX_TILE_PANELS, MAX_TILE_ROWS, Simd};

/// Columns that the widest tile writes.
pub(crate) const MAX_TILE_COLUMNS: usize = MAX_TILE_PANELS * LANES;

/// Where a tile reads and writes.
#[derive(Clone, Copy)]
pub(crate) struct Tile<E> {
    /// First of the rows of A, `a_stride` apart, `depth` elements each.
    pub(crate) a: *const f32,
    pub(crate) a_stride: usize,
    /// First panel, \[depth\]\[LANES\]; the next one is `panel_stride` such rows of LANES on.
    pub(crate) b: *const [E; LANES],
    pub(crate) panel_stride: usize,
    pub(crate) depth: usize,
    /// First of the rows written, `out_stride` apart, LANES elements a panel.
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
    /// Start from what `out` holds instead of from 0.
    pub(crate) resume: bool,
}

/// How many panels a tile spans when a matmul has `rows` rows. One row alone is bound by the stream of weights; four
/// panels give it enough independent chains to hide the latency of the additions.
#[inline(always)]
pub(crate) fn panels_per_tile<S: Simd>(rows: usize) -> usize {
    if rows == 1 { MAX_TILE_PANELS } else { S::TILE_PANELS }
}

impl<E: Storage> Tile<E> {
    /// Runs a tile of `rows` × `panels`.
    ///
    /// # Safety
    /// Everything that the fields span for that many rows and panels is readable, and writable for `out`; `out`
    /// overlaps neither A nor the panels. `rows` ≤ `S::TILE_ROWS` and `panels` ≤ [`panels_per_tile`]`(rows)`.
    #[inline(always)]
    pub(crate) unsafe fn run<S: Simd>(self, s: S, rows: usize, panels: usize) {
        debug_assert!((1..=S::TILE_ROWS).contains(&rows) && (1..=panels_per_tile::<S>(rows)).contains(&panels));
        // The conditions are constants of the level: tiles that it does not have are not compiled for it.
        // SAFETY: the caller's promise, handed on.
        unsafe {
            match panels {
                1 => self.with_panels::<S, 1>(s, rows),
                2 if S::TILE_PANELS >= 2 => self.with_panels::<S, 2>(s, rows),
                3 if S::TILE_PANELS >= 3 => self.with_panels::<S, 3>(s, rows),
                // Wider than the level's tile: one row.
                2 => s.call(Sweep::<E, 1, 2>(self)),
                3 => s.call(Sweep::<E, 1, 3>(self)),
                _ => s.call(Sweep::<E, 1, 4>(self)),
            }
        }
    }

    /// # Safety
    /// As [`run`](Self::run).
    #[inline(always)]
    unsafe fn with_panels<S: Simd, const P: usize>(self, s: S, rows: usize) {
        const { assert!(S::TILE_ROWS <= MAX_TILE_ROWS && S::TILE_PANELS <= MAX_TILE_PANELS) }
        match rows {
            8 if S::TILE_ROWS >= 8 => s.call(Sweep::<E, 8, P>(self)),
            7 if S::TILE_ROWS >= 7 => s.call(Sweep::<E, 7, P>(self)),
            6 if S::TILE_ROWS >= 6 => s.call(Sweep::<E, 6, P>(self)),
            5 if S::TILE_ROWS >= 5 => s.call(Sweep::<E, 5, P>(self)),
            4 if S::TILE_ROWS >= 4 => s.call(Sweep::<E, 4, P>(self)),
            3 => s.call(Sweep::<E, 3, P>(self)),
            2 => s.call(Sweep::<E, 2, P>(self)),
            _ => s.call(Sweep::<E, 1, P>(self)),
        }
    }
}

/// The tile of `M` × `P`. Only made by [`Tile::run`], whose caller vouches for the pointers.
struct Sweep<E, const M: usize, const P: usize>(Tile<E>);

impl<E: Storage, const M: usize, const P: usize> Kernel for Sweep<E, M, P> {
    type Output = ();
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        let mut acc = [[s.splat(0.0); P]; M];
        // SAFETY: the caller of `Tile::run` vouches for M rows of A, P panels, and M rows of `out`; all offsets stay
        // within those, and `out` is not read or written through anything else meanwhile.
        unsafe {
            let out = |m: usize, p: usize| t.out.add(m * t.out_stride + p * LANES).cast::<[f32; LANES]>();
            if t.resume {
                for m in 0..M {
                    for p in 0..P {
                        acc[m][p] = s.load(&*out(m, p));
                    }
                }
            }
            for k in 0..t.depth {
                let mut b = [s.splat(0.0); P];
                for p in 0..P {
                    b[p] = E::load(s, &*t.b.add(p * t.panel_stride + k));
                }
                for m in 0..M {
                    let a = s.splat(*t.a.add(m * t.a_stride + k));
                    for p in 0..P {
                        acc[m][p] = s.mul_add(a, b[p], acc[m][p]);
                    }
                }
            }
            for m in 0..M {
                for p in 0..P {
                    s.store(acc[m][p], &mut *out(m, p));
                }
            }
        }
    }
}
