//! For levels that need many instructions to widen f16: a block of a panel is widened to f32 once for many rows, where
//! the tile would widen it again for every few rows.
#![allow(unsafe_code)] // The tile takes pointers.

use super::epilogue::Finish;
use super::format::{F32, Weights};
use super::pack::panel_len;
use super::part::FloatPart;
use super::tile::{Prefetch, Tile};
use crate::simd::{LANES, Simd};

/// Inputs widened at a time, to 4 KB on the stack.
const DEPTH: usize = 64;

/// Rows that share a widened block; their sums are 3 KB on the stack.
const ROWS: usize = 48;

impl<W: Weights> FloatPart<'_, W> {
    /// Runs the part panel by panel; the rows must be f32. The sums are the same chains as without widening first.
    #[inline(always)]
    pub(super) fn widened<S: Simd>(&self, s: S) {
        let (n, k, depth) = (self.job.weights.n(), self.job.weights.k(), &self.job.depth);
        for panel in self.panels.clone() {
            let columns = panel * LANES..((panel + 1) * LANES).min(n);
            for first in self.rows.clone().step_by(ROWS) {
                let rows = first..(first + ROWS).min(self.rows.end);
                let mut sums = [[0.0f32; LANES]; ROWS];
                if depth.start > 0 {
                    self.load_sums(&rows, &columns, &mut sums);
                }
                for start in depth.clone().step_by(DEPTH) {
                    let inputs = start..(start + DEPTH).min(depth.end);
                    let mut block = [[0.0f32; LANES]; DEPTH];
                    self.widen(s, panel, inputs.start, &mut block[..inputs.len()]);
                    for row in (0..rows.len()).step_by(S::TILE_ROWS) {
                        let count = S::TILE_ROWS.min(rows.len() - row);
                        let a: &[f32] = bytemuck::cast_slice(self.a);
                        let a = &a[(rows.start + row) * k..(rows.start + row + count) * k][inputs.start..];
                        let out = sums[row..row + count].as_mut_ptr().cast::<f32>();
                        let tile = Tile::<F32> {
                            a: a.as_ptr(),
                            a_row: k,
                            a_step: 1,
                            b: block.as_ptr().cast(),
                            b_panel: 0,
                            b_step: LANES,
                            depth: inputs.len(),
                            resume: Some(out.cast_const()),
                            out,
                            out_row: LANES,
                            finish: Finish::default(),
                            prefetch: Prefetch::nothing(block.as_ptr()),
                        };
                        // SAFETY: `a` holds these inputs of `count` rows, `block` as many rows of one panel; `sums` is
                        // local and has a row of LANES for each of the `count` rows.
                        unsafe { tile.run(s, count, 1) }
                    }
                }
                self.store_sums(s, &rows, &columns, &mut sums);
            }
        }
    }

    /// Inputs `start..start + out.len()` of a panel as f32.
    #[inline(always)]
    fn widen<S: Simd>(&self, s: S, panel: usize, start: usize, out: &mut [[f32; LANES]]) {
        let panel = &self.data[panel * panel_len::<W>(self.job.weights.k())..][start * LANES..];
        let groups: &[W::Group] = bytemuck::cast_slice(&panel[..out.len().next_multiple_of(W::GROUP) * LANES]);
        for (i, out) in out.iter_mut().enumerate() {
            s.store(W::load(s, &groups[i / W::GROUP], i % W::GROUP), out);
        }
    }
}
