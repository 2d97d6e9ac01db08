//! Int8 products by SMMLA, which multiplies two rows by two outputs over eight inputs; elsewhere by SDOT. Its intrinsics
//! are not stable; the assembler knows it.
use core::arch::aarch64::*;
use core::arch::asm;

use super::dotprod::{sdot, sdot_element};
use super::{Neon, Products, detected};
use crate::gemm::int8::Int8Tile;
use crate::simd::{Kernel, LANES, MAX_INT8_ROWS, Simd};

/// Proof that the CPU has SMMLA and SDOT: only [`detect`](Self::detect) makes one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct I8mm(());

impl I8mm {
    pub(crate) fn detect() -> Option<Self> {
        (detected!("i8mm") && detected!("dotprod")).then_some(Self(()))
    }
}

impl Products for I8mm {
    // Sixteen accumulators; six rows take 7 % more instructions, as registers run out.
    const ROWS: usize = 4;
    const PEAK_INPUTS: usize = 8;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "i8mm,dotprod")]
        fn enter<K: Kernel>(token: I8mm, kernel: K) -> K::Output {
            kernel.run(Neon(token))
        }
        // SAFETY: the token proves the features.
        unsafe { enter(self, kernel) }
    }
    #[inline(always)]
    fn dot(self, sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves the features.
        unsafe { sdot(sum, a, w) }
    }
    #[inline(always)]
    fn dot_element<const I: i32>(self, sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves the features.
        unsafe { sdot_element::<I>(sum, a, w) }
    }
    #[inline(always)]
    fn peak(self, sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves the features.
        unsafe { smmla(sum, a, w) }
    }
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    unsafe fn int8_sums<const M: usize, const P: usize>(self, tile: &Int8Tile<'_>) -> [[[int32x4_t; 4]; P]; M] {
        // Half of each product would be of a row that is not there.
        if M == 1 {
            // SAFETY: the caller's promise, passed on.
            return unsafe { tile.sums(Neon(self)) };
        }
        let zero = Neon(self).start(&[0; LANES]);
        let mut sums = [[zero; P]; M];
        for p in 0..P {
            // SAFETY: the caller vouches for P panels and M rows.
            let pairs = unsafe { Panel { tile, panel: p }.sums::<M>() };
            for m in 0..M {
                for j in 0..4 {
                    // SAFETY: the target has NEON.
                    sums[m][p][j] = unsafe {
                        let (a, b) = (pairs[m / 2][2 * j], pairs[m / 2][2 * j + 1]);
                        let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
                        vreinterpretq_s32_s64(if m % 2 == 0 { vzip1q_s64(a, b) } else { vzip2q_s64(a, b) })
                    };
                }
            }
        }
        sums
    }
}

/// Sums of two rows and two outputs, for each pair of rows and of outputs.
type Pairs = [[int32x4_t; 8]; MAX_INT8_ROWS / 2];

/// A panel of a tile.
struct Panel<'a> {
    tile: &'a Int8Tile<'a>,
    panel: usize,
}

