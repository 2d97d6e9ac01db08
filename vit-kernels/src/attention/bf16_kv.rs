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
use crate::error::{ShapeError, expect_len};
use crate::half::Storage;
use crate::isa::Isa;
use crate::job::{Job, Shared, TASK_ROWS};
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
    layout: KvLayout,
    kv: &'a [f32],
    tokens: Range<usize>,
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
        let count = kv.len().checked_div(2 * layout.inner()).unwrap_or(0);
        expect_len("attention: kv must be a whole number of rows", Some(count * 2 * layout.inner()), kv.len())?;
        let end = first.saturating_add(count);
        expect_len("attention: the keys must not go past the last token", Some(end.min(layout.tokens)), end)?;
        Ok(Self { isa, layout, kv, tokens: first..end, out: Shared::new(out) })
    }
}

/// Tasks begin at tokens that are multiples of [`TASK_ROWS`], so that a pair of tokens is one task's.
const _: () = assert!(TASK_ROWS.is_multiple_of(PAIR));

// SAFETY: a task writes the keys and values of its own tokens, and no pair of tokens is in two tasks.
unsafe impl Job for RoundKv<'_> {
    fn grid(&self) -> [usize; 2] {
        [self.tokens.end.div_ceil(TASK_ROWS) - self.tokens.start / TASK_ROWS, 1]
    }

    unsafe fn task(&self, row: usize, column: usize) {
        if row >= self.grid()[0] || column > 0 {
            return;
        }
        let start = (self.tokens.start / TASK_ROWS + row) * TASK_ROWS;
        let tokens = start.max(self.tokens.start)..(start + TASK_ROWS).min(self.tokens.end);
        self.isa.call_bf16(RoundTokens { job: self, tokens });
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
        let layout = self.job.layout;
        let row = bf16_len(layout.head_dim);
        for head in 0..layout.heads {
            for token in self.tokens.clone() {
                let start = head * layout.bf16_keys() + token * row;
                // SAFETY: the token is this task's; only one such reference lives at a time.
                let out = unsafe { self.job.out.part(start..start + row) };
                round_row(s, self.part(token, 0, head), out);
            }
            let mut token = self.tokens.start;
            while token < self.tokens.end {
                let end = (token + 1).next_multiple_of(PAIR).min(self.tokens.end);
                self.values(s, head, &(token..end));
                token = end;
            }
        }
    }
}

impl RoundTokens<'_> {
    /// A token's key (`at` 0) or value (`at` 1) of a head.
    #[inline(always)]
    fn part(&self, token: usize, at: usize, head: usize) -> &[f32] {
        let KvLayout { heads, head_dim, .. } = self.job.layout;
        let row = token - self.job.tokens.start;
        &self.job.kv[((2 * row + at) * heads + head) * head_dim..][..head_dim]
    }

    /// The values of tokens of one pair. Its first token is followed by 0 until the second one is written.
    #[inline(always)]
    fn values<S: Simd>(&self, s: S, head: usize, tokens: &Range<usize>) {
        let head_dim = self.job.layout.head_dim;
        let start = self.job.layout.bf16_values_start(head) + tokens.start / PAIR * PAIR * head_dim;
        // SAFETY: no other task has tokens of this pair; only one such reference lives at a time.
        let out = unsafe { self.job.out.part(start..start + PAIR * head_dim) };
        let (out, _) = out.as_chunks_mut::<PAIR>();
        for (out, dim) in out.chunks_mut(LANES).zip((0..).step_by(LANES)) {
            let mut v = [s.splat(0.0); PAIR];
            for token in tokens.clone() {
                v[token % PAIR] = f32::load_any(s, &self.part(token, 1, head)[dim..dim + out.len()]);
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
