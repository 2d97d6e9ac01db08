//! Attention maps: the probabilities as an output, for inspection.
use core::ops::Range;

use super::{KEY_BLOCK, Queries, Scores, Work, written};
use crate::error::{ShapeError, expect_len};
use crate::half::Storage;
use crate::job::{Job, Shared};
use crate::math::exp2_of_negative;
use crate::simd::{Kernel, LANES, Simd};

/// softmax(scale·q·kᵀ + bias) of a range of query rows; a task per head and group of rows.
///
/// The scores are computed twice, first for the softmax's maximum and sum, so this needs no more memory than
/// [`Attention`](super::Attention). Error per probability p, with S as there: at most
/// (16 + tokens + head_dim·S)·2⁻²³·p; a probability below 2⁻¹²⁶ of the row's largest is 0.
pub struct AttentionMaps<'a> {
    scores: Scores<'a>,
    first_row: usize,
    out: Shared<'a, f32>,
}

impl<'a> Scores<'a> {
    /// Writes the probabilities to rows `first_row`.. of every head's matrix in `out`, \[heads, tokens, tokens\].
    ///
    /// # Errors
    /// When `out` has another length, or the rows go past the last token.
    pub fn maps(self, first_row: usize, out: &'a mut [f32]) -> Result<AttentionMaps<'a>, ShapeError> {
        let tokens = self.layout.tokens;
        let len = tokens.checked_mul(tokens).and_then(|len| len.checked_mul(self.layout.heads));
        expect_len("attention: maps must be heads × tokens × tokens", len, out.len())?;
        let end = first_row.saturating_add(self.rows());
        expect_len("attention: the rows of the maps must not go past the last token", Some(end.min(tokens)), end)?;
        Ok(AttentionMaps { scores: self, first_row, out: Shared::new(out) })
    }
}

// SAFETY: a task writes only its own rows of its head's matrix.
unsafe impl Job for AttentionMaps<'_> {
    fn grid(&self) -> [usize; 2] {
        self.scores.grid()
    }

    unsafe fn task(&self, group: usize, head: usize) {
        if let Some(queries) = self.scores.queries(group, head) {
            self.scores.isa.call(WriteMaps { queries, job: self });
        }
    }
}

/// A task of [`AttentionMaps`].
struct WriteMaps<'a> {
    queries: Queries<'a>,
    job: &'a AttentionMaps<'a>,
}

impl Kernel for WriteMaps<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match S::TILE_PANELS {
            3 => self.tiles::<S, { 3 * LANES }>(s),
            _ => self.tiles::<S, LANES>(s),
        }
    }
}

impl WriteMaps<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const Q: usize>(self, s: S) {
        let (queries, tokens) = (&self.queries, self.job.scores.layout.tokens);
        let mut work = Work::<Q>::new();
        for row in queries.rows.clone().step_by(Q) {
            let rows = row..(row + Q).min(queries.rows.end);
            (work.max, work.sum) = ([f32::NEG_INFINITY; Q], [0.0; Q]);
            for last_time in [false, true] {
                for key in (0..tokens).step_by(KEY_BLOCK) {
                    let keys = key..(key + KEY_BLOCK).min(tokens);
                    queries.score(s, &rows, &keys, &mut work);
                    if last_time {
                        self.write(s, &rows, &keys, &work);
                    } else {
                        work.absorb(s, rows.len(), keys.len(), false);
                    }
                }
            }
        }
    }

    /// Writes the probabilities of a block of keys, given the maximum and sum of each row.
    #[inline(always)]
    fn write<S: Simd, const Q: usize>(&self, s: S, rows: &Range<usize>, keys: &Range<usize>, work: &Work<Q>) {
        for first in (0..rows.len()).step_by(LANES) {
            let max = s.load(super::lane_group(&work.max, first));
            let sum = s.load(super::lane_group(&work.sum, first));
            for key in (0..keys.len()).step_by(LANES) {
                let len = LANES.min(keys.len() - key);
                let mut square = [s.splat(0.0); LANES];
                for (scores, v) in work.scores[key..key + len].iter().zip(&mut square) {
                    // SAFETY: the tiles wrote whole panels of the scores.
                    let score = s.load(unsafe { written(scores, first) });
                    *v = s.div(exp2_of_negative(s, s.sub(score, max)), sum);
                }
                for (row, v) in (rows.start + first..rows.end).zip(s.transpose(square)) {
                    let tokens = self.job.scores.layout.tokens;
                    let start = (self.queries.head * tokens + self.job.first_row + row) * tokens + keys.start + key;
                    // SAFETY: this head's rows belong to this task, which holds only one such slice at a time.
                    f32::store_any(s, v, unsafe { self.job.out.part(start..start + len) });
                }
            }
        }
    }
}
