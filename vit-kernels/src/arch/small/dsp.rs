//! Products of int8 with Arm's DSP instructions: SMLAD adds two of them.
//!
//! The loops are assembler, since the compiler loads all activations of a group before it multiplies, and then has too
//! few registers. Instructions per multiply–accumulate, with all loads: 1.06 for 4 rows, 1.25 for 2 rows by 2 columns,
//! 1.44 for 1 row by 4 columns.
use core::arch::asm;

use crate::simd::ROUND_TO_INTEGER;

/// Rows of the int8 tile: their sums, two words of weights, two of activations and what the loop needs fill the
/// registers.
pub(crate) const ROWS: usize = 4;

/// Groups of inputs of several rows whose activations are widened at a time: 1 KB for four rows.
pub(super) const BLOCK: usize = 32;

/// Columns that are summed at a time for tiles of that many rows.
pub(crate) const fn columns(rows: usize) -> usize {
    match rows {
        1 => 4,
        2 => 2,
        _ => 1,
    }
}

/// Four int8 as pairs of i16: inputs 0 and 2, inputs 1 and 3.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Wide([u32; 2]);

impl Wide {
    #[inline(always)]
    pub(super) fn new(x: &[i8; 4]) -> Self {
        let word = u32::from_le_bytes(x.map(i8::cast_unsigned));
        let [even, odd]: [u32; 2];
        // SAFETY: instructions of every core with the DSP extension, which the build script found; registers alone.
        unsafe {
            asm!("sxtb16 {}, {x}", "sxtb16 {}, {x}, ror #8", out(reg) even, out(reg) odd, x = in(reg) word,
                options(pure, nomem, nostack, preserves_flags));
        }
        Self([even, odd])
    }

    /// Four numbers within ±127, rounded to nearest even.
    #[inline(always)]
    pub(super) fn rounded(x: [f32; 4]) -> Self {
        // The low half of the sum is the number as i16.
        let [a, b, c, d] = x.map(|x| (x + ROUND_TO_INTEGER).to_bits());
        Self([a & 0xffff | c << 16, b & 0xffff | d << 16])
    }

    #[inline(always)]
    pub(super) fn words(self) -> [u32; 2] {
        self.0
    }

    /// sum + Σ a·w over the four inputs. The flag for overflow stays as it is, since sums do not overflow.
    #[inline(always)]
    pub(super) fn dot(self, w: Self, sum: i32) -> i32 {
        let mut sum = sum;
        for (a, w) in self.0.into_iter().zip(w.0) {
            // SAFETY: as above.
            unsafe {
                asm!("smlad {0}, {1}, {2}, {0}", inlateout(reg) sum, in(reg) a, in(reg) w,
                    options(pure, nomem, nostack, preserves_flags));
            }
        }
        sum
    }
}

/// Reads and widens the weights of the column at an offset, in bytes.
macro_rules! weights {
    ($offset:literal) => {
        concat!("ldr {e}, [{w}, #", $offset, "]\n sxtb16 {o}, {e}, ror #8\n sxtb16 {e}, {e}")
    };
}

/// Reads the activations of a row, and moves on to the next.
macro_rules! row {
    () => {
        "ldrd {x}, {y}, [{a}], #8"
    };
}

/// Adds the products of a row's activations and a column's weights to a sum.
macro_rules! products {
    ($sum:literal) => {
        concat!("smlad ", $sum, ", {x}, {e}, ", $sum, "\n smlad ", $sum, ", {y}, {o}, ", $sum)
    };
}

/// A loop that multiplies two groups of inputs a turn, and begins with the second if the number of groups is odd.
macro_rules! sweep {
    ($at:ident, $w:ident, $step:ident, $groups:ident, [$($body:expr),*], $($sums:tt)*) => {
        asm!(
            "lsls {e}, {n}, #31", "beq 2f", "adds {n}, {n}, #1", "b 3f",
            "2:", $($body,)* "add {w}, {w}, {step}",
            "3:", $($body,)* "add {w}, {w}, {step}",
            "subs {n}, {n}, #2", "bne 2b",
            a = inout(reg) $at => _, w = inout(reg) $w => _, step = in(reg) $step, n = inout(reg) $groups => _,
            e = out(reg) _, o = out(reg) _, x = out(reg) _, y = out(reg) _, $($sums)*,
            options(readonly, nostack)
        )
    };
}

/// acc\[m\]\[c\] += a\[m\]·w\[c\] for each group of inputs: `a` is \[groups\]\[rows\], and the weights of a group lie
/// `step` bytes behind those of the one before.
///
/// # Safety
/// The weights of as many groups are readable.
#[inline(always)]
pub(super) unsafe fn multiply<const M: usize, const C: usize>(
    a: &[[Wide; M]],
    w: *const [[i8; 4]; C],
    step: usize,
    acc: &mut [[i32; C]; M],
) {
    let (groups, at) = (a.len(), a.as_ptr());
    if groups > 0 {
        // SAFETY: instructions of every core with the DSP extension. They read the activations, which are words, and
        // the weights, which need not be aligned for `ldr`: as many as the caller vouches for.
        unsafe {
            match (M, acc.as_flattened_mut()) {
                (4, [p, q, r, s]) => sweep!(
                    at,
                    w,
                    step,
                    groups,
                    [
                        weights!("0"),
                        row!(),
                        products!("{p}"),
                        row!(),
                        products!("{q}"),
                        row!(),
                        products!("{r}"),
                        row!(),
                        products!("{s}")
                    ],
                    p = inout(reg) * p,
                    q = inout(reg) * q,
                    r = inout(reg) * r,
                    s = inout(reg) * s
                ),
                // Here p and q are the first row's sums, r and s the second's. Both rows at once would take two
                // registers more than there are, so the activations are read for each column.
                (2, [p, q, r, s]) => sweep!(
                    at,
                    w,
                    step,
                    groups,
                    [
                        weights!("0"),
                        "ldrd {x}, {y}, [{a}]",
                        products!("{p}"),
                        "ldrd {x}, {y}, [{a}, #8]",
                        products!("{r}"),
                        weights!("4"),
                        row!(),
                        products!("{q}"),
                        row!(),
                        products!("{s}")
                    ],
                    p = inout(reg) * p,
                    q = inout(reg) * q,
                    r = inout(reg) * r,
                    s = inout(reg) * s
                ),
                (1, [p, q, r, s]) => sweep!(
                    at,
                    w,
                    step,
                    groups,
                    [
                        row!(),
                        weights!("0"),
                        products!("{p}"),
                        weights!("4"),
                        products!("{q}"),
                        weights!("8"),
                        products!("{r}"),
                        weights!("12"),
                        products!("{s}")
                    ],
                    p = inout(reg) * p,
                    q = inout(reg) * q,
                    r = inout(reg) * r,
                    s = inout(reg) * s
                ),
                (1, [p]) => {
                    sweep!(at, w, step, groups, [row!(), weights!("0"), products!("{p}")], p = inout(reg) * p)
                }
                _ => debug_assert!(false, "no loop for this tile"),
            }
        }
    }
}
