//! Keys and values in int8, with a scale for each token and head.
//!
//! ```text
//! keys     [heads][tokens][head_dim, whole groups] i8
//! values   [heads][groups of four tokens][head_dim][4] i8
//! scales   [2][heads][tokens] f32                 of the keys, then of the values
//! ```
//! The four bytes that are multiplied together lie together: four dimensions of a key, four tokens of a value.
use core::ops::Range;

use super::KvLayout;
use super::kv_rows::{KvRows, groups};
use crate::error::{ShapeError, expect_len};
use crate::half::Storage;
use crate::isa::Isa;
use crate::job::{Job, Shared};
use crate::quantise::{GROUP, LARGEST, inverse_scale, largest_magnitude, quantise_row, quantised_len, round_to_i8};
use crate::simd::{Kernel, LANES, Simd};

impl KvLayout {
    /// Bytes of the keys and values in int8; `None` on overflow.
    pub const fn int8_len(&self) -> Option<usize> {
        let (Some(dims), Some(tokens)) =
            (self.head_dim.checked_next_multiple_of(GROUP), self.tokens.checked_next_multiple_of(GROUP))
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

    /// Scales of the keys and values in int8; `None` on overflow.
    pub const fn scales_len(&self) -> Option<usize> {
        match self.heads.checked_mul(self.tokens) {
            Some(half) => half.checked_mul(2),
            None => None,
        }
    }

    /// Bytes of a head's keys.
    fn key_bytes(&self) -> usize {
        self.tokens * quantised_len(self.head_dim)
    }

    /// Bytes of a head's values.
    fn value_bytes(&self) -> usize {
        self.tokens.next_multiple_of(GROUP) * self.head_dim
    }

    /// Where the values of a head begin.
    fn values_start(&self, head: usize) -> usize {
        self.heads * self.key_bytes() + head * self.value_bytes()
    }

    fn check_int8(&self, values: usize, scales: usize) -> Result<(), ShapeError> {
        expect_len("attention: bytes of int8 keys and values", self.int8_len(), values)?;
        expect_len("attention: scales of int8 keys and values", self.scales_len(), scales)
    }
}

/// The keys and values of an image in int8, written by [`QuantiseKv`].
#[derive(Debug, Clone, Copy)]
pub struct QuantisedKv<'a> {
    pub(super) isa: Isa,
    pub(super) layout: KvLayout,
    values: &'a [i8],
    scales: &'a [f32],
}

impl<'a> QuantisedKv<'a> {
    /// What [`QuantiseKv`] wrote for `isa`: `values` is [`KvLayout::int8_len`] long, `scales`
    /// [`KvLayout::scales_len`].
    ///
    /// # Errors
    /// When a length is wrong.
    pub fn new(isa: Isa, layout: KvLayout, values: &'a [i8], scales: &'a [f32]) -> Result<Self, ShapeError> {
        layout.check_int8(values.len(), scales.len())?;
        Ok(Self { isa, layout, values, scales })
    }

    /// A head's keys, \[tokens, head_dim in whole groups\].
    #[inline(always)]
    pub(super) fn keys(&self, head: usize) -> &'a [i8] {
        let len = self.layout.key_bytes();
        &self.values[head * len..(head + 1) * len]
    }

    /// A head's values, \[groups of four tokens, head_dim, 4\].
    #[inline(always)]
    pub(super) fn values(&self, head: usize) -> &'a [i8] {
        &self.values[self.layout.values_start(head)..][..self.layout.value_bytes()]
    }

    /// \[tokens\].
    #[inline(always)]
    pub(super) fn key_scales(&self, head: usize) -> &'a [f32] {
        &self.scales[head * self.layout.tokens..][..self.layout.tokens]
    }

    /// \[tokens\].
    #[inline(always)]
    pub(super) fn value_scales(&self, head: usize) -> &'a [f32] {
        self.key_scales(self.layout.heads + head)
    }
}

/// Quantises some tokens' keys and values; each token and head has a scale for its key and one for its value.
///
/// As [`Quantise`](crate::Quantise) rounds rows. A key or value that contains a NaN or an infinity gets the scale NaN.
pub struct QuantiseKv<'a> {
    isa: Isa,
    rows: KvRows<'a>,
    values: Shared<'a, i8>,
    scales: Shared<'a, f32>,
}

