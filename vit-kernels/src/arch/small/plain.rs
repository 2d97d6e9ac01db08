//! Products of int8 where there is one multiplication at a time.
use crate::simd::ROUND_TO_INTEGER;

/// Rows of the int8 tile. Most instructions of a Cortex-M0 can name eight registers only.
pub(crate) const ROWS: usize = 2;

/// Groups of inputs of several rows whose activations are widened at a time: 1 KB, or 512 bytes.
pub(super) const BLOCK: usize = if cfg!(arm_thumb1) { 32 } else { 16 };

/// Columns that are summed at a time for tiles of that many rows.
#[cfg(not(arm_thumb1))]
pub(crate) const fn columns(rows: usize) -> usize {
    4 / rows
}

/// Four int8 as i32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Wide([i32; 4]);

impl Wide {
    #[inline(always)]
    pub(super) fn new(x: &[i8; 4]) -> Self {
        let &[a, b, c, d] = x;
        Self([a, b, c, d].map(i32::from))
    }

    /// Four numbers within ±127, rounded to nearest even.
    #[inline(always)]
    pub(super) fn rounded(x: [f32; 4]) -> Self {
        // The lowest byte of the sum is the number.
        Self(x.map(|x| i32::from(((x + ROUND_TO_INTEGER).to_bits() as u8).cast_signed())))
    }

    #[inline(always)]
    pub(super) fn words(self) -> [u32; 4] {
        self.0.map(i32::cast_unsigned)
    }

    /// sum + Σ a·w over the four inputs.
    #[inline(always)]
    pub(super) fn dot(self, w: Self, sum: i32) -> i32 {
        let mut sum = sum;
        for (a, w) in self.0.into_iter().zip(w.0) {
            sum += a * w;
        }
        sum
    }
}

/// acc\[m\]\[c\] += a\[m\]·w\[c\] for each group of inputs: `a` is \[groups\]\[rows\], and the weights of a group lie
/// `step` bytes behind those of the one before.
///
/// # Safety
/// The weights of as many groups are readable.
#[inline(always)]
pub(super) unsafe fn multiply<const M: usize, const C: usize>(
    a: &[[Wide; M]],
    mut w: *const [[i8; 4]; C],
    step: usize,
    acc: &mut [[i32; C]; M],
) {
    for a in a {
        // SAFETY: the caller vouches for it.
        let columns = unsafe { &*w };
        for c in 0..C {
            let w = Wide::new(&columns[c]);
            for m in 0..M {
                acc[m][c] = a[m].dot(w, acc[m][c]);
            }
        }
        w = w.wrapping_byte_add(step);
    }
}
