//! Attention over keys and values in bf16: queries and probabilities are rounded to bf16 too, and products are added in
//! f32.
use core::ops::Range;

use ::half::bf16;

use super::bf16_kv::Bf16Kv;
use super::block::{Block, lane_group_mut, written};
use super::{KEY_BLOCK, Operand, Scope};
use crate::gemm::tile::{Prefetch, Tile};
use crate::gemm::{Bf16, Finish};
use crate::half::Storage;
use crate::math::coarse_exp2_of_negative;
use crate::round::{PAIR, bf16_len};
use crate::simd::{LANES, Simd};

/// Dimensions of a head that are transposed at a time.
const DIM_BLOCK: usize = 64;

/// The queries, times scale·log₂e, and their probabilities: pairs of dimensions and of keys, a column for each query.
#[repr(align(64))]
pub(super) struct Scratch<const Q: usize> {
    queries: [[[bf16; PAIR]; Q]; DIM_BLOCK / PAIR],
    probabilities: [[[bf16; PAIR]; Q]; KEY_BLOCK / PAIR],
}

const _: () = assert!(DIM_BLOCK.is_multiple_of(LANES) && KEY_BLOCK.is_multiple_of(PAIR));

impl Operand for Bf16Kv<'_> {
    type Scratch<const Q: usize> = Scratch<Q>;

    #[inline(always)]
    fn panels<S: Simd>() -> usize {
        S::TILE_PANELS
    }

    #[inline(always)]
    fn scratch<const Q: usize>() -> Scratch<Q> {
        Scratch {
            queries: [[[bf16::ZERO; PAIR]; Q]; DIM_BLOCK / PAIR],
            probabilities: [[[bf16::ZERO; PAIR]; Q]; KEY_BLOCK / PAIR],
        }
    }

    #[inline(always)]
    fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
        coarse_exp2_of_negative(s, x)
    }

    /// A head of up to [`DIM_BLOCK`] dimensions is transposed only once.
    #[inline(always)]
    fn score<S: Simd, const Q: usize>(&self, s: S, at: &Scope<'_>, scratch: &mut Scratch<Q>, block: &mut Block<Q>) {
        let head_dim = self.layout.head_dim;
        let row = bf16_len(head_dim) / PAIR;
        for dim in (0..head_dim).step_by(DIM_BLOCK) {
            let dims = dim..(dim + DIM_BLOCK).min(head_dim);
            if at.keys.start == 0 || head_dim > DIM_BLOCK {
                transpose(s, at, &dims, scratch);
            }
            for key in at.keys.clone().step_by(S::TILE_ROWS) {
                let count = S::TILE_ROWS.min(at.keys.end - key);
                let k = &self.keys(at.head)[key * row..(key + count) * row];
                let out = block.scores[key - at.keys.start..][..count].as_mut_ptr().cast::<f32>();
                let tile = Tile::<Bf16> {
                    a: k[dim / PAIR..].as_ptr(),
                    a_row: row,
                    a_step: 1,
                    depth: dims.len(),
                    resume: (dim > 0).then_some(out.cast_const()),
                    out,
                    ..tile(&scratch.queries)
                };
                // SAFETY: k has `count` rows with these dimensions, padded to a pair; the queries and the scores have Q
                // columns, the panels of S's tile; the scores are local to this task.
                unsafe { tile.run(s, count, at.panels()) }
            }
        }
    }

    /// Rounds the probabilities.
    #[inline(always)]
    fn prepare<S: Simd, const Q: usize>(&self, s: S, at: &Scope<'_>, scratch: &mut Scratch<Q>, block: &mut Block<Q>) {
        for (rows, pairs) in block.scores[..at.keys.len()].chunks(PAIR).zip(&mut scratch.probabilities) {
            for first in (0..at.rows.len()).step_by(LANES) {
                let mut p = [s.splat(0.0); PAIR];
                for (p, row) in p.iter_mut().zip(rows) {
                    // SAFETY: `absorb` wrote the probabilities of every key.
                    *p = s.load(unsafe { written(row, first) });
                }
                s.store_bf16_pairs(p, lane_group_mut(pairs, first));
            }
        }
    }

    #[inline(always)]
    fn values<S: Simd, const Q: usize>(
        &self,
        s: S,
        at: &Scope<'_>,
        dims: &Range<usize>,
        scratch: &Scratch<Q>,
        block: &mut Block<Q>,
    ) {
        let (head_dim, pairs) = (self.layout.head_dim, at.keys.len().div_ceil(PAIR));
        let v = &self.values(at.head)[at.keys.start / PAIR * head_dim..][..pairs * head_dim];
        // As many tiles as the level's size needs, of about the same size.
        let rows = dims.len().div_ceil(dims.len().div_ceil(S::TILE_ROWS));
        for first in (0..dims.len()).step_by(rows) {
            let count = rows.min(dims.len() - first);
            let tile = Tile::<Bf16> {
                a: v[dims.start + first..][..(pairs - 1) * head_dim + count].as_ptr(),
                a_row: 1,
                a_step: head_dim,
                depth: at.keys.len(),
                out: block.context[first..first + count].as_mut_ptr().cast(),
                ..tile(&scratch.probabilities)
            };
            // SAFETY: v has `count` dimensions of each pair of keys; the probabilities have Q columns, the panels of S's
            // tile, and so has `context`, which is local to this task.
            unsafe { tile.run(s, count, at.panels()) }
        }
    }
}

/// A tile's right operand, and the width of its output; the rest is for the caller to set.
#[inline(always)]
fn tile<const Q: usize>(columns: &[[[bf16; PAIR]; Q]]) -> Tile<'_, Bf16> {
    let b = columns.as_ptr().cast::<bf16>();
    Tile {
        a: core::ptr::null(),
        a_row: 0,
        a_step: 0,
        b,
        b_panel: PAIR * LANES,
        b_step: PAIR * Q,
        depth: 0,
        resume: None,
        out: core::ptr::null_mut(),
        out_row: Q,
        finish: Finish::default(),
        prefetch: Prefetch::nothing(b),
    }
}

/// Transposes, scales and rounds a range of the queries' dimensions.
#[inline(always)]
fn transpose<S: Simd, const Q: usize>(s: S, at: &Scope<'_>, dims: &Range<usize>, scratch: &mut Scratch<Q>) {
    let scale = s.splat(at.scores.scale * core::f32::consts::LOG2_E);
    for first in (0..at.rows.len()).step_by(LANES) {
        for dim in dims.clone().step_by(LANES) {
            let len = LANES.min(dims.end - dim);
            let mut square = [s.splat(0.0); LANES];
            for (row, v) in (at.rows.start + first..at.rows.end).zip(&mut square) {
                *v = s.mul(f32::load_any(s, at.query(row, dim..dim + len)), scale);
            }
            let out = &mut scratch.queries[(dim - dims.start) / PAIR..][..len.div_ceil(PAIR)];
            for (pair, out) in s.transpose(square).as_chunks::<PAIR>().0.iter().zip(out) {
                s.store_bf16_pairs(*pair, lane_group_mut(out, first));
            }
        }
    }
}
