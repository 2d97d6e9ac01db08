//! LayerNorm over rows (Ba, Kiros, Hinton 2016, <https://arxiv.org/abs/1607.06450>), as `nn.LayerNorm(cols)` has it:
//! (x − mean) / √(variance + eps) · gamma + beta, with the biased variance.
//!
//! Two passes over a row that is in L1 by then: the variance is summed from x − mean, so a large mean does not drown it.
#![allow(unsafe_code)] // One call: a task writes its own rows.

use crate::error::{ShapeError, expect_len, expect_rows};
use crate::half::{Element, Storage};
use crate::isa::Isa;
use crate::job::{Job, Shared};
use crate::simd::{Kernel, LANES, Simd, lanes, lanes_mut};

/// LayerNorm of every row of `x`, \[rows, cols\], into `out`; gamma and beta are \[cols\].
///
/// Error per element, with x̂ the exact normalised value and A = max|x| / √(variance + eps) over the row of n: at most
/// (8 + n/16)·2⁻²³·(|gamma|·(|x̂| + A) + |beta|). f16 is rounded once more when stored.
///
/// Zero variance gives beta, within that bound; with eps = 0 as well it is 0/0. A row with a NaN or an infinity in it
/// gives NaN throughout. Empty input is left alone.
///
/// # Errors
/// When a length does not fit: `beta` and the rows of `x` take theirs from `gamma`, `out` from `x`.
pub fn layer_norm<E: Element>(
    isa: Isa,
    x: &[E],
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    out: &mut [E],
) -> Result<(), ShapeError> {
    LayerNorm::new(isa, x, gamma, beta, eps, out)?.run();
    Ok(())
}

/// A prepared [`layer_norm`], cut into groups of rows.
pub struct LayerNorm<'a, E> {
    isa: Isa,
    x: &'a [E],
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
    out: Shared<'a, E>,
}

/// Rows a task normalises: a few microseconds' work at the usual widths.
const TASK_ROWS: usize = 32;

impl<'a, E: Element> LayerNorm<'a, E> {
    /// Checks the shapes; see [`layer_norm`].
    ///
    /// # Errors
    /// As [`layer_norm`].
    pub fn new(
        isa: Isa,
        x: &'a [E],
        gamma: &'a [f32],
        beta: &'a [f32],
        eps: f32,
        out: &'a mut [E],
    ) -> Result<Self, ShapeError> {
        expect_len("layer_norm: beta is as long as gamma", Some(gamma.len()), beta.len())?;
        expect_rows("layer_norm: x is not a whole number of rows", gamma.len(), x.len())?;
        expect_len("layer_norm: out is as long as x", Some(x.len()), out.len())?;
        Ok(Self { isa, x, gamma, beta, eps, out: Shared::new(out) })
    }
}

// SAFETY: task i writes the elements start..end of its rows alone.
unsafe impl<E: Element> Job for LayerNorm<'_, E> {
    fn tasks(&self) -> usize {
        self.x.len().div_ceil(TASK_ROWS * self.gamma.len().max(1))
    }

    unsafe fn task(&self, index: usize) {
        if index >= self.tasks() {
            return;
        }
        let step = TASK_ROWS * self.gamma.len();
        let start = index * step;
        let end = (start + step).min(self.x.len());
        // SAFETY: the ranges of different tasks are disjoint.
        let out = unsafe { self.out.part(start..end) };
        let x = &self.x[start..end];
        self.isa.call(Rows { x, gamma: self.gamma, beta: self.beta, eps: self.eps, out });
    }
}

struct Rows<'a, E> {
    x: &'a [E],
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
    out: &'a mut [E],
}

impl<E: Storage> Kernel for Rows<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.gamma.len().max(1);
        let count = s.splat(cols as f32);
        for (x, out) in self.x.chunks_exact(cols).zip(self.out.chunks_exact_mut(cols)) {
            let mean = s.div(s.splat(row_sum(s, x)), count);
            let variance = s.div(s.splat(row_squares(s, x, mean)), count);
            let root = s.sqrt(s.add(variance, s.splat(self.eps)));
            let inverse = s.div(s.splat(1.0), root);
            let norm = |x, gamma, beta| s.mul_add(s.mul(s.sub(x, mean), inverse), gamma, beta);

            let (x, x_tail) = lanes(x);
            let (gamma, gamma_tail) = lanes(self.gamma);
            let (beta, beta_tail) = lanes(self.beta);
            let (out, out_tail) = lanes_mut(out);
            for (((x, gamma), beta), out) in x.iter().zip(gamma).zip(beta).zip(out) {
                E::store(s, norm(E::load(s, x), s.load(gamma), s.load(beta)), out);
            }
            if !x_tail.is_empty() {
                let (gamma, beta) = (f32::load_tail(s, gamma_tail, 0.0), f32::load_tail(s, beta_tail, 0.0));
                E::store_tail(s, norm(E::load_tail(s, x_tail, 0.0), gamma, beta), out_tail);
            }
        }
    }
}

/// Σ x.
#[inline(always)]
fn row_sum<S: Simd, E: Storage>(s: S, x: &[E]) -> f32 {
    let (body, tail) = lanes(x);
    let mut sum = s.splat(0.0);
    for chunk in body {
        sum = s.add(sum, E::load(s, chunk));
    }
    s.sum(s.add(sum, E::load_tail(s, tail, 0.0)))
}

