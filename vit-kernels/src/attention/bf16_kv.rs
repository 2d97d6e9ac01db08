//! Keys and values in bf16.
//!
//! ```text
//! keys     [heads][tokens][head_dim, whole pairs] bf16
//! values   [heads][pairs of tokens][head_dim][2] bf16
//! ```
//! The two numbers that are multiplied together lie together: two dimensions of a key, two tokens of a value.
use core::ops::Range;

use ::half::bf16;

use super::KvLayout;
use super::kv_rows::{KvRows, groups};
use crate::error::{ShapeError, expect_len};
use crate::half::Storage;
use crate::isa::Isa;
use crate::job::{Job, Shared};
use crate::round::{PAIR, bf16_len, round_row};
use crate::simd::{Kernel, LANES, Simd};

impl KvLayout {
    /// Elements of the keys and values in bf16; `None` on overflow.
    pub const fn bf16_len(&self) -> Option<usize> {
        let (Some(dims), Some(tokens)) =
            (self.head_dim.checked_next_multiple_of(PAIR), self.tokens.checked_next_multiple_of(PAIR))
        else {
            return None;
        };
        let (Some(keys), Some(values)) = (self.tokens.checked_mul(dims), tokens.checked_mul(self.head_dim)) else {
            return None;
        };
        match keys.checked_add(values) {
            Some(head) => head.checked_mul(self.heads),
            None => None,
        }
    }

    /// Elements of a head's keys.
    fn bf16_keys(&self) -> usize {
        self.tokens * bf16_len(self.head_dim)
    }

    /// Elements of a head's values.
    fn bf16_values(&self) -> usize {
        bf16_len(self.tokens) * self.head_dim
    }

    /// Where the values of a head begin.
    fn bf16_values_start(&self, head: usize) -> usize {
        self.heads * self.bf16_keys() + head * self.bf16_values()
    }
}

/// The keys and values of an image in bf16, written by [`RoundKv`].
#[derive(Debug, Clone, Copy)]
pub struct Bf16Kv<'a> {
    pub(super) layout: KvLayout,
    values: &'a [bf16],
}

impl<'a> Bf16Kv<'a> {
    /// What [`RoundKv`] wrote: `values` is [`KvLayout::bf16_len`] long.
    ///
    /// # Errors
    /// When the length is wrong.
    pub fn new(layout: KvLayout, values: &'a [bf16]) -> Result<Self, ShapeError> {
        expect_len("attention: elements of bf16 keys and values", layout.bf16_len(), values.len())?;
        Ok(Self { layout, values })
    }

    /// A head's keys, \[tokens, head_dim in whole pairs\].
    #[inline(always)]
    pub(super) fn keys(&self, head: usize) -> &'a [[bf16; PAIR]] {
        let len = self.layout.bf16_keys();
        self.values[head * len..(head + 1) * len].as_chunks().0
    }

    /// A head's values, \[pairs of tokens, head_dim\].
    #[inline(always)]
    pub(super) fn values(&self, head: usize) -> &'a [[bf16; PAIR]] {
        self.values[self.layout.bf16_values_start(head)..][..self.layout.bf16_values()].as_chunks().0
    }
}

/// Rounds some tokens' keys and values to bf16, as [`RoundToBf16`](crate::RoundToBf16) rounds rows.
pub struct RoundKv<'a> {
    isa: Isa,
    rows: KvRows<'a>,
    out: Shared<'a, bf16>,
}

impl<'a> RoundKv<'a> {
    /// `kv` has a row of keys and values for each token from `first` on, as [`KvLayout::len`] says; `out` is that of all
    /// the image's tokens, as in [`Bf16Kv::new`]. The first call for an image must begin with its first token, and the
    /// others go on where the one before ended: an odd last token's pair is filled with 0.
    ///
    /// # Errors
    /// When a length is wrong, or the tokens go past the last.
    pub fn new(
        isa: Isa,
        layout: KvLayout,
        kv: &'a [f32],
        first: usize,
        out: &'a mut [bf16],
    ) -> Result<Self, ShapeError> {
        expect_len("attention: elements of bf16 keys and values", layout.bf16_len(), out.len())?;
        Ok(Self { isa, rows: KvRows::new(layout, kv, first)?, out: Shared::new(out) })
    }
}

// SAFETY: a task writes the keys and values of its own tokens, and no pair of tokens is in two tasks.
unsafe impl Job for RoundKv<'_> {
    fn grid(&self) -> [usize; 2] {
        self.rows.grid()
    }

    unsafe fn task(&self, row: usize, column: usize) {
        if let Some(tokens) = self.rows.of_task(row, column) {
            self.isa.call_bf16(RoundTokens { job: self, tokens });
        }
    }
}

/// A task of [`RoundKv`].
struct RoundTokens<'a> {
    job: &'a RoundKv<'a>,
    tokens: Range<usize>,
}

impl Kernel for RoundTokens<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let layout = self.job.rows.layout;
        let row = bf16_len(layout.head_dim);
        for head in 0..layout.heads {
            for token in self.tokens.clone() {
                let start = head * layout.bf16_keys() + token * row;
                // SAFETY: the token is this task's; only one such reference lives at a time.
                let out = unsafe { self.job.out.part(start..start + row) };
                round_row(s, self.job.rows.key(token, head), out);
            }
            for tokens in groups::<PAIR>(&self.tokens) {
                self.values(s, head, &tokens);
            }
        }
    }
}

impl RoundTokens<'_> {
    /// The values of tokens of one pair. Its first token is followed by 0 until the second one is written.
    #[inline(always)]
    fn values<S: Simd>(&self, s: S, head: usize, tokens: &Range<usize>) {
        let head_dim = self.job.rows.layout.head_dim;
        let start = self.job.rows.layout.bf16_values_start(head) + tokens.start / PAIR * PAIR * head_dim;
        // SAFETY: no other task has tokens of this pair; only one such reference lives at a time.
        let out = unsafe { self.job.out.part(start..start + PAIR * head_dim) };
        let (out, _) = out.as_chunks_mut::<PAIR>();
        for (out, dim) in out.chunks_mut(LANES).zip((0..).step_by(LANES)) {
            let mut v = [s.splat(0.0); PAIR];
            for token in tokens.clone() {
                v[token % PAIR] = f32::load_any(s, &self.job.rows.value(token, head)[dim..dim + out.len()]);
            }
            let mut pairs = [[bf16::ZERO; PAIR]; LANES];
            s.store_bf16_pairs(v, &mut pairs);
            let second = tokens.start % PAIR == 1;
            match out.as_mut_array() {
                Some(out) if !second => *out = pairs,
                _ => {
                    for (out, pair) in out.iter_mut().zip(&pairs) {
                        *out = if second { [out[0], pair[1]] } else { *pair };
                    }
                }
            }
        }
    }
}
