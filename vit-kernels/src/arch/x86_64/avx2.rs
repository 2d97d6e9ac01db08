//! AVX2 with FMA and F16C, and the same with AVX-VNNI: a vector is two registers.
use core::arch::x86_64::*;

use ::half::{bf16, f16};

use super::Features;
use crate::simd::{Arithmetic, Kernel, LANES, MAGNITUDE, Simd};

/// Proof that the CPU has AVX2, FMA and F16C, and if `VNNI` AVX-VNNI: only [`Avx2::detect`] makes one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool = false>(());

/// The features that `enter` enables.
pub(super) const FEATURES: Features = Features::AVX2.and(Features::FMA).and(Features::F16C);

impl<const VNNI: bool> Avx2<VNNI> {
    pub(crate) fn detect(cpu: Features) -> Option<Self> {
        let wanted = if VNNI { FEATURES.and(Features::AVX_VNNI) } else { FEATURES };
        cpu.has(wanted).then_some(Self(()))
    }

    /// The token without VNNI.
    pub(crate) fn base(self) -> Avx2 {
        Avx2(())
    }

    /// Element `i` of each pair of bf16.
    #[inline(always)]
    fn widen_bf16(self, pairs: __m256i, i: usize) -> __m256 {
        // SAFETY: the token proves the features.
        unsafe {
            _mm256_castsi256_ps(if i == 0 {
                _mm256_slli_epi32::<16>(pairs)
            } else {
                _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()))
            })
        }
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

    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    fn enter_vnni<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct V(__m256, __m256);

// SAFETY of every block below: `self` exists only if the CPU has the features, and the methods are inlined into `enter`
// or `enter_vnni`, which enable them. Pointers come from references to arrays of the size that is read or written.
macro_rules! lanewise {
    ($op:ident($($v:ident),+)) => {
        // SAFETY: as above: the token proves the features.
        unsafe { V($op($($v.0),+), $op($($v.1),+)) }
    };
}