impl<'a> QuantiseKv<'a> {
    /// `kv` has a row of keys and values for each token from `first` on, as [`KvLayout::len`] says; `values` and
    /// `scales` are those of all the image's tokens, as in [`QuantisedKv::new`].
    ///
    /// # Errors
    /// When a length is wrong, or the tokens go past the last.
    pub fn new(
        isa: Isa,
        layout: KvLayout,
        kv: &'a [f32],
        first: usize,
        values: &'a mut [i8],
        scales: &'a mut [f32],
    ) -> Result<Self, ShapeError> {
        layout.check_int8(values.len(), scales.len())?;
        let (values, scales) = (Shared::new(values), Shared::new(scales));
        Ok(Self { isa, rows: KvRows::new(layout, kv, first)?, values, scales })
    }
}

// SAFETY: a task writes the keys, values and scales of its own tokens, and no group of tokens is in two tasks.
unsafe impl Job for QuantiseKv<'_> {
    fn grid(&self) -> [usize; 2] {
        self.rows.grid()
    }

    unsafe fn task(&self, row: usize, column: usize) {
        if let Some(tokens) = self.rows.of_task(row, column) {
            self.isa.call_int8(QuantiseTokens { job: self, tokens });
        }
    }
}

/// A task of [`QuantiseKv`].
struct QuantiseTokens<'a> {
    job: &'a QuantiseKv<'a>,
    tokens: Range<usize>,
}

impl Kernel for QuantiseTokens<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for head in 0..self.job.rows.layout.heads {
            self.keys(s, head);
            for tokens in groups::<GROUP>(&self.tokens) {
                self.values(s, head, &tokens);
            }
        }
    }
}

impl QuantiseTokens<'_> {
    #[inline(always)]
    fn set_scale(&self, token: usize, at: usize, head: usize, scale: f32) {
        let KvLayout { heads, tokens, .. } = self.job.rows.layout;
        let start = (at * heads + head) * tokens + token;
        // SAFETY: the token is this task's, and the reference ends here.
        let part = unsafe { self.job.scales.part(start..start + 1) };
        part[0] = scale;
    }

    #[inline(always)]
    fn keys<S: Simd>(&self, s: S, head: usize) {
        let row = quantised_len(self.job.rows.layout.head_dim);
        for token in self.tokens.clone() {
            let start = head * self.job.rows.layout.key_bytes() + token * row;
            // SAFETY: the token is this task's; only one such reference lives at a time.
            let out = unsafe { self.job.values.part(start..start + row) };
            self.set_scale(token, 0, head, quantise_row(s, self.job.rows.key(token, head), out));
        }
    }

    /// The values of tokens of one group.
    #[inline(always)]
    fn values<S: Simd>(&self, s: S, head: usize, tokens: &Range<usize>) {
        let head_dim = self.job.rows.layout.head_dim;
        let start = self.job.rows.layout.values_start(head) + tokens.start / GROUP * GROUP * head_dim;
        // SAFETY: no other task has tokens of this group; only one such reference lives at a time.
        let out = unsafe { self.job.values.part(start..start + GROUP * head_dim) };
        let (out, _) = out.as_chunks_mut::<GROUP>();
        let mut inverse = [0.0; GROUP];
        for token in tokens.clone() {
            let largest = largest_magnitude(s, self.job.rows.value(token, head));
            self.set_scale(token, 1, head, largest / LARGEST);
            inverse[token % GROUP] = inverse_scale(largest);
        }
        if !S::VECTORS {
            for token in tokens.clone() {
                let (at, inverse) = (token % GROUP, inverse[token % GROUP]);
                for (out, x) in out.iter_mut().zip(self.job.rows.value(token, head)) {
                    out[at] = round_to_i8(*x, inverse);
                }
            }
            return;
        }
        for (out, dim) in out.chunks_mut(LANES).zip((0..).step_by(LANES)) {
            let mut v = [s.splat(0.0); GROUP];
            for token in tokens.clone() {
                let x = &self.job.rows.value(token, head)[dim..dim + out.len()];
                v[token % GROUP] = s.mul(f32::load_any(s, x), s.splat(inverse[token % GROUP]));
            }
            let mut groups = [[0; GROUP]; LANES];
            s.store_groups(v, &mut groups);
            for byte in groups.as_flattened_mut() {
                *byte ^= S::ZERO_POINT.cast_signed();
            }
            if let (Some(out), GROUP) = (out.as_mut_array(), tokens.len()) {
                *out = groups;
                continue;
            }
            let bytes = tokens.start % GROUP..tokens.start % GROUP + tokens.len();
            for (out, group) in out.iter_mut().zip(&groups) {
                out[bytes.clone()].copy_from_slice(&group[bytes.clone()]);
            }
        }
    }
}
