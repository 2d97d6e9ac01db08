//! Rows of f32 to rows of int8, each with its own scale: x ≈ scale·q, q in −127…127.
//!
//! scale = max|x| / 127; q = x·(127 / max|x|), rounded to nearest even. Every step is one IEEE operation and nothing is
//! fused, so the bytes are the same on every machine.
#![allow(unsafe_code)] // A task writes its own rows.

use crate::error::{ShapeError, expect_len};
use crate::half::Storage;
use crate::isa::Isa;
use crate::job::{Job, Shared, TASK_ROWS};
use crate::simd::{Kernel, LANES, ROUND_TO_INTEGER, Simd, lanes};

/// A row whose largest magnitude is below this becomes zeros; below 2⁻¹²¹ 127 / max|x| would overflow.
const SMALLEST: f32 = 1.0 / (1u128 << 100) as f32;

/// Elements whose int8 products are added together: quantised rows are whole groups.
pub(crate) const GROUP: usize = 4;

/// 127 / largest, or 0 if `largest` is below [`SMALLEST`].
pub(crate) fn inverse_scale(largest: f32) -> f32 {
    if largest < SMALLEST { 0.0 } else { LARGEST / largest }
}

/// [`inverse_scale`] of sixteen rows.
#[inline(always)]
pub(crate) fn inverse_scales<S: Simd>(s: S, largest: S::V) -> S::V {
    let small = s.gt(s.splat(SMALLEST), largest);
    s.select(small, s.splat(0.0), s.div(s.splat(LARGEST), largest))
}

/// The scales of sixteen rows with these largest magnitudes.
#[inline(always)]
pub(crate) fn scales<S: Simd>(s: S, largest: S::V) -> S::V {
    s.div(largest, s.splat(LARGEST))
}

/// The largest quantised magnitude. −128 is not used: (−128)² + (−128)² overflows i16.
pub(crate) const LARGEST: f32 = 127.0;

/// x·inverse, rounded to nearest even: within ±127 if `inverse` is that of a row that contains x.
pub(crate) fn round_to_i8(x: f32, inverse: f32) -> i8 {
    let rounded = x * inverse + ROUND_TO_INTEGER;
    (rounded.to_bits() as u8).cast_signed()
}

/// Rows of int8 and their scales: the left operand of a matmul with int8 or int4 weights.
///
/// Levels that multiply unsigned by signed numbers store q + 128, so rows are for the level that quantised them.
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
    k.next_multiple_of(GROUP)
}

impl<'a> Quantised<'a> {
    /// Rows that [`Quantise`] wrote for `isa`: `values` \[rows, [`quantised_len`]`(k)`\], `scales` \[rows\].
    ///
    /// # Errors
    /// When `values` is not one row for each scale.
    pub fn new(isa: Isa, k: usize, values: &'a [i8], scales: &'a [f32]) -> Result<Self, ShapeError> {
        let len = scales.len().checked_mul(quantised_len(k));
        expect_len("quantised rows: values must be one row for each scale", len, values.len())?;
        Ok(Self { isa, values, scales, k })
    }

    /// The value of an element: scale·q.
    pub fn get(&self, row: usize, column: usize) -> f32 {
        let stored = self.values[row * quantised_len(self.k) + column].cast_unsigned();
        f32::from(stored.wrapping_sub(self.isa.zero_point()).cast_signed()) * self.scales[row]
    }
}

/// Quantises rows of f32, \[rows, k\].
///
/// |x − scale·q| ≤ scale/2 + 2⁻²³·|x|. A row that contains a NaN or an infinity gets the scale NaN, so its products are
/// NaN; a row whose largest magnitude is below 2⁻¹⁰⁰ becomes zeros.
///
/// ```
/// use vit_kernels::{Isa, Job, Quantise, Quantised, quantised_len};
/// let isa = Isa::best();
/// let x = [254.0, -2.0, 3.0]; // one row
/// let (mut values, mut scales) = ([0; quantised_len(3)], [0.0]);
/// Quantise::new(isa, &x, 3, &mut values, &mut scales)?.run();
/// let row = Quantised::new(isa, 3, &values, &scales)?;
/// assert_eq!(scales, [2.0]);
/// assert_eq!([0, 1, 2].map(|column| row.get(0, column)), [254.0, -2.0, 4.0]); // 1.5 rounds to 2
/// # Ok::<(), vit_kernels::ShapeError>(())
/// ```
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
    /// When a length is wrong. `scales` determines the number of rows.
    pub fn new(
        isa: Isa,
        x: &'a [f32],
        k: usize,
        values: &'a mut [i8],
        scales: &'a mut [f32],
    ) -> Result<Self, ShapeError> {
        expect_len("quantise: x must have k elements for each scale", scales.len().checked_mul(k), x.len())?;
        let len = scales.len().checked_mul(quantised_len(k));
        expect_len("quantise: values must be one row for each scale", len, values.len())?;
        Ok(Self { isa, x, k, values: Shared::new(values), scales: Shared::new(scales) })
    }
}