impl<const VNNI: bool> Arithmetic for Avx2<VNNI> {
    type V = V;
    type M = V;
    const FUSED: bool = true;
    #[inline(always)]
    fn splat(self, x: f32) -> V {
        // SAFETY: the token proves the features.
        unsafe { V(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
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
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    // 6 × 16: twelve accumulators, two registers of weights, one broadcast: 15 of 16.
    const TILE_ROWS: usize = 6;
    const TILE_PANELS: usize = 1;
    const FAST_F16: bool = true;

    type I = [__m256i; 2];
    type Weights = [__m256i; 2];
    /// The activations, and without VNNI their magnitudes.
    type Activations = [__m256i; 2];
    // Eight accumulators, two registers of weights, two of activations, two for products. With VNNI, the tile of f32.
    const INT8_ROWS: usize = if VNNI { 6 } else { 4 };
    const INT8_PANELS: usize = 1;
    const ZERO_POINT: u8 = if VNNI { 128 } else { 0 };
    // VNNI: a nibble in the upper half of a byte is 16 times its value.
    const INT4_FACTOR: f32 = if VNNI { 16.0 } else { 1.0 };

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves the features.
        unsafe { if VNNI { self.enter_vnni(kernel) } else { self.enter(kernel) } }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch does not read, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
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
            V(self.widen_bf16(a, i), self.widen_bf16(b, i))
        }
    }
    #[inline(always)]
    fn splat_bf16(self, pair: &[bf16; 2], i: usize) -> V {
        // A shift takes no register, as the mask of `widen_bf16` would: the tile has none to spare.
        // SAFETY: the token proves the features.
        let v = unsafe {
            let bits = _mm256_set1_epi16(pair[i].to_bits().cast_signed());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        };
        V(v, v)
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

    #[inline(always)]
    fn store_i8(self, v: V, out: &mut [i8; LANES]) {
        // SAFETY: the token proves the features; sixteen bytes are writable.
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.0), _mm256_cvtps_epi32(v.1));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let bytes = _mm_xor_si128(bytes, _mm_set1_epi8(Self::ZERO_POINT.cast_signed()));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
    }
    #[inline(always)]
    fn store_groups(self, v: [V; 4], out: &mut [[i8; 4]; LANES]) {
        let p = out.as_mut_ptr().cast::<__m256i>();
        // SAFETY: the token proves the features; 64 bytes are writable.
        unsafe {
            // Each 128 bits hold four lanes of v[0], v[2], v[1], v[3]; the shuffle puts each lane's four bytes together.
            let order =
                _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15));
            let i32s = _mm256_cvtps_epi32;
            let first = _mm256_packs_epi16(
                _mm256_packs_epi32(i32s(v[0].0), i32s(v[2].0)),
                _mm256_packs_epi32(i32s(v[1].0), i32s(v[3].0)),
            );
            let second = _mm256_packs_epi16(
                _mm256_packs_epi32(i32s(v[0].1), i32s(v[2].1)),
                _mm256_packs_epi32(i32s(v[1].1), i32s(v[3].1)),
            );
            _mm256_storeu_si256(p, _mm256_shuffle_epi8(first, order));
            _mm256_storeu_si256(p.add(1), _mm256_shuffle_epi8(second, order));
        }
    }
    #[inline(always)]
    fn max_magnitude(self, a: V, x: V) -> V {
        // SAFETY: the token proves the features.
        unsafe {
            // As integers, NaN is above infinity.
            let magnitude = _mm256_set1_epi32(MAGNITUDE.cast_signed());
            let first = _mm256_and_si256(_mm256_castps_si256(x.0), magnitude);
            let second = _mm256_and_si256(_mm256_castps_si256(x.1), magnitude);
            V(
                _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a.0), first)),
                _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a.1), second)),
            )
        }
    }
    #[inline(always)]
    fn load_weights(self, x: &[[i8; 4]; LANES]) -> [__m256i; 2] {
        let p = x.as_ptr().cast::<__m256i>();
        // SAFETY: the token proves the features; 64 bytes are readable.
        unsafe { [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))] }
    }
    #[inline(always)]
    fn splat_activations(self, x: [i8; 4]) -> [__m256i; 2] {
        // SAFETY: the token proves the features.
        unsafe {
            let a = _mm256_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
            [a, if VNNI { a } else { _mm256_abs_epi8(a) }]
        }
    }
    #[inline(always)]
    fn start(self, sums: &[i32; LANES]) -> [__m256i; 2] {
        let p = sums.as_ptr().cast::<__m256i>();
        // SAFETY: the token proves the features; sixteen i32 are readable.
        unsafe {
            let zero = _mm256_setzero_si256();
            if !VNNI {
                return [zero; 2];
            }
            let scaled = |at| _mm256_slli_epi32::<7>(_mm256_loadu_si256(at));
            [_mm256_sub_epi32(zero, scaled(p)), _mm256_sub_epi32(zero, scaled(p.add(1)))]
        }
    }
    /// Without VNNI: |a|·(w with the sign of a). Two such products sum to at most 2·127·127, so nothing saturates.
    #[inline(always)]
    fn dot(self, sum: [__m256i; 2], [a, magnitude]: [__m256i; 2], w: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the token proves the features.
        unsafe {
            if VNNI {
                return [_mm256_dpbusd_avx_epi32(sum[0], a, w[0]), _mm256_dpbusd_avx_epi32(sum[1], a, w[1])];
            }
            let ones = _mm256_set1_epi16(1);
            let pairs = [
                _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w[0], a)),
                _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w[1], a)),
            ];
            [
                _mm256_add_epi32(sum[0], _mm256_madd_epi16(pairs[0], ones)),
                _mm256_add_epi32(sum[1], _mm256_madd_epi16(pairs[1], ones)),
            ]
        }
    }
    #[inline(always)]
    fn to_f32(self, i: [__m256i; 2]) -> V {
        // SAFETY: the token proves the features.
        unsafe { V(_mm256_cvtepi32_ps(i[0]), _mm256_cvtepi32_ps(i[1])) }
    }
    #[inline(always)]
    fn load_int4(self, x: &[[u8; 4]; LANES]) -> [[__m256i; 2]; 2] {
        let p = x.as_ptr().cast::<__m256i>();
        // SAFETY: the token proves the features; 64 bytes are readable.
        unsafe {
            let x = [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))];
            let (upper, lower) = (_mm256_set1_epi8(0xf0_u8.cast_signed()), _mm256_set1_epi8(0x0f));
            if VNNI {
                let raised = [_mm256_slli_epi16::<4>(x[0]), _mm256_slli_epi16::<4>(x[1])];
                return [
                    [_mm256_and_si256(raised[0], upper), _mm256_and_si256(raised[1], upper)],
                    [_mm256_and_si256(x[0], upper), _mm256_and_si256(x[1], upper)],
                ];
            }
            let values =
                _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
            let lowered = [_mm256_srli_epi16::<4>(x[0]), _mm256_srli_epi16::<4>(x[1])];
            let widened = |nibbles| _mm256_shuffle_epi8(values, _mm256_and_si256(nibbles, lower));
            [[widened(x[0]), widened(x[1])], [widened(lowered[0]), widened(lowered[1])]]
        }
    }
    /// Without VNNI, `sum` has sixteen bits for each pair of inputs: |a·w| ≤ 127·8, and it takes at most eight pairs.
    #[inline(always)]
    fn dot_int4(self, sum: [__m256i; 2], [a, magnitude]: [__m256i; 2], w: [__m256i; 2]) -> [__m256i; 2] {
        if VNNI {
            return self.dot(sum, [a, magnitude], w);
        }
        // SAFETY: the token proves the features.
        unsafe {
            [
                _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w[0], a))),
                _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w[1], a))),
            ]
        }
    }
    #[inline(always)]
    fn int4_to_f32(self, sum: [__m256i; 2], offset: [__m256i; 2]) -> V {
        // SAFETY: the token proves the features.
        unsafe {
            if VNNI {
                return self.to_f32([_mm256_sub_epi32(sum[0], offset[0]), _mm256_sub_epi32(sum[1], offset[1])]);
            }
            let ones = _mm256_set1_epi16(1);
            self.to_f32([_mm256_madd_epi16(sum[0], ones), _mm256_madd_epi16(sum[1], ones)])
        }
    }
}
