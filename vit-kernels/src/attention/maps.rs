//! Attention maps: the probabilities as an output, for inspection.
use core::ops::Range;

use super::binary32::Binary32;
use super::block::{Block, lane_group, written};
use super::{BF16, F32, KeysValues, KvLayout, Operand, Scope, Scores, Tiles, Widest};
use crate::error::{ShapeError, expect_len};
use crate::half::Storage;
use crate::job::{Job, Shared};
use crate::simd::{LANES, Simd};

/// softmax(scale·q·kᵀ + bias) of a range of query rows; a task per head and group of rows.
///
/// The scores are computed twice, first for the softmax's maximum and sum, so this needs no more memory than
/// [`Attention`](super::Attention). Error per probability p, with S as there: at most
/// (16 + tokens + head_dim·S)·2⁻²³·p; a probability below 2⁻¹²⁶ of the row's largest is 0.
pub struct AttentionMaps<'a> {
    scores: Scores<'a>,
    first_row: usize,
    /// Rows of each head's matrix.
    queries: usize,
    out: Shared<'a, f32>,
}

impl<'a> Scores<'a> {
    /// Writes the probabilities to rows `first_row`.. of every head's matrix in `out`, \[heads, queries, tokens\].
    ///
    /// # Errors
    /// When `out` has another length, or the rows go past the last of the `queries`.
    pub fn maps(self, first_row: usize, queries: usize, out: &'a mut [f32]) -> Result<AttentionMaps<'a>, ShapeError> {
        let KvLayout { heads, tokens, .. } = self.layout;
        let len = queries.checked_mul(tokens).and_then(|len| len.checked_mul(heads));
        expect_len("attention: maps must be heads × queries × tokens", len, out.len())?;
        let end = first_row.saturating_add(self.rows());
        expect_len("attention: the rows of the maps must not go past the last query", Some(end.min(queries)), end)?;
        Ok(AttentionMaps { scores: self, first_row, queries, out: Shared::new(out) })
    }
}

// SAFETY: a task writes only its own rows of its head's matrix.
unsafe impl Job for AttentionMaps<'_> {
    fn grid(&self) -> [usize; 2] {
        self.scores.grid()
    }

    unsafe fn task(&self, group: usize, head: usize) {
        let Some(scope) = self.scores.scope(group, head) else { return };
        match self.scores.kv {
            KeysValues::F32(kv) if F32 => {
                self.scores.isa.call(Widest(WriteMaps { scope, kv: Binary32(kv), job: self }))
            }
            KeysValues::Bf16(kv) if BF16 => self.scores.isa.call_bf16(Widest(WriteMaps { scope, kv, job: self })),
            KeysValues::Int8(kv) => self.scores.isa.call_int8(Widest(WriteMaps { scope, kv, job: self })),
            KeysValues::F32(_) | KeysValues::Bf16(_) => {} // `Scores::new` refuses it.
        }
    }
}

/// A task of [`AttentionMaps`].
struct WriteMaps<'a, O> {
    scope: Scope<'a>,
    kv: O,
    job: &'a AttentionMaps<'a>,
}

impl<O: Operand> Tiles for WriteMaps<'_, O> {
    type Operand = O;

    #[inline(always)]
    fn tiles<S: Simd, const Q: usize>(self, s: S) {
        let (mut block, mut scratch) = (Block::<Q>::new(), O::scratch::<Q>());
        for tile in self.scope.tiles::<Q>() {
            block.restart();
            for last_time in [false, true] {
                for at in tile.blocks() {
                    at.score(s, &self.kv, &mut scratch, &mut block);
                    if last_time {
                        self.write(s, &at.rows, &at.keys, &block);
                    } else {
                        block.absorb::<S, O>(s, at.rows.len(), at.keys.len(), false, &mut scratch);
                    }
                }
            }
        }
    }
}

impl<O: Operand> WriteMaps<'_, O> {
    /// Writes the probabilities of a block of keys, given the maximum and sum of each row.
    #[inline(always)]
    fn write<S: Simd, const Q: usize>(&self, s: S, rows: &Range<usize>, keys: &Range<usize>, block: &Block<Q>) {
        for first in (0..rows.len()).step_by(LANES) {
            let max = s.load(lane_group(&block.max, first));
            let sum = s.load(lane_group(&block.sum, first));
            for key in (0..keys.len()).step_by(LANES) {
                let len = LANES.min(keys.len() - key);
                let mut square = [s.splat(0.0); LANES];
                for (scores, v) in block.scores[key..key + len].iter().zip(&mut square) {
                    // SAFETY: the tiles wrote whole panels of the scores.
                    let score = s.load(unsafe { written(scores, first) });
                    *v = s.div(O::exp2(s, s.sub(score, max)), sum);
                }
                for (row, v) in (rows.start + first..rows.end).zip(s.transpose(square)) {
                    let tokens = self.job.scores.layout.tokens;
                    let row = self.scope.head * self.job.queries + self.job.first_row + row;
                    let start = row * tokens + keys.start + key;
                    // SAFETY: this head's rows belong to this task, which holds only one such slice at a time.
                    f32::store_any(s, v, unsafe { self.job.out.part(start..start + len) });
                }
            }
        }
    }
}