// SAFETY: a task writes only its own rows.
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

/// max|x|, or NaN if an element is not finite.
#[inline(always)]
pub(crate) fn largest_magnitude<S: Simd>(s: S, x: &[f32]) -> f32 {
    if !S::VECTORS {
        return largest_by_number(x);
    }
    let (body, tail) = lanes(x);
    let mut largest = s.splat(0.0);
    for x in body {
        largest = s.max_magnitude(largest, s.load(x));
    }
    if !tail.is_empty() {
        largest = s.max_magnitude(largest, f32::load_tail(s, tail, 0.0));
    }
    let largest = s.largest_magnitude(largest);
    if largest.is_finite() { largest } else { f32::NAN }
}

/// [`largest_magnitude`] of a level without vectors, out of line.
#[inline(never)]
pub(crate) fn largest_by_number(x: &[f32]) -> f32 {
    largest_of(x.iter().map(|x| x.to_bits()))
}

/// [`quantise_row_by`] of such a level.
#[inline(never)]
fn round_by_number(x: &[f32], inverse: f32, values: &mut [i8]) {
    let (x, rest) = x.as_chunks();
    let (out, _) = values.as_chunks_mut::<GROUP>();
    for (x, out) in x.iter().zip(&mut *out) {
        *out = x.map(|x| round_to_i8(x, inverse));
    }
    if let Some(last) = out.get_mut(x.len()) {
        *last = [0; GROUP];
        for (x, out) in rest.iter().zip(last) {
            *out = round_to_i8(*x, inverse);
        }
    }
}

/// max|x| of numbers given by their bits, or NaN if one is not finite.
#[inline(always)]
pub(crate) fn largest_of(bits: impl IntoIterator<Item = u32>) -> f32 {
    // As integers, infinity and NaN are above all others. Shifted, they have no sign: Arm compares and shifts at once.
    let largest = f32::from_bits(bits.into_iter().fold(0, |largest, x| largest.max(x << 1)) >> 1);
    if largest.is_finite() { largest } else { f32::NAN }
}

/// 0 if all elements are finite, else NaN.
#[inline(always)]
pub(crate) fn poison<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (body, tail) = lanes(x);
    let last = f32::load_tail(s, tail, 0.0);
    let mut poison = s.sub(last, last);
    for x in body {
        let x = s.load(x);
        poison = s.add(poison, s.sub(x, x));
    }
    s.sum(poison)
}

/// Quantises a row into `values`, [`quantised_len`]`(x.len())` long, and returns its scale.
#[inline(always)]
pub(crate) fn quantise_row<S: Simd>(s: S, x: &[f32], values: &mut [i8]) -> f32 {
    let largest = largest_magnitude(s, x);
    quantise_row_by(s, x, inverse_scale(largest), values);
    largest / LARGEST
}

/// [`quantise_row`] with the inverse of the scale given.
#[inline(always)]
pub(crate) fn quantise_row_by<S: Simd>(s: S, x: &[f32], inverse: f32, values: &mut [i8]) {
    if !S::VECTORS {
        return round_by_number(x, inverse, values);
    }
    let (body, tail) = lanes(x);
    let inverse = s.splat(inverse);
    let (whole, rest) = values.split_at_mut(body.len() * LANES);
    for (x, out) in body.iter().zip(whole.as_chunks_mut().0) {
        s.store_i8(s.mul(s.load(x), inverse), out);
    }
    if !tail.is_empty() {
        // The padding of the last group is 0.
        let mut padded = [0; LANES];
        s.store_i8(s.mul(f32::load_tail(s, tail, 0.0), inverse), &mut padded);
        rest.copy_from_slice(&padded[..rest.len()]);
    }
}
