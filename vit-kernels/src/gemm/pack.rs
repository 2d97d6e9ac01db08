//! Weights in panels of [`LANES`] columns, each \[k\]\[LANES\], so that a tile reads them as one stream.
//!
//! The layout is the same for every instruction set. The columns past n in the last panel are zero.
use core::fmt;

use crate::error::{ShapeError, expect_len};
use crate::half::{Element, f16};
use crate::simd::LANES;

/// How many elements the panels of \[n, k\] weights take: n rounded up to whole panels, times k. `None` on overflow.
pub const fn packed_len(n: usize, k: usize) -> Option<usize> {
    match n.checked_next_multiple_of(LANES) {
        Some(columns) => columns.checked_mul(k),
        None => None,
    }
}

/// Packed weights: a view that knows its shape.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    n: usize,
    k: usize,
    panels: Panels<'a>,
}

/// The panels' storage type.
#[derive(Debug, Clone, Copy)]
pub enum Panels<'a> {
    /// As they are used.
    F32(&'a [f32]),
    /// Widened as they are read; sums stay f32.
    F16(&'a [f16]),
}

impl Panels<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(panels) => panels.len(),
            Self::F16(panels) => panels.len(),
        }
    }
}

impl<'a> Packed<'a> {
    /// A view of `panels` as weights of `n` outputs and `k` inputs.
    ///
    /// # Errors
    /// When the panels' length is not [`packed_len`]`(n, k)`.
    pub fn new(n: usize, k: usize, panels: Panels<'a>) -> Result<Self, ShapeError> {
        expect_len("packed weights: whole panels of n by k", packed_len(n, k), panels.len())?;
        Ok(Self { n, k, panels })
    }

    /// [`new`](Self::new) of the first panels, behind which there is what will be read next: the following layer's
    /// weights. It is fetched into the cache while the last panels are computed with.
    ///
    /// # Errors
    /// When there are fewer than [`packed_len`]`(n, k)`.
    pub fn before_others(n: usize, k: usize, panels: Panels<'a>) -> Result<Self, ShapeError> {
        let len = packed_len(n, k).unwrap_or(usize::MAX);
        expect_len("packed weights: whole panels of n by k", Some(len), panels.len().min(len))?;
        Ok(Self { n, k, panels })
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The storage, with whatever is behind it.
    pub fn panels(&self) -> Panels<'a> {
        self.panels
    }
}

/// Packs \[n, k\] weights (row-major, as PyTorch's `nn.Linear` has them) into `out`.
///
/// `read(row, start, into)` delivers `into.len()` weights of output `row` from input `start` on; it may decode them
/// from a file as it goes. Rounds to nearest even where `E` is narrower than f32.
///
/// # Errors
/// [`PackError::Shape`] when `out` is not [`packed_len`]`(n, k)` long; [`PackError::NotFinite`] at the first weight
/// that is NaN or infinite, or too large for `E`.
pub fn pack<E: Element>(
    n: usize,
    k: usize,
    mut read: impl FnMut(usize, usize, &mut [f32]),
    out: &mut [E],
) -> Result<(), PackError> {
    /// Inputs read at a time: a panel's worth of them fits L1 twice.
    const DEPTH: usize = 64;
    expect_len("pack: out holds whole panels of n by k", packed_len(n, k), out.len()).map_err(PackError::Shape)?;
    if n == 0 || k == 0 {
        return Ok(());
    }
    let mut rows = [[0.0f32; DEPTH]; LANES];
    for (panel, out) in out.chunks_exact_mut(k * LANES).enumerate() {
        let first = panel * LANES;
        let columns = LANES.min(n - first);
        rows[columns..].fill([0.0; DEPTH]);
        for start in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - start);
            for (column, row) in rows[..columns].iter_mut().enumerate() {
                read(first + column, start, &mut row[..depth]);
            }
            let (out, _) = out[start * LANES..].as_chunks_mut::<LANES>();
            let mut finite = true;
            for (i, out) in out[..depth].iter_mut().enumerate() {
                for (out, row) in out.iter_mut().zip(&rows) {
                    *out = E::from_f32(row[i]);
                    finite &= out.to_f32().is_finite();
                }
            }
            if !finite {
                return Err(first_not_finite::<E>(&rows[..columns], first, start, depth));
            }
        }
    }
    Ok(())
}

