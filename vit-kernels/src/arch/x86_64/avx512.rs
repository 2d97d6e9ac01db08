//! AVX-512 F and BW, and the same with VNNI or BF16: a vector is one register.
use core::arch::x86_64::*;
use core::mem::transmute;

use ::half::{bf16, f16};

use super::{Features, avx2};
use crate::simd::{Arithmetic, Kernel, LANES, MAGNITUDE, Simd, dot_widened};

/// An [`Avx512`] without an extension.
pub(crate) const PLAIN: u8 = 0;
/// An [`Avx512`] that multiplies int8 by VNNI.
pub(crate) const VNNI: u8 = 1;
/// An [`Avx512`] that multiplies bf16 by VDPBF16PS.
pub(crate) const BF16: u8 = 2;

/// Proof that the CPU has AVX-512 F and BW, AVX2, FMA and F16C; for `VNNI` AVX-512 VNNI, and for `BF16` that and AVX-512
/// BF16. Only [`detect`](Self::detect) makes one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512<const EXTENSION: u8 = PLAIN>(());

impl<const EXTENSION: u8> Avx512<EXTENSION> {
    pub(crate) fn detect(cpu: Features) -> Option<Self> {
        /// The features that `enter` enables.
        const FEATURES: Features = Features::AVX512F.and(Features::AVX512BW).and(avx2::FEATURES);
        let wanted = match EXTENSION {
            PLAIN => FEATURES,
            VNNI => FEATURES.and(Features::AVX512_VNNI),
            _ => FEATURES.and(Features::AVX512_VNNI).and(Features::AVX512_BF16),
        };
        cpu.has(wanted).then_some(Self(()))
    }

    /// The token without an extension.
    pub(crate) fn base(self) -> Avx512 {
        Avx512(())
    }

    #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
    fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
    fn enter_vnni<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx2,fma,f16c")]
    fn enter_bf16<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

impl Avx512<BF16> {
    /// The token for int8.
    pub(crate) fn vnni(self) -> Avx512<VNNI> {
        Avx512(())
    }
}

/// 0, 16, 1, 17, …, 15, 31.
const INTERLEAVE: [u16; 2 * LANES] = {
    let (mut order, mut i) = ([0; 2 * LANES], 0);
    while i < LANES {
        (order[2 * i], order[2 * i + 1]) = (i as u16, (LANES + i) as u16);
        i += 1;
    }
    order
};

impl<const EXTENSION: u8> Avx512<EXTENSION> {
    /// Element `i` of each pair of bf16.
    #[inline(always)]
    fn widen_bf16(self, pairs: __m512i, i: usize) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe {
            _mm512_castsi512_ps(if i == 0 {
                _mm512_slli_epi32::<16>(pairs)
            } else {
                _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()))
            })
        }
    }

    /// Rounds to bf16, ties to even: it is the upper half of each lane. A NaN stays one.
    #[inline(always)]
    fn rounded_to_bf16(self, v: __m512) -> __m512i {
        // SAFETY: the token proves the features.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v), quiet)
        }
    }
}

impl<const EXTENSION: u8> Arithmetic for Avx512<EXTENSION> {
    type V = __m512;
    type M = __mmask16;
    const FUSED: bool = true;
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn gt(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, m: __mmask16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_mask_blend_ps(m, b, a) }
    }
    #[inline(always)]
    fn power_of_two(self, rounded: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(rounded))) }
    }
}

impl<const EXTENSION: u8> Simd for Avx512<EXTENSION> {
    // 8 × 48: twenty-four accumulators and three registers of weights, with broadcasts from memory: 27 of 32.
    const TILE_ROWS: usize = 8;
    const TILE_PANELS: usize = 3;
    const FAST_F16: bool = true;

