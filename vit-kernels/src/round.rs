//! Rows of f32 rounded to bf16: the left operand of a matmul with bf16 weights.
#![allow(unsafe_code)] // One call: a task writes its own rows.

use ::half::bf16;

use crate::error::{ShapeError, expect_len};
use crate::half::Storage;
use crate::isa::Isa;
use crate::job::{Job, Shared, TASK_ROWS};
use crate::simd::{Kernel, LANES, Simd, lanes};

/// Numbers that are multiplied together: rows are padded to whole pairs.
pub(crate) const PAIR: usize = 2;

/// Elements of a row of `k` elements in bf16, with its padding.
pub const fn bf16_len(k: usize) -> usize {
    k.next_multiple_of(PAIR)
}

/// Rounds rows of f32, \[rows, k\], to bf16: to nearest, ties to even, with 0 as padding.
///
/// The relative error is at most 2⁻⁸; a magnitude of 3.3962·10³⁸ or more becomes infinite, and NaN stays NaN. Subnormal
/// numbers are rounded with an absolute error of 2⁻¹³⁴, on the level `avx512-bf16` to 0.
pub struct RoundToBf16<'a> {
    isa: Isa,
    x: &'a [f32],
    k: usize,
    out: Shared<'a, bf16>,
}

impl<'a> RoundToBf16<'a> {
    /// Checks the shapes: `x` is \[rows, k\], `out` \[rows, [`bf16_len`]`(k)`\].
    ///
    /// # Errors
    /// When a length is wrong.
    pub fn new(isa: Isa, x: &'a [f32], k: usize, out: &'a mut [bf16]) -> Result<Self, ShapeError> {
        let rows = x.len().checked_div(k).unwrap_or(0);
        expect_len("round: x must be a whole number of rows", Some(rows * k), x.len())?;
        expect_len("round: out must have a row for each of x", rows.checked_mul(bf16_len(k)), out.len())?;
        Ok(Self { isa, x, k, out: Shared::new(out) })
    }
}

// SAFETY: a task writes only its own rows.
unsafe impl Job for RoundToBf16<'_> {
    fn grid(&self) -> [usize; 2] {
        [self.out.len().div_ceil(TASK_ROWS * bf16_len(self.k).max(1)), 1]
    }

    unsafe fn task(&self, row: usize, column: usize) {
        if row >= self.grid()[0] || column > 0 {
            return;
        }
        let rows = row * TASK_ROWS..((row + 1) * TASK_ROWS).min(self.x.len() / self.k);
        // SAFETY: the rows of different tasks are disjoint.
        let out = unsafe { self.out.part(rows.start * bf16_len(self.k)..rows.end * bf16_len(self.k)) };
        self.isa.call_bf16(RoundRows { x: &self.x[rows.start * self.k..rows.end * self.k], k: self.k, out });
    }
}

struct RoundRows<'a> {
    x: &'a [f32],
    k: usize,
    out: &'a mut [bf16],
}

impl Kernel for RoundRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, out) in self.x.chunks_exact(self.k).zip(self.out.chunks_exact_mut(bf16_len(self.k))) {
            round_row(s, x, out);
        }
    }
}

/// Rounds a row to one of [`bf16_len`]`(x.len())` elements.
#[inline(always)]
pub(crate) fn round_row<S: Simd>(s: S, x: &[f32], out: &mut [bf16]) {
    let (body, tail) = lanes(x);
    let (whole, rest) = out.split_at_mut(body.len() * LANES);
    for (x, out) in body.iter().zip(whole.as_chunks_mut().0) {
        s.store_bf16(s.load(x), out);
    }
    if !tail.is_empty() {
        let mut padded = [bf16::ZERO; LANES];
        s.store_bf16(f32::load_tail(s, tail, 0.0), &mut padded);
        rest.copy_from_slice(&padded[..rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::testing::{lengths, levels, noise, specials};

    #[test]
    fn rounds_to_nearest_even() {
        for isa in levels() {
            for k in lengths().filter(|k| *k > 0) {
                // Ties, numbers near them, and numbers of every size.
                let mut x = noise(3 * k, k as u64, 1.0);
                for (i, x) in x.iter_mut().enumerate() {
                    *x *= [1.0, 1e30, 1e-30, 3e38][i % 4];
                    let bits = x.to_bits();
                    *x = f32::from_bits([bits, bits & 0xffff_0000 | 0x8000, bits & 0xffff_0000 | 0x8001][i % 3]);
                }
                let mut out = vec![bf16::ONE; 3 * bf16_len(k)];
                RoundToBf16::new(isa, &x, k, &mut out).unwrap().run();
                for (x, out) in x.chunks(k).zip(out.chunks(bf16_len(k))) {
                    assert!(x.iter().zip(out).all(|(x, out)| bf16::from_f32_const(*x) == *out), "{isa} {k}");
                    assert!(out[k..].iter().all(|padding| padding.to_bits() == 0), "{isa} {k}");
                }
            }
        }
    }

    #[test]
    fn special_values() {
        for isa in levels() {
            for x in specials().into_iter().chain([f32::MAX, 3.3962e38, 3.3961e38, 1e-40, -1e-40]) {
                let mut out = [bf16::ONE; 2];
                RoundToBf16::new(isa, &[x; 2], 2, &mut out).unwrap().run();
                let want = bf16::from_f32_const(x);
                let close = |got: bf16| got == want || x.is_subnormal() && got.to_f32() == 0.0;
                assert!(out.iter().all(|got| close(*got) || got.is_nan() && want.is_nan()), "{isa} {x:e} {out:?}");
            }
        }
    }

    #[test]
    fn shapes() {
        let isa = Isa::best();
        assert!(RoundToBf16::new(isa, &[0.0; 6], 3, &mut [bf16::ZERO; 8]).is_ok());
        assert!(RoundToBf16::new(isa, &[0.0; 6], 3, &mut [bf16::ZERO; 6]).is_err());
        assert!(RoundToBf16::new(isa, &[0.0; 5], 3, &mut [bf16::ZERO; 4]).is_err());
        assert!(RoundToBf16::new(isa, &[], 0, &mut []).is_ok());
    }
}