#[cold]
fn first_not_finite<E: Element>(rows: &[[f32; 64]], first: usize, start: usize, depth: usize) -> PackError {
    let bad = |x: &f32| !E::from_f32(*x).to_f32().is_finite();
    let found = rows.iter().enumerate().find_map(|(i, row)| row[..depth].iter().position(bad).map(|at| (i, at)));
    let (i, at) = found.unwrap_or_default();
    PackError::NotFinite { row: first + i, column: start + at, value: rows[i][at] }
}

/// Why weights could not be packed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PackError {
    /// A length does not fit.
    Shape(ShapeError),
    /// A weight is NaN or infinite, or is so in the type it is stored in.
    NotFinite {
        /// Which output.
        row: usize,
        /// Which input.
        column: usize,
        /// The weight.
        value: f32,
    },
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => error.fmt(f),
            Self::NotFinite { row, column, value } if value.is_finite() => {
                write!(f, "the weight at [{row}, {column}] is {value}, too large for f16")
            }
            Self::NotFinite { row, column, value } => write!(f, "the weight at [{row}, {column}] is {value}"),
        }
    }
}

impl core::error::Error for PackError {}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::testing::noise;

    fn check<E: Element>(n: usize, k: usize) {
        let w = noise(n * k, 1, 2.0);
        let mut out = vec![E::from_f32(7.0); packed_len(n, k).unwrap()];
        pack(n, k, |row, start, into| into.copy_from_slice(&w[row * k + start..][..into.len()]), &mut out).unwrap();
        for (i, got) in out.iter().enumerate() {
            let (panel, depth, lane) = (i / (k * LANES), i / LANES % k, i % LANES);
            let row = panel * LANES + lane;
            let want = if row < n { w[row * k + depth] } else { 0.0 };
            assert!(*got == E::from_f32(want), "[{row}, {depth}] of [{n}, {k}]");
        }
    }

    #[test]
    fn every_weight_is_in_its_place() {
        for n in [0, 1, 15, 16, 17, 48, 50] {
            for k in [0, 1, 2, 63, 64, 65, 130] {
                check::<f32>(n, k);
                check::<f16>(n, k);
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_named() {
        for (value, fits_f32) in [(f32::NAN, false), (f32::INFINITY, false), (70_000.0, true)] {
            let read = |row: usize, start: usize, into: &mut [f32]| {
                for (i, x) in into.iter_mut().enumerate() {
                    *x = if (row, start + i) == (18, 70) { value } else { 1.0 };
                }
            };
            let narrow = pack(20, 80, read, &mut vec![f16::ZERO; packed_len(20, 80).unwrap()]);
            assert!(matches!(narrow, Err(PackError::NotFinite { row: 18, column: 70, .. })), "{narrow:?}");
            assert_eq!(pack(20, 80, read, &mut vec![0.0f32; packed_len(20, 80).unwrap()]).is_ok(), fits_f32);
        }
    }

    #[test]
    fn shapes() {
        assert_eq!(packed_len(17, 3), Some(96));
        assert_eq!(packed_len(usize::MAX, 1), None);
        assert!(Packed::new(17, 3, Panels::F32(&[0.0; 95])).is_err());
        assert!(Packed::new(17, 3, Panels::F32(&[0.0; 97])).is_err());
        assert!(Packed::before_others(17, 3, Panels::F32(&[0.0; 95])).is_err());
        assert!(Packed::before_others(17, 3, Panels::F32(&[0.0; 97])).is_ok());
        assert!(matches!(pack(1, 1, |_, _, _| (), &mut [0.0f32; 3]), Err(PackError::Shape(_))));
    }
}