    type I = __m512i;
    type Weights = __m512i;
    /// The activations, and without VNNI their magnitudes.
    type Activations = [__m512i; 2];
    const INT8_ROWS: usize = 8;
    const INT8_PANELS: usize = if EXTENSION == VNNI { 3 } else { 2 };
    const ZERO_POINT: u8 = if EXTENSION == VNNI { 128 } else { 0 };
    // As on AVX2.
    const INT4_FACTOR: f32 = if EXTENSION == VNNI { 16.0 } else { 1.0 };

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves the features.
        unsafe {
            match EXTENSION {
                PLAIN => self.enter(kernel),
                VNNI => self.enter_vnni(kernel),
                _ => self.enter_bf16(kernel),
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch does not read, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        // SAFETY: the token proves the features; sixteen f32 are readable.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: __m512, out: &mut [f32; LANES]) {
        // SAFETY: the token proves the features; sixteen f32 are writable.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> __m512 {
        // SAFETY: the token proves the features; sixteen f16 are one unaligned 256-bit word.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[bf16; 2]; LANES], i: usize) -> __m512 {
        // SAFETY: the token proves the features; sixteen pairs are one unaligned 512-bit word.
        self.widen_bf16(unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }, i)
    }
    #[inline(always)]
    fn splat_bf16(self, pair: &[bf16; 2], i: usize) -> __m512 {
        // SAFETY: the token proves the features; all bits are valid in both types.
        self.widen_bf16(unsafe { _mm512_set1_epi32(transmute::<[bf16; 2], i32>(*pair)) }, i)
    }
    const BF16_DOT: bool = EXTENSION == BF16;
    #[inline(always)]
    fn dot_bf16(self, sum: __m512, a: &[bf16; 2], b: &[[bf16; 2]; LANES]) -> __m512 {
        if EXTENSION != BF16 {
            return dot_widened(self, sum, a, b);
        }
        // SAFETY: the token proves the features; all bits are valid in each of these types.
        unsafe {
            let a: __m512bh = transmute(_mm512_set1_epi32(transmute::<[bf16; 2], i32>(*a)));
            _mm512_dpbf16_ps(sum, transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.as_ptr().cast())), a)
        }
    }
    #[inline(always)]
    fn store_bf16(self, v: __m512, out: &mut [bf16; LANES]) {
        // SAFETY: the token proves the features; sixteen bf16 are one unaligned 256-bit word.
        unsafe {
            let bits = if EXTENSION == BF16 {
                transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))
            } else {
                _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(self.rounded_to_bf16(v)))
            };
            _mm256_storeu_si256(out.as_mut_ptr().cast(), bits);
        }
    }
    #[inline(always)]
    fn store_bf16_pairs(self, [a, b]: [__m512; 2], out: &mut [[bf16; 2]; LANES]) {
        // SAFETY: the token proves the features; sixteen pairs are one unaligned 512-bit word.
        unsafe {
            let pairs = if EXTENSION == BF16 {
                // One instruction rounds both; the other interleaves them.
                let halves = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
                _mm512_permutexvar_epi16(_mm512_loadu_si512(INTERLEAVE.as_ptr().cast()), halves)
            } else {
                let (a, b) = (self.rounded_to_bf16(a), self.rounded_to_bf16(b));
                let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
                _mm512_or_si512(_mm512_srli_epi32::<16>(a), _mm512_and_si512(b, upper))
            };
            _mm512_storeu_si512(out.as_mut_ptr().cast(), pairs);
        }
    }
    #[inline(always)]
    fn store_f16(self, v: __m512, out: &mut [f16; LANES]) {
        // SAFETY: the token proves the features; sixteen f16 are one unaligned 256-bit word.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    fn transpose(self, r: [__m512; LANES]) -> [__m512; LANES] {
        // SAFETY: the token proves the features.
        unsafe {
            let mut out = [self.splat(0.0); LANES];
            // Four rows at a time: lane group g of `quads[4·i + j]` is column 4·g + j of rows 4·i to 4·i + 3.
            let mut quads = out;
            for i in (0..LANES).step_by(4) {
                let (a, b) = (_mm512_unpacklo_ps(r[i], r[i + 1]), _mm512_unpackhi_ps(r[i], r[i + 1]));
                let (c, d) = (_mm512_unpacklo_ps(r[i + 2], r[i + 3]), _mm512_unpackhi_ps(r[i + 2], r[i + 3]));
                let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
                let (c, d) = (_mm512_castps_pd(c), _mm512_castps_pd(d));
                quads[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
                quads[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
                quads[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
                quads[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
            }
            // Even and odd lane groups, twice.
            for j in 0..4 {
                let [a, b, c, d] = [quads[j], quads[4 + j], quads[8 + j], quads[12 + j]];
                let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                let (even2, odd2) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                out[j] = _mm512_shuffle_f32x4::<0x88>(even, even2);
                out[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd2);
                out[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even, even2);
                out[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd, odd2);
            }
            out
        }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: the token proves the features.
        unsafe {
            let v = _mm512_add_ps(v, _mm512_shuffle_f32x4::<0x4e>(v, v));
            let v = _mm512_add_ps(v, _mm512_shuffle_f32x4::<0xb1>(v, v));
            let v = _mm512_add_ps(v, _mm512_permute_ps::<0x4e>(v));
            _mm512_cvtss_f32(_mm512_add_ps(v, _mm512_permute_ps::<0xb1>(v)))
        }
    }

    #[inline(always)]
    fn store_i8(self, v: __m512, out: &mut [i8; LANES]) {
        // SAFETY: the token proves the features; sixteen bytes are writable.
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
            let bytes = _mm_xor_si128(bytes, _mm_set1_epi8(Self::ZERO_POINT.cast_signed()));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
    }
    #[inline(always)]
    fn store_groups(self, v: [__m512; 4], out: &mut [[i8; 4]; LANES]) {
        // SAFETY: the token proves the features; 64 bytes are writable.
        unsafe {
            // As on AVX2.
            let order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15));
            let i32s = _mm512_cvtps_epi32;
            let bytes = _mm512_packs_epi16(
                _mm512_packs_epi32(i32s(v[0]), i32s(v[2])),
                _mm512_packs_epi32(i32s(v[1]), i32s(v[3])),
            );
            _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_shuffle_epi8(bytes, order));
        }
    }
    #[inline(always)]
    fn max_magnitude(self, a: __m512, x: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe {
            // As integers, NaN is above infinity.
            let x = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(MAGNITUDE.cast_signed()));
            _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), x))
        }
    }
    #[inline(always)]
    fn load_weights(self, x: &[[i8; 4]; LANES]) -> __m512i {
        // SAFETY: the token proves the features; 64 bytes are readable.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn splat_activations(self, x: [i8; 4]) -> [__m512i; 2] {
        // SAFETY: the token proves the features.
        unsafe {
            let a = _mm512_set1_epi32(i32::from_le_bytes(x.map(i8::cast_unsigned)));
            [a, if EXTENSION == VNNI { a } else { _mm512_abs_epi8(a) }]
        }
    }
    #[inline(always)]
    fn start(self, sums: &[i32; LANES]) -> __m512i {
        // SAFETY: the token proves the features; sixteen i32 are readable.
        unsafe {
            let zero = _mm512_setzero_si512();
            if EXTENSION == VNNI {
                _mm512_sub_epi32(zero, _mm512_slli_epi32::<7>(_mm512_loadu_si512(sums.as_ptr().cast())))
            } else {
                zero
            }
        }
    }
    /// Without VNNI, the method of AVX2.
    #[inline(always)]
    fn dot(self, sum: __m512i, [a, magnitude]: [__m512i; 2], w: __m512i) -> __m512i {
        // SAFETY: the token proves the features.
        unsafe {
            if EXTENSION == VNNI {
                return _mm512_dpbusd_epi32(sum, a, w);
            }
            let signed = _mm512_mask_sub_epi8(w, _mm512_movepi8_mask(a), _mm512_setzero_si512(), w);
            let pairs = _mm512_maddubs_epi16(magnitude, signed);
            _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
    #[inline(always)]
    fn to_f32(self, i: __m512i) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_cvtepi32_ps(i) }
    }
    #[inline(always)]
    fn load_int4(self, x: &[[u8; 4]; LANES]) -> [__m512i; 2] {
        // SAFETY: the token proves the features; 64 bytes are readable.
        unsafe {
            let x = _mm512_loadu_si512(x.as_ptr().cast());
            if EXTENSION == VNNI {
                let upper = _mm512_set1_epi8(0xf0_u8.cast_signed());
                return [_mm512_and_si512(_mm512_slli_epi16::<4>(x), upper), _mm512_and_si512(x, upper)];
            }
            let values = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
            let (values, lower) = (_mm512_broadcast_i32x4(values), _mm512_set1_epi8(0x0f));
            let widened = |nibbles| _mm512_shuffle_epi8(values, _mm512_and_si512(nibbles, lower));
            [widened(x), widened(_mm512_srli_epi16::<4>(x))]
        }
    }
    /// Without VNNI, the method of AVX2.
    #[inline(always)]
    fn dot_int4(self, sum: __m512i, [a, magnitude]: [__m512i; 2], w: __m512i) -> __m512i {
        if EXTENSION == VNNI {
            return self.dot(sum, [a, magnitude], w);
        }
        // SAFETY: the token proves the features.
        unsafe {
            let signed = _mm512_mask_sub_epi8(w, _mm512_movepi8_mask(a), _mm512_setzero_si512(), w);
            _mm512_add_epi16(sum, _mm512_maddubs_epi16(magnitude, signed))
        }
    }
    #[inline(always)]
    fn int4_to_f32(self, sum: __m512i, offset: __m512i) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe {
            self.to_f32(if EXTENSION == VNNI {
                _mm512_sub_epi32(sum, offset)
            } else {
                _mm512_madd_epi16(sum, _mm512_set1_epi16(1))
            })
        }
    }
}
