//! LayerNorm over rows (Ba, Kiros, Hinton 2016, <https://arxiv.org/abs/1607.06450>), as PyTorch's `nn.LayerNorm(cols)`:
//! (x − mean) / √(variance + eps) · gamma + beta, with the biased variance.
//!
//! The variance takes a second pass over the row, then in L1: it sums (x − mean)², so a large mean does not cancel it.
//! A row whose sums overflow is computed again, scaled by a power of two.
#![allow(unsafe_code)] // One call: a task writes its own rows.

mod activations;
#[cfg(any(no_vectors, test))]
mod by_number;

pub use activations::NormActivations;

use crate::error::{ShapeError, expect_len, expect_rows};
use crate::half::{Element, Storage};
use crate::isa::Isa;
use crate::job::{Job, Shared, TASK_ROWS};
use crate::simd::{Kernel, LANES, Simd, lanes, lanes_mut};

/// LayerNorm of every row of `x`, \[rows, cols\], into `out`; gamma and beta are \[cols\].
///
/// Error per element, with x̂ the exact normalised value and A = max|x| / √(variance + eps) over the row of n: at most
/// (8 + n/16)·2⁻²³·(|gamma|·(|x̂| + A) + |beta|), for every finite row of up to 2²⁰ elements, if eps is 0 or at least
/// 2⁻¹⁰⁰. With eps = 0 it holds if the row's standard deviation is at least 2⁻⁵⁰. f16 is rounded once more when stored.
///
/// Zero variance gives beta, within that bound; if eps = 0 too, it gives 0/0. A row that contains a NaN or an infinity
/// gives NaN throughout. Empty input is a no-op.
///
/// ```
/// use vit_kernels::{Isa, layer_norm};
/// let x = [1.0f32, 3.0, 5.0, 5.0]; // [2, 2]: mean 2, variance 1; mean 5, variance 0
/// let (gamma, beta) = ([10.0, 10.0], [0.0, 0.5]);
/// let mut out = [0.0; 4];
/// layer_norm(Isa::best(), &x, &gamma, &beta, 1e-6, &mut out)?;
/// for (out, want) in out.into_iter().zip([-10.0, 10.5, 0.0, 0.5]) {
///     assert!((out - want).abs() < 1e-4);
/// }
/// # Ok::<(), vit_kernels::ShapeError>(())
/// ```
///
/// # Errors
/// When `beta` is not as long as `gamma`, `x` is not whole rows of that length, or `out` is not as long as `x`.
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
        expect_len("layer_norm: beta must be as long as gamma", Some(gamma.len()), beta.len())?;
        expect_rows("layer_norm: x must be a whole number of rows", gamma.len(), x.len())?;
        expect_len("layer_norm: out must be as long as x", Some(x.len()), out.len())?;
        Ok(Self { isa, x, gamma, beta, eps, out: Shared::new(out) })
    }
}

// SAFETY: a task writes only its own rows.
unsafe impl<E: Element> Job for LayerNorm<'_, E> {
    fn grid(&self) -> [usize; 2] {
        [self.x.len().div_ceil(TASK_ROWS * self.gamma.len().max(1)), 1]
    }

    unsafe fn task(&self, row: usize, column: usize) {
        if row >= self.grid()[0] || column > 0 {
            return;
        }
        let step = TASK_ROWS * self.gamma.len();
        let start = row * step;
        let end = (start + step).min(self.x.len());
        // SAFETY: the ranges of different tasks are disjoint.
        let out = unsafe { self.out.part(start..end) };
        let x = &self.x[start..end];
        let out = Stored { out, cols: self.gamma.len() };
        E::norm_rows(self.isa, NormRows { x, first: 0, gamma: self.gamma, beta: self.beta, eps: self.eps, out });
    }
}

/// What becomes of a normalised row.
pub(crate) trait Sink {
    /// Takes row `row`.
    fn take<S: Simd, E: Storage, const SCALED: bool>(&mut self, s: S, row: usize, x: &Normalised<'_, S, E, SCALED>);
}

impl<T: Sink> Sink for &mut T {
    #[inline(always)]
    fn take<S: Simd, E: Storage, const SCALED: bool>(&mut self, s: S, row: usize, x: &Normalised<'_, S, E, SCALED>) {
        T::take(self, s, row, x);
    }
}

/// Stores rows as `E`.
pub(crate) struct Stored<'a, E> {
    out: &'a mut [E],
    cols: usize,
}

impl<T: Storage> Sink for Stored<'_, T> {
    #[inline(always)]
    fn take<S: Simd, E: Storage, const SCALED: bool>(&mut self, s: S, row: usize, x: &Normalised<'_, S, E, SCALED>) {
        let out = &mut self.out[row * self.cols..(row + 1) * self.cols];
        if !S::VECTORS {
            return x.for_each_number(s, out, |x, out| *out = T::from_f32(x));
        }
        let (out, tail) = lanes_mut(out);
        x.for_each(s, out, |v, out| T::store(s, v, out));
        if !tail.is_empty() {
            T::store_tail(s, x.tail(s), tail);
        }
    }
}

