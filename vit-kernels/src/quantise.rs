//! Rows of f32 to rows of int8, each with a scale of its own: x ≈ scale·q, q in −127…127.
//!
//! scale = max|x| / 127; q = x·(127 / max|x|), rounded to nearest even. Every step is one IEEE operation and nothing is
//! fused, so the bytes are the same on every machine.
#![allow(unsafe_code)] // A task writes its own rows.

use crate::error::{ShapeError, expect_len};
use crate::half::Storage;
use crate::isa::Isa;
use crate::job::{Job, Shared, TASK_ROWS};
use crate::simd::{Kernel, LANES, Simd, lanes};

/// Below this a row counts as zeros: 127 divided by it would overflow.
const SMALLEST: f32 = 1.0 / (1u128 << 100) as f32;

/// 127 / largest; 0 for a row of zeros, and as good as zeros.
pub(crate) fn inverse_scale(largest: f32) -> f32 {
    if largest < SMALLEST { 0.0 } else { LARGEST / largest }
}

/// The largest quantised magnitude. −128 is left out: two of its products would not fit 16 bits.
pub(crate) const LARGEST: f32 = 127.0;

/// x·inverse to nearest even. Its magnitude is at most 127 if `inverse` is that of a row with x in it.
pub(crate) fn round_to_i8(x: f32, inverse: f32) -> i8 {
    // Added and taken away, 1.5·2²³ rounds to an integer.
    let rounded = x * inverse + 12_582_912.0;
    (rounded.to_bits() as u8).cast_signed()
}

/// Rows of int8 and their scales, as a matmul with int8 weights takes them.
///
/// A level that multiplies unsigned by signed numbers stores q + 128: rows are for the level that made them.
#[derive(Debug, Clone, Copy)]
pub struct Quantised<'a> {
    pub(crate) isa: Isa,
    /// \[rows, k rounded up to a group\].
    pub(crate) values: &'a [i8],
    /// \[rows\].
    pub(crate) scales: &'a [f32],
    pub(crate) k: usize,
}

/// Bytes of a quantised row of `k` elements, without its scale.
pub const fn quantised_len(k: usize) -> usize {
    k.next_multiple_of(4)
}

impl<'a> Quantised<'a> {
    /// Rows that [`Quantise`] has written for `isa`: `values` \[rows, [`quantised_len`]`(k)`\], `scales` \[rows\].
    ///
    /// # Errors
    /// When a length does not fit.
    pub fn new(isa: Isa, k: usize, values: &'a [i8], scales: &'a [f32]) -> Result<Self, ShapeError> {
        let len = scales.len().checked_mul(quantised_len(k));
        expect_len("quantised rows: values are whole rows, one for each scale", len, values.len())?;
        Ok(Self { isa, values, scales, k })
    }

    /// The value of a row's element.
    pub fn get(&self, row: usize, column: usize) -> f32 {
        let stored = self.values[row * quantised_len(self.k) + column].cast_unsigned();
        f32::from(stored.wrapping_sub(self.isa.zero_point()).cast_signed()) * self.scales[row]
    }
}

/// Quantises rows of f32, \[rows, k\].
///
/// |x − scale·q| ≤ scale/2 + 2⁻²³·|x|. A row with a NaN or an infinity in it gets the scale NaN, so that whatever it is
/// multiplied into becomes NaN; one whose largest magnitude is below 2⁻¹⁰⁰ becomes zeros.
pub struct Quantise<'a> {
    isa: Isa,
    x: &'a [f32],
    k: usize,
    values: Shared<'a, i8>,
    scales: Shared<'a, f32>,
}

impl<'a> Quantise<'a> {
    /// Checks the shapes: `values` is \[rows, [`quantised_len`]`(k)`\], `scales` \[rows\].
    ///
    /// # Errors
    /// When a length does not fit: rows come from `scales`.
    pub fn new(
        isa: Isa,
        x: &'a [f32],
        k: usize,
        values: &'a mut [i8],
        scales: &'a mut [f32],
    ) -> Result<Self, ShapeError> {
        expect_len("quantise: x has k elements for each scale", scales.len().checked_mul(k), x.len())?;
        let len = scales.len().checked_mul(quantised_len(k));
        expect_len("quantise: values are whole rows, one for each scale", len, values.len())?;
        Ok(Self { isa, x, k, values: Shared::new(values), scales: Shared::new(scales) })
    }
}

// SAFETY: a task writes its own rows alone.
unsafe impl Job for Quantise<'_> {
    fn grid(&self) -> [usize; 2] {
        [self.scales.len().div_ceil(TASK_ROWS), 1]
    }

    unsafe fn task(&self, row: usize, column: usize) {
        if row >= self.grid()[0] || column > 0 {
            return;
        }
        let (len, k) = (quantised_len(self.k), self.k);
        let rows = row * TASK_ROWS..((row + 1) * TASK_ROWS).min(self.scales.len());
        // SAFETY: the rows of different tasks are disjoint.
        let (values, scales) =
            unsafe { (self.values.part(rows.start * len..rows.end * len), self.scales.part(rows.clone())) };
        self.isa.call_int8(QuantiseRows { x: &self.x[rows.start * k..rows.end * k], k, values, scales });
    }
}

struct QuantiseRows<'a> {
    x: &'a [f32],
    k: usize,
    values: &'a mut [i8],
    scales: &'a mut [f32],
}

impl Kernel for QuantiseRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, k, values, scales } = self;
        for (row, scale) in scales.iter_mut().enumerate() {
            let x = &x[row * k..(row + 1) * k];
            let values = &mut values[row * quantised_len(k)..(row + 1) * quantised_len(k)];
            *scale = quantise_row(s, x, values);
        }
    }
}

/// Quantises a row into `values`, as long or a little longer, and gives its scale.
#[inline(always)]
pub(crate) fn quantise_row<S: Simd>(s: S, x: &[f32], values: &mut [i8]) -> f32 {
    let (body, tail) = lanes(x);
    let zero = s.splat(0.0);
    // `poison` is 0, and NaN where x is not finite.
    let (mut largest, mut poison) = (zero, zero);
    for x in body {
        let x = s.load(x);
        largest = s.max(largest, s.max(x, s.sub(zero, x)));
        poison = s.add(poison, s.sub(x, x));
    }
    let last = f32::load_tail(s, tail, 0.0);
    largest = s.max(largest, s.max(last, s.sub(zero, last)));
    poison = s.add(poison, s.sub(last, last));
    let largest = s.largest(largest) + s.sum(poison);
    let inverse = s.splat(inverse_scale(largest));
    let (out, out_tail) = values.as_chunks_mut::<LANES>();
    for (x, out) in body.iter().zip(out.iter_mut()) {
        s.store_i8(s.mul(s.load(x), inverse), out);
    }
    // The last elements, and what fills up the group: 0.
    let mut rest = [0; LANES];
    s.store_i8(s.mul(last, inverse), &mut rest);
    let done = body.len() * LANES;
    if let Some(out) = out.get_mut(body.len()) {
        *out = rest;
    } else {
        let len = out_tail.len();
        out_tail.copy_from_slice(&rest[..len]);
    }
    debug_assert!(values.len() - done <= LANES);
    largest / LARGEST
}
