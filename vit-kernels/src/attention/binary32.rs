//! Keys and values in f32, as the matmul wrote them.
use core::mem::MaybeUninit;
use core::ops::Range;

use super::block::{Block, Fresh, fresh};
use super::{Operand, Scope};
use crate::gemm::tile::{Prefetch, Tile};
use crate::gemm::{F32, Finish};
use crate::math::exp2_of_negative;
use crate::simd::{LANES, Simd};

/// Dimensions of a head that are transposed at a time.
const DIM_BLOCK: usize = 64;

/// Above this many elements, keys and values do not fit an L2 of 2 MB: prefetch.
const FAR: usize = 1 << 19;

/// For each token a row with the keys of all heads, then the values of all heads.
#[derive(Clone, Copy)]
pub(super) struct Binary32<'a>(pub(super) &'a [f32]);

/// qᵀ·scale·log₂e: \[head_dim, queries\].
#[repr(align(64))]
pub(super) struct Scratch<const Q: usize>(Fresh<Q, DIM_BLOCK>);

const _: () = assert!(DIM_BLOCK.is_multiple_of(LANES));

impl Operand for Binary32<'_> {
    type Scratch<const Q: usize> = Scratch<Q>;

    #[inline(always)]
    fn panels<S: Simd>() -> usize {
        S::TILE_PANELS
    }

    #[inline(always)]
    fn scratch<const Q: usize>() -> Scratch<Q> {
        Scratch([[MaybeUninit::uninit(); Q]; DIM_BLOCK])
    }

    #[inline(always)]
    fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
        exp2_of_negative(s, x)
    }

    /// A head of up to [`DIM_BLOCK`] dimensions is transposed only once.
    #[inline(always)]
    fn score<S: Simd, const Q: usize>(&self, s: S, at: &Scope<'_>, scratch: &mut Scratch<Q>, block: &mut Block<Q>) {
        let head_dim = at.scores.layout.head_dim;
        for dim in (0..head_dim).step_by(DIM_BLOCK) {
            let dims = dim..(dim + DIM_BLOCK).min(head_dim);
            if at.keys.start == 0 || head_dim > DIM_BLOCK {
                transpose(s, at, &dims, scratch);
            }
            self.multiply(s, at, &dims, scratch, block);
        }
    }

    #[inline(always)]
    fn values<S: Simd, const Q: usize>(
        &self,
        s: S,
        at: &Scope<'_>,
        dims: &Range<usize>,
        _: &Scratch<Q>,
        block: &mut Block<Q>,
    ) {
        let inner = at.scores.layout.inner();
        let column = inner + at.head * at.scores.layout.head_dim + dims.start;
        let v = &self.0[at.keys.start * 2 * inner..at.keys.end * 2 * inner];
        let p = block.scores.as_ptr().cast::<f32>();
        // As many tiles as the level's size needs, of about the same size.
        let rows = dims.len().div_ceil(dims.len().div_ceil(S::TILE_ROWS));
        for first in (0..dims.len()).step_by(rows) {
            let count = rows.min(dims.len() - first);
            let tile = Tile::<F32> {
                a: v[column + first..][..(at.keys.len() - 1) * 2 * inner + count].as_ptr(),
                a_row: 1,
                a_step: 2 * inner,
                b: p,
                b_panel: LANES,
                b_step: Q,
                depth: at.keys.len(),
                resume: None,
                out: block.context[first..first + count].as_mut_ptr().cast(),
                out_row: Q,
                finish: Finish::default(),
                prefetch: Prefetch::nothing(p),
            };
            // SAFETY: v has `count` dimensions of each key; the scores have a row of Q columns, the panels of S's
            // tile, for each key; `context` has Q columns and is local to this task.
            unsafe { tile.run(s, count, at.panels()) }
        }
    }
}

/// Transposes and scales a range of the queries' dimensions.
#[inline(always)]
fn transpose<S: Simd, const Q: usize>(s: S, at: &Scope<'_>, dims: &Range<usize>, scratch: &mut Scratch<Q>) {
    for first in (0..at.rows.len()).step_by(LANES) {
        for dim in dims.clone().step_by(LANES) {
            let len = LANES.min(dims.end - dim);
            let columns = at.scaled_columns(s, first, dim..dim + len);
            let out = &mut scratch.0[dim - dims.start..][..len];
            for (column, out) in columns.iter().zip(out) {
                s.store(*column, fresh(out, first));
            }
        }
    }
}

impl Binary32<'_> {
    /// Prefetches the values of a tile's keys and the keys of the next tile: rows are too far apart for the CPU to
    /// prefetch them itself.
    #[inline(always)]
    fn fetch<S: Simd>(&self, s: S, at: &Scope<'_>, first: usize, dims: &Range<usize>) {
        let inner = at.scores.layout.inner();
        let column = at.head * at.scores.layout.head_dim + dims.start;
        for row in first..first + S::TILE_ROWS {
            for dim in (0..dims.len()).step_by(LANES) {
                let value = row * 2 * inner + inner + column + dim;
                let key = (row + S::TILE_ROWS) * 2 * inner + column + dim;
                // Addresses past the end are fine: a prefetch does not read.
                s.prefetch(self.0.as_ptr().wrapping_add(value).cast());
                s.prefetch(self.0.as_ptr().wrapping_add(key).cast());
            }
        }
    }

    /// scores \[+\]= k·qᵀ for a block of keys and a range of dimensions.
    #[inline(always)]
    fn multiply<S: Simd, const Q: usize>(
        &self,
        s: S,
        at: &Scope<'_>,
        dims: &Range<usize>,
        scratch: &Scratch<Q>,
        block: &mut Block<Q>,
    ) {
        let row = 2 * at.scores.layout.inner();
        for key in (0..at.keys.len()).step_by(S::TILE_ROWS) {
            let count = S::TILE_ROWS.min(at.keys.len() - key);
            let k = &self.0[(at.keys.start + key) * row..(at.keys.start + key + count) * row];
            if self.0.len() > FAR {
                self.fetch(s, at, at.keys.start + key, dims);
            }
            let out = block.scores[key..key + count].as_mut_ptr().cast::<f32>();
            let q = scratch.0.as_ptr().cast::<f32>();
            let tile = Tile::<F32> {
                a: k[at.head * at.scores.layout.head_dim + dims.start..].as_ptr(),
                a_row: row,
                a_step: 1,
                b: q,
                b_panel: LANES,
                b_step: Q,
                depth: dims.len(),
                resume: (dims.start > 0).then_some(out.cast_const()),
                out,
                out_row: Q,
                finish: Finish::default(),
                prefetch: Prefetch::nothing(q),
            };
            // SAFETY: k has `count` rows with the head's dimensions; q and the scores have Q columns, the panels of S's
            // tile; the scores are local to this task.
            unsafe { tile.run(s, count, at.panels()) }
        }
    }
}