/// A row of which every element is computed when it is asked for.
pub(crate) struct Normalised<'a, S: Simd, E, const SCALED: bool> {
    x: &'a [E],
    /// Multiplied into x if `SCALED`.
    factor: f32,
    /// Of x, scaled.
    mean: S::V,
    /// 1 / √(variance + eps).
    inverse: S::V,
    gamma: &'a [f32],
    beta: &'a [f32],
}

impl<S: Simd, E: Storage, const SCALED: bool> Normalised<'_, S, E, SCALED> {
    /// Calls `visit` with each whole vector and its place in `out`.
    #[inline(always)]
    fn for_each<O>(&self, s: S, out: impl IntoIterator<Item = O>, mut visit: impl FnMut(S::V, O)) {
        let (x, gamma, beta) = (lanes(self.x).0, lanes(self.gamma).0, lanes(self.beta).0);
        for (((x, gamma), beta), out) in x.iter().zip(gamma).zip(beta).zip(out) {
            visit(self.vector(s, E::load(s, x), s.load(gamma), s.load(beta)), out);
        }
    }

    /// Calls `visit` with each element and its place in `out`: for a level without vectors.
    #[inline(always)]
    fn for_each_number<O>(&self, s: S, out: impl IntoIterator<Item = O>, mut visit: impl FnMut(f32, O)) {
        let (mean, inverse) = (s.first(self.mean), s.first(self.inverse));
        for (((x, gamma), beta), out) in self.x.iter().zip(self.gamma).zip(self.beta).zip(out) {
            let x = if SCALED { x.to_f32() * self.factor } else { x.to_f32() };
            visit((x - mean) * inverse * gamma + beta, out);
        }
    }

    /// The elements after the last whole vector.
    #[inline(always)]
    fn tail(&self, s: S) -> S::V {
        let parameter = |all| f32::load_tail(s, lanes(all).1, 0.0);
        self.vector(s, E::load_tail(s, lanes(self.x).1, 0.0), parameter(self.gamma), parameter(self.beta))
    }

    #[inline(always)]
    fn vector(&self, s: S, x: S::V, gamma: S::V, beta: S::V) -> S::V {
        let x = if SCALED { s.mul(x, s.splat(self.factor)) } else { x };
        s.mul_add(s.mul(s.sub(x, self.mean), self.inverse), gamma, beta)
    }
}

/// Rows of x from row `first` of the task on.
pub(crate) struct NormRows<'a, E, O> {
    x: &'a [E],
    first: usize,
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
    out: O,
}

/// Rows summed at the same time: the additions of one row form a dependent chain.
const TOGETHER: usize = 4;

/// Elements of a row that is widened once, where that takes many instructions, instead of in each of its three passes.
/// Longer rows are widened as they are read.
const WIDENED: usize = 2048;

impl<E: Storage, O: Sink> Kernel for NormRows<'_, E, O> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.gamma.len().max(1);
        #[cfg(any(no_vectors, test))]
        if !S::VECTORS {
            return self.by_number(s);
        }
        let Self { x, mut first, gamma, beta, eps, mut out } = self;
        if !E::HOLDS_F32 && !S::FAST_F16 && cols <= WIDENED {
            let row = &mut [0.0; WIDENED][..cols];
            for (i, x) in x.chunks_exact(cols).enumerate() {
                widen(s, x, row);
                NormRows { x: row, first: first + i, gamma, beta, eps, out: &mut out }.together::<S, 1, false>(s);
            }
            return;
        }
        let groups = if S::CHAINS >= TOGETHER { x.len() / (TOGETHER * cols) } else { 0 };
        let (body, rest) = x.split_at(groups * TOGETHER * cols);
        for x in body.chunks_exact(TOGETHER * cols) {
            NormRows { x, first, gamma, beta, eps, out: &mut out }.together::<S, TOGETHER, false>(s);
            first += TOGETHER;
        }
        for x in rest.chunks_exact(cols) {
            NormRows { x, first, gamma, beta, eps, out: &mut out }.together::<S, 1, false>(s);
            first += 1;
        }
    }
}

/// Factor for rows whose sums overflow: 2²⁰ squares of the largest f32 then sum to 2¹¹².
const SMALLER: f32 = 1.0 / (1u128 << 82) as f32;