impl Panel<'_> {
    /// # Safety
    /// The tile has `M` rows and this panel, and the CPU SMMLA.
    #[inline(always)]
    unsafe fn sums<const M: usize>(&self) -> Pairs {
        let tile = self.tile;
        // SAFETY: the caller's promise: all offsets stay within the tile.
        unsafe {
            let mut acc = [[vdupq_n_s32(0); 8]; MAX_INT8_ROWS / 2];
            let rows = tile.a_step == 4;
            let quads = if rows { tile.groups / 4 * 4 } else { 0 };
            for group in (0..quads).step_by(4) {
                self.prefetch(group);
                let mut a = [[vdupq_n_s8(0); 2]; MAX_INT8_ROWS / 2];
                for i in 0..M.div_ceil(2) {
                    let row =
                        |m: usize| vreinterpretq_s64_s8(vld1q_s8(tile.a.add(m.min(M - 1) * tile.a_row + group * 4)));
                    let (x, y) = (row(2 * i), row(2 * i + 1));
                    a[i] = [vreinterpretq_s8_s64(vzip1q_s64(x, y)), vreinterpretq_s8_s64(vzip2q_s64(x, y))];
                }
                self.add::<M, 0>(&mut acc, &a, self.weights(group), self.weights(group + 1));
                self.add::<M, 1>(&mut acc, &a, self.weights(group + 2), self.weights(group + 3));
            }
            for group in (quads..tile.groups).step_by(2) {
                let both = group + 1 < tile.groups;
                let next = if both { self.weights(group + 1) } else { [vdupq_n_s8(0); 4] };
                let mut a = [[vdupq_n_s8(0); 2]; MAX_INT8_ROWS / 2];
                for i in 0..M.div_ceil(2) {
                    a[i][0] = if both && !rows && tile.a_row == 4 && 2 * i + 1 < M {
                        // The bytes of two rows are neighbours.
                        let at = |group: usize| {
                            let two = vld1_s8(tile.a.add(2 * i * 4 + group * tile.a_step));
                            vreinterpretq_s32_s8(vcombine_s8(two, two))
                        };
                        vreinterpretq_s8_s32(vzip1q_s32(at(group), at(group + 1)))
                    } else {
                        let at = |m: usize, group: usize| {
                            let inside = group < tile.groups;
                            let from =
                                tile.a.add(m.min(M - 1) * tile.a_row + if inside { group * tile.a_step } else { 0 });
                            if inside { from.cast::<i32>().read_unaligned() } else { 0 }
                        };
                        let (x, y) = (2 * i, 2 * i + 1);
                        let four = [at(x, group), at(x, group + 1), at(y, group), at(y, group + 1)];
                        vreinterpretq_s8_s32(vld1q_s32(four.as_ptr()))
                    };
                }
                self.add::<M, 0>(&mut acc, &a, self.weights(group), next);
            }
            acc
        }
    }

    /// Prefetches as the stream of the tile says; only the first panel does.
    #[inline(always)]
    fn prefetch(&self, group: usize) {
        let stream = self.tile.prefetch;
        if self.panel == 0 {
            super::neon::prefetch(stream.start.wrapping_add(group * stream.step));
        }
    }

    /// # Safety
    /// The tile has this panel and group.
    #[inline(always)]
    unsafe fn weights(&self, group: usize) -> [int8x16_t; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.tile.w.add(self.panel * self.tile.w_panel + group).cast::<i8>();
            [vld1q_s8(at), vld1q_s8(at.add(16)), vld1q_s8(at.add(32)), vld1q_s8(at.add(48))]
        }
    }

    /// Adds the products of two groups of inputs with operand `H` of each pair of rows.
    ///
    /// # Safety
    /// The CPU has SMMLA.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    unsafe fn add<const M: usize, const H: usize>(
        &self,
        acc: &mut Pairs,
        a: &[[int8x16_t; 2]; MAX_INT8_ROWS / 2],
        first: [int8x16_t; 4],
        second: [int8x16_t; 4],
    ) {
        for r in 0..4 {
            // SAFETY: the caller's promise.
            unsafe {
                let (x, y) = (vreinterpretq_s32_s8(first[r]), vreinterpretq_s32_s8(second[r]));
                let (low, high) = (vreinterpretq_s8_s32(vzip1q_s32(x, y)), vreinterpretq_s8_s32(vzip2q_s32(x, y)));
                for i in 0..M.div_ceil(2) {
                    acc[i][2 * r] = smmla(acc[i][2 * r], a[i][H], low);
                    acc[i][2 * r + 1] = smmla(acc[i][2 * r + 1], a[i][H], high);
                }
            }
        }
    }
}

/// Adds, to the sums of two rows and two outputs, their products over eight inputs: those of a row or output are half
/// of `a` or `w`.
#[inline]
#[target_feature(enable = "i8mm")]
fn smmla(mut sums: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
    // SAFETY: it only computes `sums`.
    unsafe {
        asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inlateout(vreg) sums, in(vreg) a, in(vreg) w,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}
