//! LayerNorm that rounds or quantises as it writes: its rows become the left operand of a matmul.
use core::iter::repeat;

use ::half::bf16;

use super::{NormRows, Normalised, Sink};
use crate::error::{ShapeError, expect_len, expect_rows};
use crate::half::Storage;
use crate::isa::Isa;
use crate::job::{Job, Shared, TASK_ROWS};
use crate::quantise::{LARGEST, inverse_scale, quantised_len};
use crate::round::bf16_len;
use crate::simd::{LANES, Simd, lanes_mut};

/// [`LayerNorm`](super::LayerNorm) of rows of f32 into bf16 or int8. The bits are those of `LayerNorm` followed by
/// [`RoundToBf16`](crate::RoundToBf16) or [`Quantise`](crate::Quantise).
pub struct NormActivations<'a> {
    isa: Isa,
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
    out: Out<'a>,
}

/// Whether this build has bf16.
const BF16: bool = cfg!(feature = "bf16");

/// Rows, in whole groups.
enum Out<'a> {
    Bf16(Shared<'a, bf16>),
    Int8 { values: Shared<'a, i8>, scales: Shared<'a, f32> },
}

impl<'a> NormActivations<'a> {
    /// Whether this is faster than the two steps. On cores without vectors it is not, and its code takes 11 KB of flash.
    pub const IS_WORTH_IT: bool = !cfg!(no_vectors);

    /// `x` is \[rows, cols\], gamma and beta \[cols\], `out` \[rows, [`bf16_len`]`(cols)`\].
    ///
    /// # Errors
    /// When a length is wrong, or this build leaves out bf16.
    pub fn to_bf16(
        isa: Isa,
        x: &'a [f32],
        [gamma, beta]: [&'a [f32]; 2],
        eps: f32,
        out: &'a mut [bf16],
    ) -> Result<Self, ShapeError> {
        let rows = rows(x, gamma, beta)?;
        expect_len("layer_norm: bf16, which this build leaves out", Some(0), usize::from(!BF16))?;
        expect_len(
            "layer_norm: out must have a row for each of x",
            rows.checked_mul(bf16_len(gamma.len())),
            out.len(),
        )?;
        Ok(Self { isa, x, gamma, beta, eps, out: Out::Bf16(Shared::new(out)) })
    }

    /// `x` is \[rows, cols\], gamma and beta \[cols\], `values` \[rows, [`quantised_len`]`(cols)`\], `scales` \[rows\].
    ///
    /// # Errors
    /// When a length is wrong.
    pub fn to_int8(
        isa: Isa,
        x: &'a [f32],
        [gamma, beta]: [&'a [f32]; 2],
        eps: f32,
        values: &'a mut [i8],
        scales: &'a mut [f32],
    ) -> Result<Self, ShapeError> {
        let rows = rows(x, gamma, beta)?;
        let len = rows.checked_mul(quantised_len(gamma.len()));
        expect_len("layer_norm: values must have a row for each of x", len, values.len())?;
        expect_len("layer_norm: scales must have one element for each row of x", Some(rows), scales.len())?;
        let (values, scales) = (Shared::new(values), Shared::new(scales));
        Ok(Self { isa, x, gamma, beta, eps, out: Out::Int8 { values, scales } })
    }
}

/// The number of rows, if the shapes fit.
fn rows(x: &[f32], gamma: &[f32], beta: &[f32]) -> Result<usize, ShapeError> {
    expect_len("layer_norm: beta must be as long as gamma", Some(gamma.len()), beta.len())?;
    expect_rows("layer_norm: x must be a whole number of rows", gamma.len(), x.len())?;
    Ok(x.len().checked_div(gamma.len()).unwrap_or(0))
}

// SAFETY: a task writes only its own rows.
unsafe impl Job for NormActivations<'_> {
    fn grid(&self) -> [usize; 2] {
        [self.x.len().div_ceil(TASK_ROWS * self.gamma.len().max(1)), 1]
    }

    unsafe fn task(&self, row: usize, column: usize) {
        if row >= self.grid()[0] || column > 0 {
            return;
        }
        let Self { gamma, beta, eps, .. } = *self;
        let cols = gamma.len();
        let rows = row * TASK_ROWS..((row + 1) * TASK_ROWS).min(self.x.len() / cols);
        let x = &self.x[rows.start * cols..rows.end * cols];
        // SAFETY: the rows of different tasks are disjoint.
        unsafe {
            match &self.out {
                Out::Bf16(out) if BF16 => {
                    let len = bf16_len(cols);
                    let out = Rounded { out: out.part(rows.start * len..rows.end * len), len };
                    self.isa.call_bf16(NormRows { x, first: 0, gamma, beta, eps, out });
                }
                Out::Int8 { values, scales } => {
                    let len = quantised_len(cols);
                    let values = values.part(rows.start * len..rows.end * len);
                    let out = Quantised { values, len, scales: scales.part(rows) };
                    self.isa.call_int8(NormRows { x, first: 0, gamma, beta, eps, out });
                }
                Out::Bf16(_) => {} // `to_bf16` refuses it.
            }
        }
    }
}

/// Rounds rows to bf16.
struct Rounded<'a> {
    out: &'a mut [bf16],
    /// Elements of a row.
    len: usize,
}

