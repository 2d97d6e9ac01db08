//! The level of cores without vectors: Cortex-M and 32-bit RISC-V. Vectors are arrays, in loops.
//!
//! Few registers hold few sums, so the int8 tile goes through a panel by one to four columns at a time:
//!
//! ```text
//! for each block of up to BLOCK groups of inputs:
//!     a = the rows' bytes, widened                  on the stack
//!     for each C columns of the panel's sixteen:
//!         acc[M][C] = their sums so far
//!         for each group: acc[m][c] += a[m]·w[c]    w widened when read, from where it lies
//! ```
#[cfg(arm_dsp)]
mod dsp;
#[cfg(not(arm_dsp))]
mod plain;
mod root;
#[cfg(arm_thumb1)]
mod thumb1;

use ::half::{bf16, f16};

use crate::gemm::int8::Int8Tile;
use crate::math::Function;
use crate::simd::{Arithmetic, Kernel, LANES, MAGNITUDE, ROUND_TO_INTEGER, Simd};
#[cfg(arm_dsp)]
use dsp::{ROWS, Wide, add_products, columns};
#[cfg(not(arm_dsp))]
use plain::{ROWS, Wide};
#[cfg(not(any(arm_dsp, arm_thumb1)))]
use plain::{add_products, columns};
use root::sqrt;
#[cfg(arm_thumb1)]
use thumb1::{add_products, columns};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Small;

/// Groups of inputs whose activations are widened at a time: 64 inputs, 128 bytes a row as i16 and 256 as i32.
const BLOCK: usize = 16;

/// One number at a time.
#[derive(Clone, Copy)]
struct Scalar;