impl<E: Storage, O: Sink> NormRows<'_, E, &mut O> {
    /// Normalises the rows, exactly `R`; if `SCALED`, multiplies them by [`SMALLER`] first.
    #[inline(always)]
    fn together<S: Simd, const R: usize, const SCALED: bool>(self, s: S) {
        let cols = self.gamma.len();
        let mut rows = [lanes(self.x); R];
        for (row, x) in rows.iter_mut().zip(self.x.chunks_exact(cols)) {
            *row = lanes(x);
        }
        let (count, zero) = (s.splat(cols as f32), s.splat(0.0));
        let has_tail = !cols.is_multiple_of(LANES);

        let mut sums = [zero; R];
        for i in 0..cols / LANES {
            for r in 0..R {
                sums[r] = s.add(sums[r], scaled::<S, SCALED>(s, E::load(s, &rows[r].0[i])));
            }
        }
        if has_tail {
            for r in 0..R {
                sums[r] = s.add(sums[r], scaled::<S, SCALED>(s, E::load_tail(s, rows[r].1, 0.0)));
            }
        }
        let mut mean = sums;
        for mean in &mut mean {
            *mean = s.div(s.splat(s.sum(*mean)), count);
        }

        let mut sums = [zero; R];
        for i in 0..cols / LANES {
            for r in 0..R {
                let d = s.sub(scaled::<S, SCALED>(s, E::load(s, &rows[r].0[i])), mean[r]);
                sums[r] = s.mul_add(d, d, sums[r]);
            }
        }
        if has_tail {
            for r in 0..R {
                let d = deviations_of_tail::<S, E, SCALED>(s, rows[r].1, mean[r]);
                sums[r] = s.mul_add(d, d, sums[r]);
            }
        }
        let eps = if SCALED { scaled_eps(self.eps) } else { self.eps };
        let (mut inverse, mut overflow) = (sums, [false; R]);
        for r in 0..R {
            let variance = s.sum(sums[r]) / cols as f32;
            overflow[r] = !variance.is_finite();
            inverse[r] = s.div(s.splat(1.0), s.sqrt(s.splat(variance + eps)));
        }

        for r in 0..R {
            let first = self.first + r;
            if overflow[r] && !SCALED {
                let x = &self.x[r * cols..(r + 1) * cols];
                let out = &mut *self.out;
                s.call(Scaled(NormRows { x, first, gamma: self.gamma, beta: self.beta, eps: self.eps, out }));
                continue;
            }
            let (x, gamma, beta) = (&self.x[r * cols..(r + 1) * cols], self.gamma, self.beta);
            let (mean, inverse) = (mean[r], inverse[r]);
            let row = Normalised::<S, E, SCALED> { x, factor: SMALLER, mean, inverse, gamma, beta };
            self.out.take(s, first, &row);
        }
    }
}

/// Scaled, eps is below the rounding error of the variance; it must only stay above 0 if it was.
fn scaled_eps(eps: f32) -> f32 {
    if eps > 0.0 { f32::MIN_POSITIVE } else { eps }
}

/// A row whose sums overflow, computed out of line to keep it out of the main loop.
struct Scaled<'a, E, O>(NormRows<'a, E, &'a mut O>);

impl<E: Storage, O: Sink> Kernel for Scaled<'_, E, O> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.together::<S, 1, true>(s);
    }
}

/// Widens a row into f32.
#[inline(always)]
fn widen<S: Simd, E: Storage>(s: S, x: &[E], out: &mut [f32]) {
    let ((x, x_tail), (out, out_tail)) = (lanes(x), lanes_mut(out));
    for (x, out) in x.iter().zip(out) {
        s.store(E::load(s, x), out);
    }
    f32::store_any(s, E::load_any(s, x_tail), out_tail);
}

/// x − mean; the lanes past the tail are filled with the mean and give 0.
#[inline(always)]
fn deviations_of_tail<S: Simd, E: Storage, const SCALED: bool>(s: S, x: &[E], mean: S::V) -> S::V {
    let mut full = [0.0; LANES];
    s.store(mean, &mut full);
    for (lane, x) in full.iter_mut().zip(x) {
        *lane = if SCALED { x.to_f32() * SMALLER } else { x.to_f32() };
    }
    s.sub(s.load(&full), mean)
}

#[inline(always)]
fn scaled<S: Simd, const SCALED: bool>(s: S, x: S::V) -> S::V {
    if SCALED { s.mul(x, s.splat(SMALLER)) } else { x }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::half::f16;
    use crate::reference;
    use crate::testing::{lengths, levels, nans, noise};

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
            assert!(error <= bound, "{isa} element {i} of rows of {cols}: {got}, not {}; {row:?} {eps}", want[i]);
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
    fn bound_holds_over_the_range_of_f32() {
        for isa in levels() {
            for cols in [1, 3, 16, 40, 1000] {
                let (gamma, beta) = (noise(cols, 2, 2.0), noise(cols, 3, 1.0));
                for scale in [f32::MAX, 1e38, 1e30, 2e19, 1e19, 1e18, 1e-20, 1e-38, 0.0] {
                    // Five rows, of which one is that large, then all.
                    let mut x = noise(5 * cols, 4, 1.0);
                    x[cols..2 * cols].iter_mut().for_each(|x| *x *= scale);
                    check(isa, &x, &gamma, &beta, 1e-6);
                    x.iter_mut().for_each(|x| *x = if *x < 0.0 { -scale } else { scale });
                    check(isa, &x, &gamma, &beta, 1e-6);
                    check(isa, &vec![scale; cols], &gamma, &beta, 2f32.powi(-100));
                    if scale > 1.0 && cols > 1 {
                        let ramp: Vec<f32> = (0..cols).map(|i| scale * (i as f32 / cols as f32)).collect();
                        check(isa, &ramp, &gamma, &beta, 0.0);
                    }
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
                for special in nans().into_iter().chain([f32::INFINITY, f32::NEG_INFINITY]) {
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
            for cols in lengths().chain([WIDENED, WIDENED + 1]) {
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
