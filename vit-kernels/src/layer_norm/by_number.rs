//! LayerNorm one number at a time, for cores without vectors: the steps and the bits are those of vectors.
use super::{NormRows, Normalised, SMALLER, Sink, scaled_eps};
use crate::arch::small::{Scalar, Small};
use crate::half::Storage;
use crate::simd::{Arithmetic, LANES, Simd, lanes};

impl<E: Storage, O: Sink> NormRows<'_, E, O> {
    /// Normalises the rows.
    #[inline(always)]
    pub(super) fn by_number<S: Simd>(mut self, s: S) {
        let Self { gamma, beta, .. } = self;
        for (row, x) in (self.first..).zip(self.x.chunks_exact(gamma.len().max(1))) {
            // Multiplied by 1, every number stays what it is: there is one loop for rows whose sums overflow and others.
            let (mut factor, mut eps) = (1.0, self.eps);
            let (mut mean, mut variance) = mean_and_variance(x, factor);
            if !variance.is_finite() {
                (factor, eps) = (SMALLER, scaled_eps(eps));
                (mean, variance) = mean_and_variance(x, factor);
            }
            let (mean, inverse) = (s.splat(mean), s.splat(1.0 / Scalar.sqrt(variance + eps)));
            self.out.take(s, row, &Normalised::<S, E, true> { x, factor, mean, inverse, gamma, beta });
        }
    }
}

/// The mean and the biased variance of a row's numbers, multiplied by `factor`.
#[inline(never)]
fn mean_and_variance<E: Storage>(x: &[E], factor: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum(x, |x| x * factor) / count;
    let variance = sum(x, |x| (x * factor - mean) * (x * factor - mean)) / count;
    (mean, variance)
}

/// The sum of a function of every number, added in the order of [`LANES`] lanes.
#[inline(always)]
fn sum<E: Storage>(x: &[E], of: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (body, tail) = lanes(x);
    for x in body {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += of(x.to_f32());
        }
    }
    for (i, x) in tail.iter().enumerate() {
        sums[i] += of(x.to_f32());
    }
    tree(sums)
}

/// The sum of sixteen partial sums, out of line, since flash is short.
#[inline(never)]
fn tree(sums: [f32; LANES]) -> f32 {
    Small.sum(sums)
}