impl Sink for Rounded<'_> {
    #[inline(always)]
    fn take<S: Simd, E: Storage, const SCALED: bool>(&mut self, s: S, row: usize, x: &Normalised<'_, S, E, SCALED>) {
        let (out, tail) = lanes_mut(&mut self.out[row * self.len..(row + 1) * self.len]);
        x.for_each(s, &mut *out, |v, out| s.store_bf16(v, out));
        if let Some(rest) = out.get_mut(x.x.len() / LANES) {
            // An odd row of 16·n − 1 elements: its padding completes a vector.
            s.store_bf16(x.tail(s), rest);
        } else if !tail.is_empty() {
            let mut padded = [bf16::ZERO; LANES];
            s.store_bf16(x.tail(s), &mut padded);
            tail.copy_from_slice(&padded[..tail.len()]);
        }
    }
}

/// Quantises rows to int8. An element is computed twice: for the largest magnitude, and to be stored.
struct Quantised<'a> {
    values: &'a mut [i8],
    /// Bytes of a row.
    len: usize,
    scales: &'a mut [f32],
}

impl Sink for Quantised<'_> {
    #[inline(always)]
    fn take<S: Simd, E: Storage, const SCALED: bool>(&mut self, s: S, row: usize, x: &Normalised<'_, S, E, SCALED>) {
        let has_tail = !x.x.len().is_multiple_of(LANES);
        let mut largest = s.splat(0.0);
        x.for_each(s, repeat(()), |v, ()| largest = s.max_magnitude(largest, v));
        if has_tail {
            largest = s.max_magnitude(largest, x.tail(s));
        }
        let largest = s.largest_magnitude(largest);
        let largest = if largest.is_finite() { largest } else { f32::NAN };
        self.scales[row] = largest / LARGEST;
        let inverse = s.splat(inverse_scale(largest));
        let (whole, rest) = self.values[row * self.len..(row + 1) * self.len].split_at_mut(x.x.len() / LANES * LANES);
        let (whole, _) = lanes_mut(whole);
        x.for_each(s, whole, |v, out| s.store_i8(s.mul(v, inverse), out));
        if has_tail {
            let mut padded = [0; LANES];
            s.store_i8(s.mul(x.tail(s), inverse), &mut padded);
            rest.copy_from_slice(&padded[..rest.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::testing::{lengths, levels, nans, noise};
    use crate::{LayerNorm, Quantise, RoundToBf16};

    /// Compares with the two steps.
    fn check(isa: Isa, x: &[f32], cols: usize) {
        let (gamma, beta) = (noise(cols, 2, 1.0), noise(cols, 3, 1.0));
        let rows = x.len() / cols;
        let mut normed = vec![0.0; x.len()];
        LayerNorm::new(isa, x, &gamma, &beta, 1e-6, &mut normed).unwrap().run();
        let (mut want, mut got) = (vec![bf16::ONE; rows * bf16_len(cols)], vec![bf16::ONE; rows * bf16_len(cols)]);
        RoundToBf16::new(isa, &normed, cols, &mut want).unwrap().run();
        NormActivations::to_bf16(isa, x, [&gamma, &beta], 1e-6, &mut got).unwrap().run();
        let same = |(a, b): (&bf16, &bf16)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        // The padding of a row of NaN may be NaN.
        assert!(
            got.iter().zip(&want).all(|pair| same(pair) || pair.0.is_nan() && pair.1.to_bits() == 0),
            "{isa} {cols}"
        );

        let isa = isa.unfused();
        LayerNorm::new(isa, x, &gamma, &beta, 1e-6, &mut normed).unwrap().run();
        let run = |two_steps: bool| -> (Vec<i8>, Vec<u32>) {
            let (mut values, mut scales) = (vec![5; rows * quantised_len(cols)], vec![0.0; rows]);
            if two_steps {
                Quantise::new(isa, &normed, cols, &mut values, &mut scales).unwrap().run();
            } else {
                let job = NormActivations::to_int8(isa, x, [&gamma, &beta], 1e-6, &mut values, &mut scales);
                job.unwrap().run();
            }
            for (values, scale) in values.chunks_mut(quantised_len(cols)).zip(&scales) {
                if scale.is_nan() {
                    values.fill(0); // Unspecified.
                }
            }
            let bits = |x: &f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
            (values, scales.iter().map(bits).collect())
        };
        assert_eq!(run(false), run(true), "{isa} {cols}");
    }

    #[test]
    fn it_is_layer_norm_and_then_a_conversion() {
        for isa in levels() {
            for cols in lengths().filter(|cols| *cols > 0) {
                for rows in [1, 3, 29] {
                    check(isa, &noise(rows * cols, 1, 3.0), cols);
                }
            }
            // Rows whose sums overflow, rows of equal elements, NaN and infinities.
            check(isa, &noise(5 * 37, 1, 1e38), 37);
            check(isa, &vec![0.25; 5 * 37], 37);
            for value in nans().into_iter().chain([f32::INFINITY]) {
                let mut x = noise(5 * 37, 1, 1.0);
                (x[40], x[80]) = (value, value);
                check(isa, &x, 37);
            }
        }
    }

    #[test]
    fn shapes() {
        let (isa, x, one) = (Isa::best(), [0.0; 6], [1.0; 3]);
        let bf16 = |x, gamma, len: usize| {
            NormActivations::to_bf16(isa, x, [gamma, &one], 0.0, &mut vec![bf16::ZERO; len]).is_ok()
        };
        assert!(bf16(&x, &one, 8) && !bf16(&x, &one, 6) && !bf16(&x[1..], &one, 8) && !bf16(&x, &one[1..], 6));
        let int8 = |values: usize, scales: usize| {
            let (mut values, mut scales) = (vec![0; values], vec![0.0; scales]);
            NormActivations::to_int8(isa, &x, [&one, &one], 0.0, &mut values, &mut scales).is_ok()
        };
        assert!(int8(8, 2) && !int8(6, 2) && !int8(8, 3));
    }
}
