//! Rotary position embedding (Su et al. 2021, <https://arxiv.org/abs/2104.09864>), in the form that rotates halves.
//!
//! In each head, elements j and j + head_dim/2 are a point, rotated by an angle that depends on the token:
//! (a, b) → (a·cos − b·sin, b·cos + a·sin). If a checkpoint pairs neighbours instead, the loader reorders the rows of
//! its query and key matrices: the scores are the same.
#![allow(unsafe_code)] // One call: a task writes its own rows.

use crate::error::{ShapeError, expect_len};
use crate::half::Storage;
use crate::isa::Isa;
use crate::job::{Job, Shared, TASK_ROWS};
use crate::simd::{Kernel, LANES, Simd};

/// Rotates rows of queries or keys in place, all heads of a row by the same angles.
///
/// Error per element, given the table's values: at most 2⁻²³·(|a| + |b|).
///
/// ```
/// use vit_kernels::{Isa, Job, Rope};
/// let mut x = [1.0, 0.0, 3.0, 4.0]; // one row of two heads, each one point
/// let quarter = [0.0, 1.0]; // cosine and sine
/// Rope::new(Isa::best(), &mut x, 4, [2, 2], &quarter)?.run();
/// assert_eq!(x, [0.0, 1.0, -4.0, 3.0]);
/// # Ok::<(), vit_kernels::ShapeError>(())
/// ```
pub struct Rope<'a> {
    isa: Isa,
    x: Shared<'a, f32>,
    stride: usize,
    heads: usize,
    head_dim: usize,
    table: &'a [f32],
}

impl<'a> Rope<'a> {
    /// The rows of `x` are `stride` apart and begin with \[heads, head_dim\]. `table` has one row for each: head_dim/2
    /// cosines, then as many sines.
    ///
    /// # Errors
    /// When head_dim is odd, heads × head_dim exceeds `stride`, `x` is not whole rows, or `table` has another length.
    pub fn new(
        isa: Isa,
        x: &'a mut [f32],
        stride: usize,
        [heads, head_dim]: [usize; 2],
        table: &'a [f32],
    ) -> Result<Self, ShapeError> {
        let inner = heads.checked_mul(head_dim).ok_or(ShapeError {
            what: "rope: heads × head_dim is too large",
            expected: stride,
            found: usize::MAX,
        })?;
        expect_len("rope: head_dim must be even", Some(head_dim / 2 * 2), head_dim)?;
        expect_len("rope: heads × head_dim must fit in the stride", Some(inner.min(stride)), inner)?;
        let rows = x.len().checked_div(stride).unwrap_or(0);
        expect_len("rope: x must be a whole number of rows", Some(rows * stride), x.len())?;
        expect_len("rope: the table must be rows of head_dim elements", rows.checked_mul(head_dim), table.len())?;
        Ok(Self { isa, x: Shared::new(x), stride, heads, head_dim, table })
    }

    fn rows(&self) -> usize {
        self.x.len().checked_div(self.stride).unwrap_or(0)
    }
}

// SAFETY: a task writes only its own rows.
unsafe impl Job for Rope<'_> {
    fn grid(&self) -> [usize; 2] {
        [self.rows().div_ceil(TASK_ROWS), 1]
    }

    unsafe fn task(&self, group: usize, column: usize) {
        if group >= self.grid()[0] || column > 0 {
            return;
        }
        for row in group * TASK_ROWS..((group + 1) * TASK_ROWS).min(self.rows()) {
            let start = row * self.stride;
            // SAFETY: the rows of different tasks are disjoint; only one such slice lives at a time.
            let x = unsafe { self.x.part(start..start + self.heads * self.head_dim) };
            let table = &self.table[row * self.head_dim..][..self.head_dim];
            self.isa.call(RotateRow { x, table });
        }
    }
}

/// All heads of a row.
struct RotateRow<'a> {
    x: &'a mut [f32],
    table: &'a [f32],
}

