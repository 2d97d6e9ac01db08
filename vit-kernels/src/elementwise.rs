//! x += y and x *= factor, for residuals and means that are not computed in a matmul's epilogue.
//!
//! Each result is rounded once: at most ½ ULP of error. NaN and infinities follow IEEE 754. Empty input is a no-op.
use crate::error::{ShapeError, expect_len};
use crate::half::Storage;
use crate::isa::Isa;
use crate::math::{Apply, Function};
use crate::simd::{Arithmetic, Kernel, Simd, lanes, lanes_mut};

/// x += y, both of the same length.
///
/// ```
/// use vit_kernels::{Isa, elementwise};
/// let mut x = [1.0, 2.0];
/// elementwise::add(Isa::best(), &mut x, &[10.0, 20.0])?;
/// elementwise::scale(Isa::best(), &mut x, 0.5);
/// assert_eq!(x, [5.5, 11.0]);
/// # Ok::<(), vit_kernels::ShapeError>(())
/// ```
///
/// # Errors
/// When the lengths differ.
pub fn add(isa: Isa, x: &mut [f32], y: &[f32]) -> Result<(), ShapeError> {
    expect_len("add: y must be as long as x", Some(x.len()), y.len())?;
    isa.call(Add { x, y });
    Ok(())
}

/// Multiplies every element by `factor`.
pub fn scale(isa: Isa, x: &mut [f32], factor: f32) {
    isa.call(Apply { x, f: Times(factor) });
}

#[derive(Clone, Copy)]
struct Times(f32);

impl Function for Times {
    #[inline(always)]
    fn apply<S: Arithmetic>(self, s: S, x: S::V) -> S::V {
        s.mul(x, s.splat(self.0))
    }
}

struct Add<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if !S::VECTORS {
            for (x, y) in self.x.iter_mut().zip(self.y) {
                *x += y;
            }
            return;
        }
        let (x, x_tail) = lanes_mut(self.x);
        let (y, y_tail) = lanes(self.y);
        for (x, y) in x.iter_mut().zip(y) {
            s.store(s.add(s.load(x), s.load(y)), x);
        }
        if !x_tail.is_empty() {
            let sum = s.add(f32::load_tail(s, x_tail, 0.0), f32::load_tail(s, y_tail, 0.0));
            f32::store_tail(s, sum, x_tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::testing::{lengths, levels, noise, specials};

    fn check(isa: Isa, x: &[f32], y: &[f32]) {
        let same = |got: &[f32], want: &dyn Fn(usize) -> f32| {
            for (i, got) in got.iter().enumerate() {
                assert!(*got == want(i) || got.is_nan() && want(i).is_nan(), "{isa} at {i}: {got}, not {}", want(i));
            }
        };
        let mut got = x.to_vec();
        scale(isa, &mut got, 0.3);
        same(&got, &|i| x[i] * 0.3);
        let mut got = x.to_vec();
        add(isa, &mut got, y).unwrap();
        same(&got, &|i| x[i] + y[i]);
    }

    #[test]
    fn each_is_rounded_once() {
        for isa in levels() {
            for len in lengths() {
                check(isa, &noise(len, 1, 5.0), &noise(len, 2, 5.0));
            }
            let all = specials();
            for special in specials() {
                check(isa, &all, &vec![special; all.len()]);
            }
        }
    }

    #[test]
    fn shapes() {
        assert!(add(Isa::best(), &mut [0.0; 3], &[0.0; 4]).is_err());
        assert_eq!(add(Isa::best(), &mut [], &[]), Ok(()));
    }
}
