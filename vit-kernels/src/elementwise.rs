//! Residual, bias and scale, element by element.
//!
//! Each result is the exact one rounded once to f32 (and, for f16 storage, once more to f16): at most ½ ULP. NaN and
//! infinities follow IEEE 754. Empty input is left alone.
use crate::error::{ShapeError, expect_len, expect_rows};
use crate::half::{Element, Storage};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, lanes, lanes_mut};

/// x += y, both of the same length: the residual connection.
///
/// # Errors
/// When the lengths differ.
pub fn add<E: Element>(isa: Isa, x: &mut [E], y: &[E]) -> Result<(), ShapeError> {
    expect_len("add: y is as long as x", Some(x.len()), y.len())?;
    isa.call(Pairwise { x, y, op: Add });
    Ok(())
}

/// Adds `row`, \[cols\], to every row of `x`, \[rows, cols\]: the bias.
///
/// # Errors
/// When `x` is not a whole number of rows.
pub fn add_row<E: Element>(isa: Isa, x: &mut [E], row: &[E]) -> Result<(), ShapeError> {
    expect_rows("add_row: x is not a whole number of rows", row.len(), x.len())?;
    for x in x.chunks_exact_mut(row.len().max(1)) {
        isa.call(Pairwise { x, y: row, op: Add });
    }
    Ok(())
}

/// Multiplies every row of `x`, \[rows, cols\], by `row`, \[cols\]: LayerScale.
///
/// # Errors
/// When `x` is not a whole number of rows.
pub fn scale_row<E: Element>(isa: Isa, x: &mut [E], row: &[E]) -> Result<(), ShapeError> {
    expect_rows("scale_row: x is not a whole number of rows", row.len(), x.len())?;
    for x in x.chunks_exact_mut(row.len().max(1)) {
        isa.call(Pairwise { x, y: row, op: Mul });
    }
    Ok(())
}

/// Multiplies every element by `factor`.
pub fn scale<E: Element>(isa: Isa, x: &mut [E], factor: f32) {
    isa.call(crate::math::Map { x, f: Times(factor) });
}

#[derive(Clone, Copy)]
struct Times(f32);

impl crate::math::Function for Times {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        s.mul(x, s.splat(self.0))
    }
}

trait Binary: Copy {
    fn apply<S: Simd>(self, s: S, x: S::V, y: S::V) -> S::V;
}

#[derive(Clone, Copy)]
struct Add;

impl Binary for Add {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V, y: S::V) -> S::V {
        s.add(x, y)
    }
}

#[derive(Clone, Copy)]
struct Mul;

impl Binary for Mul {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V, y: S::V) -> S::V {
        s.mul(x, y)
    }
}

struct Pairwise<'a, E, O> {
    x: &'a mut [E],
    y: &'a [E],
    op: O,
}

impl<E: Storage, O: Binary> Kernel for Pairwise<'_, E, O> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (x, x_tail) = lanes_mut(self.x);
        let (y, y_tail) = lanes(self.y);
        for (x, y) in x.iter_mut().zip(y) {
            E::store(s, self.op.apply(s, E::load(s, x), E::load(s, y)), x);
        }
        if !x_tail.is_empty() {
            let v = self.op.apply(s, E::load_tail(s, x_tail, 0.0), E::load_tail(s, y_tail, 0.0));
            E::store_tail(s, v, x_tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::half::f16;
    use crate::testing::{lengths, levels, noise, specials};

    fn check<E: Element>(isa: Isa, x: &[f32], y: &[f32]) {
        let e = |x: &[f32]| -> Vec<E> { x.iter().map(|&x| E::from_f32(x)).collect() };
        let (x, y) = (e(x), e(y));
        let zipped = |op: fn(f32, f32) -> f32| -> Vec<E> {
            x.iter().zip(y.iter().cycle()).map(|(x, y)| E::from_f32(op(x.to_f32(), y.to_f32()))).collect()
        };
        let same = |got: &[E], want: &[E], op: &str| {
            for (got, want) in got.iter().zip(want) {
                let both_nan = got.to_f32().is_nan() && want.to_f32().is_nan();
                assert!(got == want || both_nan, "{isa} {op}: {}, not {}", got.to_f32(), want.to_f32());
            }
        };
        let mut got = x.clone();
        add_row(isa, &mut got, &y).unwrap();
        same(&got, &zipped(|x, y| x + y), "add_row");
        let mut got = x.clone();
        scale_row(isa, &mut got, &y).unwrap();
        same(&got, &zipped(|x, y| x * y), "scale_row");
        let mut got = x.clone();
        scale(isa, &mut got, 0.3);
        same(&got, &x.iter().map(|x| E::from_f32(x.to_f32() * 0.3)).collect::<Vec<_>>(), "scale");
        let mut got = y.clone();
        add(isa, &mut got, &x[..y.len()]).unwrap();
        same(&got, &zipped(|x, y| x + y)[..y.len()], "add");
    }

    #[test]
    fn each_is_rounded_once() {
        for isa in levels() {
            for cols in lengths() {
                let (x, y) = (noise(3 * cols, 1, 5.0), noise(cols, 2, 5.0));
                check::<f32>(isa, &x, &y);
                check::<f16>(isa, &x, &y);
            }
            for special in specials() {
                let all = specials();
                check::<f32>(isa, &all, &vec![special; all.len()]);
                check::<f16>(isa, &all, &vec![special; all.len()]);
            }
        }
    }

    #[test]
    fn shapes() {
        let isa = Isa::best();
        assert!(add(isa, &mut [0.0f32; 3], &[0.0; 4]).is_err());
        assert!(add_row(isa, &mut [0.0f32; 3], &[0.0; 2]).is_err());
        assert!(scale_row(isa, &mut [0.0f32; 3], &[]).is_err());
        assert_eq!(add_row::<f32>(isa, &mut [], &[]), Ok(()));
    }
}