impl Kernel for RotateRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let half = self.table.len() / 2;
        let (cos, sin) = self.table.split_at(half);
        for head in self.x.chunks_exact_mut((2 * half).max(1)) {
            let (a, b) = head.split_at_mut(half);
            if !S::VECTORS {
                for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
                continue;
            }
            for start in (0..half).step_by(LANES) {
                let part = start..(start + LANES).min(half);
                let (cos, sin) = (f32::load_any(s, &cos[part.clone()]), f32::load_any(s, &sin[part.clone()]));
                let (x, y) = (f32::load_any(s, &a[part.clone()]), f32::load_any(s, &b[part.clone()]));
                f32::store_any(s, s.sub(s.mul(x, cos), s.mul(y, sin)), &mut a[part.clone()]);
                f32::store_any(s, s.add(s.mul(y, cos), s.mul(x, sin)), &mut b[part]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::reference;
    use crate::testing::{levels, nans, noise};

    fn check(isa: Isa, rows: usize, heads: usize, half: usize, gap: usize, seed: u64) {
        let (head_dim, stride) = (2 * half, heads * 2 * half + gap);
        let x = noise(rows * stride, seed, 3.0);
        let angles = noise(rows * half, seed + 1, 7.0);
        let mut table = Vec::new();
        for angles in angles.chunks(half) {
            table.extend(angles.iter().map(|x| x.cos()).chain(angles.iter().map(|x| x.sin())));
        }
        let mut got = x.clone();
        Rope::new(isa, &mut got, stride, [heads, head_dim], &table).unwrap().run();
        for (row, (x, got)) in x.chunks(stride).zip(got.chunks(stride)).enumerate() {
            let table: Vec<f64> = table[row * head_dim..][..head_dim].iter().map(|&x| x.into()).collect();
            let mut want: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            want[..heads * head_dim].chunks_exact_mut(head_dim).for_each(|head| reference::rope(head, &table));
            for i in 0..stride {
                let j = if i % head_dim < half { i + half } else { i.wrapping_sub(half) };
                let pair = x[i].abs() + x.get(j).map_or(0.0, |x| x.abs());
                let bound = 2f64.powi(-23) * f64::from(pair);
                assert!((f64::from(got[i]) - want[i]).abs() <= bound, "{isa} {row} {i}: {} not {}", got[i], want[i]);
                assert!(i < heads * head_dim || got[i] == x[i], "{isa}: beyond the heads nothing changes");
            }
        }
    }

    #[test]
    fn bound_holds_around_every_edge() {
        for isa in levels() {
            for half in (1..=35).chain([48, 64]) {
                check(isa, 1 + half % 5 * 20, 1 + half % 3, half, half % 7, half as u64);
            }
        }
    }

    #[test]
    fn nan_stays_within_its_pair() {
        for isa in levels() {
            for nan in nans() {
                let (mut x, table) = ([1.0; 12], [0.5; 6]);
                x[7] = nan;
                Rope::new(isa, &mut x, 12, [2, 6], &table).unwrap().run();
                assert!(x.iter().enumerate().all(|(i, x)| x.is_nan() == (i == 7 || i == 10)), "{isa} {x:?}");
            }
        }
    }

    #[test]
    fn shapes() {
        let (isa, mut x, table) = (Isa::best(), [0.0; 24], [0.0; 8]);
        assert!(Rope::new(isa, &mut x, 12, [2, 4], &table).is_ok());
        assert!(Rope::new(isa, &mut x, 12, [2, 3], &table[..6]).is_err());
        assert!(Rope::new(isa, &mut x, 12, [4, 4], &table).is_err());
        assert!(Rope::new(isa, &mut x, 12, [2, 4], &table[1..]).is_err());
        assert!(Rope::new(isa, &mut x[1..], 12, [2, 4], &table).is_err());
        assert!(Rope::new(isa, &mut x, 12, [usize::MAX, 4], &table).is_err());
        assert!(Rope::new(isa, &mut [], 0, [0, 0], &[]).is_ok());
    }

    proptest! {
        #[test]
        fn any_shape(rows in 0usize..60, heads in 1usize..4, half in 1usize..50, gap in 0usize..20, seed in 1u64..99) {
            for isa in levels() {
                check(isa, rows, heads, half, gap, seed);
            }
        }
    }
}
