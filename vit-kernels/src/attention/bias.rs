//! Relative position bias (Shaw, Uszkoreit, Vaswani 2018, <https://arxiv.org/abs/1803.02155>) in BEiT's form (Bao,
//! Dong, Piao, Wei 2021, <https://arxiv.org/abs/2106.08254>), read by index: no \[tokens, tokens\] matrix exists.
use core::mem::MaybeUninit;
use core::ops::Range;

use super::KvLayout;
use super::block::{fresh, lane_group, written};
use crate::error::{ShapeError, expect_len};
use crate::simd::{LANES, Simd};

/// For each head, a bias for every offset between two patches and three for the class token, which is token 0.
///
/// The bias of query (y, x) and key (y', x') on a grid of \[rows, columns\] is at index
/// (y − y' + rows − 1)·(2·columns − 1) + x − x' + columns − 1 of the head's row. The last three elements of the row are
/// class → patch, patch → class and class → class.
#[derive(Debug, Clone, Copy)]
pub struct RelativeBias<'a> {
    /// \[heads, (2·rows − 1)·(2·columns − 1) + 3\].
    pub table: &'a [f32],
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// The token index of the first query.
    pub first_query: usize,
}

impl RelativeBias<'_> {
    /// Elements of a head's row; `None` on overflow.
    pub fn row_len(grid: [usize; 2]) -> Option<usize> {
        let side = |size: usize| size.checked_mul(2)?.checked_sub(1);
        side(grid[0])?.checked_mul(side(grid[1])?)?.checked_add(3)
    }

    pub(super) fn check(&self, layout: &KvLayout, rows: usize) -> Result<(), ShapeError> {
        let [height, width] = self.grid;
        let tokens = height.checked_mul(width).and_then(|patches| patches.checked_add(1));
        expect_len("attention: tokens must be the bias's grid and a class token", tokens, layout.tokens)?;
        let len = Self::row_len(self.grid).and_then(|len| len.checked_mul(layout.heads));
        expect_len("attention: the bias must have a row for each head", len, self.table.len())?;
        let end = self.first_query.saturating_add(rows);
        expect_len("attention: the queries must not go past the last token", Some(end.min(layout.tokens)), end)
    }

    /// The bias of query `row`, counted from the first query, and a key.
    #[cfg(any(no_vectors, test))]
    pub(super) fn at(&self, head: usize, row: usize, key: usize) -> f32 {
        let [height, width] = self.grid;
        let len = (2 * height - 1) * (2 * width - 1) + 3;
        let index = match ((self.first_query + row).checked_sub(1), key.checked_sub(1)) {
            (None, None) => len - 1,
            (Some(_), None) => len - 2,
            (None, Some(_)) => len - 3,
            (Some(q), Some(k)) => {
                (q / width + height - 1 - k / width) * (2 * width - 1) + q % width + width - 1 - k % width
            }
        };
        self.table[head * len + index]
    }

    /// Adds the bias, times log₂e, to the scores of a range of queries (`rows`) and keys.
    #[inline(always)]
    pub(super) fn add<S: Simd, const Q: usize>(
        &self,
        s: S,
        head: usize,
        rows: &Range<usize>,
        keys: &Range<usize>,
        scores: &mut [[MaybeUninit<f32>; Q]],
    ) {
        let [height, width] = self.grid;
        let len = (2 * height - 1) * (2 * width - 1) + 3;
        let table = &self.table[head * len..][..len];
        let [class_to_patch, patch_to_class, class_to_class] = [len - 3, len - 2, len - 1];
        let queries = self.first_query + rows.start..self.first_query + rows.end;
        for (key, scores) in keys.clone().zip(scores) {
            let mut bias = [0.0; Q];
            let mut query = queries.start;
            while query < queries.end {
                let out = &mut bias[query - queries.start..];
                if query == 0 || key == 0 {
                    out[0] = table[match (query, key) {
                        (0, 0) => class_to_class,
                        (0, _) => class_to_patch,
                        _ => patch_to_class,
                    }];
                    query += 1;
                    continue;
                }
                // Queries adjacent in a grid row have adjacent biases.
                let ([y, x], [key_y, key_x]) =
                    ([(query - 1) / width, (query - 1) % width], [(key - 1) / width, (key - 1) % width]);
                let run = (width - x).min(queries.end - query);
                let start = (y + height - 1 - key_y) * (2 * width - 1) + x + width - 1 - key_x;
                out[..run].copy_from_slice(&table[start..start + run]);
                query += run;
            }
            for first in (0..rows.len()).step_by(LANES) {
                let bias = s.load(lane_group(&bias, first));
                // SAFETY: the tiles wrote whole panels of the scores.
                let score = s.load(unsafe { written(scores, first) });
                s.store(s.mul_add(bias, s.splat(core::f32::consts::LOG2_E), score), fresh(scores, first));
            }
        }
    }
}