impl Arithmetic for Scalar {
    type V = f32;
    type M = bool;
    const FUSED: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    fn sqrt(self, a: f32) -> f32 {
        sqrt(a)
    }
    #[inline(always)]
    fn max(self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    fn min(self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    #[inline(always)]
    fn gt(self, a: f32, b: f32) -> bool {
        a > b
    }
    #[inline(always)]
    fn select(self, m: bool, a: f32, b: f32) -> f32 {
        if m { a } else { b }
    }
    #[inline(always)]
    fn power_of_two(self, rounded: f32) -> f32 {
        f32::from_bits(rounded.to_bits() << 23)
    }
}

type V = [f32; LANES];

impl Arithmetic for Small {
    type V = V;
    type M = [bool; LANES];
    const FUSED: bool = Scalar::FUSED;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        each(|i| Scalar.add(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        each(|i| Scalar.sub(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        each(|i| Scalar.mul(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        each(|i| Scalar.div(a[i], b[i]))
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        each(|i| Scalar.mul_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        each(|i| Scalar.sqrt(a[i]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        each(|i| Scalar.max(a[i], b[i]))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        each(|i| Scalar.min(a[i], b[i]))
    }
    #[inline(always)]
    fn gt(self, a: V, b: V) -> [bool; LANES] {
        each(|i| Scalar.gt(a[i], b[i]))
    }
    #[inline(always)]
    fn select(self, m: [bool; LANES], a: V, b: V) -> V {
        each(|i| Scalar.select(m[i], a[i], b[i]))
    }
    #[inline(always)]
    fn power_of_two(self, rounded: V) -> V {
        each(|i| Scalar.power_of_two(rounded[i]))
    }
}

/// A function of every lane, one after the other: the steps of sixteen at a time do not fit the registers. Out of line,
/// since flash is short.
#[inline(never)]
fn apply<F: Function>(f: F, v: &mut V) {
    for x in v {
        *x = f.apply(Scalar, *x);
    }
}

impl Simd for Small {
    const TILE_ROWS: usize = 1;
    const TILE_PANELS: usize = 1;
    const CHAINS: usize = 1;
    const FAST_F16: bool = false;

    type I = [i32; LANES];
    type Weights = [[i8; 4]; LANES];
    type Activations = [i8; 4];
    const INT8_ROWS: usize = ROWS;
    const INT8_PANELS: usize = 1;
    const ZERO_POINT: u8 = 0;
    const INT4_FACTOR: f32 = 1.0;

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn apply<F: Function>(self, f: F, mut v: V) -> V {
        apply(f, &mut v);
        v
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> [f32; LANES] {
        *x
    }
    #[inline(always)]
    fn store(self, v: [f32; LANES], out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> [f32; LANES] {
        each(|i| x[i].to_f32_const())
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[bf16; 2]; LANES], half: usize) -> [f32; LANES] {
        each(|i| f32::from_bits(u32::from(x[i][half].to_bits()) << 16))
    }
    #[inline(always)]
    fn store_f16(self, v: [f32; LANES], out: &mut [f16; LANES]) {
        for (out, x) in out.iter_mut().zip(v) {
            *out = f16::from_f32_const(x);
        }
    }

    #[inline(always)]
    fn store_i8(self, v: [f32; LANES], out: &mut [i8; LANES]) {
        for (out, x) in out.iter_mut().zip(v) {
            *out = rounded(x);
        }
    }
    #[inline(always)]
    fn store_groups(self, v: [V; 4], out: &mut [[i8; 4]; LANES]) {
        for (lane, out) in out.iter_mut().enumerate() {
            for (v, out) in v.iter().zip(out) {
                *out = rounded(v[lane]);
            }
        }
    }
    #[inline(always)]
    fn max_magnitude(self, a: V, x: V) -> V {
        // As integers, NaN is above infinity.
        each(|i| f32::from_bits(a[i].to_bits().max(x[i].to_bits() & MAGNITUDE)))
    }
    #[inline(always)]
    fn load_weights(self, x: &[[i8; 4]; LANES]) -> [[i8; 4]; LANES] {
        *x
    }
    #[inline(always)]
    fn splat_activations(self, x: [i8; 4]) -> [i8; 4] {
        x
    }
    #[inline(always)]
    fn start(self, _: &[i32; LANES]) -> [i32; LANES] {
        [0; LANES]
    }
    #[inline(always)]
    fn dot(self, mut sum: [i32; LANES], a: [i8; 4], w: [[i8; 4]; LANES]) -> [i32; LANES] {
        let a = Wide::new(&a);
        for (sum, w) in sum.iter_mut().zip(w) {
            *sum = a.dot(Wide::new(&w), *sum);
        }
        sum
    }
    #[inline(always)]
    fn dot_rows(self, a: &[i8], row: usize, b: &[[i8; 4]], sums: &mut [i32]) {
        sums.fill(0);
        for (first, b) in (0..).step_by(BLOCK).zip(b.chunks(BLOCK)) {
            let mut wide = [[Wide::ZERO]; BLOCK];
            let wide = widened(b, &mut wide);
            for (a, sum) in a.chunks(row).zip(&mut *sums) {
                let (groups, _) = a[4 * first..].as_chunks();
                for (a, b) in groups.iter().zip(wide) {
                    *sum = Wide::new(a).dot(b[0], *sum);
                }
            }
        }
    }
    #[inline(always)]
    fn dot_columns(self, a: &[i8], step: usize, b: &[[i8; 4]], sums: &mut [i32]) {
        const C: usize = columns(1);
        sums.fill(0);
        for (first, b) in (0..).step_by(BLOCK).zip(b.chunks(BLOCK)) {
            let mut wide = [[Wide::ZERO]; BLOCK];
            let wide = widened(b, &mut wide);
            let a = &a[first * step..];
            let (whole, rest) = sums.as_chunks_mut::<C>();
            for (at, sums) in (0..).step_by(4 * C).zip(&mut *whole) {
                let columns = &a[at..at + (wide.len() - 1) * step + 4 * C];
                let mut acc = [*sums];
                // SAFETY: `columns` holds C columns of each group.
                unsafe { add_products(wide, columns.as_ptr().cast(), step, &mut acc) }
                *sums = acc[0];
            }
            for (column, sum) in (whole.len() * C..).zip(rest) {
                for (group, b) in wide.iter().enumerate() {
                    let at = group * step + 4 * column;
                    *sum = Wide::new(&[a[at], a[at + 1], a[at + 2], a[at + 3]]).dot(b[0], *sum);
                }
            }
        }
    }
    #[inline(always)]
    fn load_int4(self, x: &[[u8; 4]; LANES]) -> [[[i8; 4]; LANES]; 2] {
        let signed = |shift: u32| each(|lane| x[lane].map(|byte| (byte << shift).cast_signed() >> 4));
        [signed(4), signed(0)]
    }
    #[inline(always)]
    fn int4_to_f32(self, sum: [i32; LANES], _: [i32; LANES]) -> V {
        self.to_f32(sum)
    }
    #[inline(always)]
    fn to_f32(self, i: [i32; LANES]) -> [f32; LANES] {
        each(|lane| i[lane] as f32)
    }

    #[inline(always)]
    unsafe fn int8_sums<const M: usize, const P: usize>(self, tile: &Int8Tile<'_>) -> [[[i32; LANES]; P]; M] {
        let mut sums = [[[0; LANES]; P]; M];
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match columns(M) {
                4 => by_columns::<M, P, 4>(tile, &mut sums),
                2 => by_columns::<M, P, 2>(tile, &mut sums),
                _ => by_columns::<M, P, 1>(tile, &mut sums),
            }
        }
        sums
    }
}

/// Groups widened into `out`, which is at least as long.
#[inline(always)]
fn widened<'a>(groups: &[[i8; 4]], out: &'a mut [[Wide; 1]]) -> &'a [[Wide; 1]] {
    let out = &mut out[..groups.len()];
    for (group, out) in groups.iter().zip(&mut *out) {
        out[0] = Wide::new(group);
    }
    out
}

/// The nearest integer, ties to even, of a number within ±127.
#[inline(always)]
fn rounded(x: f32) -> i8 {
    ((x + ROUND_TO_INTEGER).to_bits() as u8).cast_signed()
}

/// A vector, lane by lane.
#[inline(always)]
fn each<T: Copy + Default>(lane: impl Fn(usize) -> T) -> [T; LANES] {
    let mut v = [T::default(); LANES];
    for (i, x) in v.iter_mut().enumerate() {
        *x = lane(i);
    }
    v
}

/// Adds the products of `M` rows and `P` panels to their sums, `C` columns at a time.
///
/// # Safety
/// The tile's rows of activations and panels of weights are readable.
#[inline(always)]
unsafe fn by_columns<const M: usize, const P: usize, const C: usize>(
    tile: &Int8Tile<'_>,
    sums: &mut [[[i32; LANES]; P]; M],
) {
    let mut a = [[Wide::ZERO; M]; BLOCK];
    for first in (0..tile.groups).step_by(BLOCK) {
        let a = &mut a[..BLOCK.min(tile.groups - first)];
        for (group, a) in (first..).zip(a.iter_mut()) {
            for (m, a) in a.iter_mut().enumerate() {
                // SAFETY: the caller vouches for M rows of that many groups.
                *a = Wide::new(unsafe { &*tile.a.add(m * tile.a_row + group * tile.a_step).cast() });
            }
        }
        for p in 0..P {
            for column in (0..LANES).step_by(C) {
                // SAFETY: the caller vouches for P panels of that many groups, each of LANES columns.
                let w =
                    unsafe { tile.w.add(p * tile.w_panel + first * tile.w_step).cast::<[i8; 4]>().add(column).cast() };
                let mut acc = [[0; C]; M];
                for (acc, sums) in acc.iter_mut().zip(&*sums) {
                    acc.copy_from_slice(&sums[p][column..column + C]);
                }
                // SAFETY: as above.
                unsafe { add_products(a, w, tile.w_step * size_of::<[[i8; 4]; LANES]>(), &mut acc) }
                for (acc, sums) in acc.iter().zip(&mut *sums) {
                    sums[p][column..column + C].copy_from_slice(acc);
                }
            }
        }
    }
}
