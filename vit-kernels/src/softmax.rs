//! Softmax over rows: eˣ⁻ᵐ / Σ eˣ⁻ᵐ, with m the row's maximum, so that nothing overflows.
use crate::error::{ShapeError, expect_rows};
use crate::half::{Element, Storage};
use crate::isa::Isa;
use crate::math::exp_lanes;
use crate::simd::{Kernel, Simd, lanes, lanes_mut};

/// Softmax of every row of `x`, \[rows, cols\], in place.
///
/// Error per element, for a row of n and an exact result y = eˣ⁻ᵐ/Σ: at most (6 + |x−m|/2 + n/16)·2⁻²³·y plus two
/// subnormal steps; the middle term is the rounding of x − m. f16 is rounded once more when stored.
///
/// If all elements are equal, each becomes 1/n; −∞ becomes 0. A row of −∞ only, or that contains a NaN or +∞, gives NaN
/// throughout, as in PyTorch. Empty input is a no-op.
///
/// ```
/// use vit_kernels::{Isa, softmax};
/// let mut x = [0.0, 0.0, f32::NEG_INFINITY, 1.0f32]; // [2, 2]
/// softmax(Isa::best(), &mut x, 2)?;
/// assert_eq!(x, [0.5, 0.5, 0.0, 1.0]);
/// assert!(softmax(Isa::best(), &mut x, 3).is_err());
/// # Ok::<(), vit_kernels::ShapeError>(())
/// ```
///
/// # Errors
/// When `x` is not a whole number of rows.
pub fn softmax<E: Element>(isa: Isa, x: &mut [E], cols: usize) -> Result<(), ShapeError> {
    expect_rows("softmax: x must be a whole number of rows", cols, x.len())?;
    isa.call(SoftmaxRows { x, cols });
    Ok(())
}

struct SoftmaxRows<'a, E> {
    x: &'a mut [E],
    cols: usize,
}

impl<E: Storage> Kernel for SoftmaxRows<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.cols.max(1)) {
            let max = s.splat(row_max(s, row));
            let sum = s.splat(exp_and_sum(s, row, max));
            let (body, tail) = lanes_mut(row);
            let finish = |e| s.div(exp_if_not_kept::<S, E>(s, e, max), sum);
            for chunk in body {
                E::store(s, finish(E::load(s, chunk)), chunk);
            }
            if !tail.is_empty() {
                E::store_tail(s, finish(E::load_tail(s, tail, 0.0)), tail);
            }
        }
    }
}

#[inline(always)]
fn row_max<S: Simd, E: Storage>(s: S, row: &[E]) -> f32 {
    let (body, tail) = lanes(row);
    let mut max = E::load_tail(s, tail, f32::NEG_INFINITY);
    for chunk in body {
        max = s.max(max, E::load(s, chunk));
    }
    s.largest(max)
}

/// Σ eˣ⁻ᵐ. f32 rows keep the exponentials in place; f16 would round them, so they are computed again later.
#[inline(always)]
fn exp_and_sum<S: Simd, E: Storage>(s: S, row: &mut [E], max: S::V) -> f32 {
    let (body, tail) = lanes_mut(row);
    let mut sum = s.splat(0.0);
    for chunk in body {
        let e = exp_lanes(s, s.sub(E::load(s, chunk), max));
        sum = s.add(sum, e);
        if E::HOLDS_F32 {
            E::store(s, e, chunk);
        }
    }
    if !tail.is_empty() {
        let e = exp_lanes(s, s.sub(E::load_tail(s, tail, f32::NEG_INFINITY), max));
        sum = s.add(sum, e);
        if E::HOLDS_F32 {
            E::store_tail(s, e, tail);
        }
    }
    s.sum(sum)
}

#[inline(always)]
fn exp_if_not_kept<S: Simd, E: Storage>(s: S, x: S::V, max: S::V) -> S::V {
    if E::HOLDS_F32 { x } else { exp_lanes(s, s.sub(x, max)) }
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

    fn check(isa: Isa, x: &[f32], cols: usize) {
        let mut want: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        reference::softmax(&mut want, cols);
        let mut got = x.to_vec();
        softmax(isa, &mut got, cols).unwrap();
        for (row, x) in x.chunks(cols.max(1)).enumerate() {
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (i, &x) in x.iter().enumerate() {
                let (got, want) = (f64::from(got[row * cols + i]), want[row * cols + i]);
                let bound = (6.0 + 0.5 * f64::from(max - x) + cols as f64 / 16.0) * want * 2f64.powi(-23);
                let bound = if bound.is_nan() { 0.0 } else { bound };
                assert!((got - want).abs() <= bound + 3e-45, "{isa} [{row}, {i}] of {cols}: {got:e}, not {want:e}");
            }
        }
    }

    #[test]
    fn bound_holds_for_every_length() {
        for isa in levels() {
            for cols in lengths() {
                for scale in [0.01, 1.0, 30.0, 100.0] {
                    check(isa, &noise(3 * cols, cols as u64, scale), cols);
                }
            }
        }
    }

    #[test]
    fn special_rows() {
        let inf = f32::INFINITY;
        for isa in levels() {
            for cols in [1, 5, 16, 17, 40] {
                let run = |x: &[f32]| {
                    let mut x = x.to_vec();
                    softmax(isa, &mut x, cols).unwrap();
                    x
                };
                assert!(run(&vec![3.5; cols]).iter().all(|&y| y == 1.0 / cols as f32), "{isa}");
                assert!(run(&vec![-inf; cols]).iter().all(|y| y.is_nan()), "{isa}");
                for at in [0, cols / 2, cols - 1] {
                    for special in nans().into_iter().chain([inf]) {
                        let mut row = noise(cols, 1, 1.0);
                        row[at] = special;
                        assert!(run(&row).iter().all(|y| y.is_nan()), "{isa} {special} at {at} of {cols}");
                    }
                    let mut row = vec![-inf; cols];
                    row[at] = 2.0;
                    let got = run(&row);
                    assert!((0..cols).all(|i| got[i] == f32::from(i == at)), "{isa}");
                }
            }
        }
    }

    #[test]
    fn f16_is_the_f32_result_rounded_once() {
        for isa in levels() {
            for cols in lengths().filter(|&cols| cols > 0) {
                let mut got: Vec<f16> = noise(2 * cols, 9, 8.0).into_iter().map(Storage::from_f32).collect();
                let mut wide: Vec<f32> = got.iter().map(|x| x.to_f32()).collect();
                softmax(isa, &mut got, cols).unwrap();
                softmax(isa, &mut wide, cols).unwrap();
                assert!(got.iter().zip(&wide).all(|(&got, &wide)| got == Storage::from_f32(wide)), "{isa} {cols}");
            }
        }
    }

    #[test]
    fn shapes() {
        assert_eq!(softmax(Isa::best(), &mut [0.0f32; 0], 0), Ok(()));
        assert_eq!(softmax(Isa::best(), &mut [0.0f32; 0], 4), Ok(()));
        assert_eq!(softmax(Isa::best(), &mut [0.0f32; 6], 4).unwrap_err().expected, 4);
        assert!(softmax(Isa::best(), &mut [0.0f32; 6], 0).is_err());
    }

    proptest! {
        #[test]
        fn any_finite_rows(cols in 1usize..80, x in prop::collection::vec(-1e4f32..1e4, 0..400)) {
            for isa in levels() {
                check(isa, &x[..x.len() - x.len() % cols], cols);
            }
        }
    }
}