/// Σ (x − mean)².
#[inline(always)]
fn row_squares<S: Simd, E: Storage>(s: S, x: &[E], mean: S::V) -> f32 {
    let (body, tail) = lanes(x);
    let mut sum = s.splat(0.0);
    for chunk in body {
        let d = s.sub(E::load(s, chunk), mean);
        sum = s.mul_add(d, d, sum);
    }
    if !tail.is_empty() {
        // The lanes past the tail must add nothing: give them the mean.
        let mut full = [0.0; LANES];
        s.store(mean, &mut full);
        for (lane, x) in full.iter_mut().zip(tail) {
            *lane = x.to_f32();
        }
        let d = s.sub(s.load(&full), mean);
        sum = s.mul_add(d, d, sum);
    }
    s.sum(sum)
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::half::f16;
    use crate::reference;
    use crate::testing::{lengths, levels, noise};

    fn check(isa: Isa, x: &[f32], gamma: &[f32], beta: &[f32], eps: f32) {
        let cols = gamma.len();
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| x.into()).collect() };
        let (mut want, mut normal) = (wide(x), wide(x));
        reference::layer_norm(&mut want, &wide(gamma), &wide(beta), eps.into());
        reference::layer_norm(&mut normal, &vec![1.0; cols], &vec![0.0; cols], eps.into());
        let mut got = vec![0.0; x.len()];
        layer_norm(isa, x, gamma, beta, eps, &mut got).unwrap();
        for (i, &got) in got.iter().enumerate() {
            let row = wide(&x[i - i % cols..][..cols]);
            let mean = row.iter().sum::<f64>() / cols as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
            let a = row.iter().fold(0.0f64, |a, x| a.max(x.abs())) / (variance + f64::from(eps)).sqrt();
            let (gamma, beta) = (f64::from(gamma[i % cols].abs()), f64::from(beta[i % cols].abs()));
            let bound = (8.0 + cols as f64 / 16.0) * 2f64.powi(-23) * (gamma * (normal[i].abs() + a) + beta);
            let error = (f64::from(got) - want[i]).abs();
            assert!(error <= bound, "{isa} element {i} of rows of {cols}: {got}, not {}", want[i]);
        }
    }

    #[test]
    fn bound_holds_for_every_length() {
        for isa in levels() {
            for cols in lengths() {
                let (gamma, beta) = (noise(cols, 2, 2.0), noise(cols, 3, 1.0));
                for (scale, shift) in [(1.0, 0.0), (1e-3, 5.0), (50.0, -20.0), (0.0, 3.3)] {
                    let x: Vec<f32> = noise(3 * cols, 4, scale).iter().map(|x| x + shift).collect();
                    check(isa, &x, &gamma, &beta, 1e-5);
                }
            }
        }
    }

    #[test]
    fn special_rows() {
        for isa in levels() {
            for cols in [3, 16, 33] {
                let (gamma, beta) = (vec![1.0; cols], noise(cols, 3, 1.0));
                let mut out = vec![9.0; cols];
                layer_norm(isa, &vec![0.0; cols], &gamma, &beta, 1e-5, &mut out).unwrap();
                assert_eq!(out, beta, "{isa}");
                for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut x = noise(cols, 1, 1.0);
                    x[cols - 1] = special;
                    layer_norm(isa, &x, &gamma, &beta, 1e-5, &mut out).unwrap();
                    assert!(out.iter().all(|y| y.is_nan()), "{isa} {special}");
                }
            }
        }
    }

    #[test]
    fn f16_is_the_f32_result_rounded_once() {
        for isa in levels() {
            for cols in lengths() {
                let narrow: Vec<f16> = noise(2 * cols, 9, 8.0).into_iter().map(Storage::from_f32).collect();
                let wide: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
                let (gamma, beta) = (noise(cols, 2, 2.0), noise(cols, 3, 1.0));
                let (mut got, mut want) = (vec![f16::ZERO; 2 * cols], vec![0.0; 2 * cols]);
                layer_norm(isa, &narrow, &gamma, &beta, 1e-6, &mut got).unwrap();
                layer_norm(isa, &wide, &gamma, &beta, 1e-6, &mut want).unwrap();
                assert!(got.iter().zip(&want).all(|(&got, &want)| got == Storage::from_f32(want)), "{isa} {cols}");
            }
        }
    }

    #[test]
    fn shapes() {
        let isa = Isa::best();
        assert_eq!(layer_norm::<f32>(isa, &[], &[], &[], 1e-5, &mut []), Ok(()));
        assert!(layer_norm(isa, &[0.0; 4], &[1.0; 3], &[0.0; 3], 1e-5, &mut [0.0; 4]).is_err());
        assert!(layer_norm(isa, &[0.0; 4], &[1.0; 4], &[0.0; 3], 1e-5, &mut [0.0; 4]).is_err());
        assert!(layer_norm(isa, &[0.0; 4], &[1.0; 4], &[0.0; 4], 1e-5, &mut [0.0; 3]).is_err());
        assert!(layer_norm(isa, &[0.0; 4], &[], &[], 1e-5, &mut [0.0; 4]).is_err());
    }

    proptest! {
        #[test]
        fn any_finite_rows(cols in 1usize..80, x in prop::collection::vec(-1e3f32..1e3, 0..300), eps in 1e-12f32..1e-3) {
            for isa in levels() {
                check(isa, &x[..x.len() - x.len() % cols], &noise(cols, 5, 2.0), &noise(cols, 6, 1.0), eps);
            }
        }
    }
}
