//! AVX2 with FMA and F16C: a vector is two registers.
use core::arch::x86_64::*;

use ::half::{bf16, f16};

use super::Features;
use crate::simd::{Kernel, LANES, Simd};

/// Proof that the CPU has AVX2, FMA and F16C: only [`Avx2::detect`] makes one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The features that `enter` enables.
    pub(super) const FEATURES: Features = Features::AVX2.and(Features::FMA).and(Features::F16C);

    pub(crate) fn detect(cpu: Features) -> Option<Self> {
        cpu.has(Self::FEATURES).then_some(Self(()))
    }

    #[inline(always)]
    fn transpose_8(self, r: [__m256; 8]) -> [__m256; 8] {
        // SAFETY: the token proves the features.
        unsafe {
            // Lane group g of `quads[i + j]` is column 4·g + j of rows i to i + 3.
            let mut quads = r;
            for i in [0, 4] {
                let (a, b) = (_mm256_unpacklo_ps(r[i], r[i + 1]), _mm256_unpackhi_ps(r[i], r[i + 1]));
                let (c, d) = (_mm256_unpacklo_ps(r[i + 2], r[i + 3]), _mm256_unpackhi_ps(r[i + 2], r[i + 3]));
                let (a, b) = (_mm256_castps_pd(a), _mm256_castps_pd(b));
                let (c, d) = (_mm256_castps_pd(c), _mm256_castps_pd(d));
                quads[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
                quads[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
                quads[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
                quads[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
            }
            let mut out = r;
            for j in 0..4 {
                out[j] = _mm256_permute2f128_ps::<0x20>(quads[j], quads[4 + j]);
                out[4 + j] = _mm256_permute2f128_ps::<0x31>(quads[j], quads[4 + j]);
            }
            out
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct V(__m256, __m256);

// SAFETY, for every block below: `self` exists only where the CPU has the three features, and the methods are inlined
// into `enter`, which enables them. Pointers come from references to arrays of the size that is read or written.
macro_rules! lanewise {
    ($op:ident($($v:ident),+)) => {
        // SAFETY: as above: the token proves the features.
        unsafe { V($op($($v.0),+), $op($($v.1),+)) }
    };
}

impl Simd for Avx2 {
    type V = V;
    type M = V;

    // 6 × 16: twelve accumulators, two registers of weights, one broadcast: 15 of 16.
    const TILE_ROWS: usize = 6;
    const TILE_PANELS: usize = 1;
    const FAST_F16: bool = true;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves the features.
        unsafe { self.enter(kernel) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch does not read, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        // SAFETY: the token proves the features.
        unsafe { V(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> V {
        // SAFETY: the token proves the features; sixteen f32 are readable.
        unsafe { V(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }
    #[inline(always)]
    fn store(self, v: V, out: &mut [f32; LANES]) {
        // SAFETY: the token proves the features; sixteen f32 are writable.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), v.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v.1);
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> V {
        let p = x.as_ptr().cast::<__m128i>();
        // SAFETY: the token proves the features; sixteen f16 are two unaligned 128-bit words.
        unsafe { V(_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1)))) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[bf16; 2]; LANES], i: usize) -> V {
        let p = x.as_ptr().cast::<__m256i>();
        // SAFETY: the token proves the features; sixteen pairs are two unaligned 256-bit words.
        unsafe {
            let (a, b) = (_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1)));
            let (a, b) = if i == 0 {
                (_mm256_slli_epi32::<16>(a), _mm256_slli_epi32::<16>(b))
            } else {
                let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
                (_mm256_and_si256(a, upper), _mm256_and_si256(b, upper))
            };
            V(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b))
        }
    }
    #[inline(always)]
    fn store_f16(self, v: V, out: &mut [f16; LANES]) {
        let p = out.as_mut_ptr().cast::<__m128i>();
        // SAFETY: the token proves the features; sixteen f16 are two unaligned 128-bit words.
        unsafe {
            _mm_storeu_si128(p, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.0));
            _mm_storeu_si128(p.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.1));
        }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        lanewise!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        lanewise!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        lanewise!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        lanewise!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        lanewise!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        lanewise!(_mm256_sqrt_ps(a))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        lanewise!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        lanewise!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn gt(self, a: V, b: V) -> V {
        // SAFETY: the token proves the features.
        unsafe { V(_mm256_cmp_ps::<_CMP_GT_OQ>(a.0, b.0), _mm256_cmp_ps::<_CMP_GT_OQ>(a.1, b.1)) }
    }
    #[inline(always)]
    fn select(self, m: V, a: V, b: V) -> V {
        lanewise!(_mm256_blendv_ps(b, a, m))
    }
    #[inline(always)]
    fn power_of_two(self, rounded: V) -> V {
        // SAFETY: the token proves the features.
        unsafe {
            V(
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(rounded.0))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(rounded.1))),
            )
        }
    }
    #[inline(always)]
    fn transpose(self, r: [V; LANES]) -> [V; LANES] {
        let mut quarters = [[[self.splat(0.0).0; 8]; 2]; 2];
        for i in 0..LANES {
            (quarters[i / 8][0][i % 8], quarters[i / 8][1][i % 8]) = (r[i].0, r[i].1);
        }
        let mut out = r;
        for (i, half) in quarters.iter().enumerate() {
            for (j, quarter) in half.iter().enumerate() {
                let columns = self.transpose_8(*quarter);
                for (k, column) in columns.iter().enumerate() {
                    let out = &mut out[8 * j + k];
                    *(if i == 0 { &mut out.0 } else { &mut out.1 }) = *column;
                }
            }
        }
        out
    }
    #[inline(always)]
    fn sum(self, v: V) -> f32 {
        // SAFETY: the token proves the features.
        unsafe {
            let v = _mm256_add_ps(v.0, v.1);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
}
