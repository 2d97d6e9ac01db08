//! exp and erf, of vectors and of slices.
//!
//! Measured by exhaustive sweeps over all 2³² f32 against f64 (2026-11-22, Rust 1.95, AMD EPYC Zen 3;
//! `cargo test --release -p vit-kernels -- --ignored exhaustive`):
//!
//! | Function | Bound tested | Worst found: AVX2 | portable |
//! |---|---|---|---|
//! | exp | 2 ULP, subnormal results included | 1.04 | 1.01 |
//! | erf | 8 ULP | 6.33 | 6.92 |
//!
//! AVX-512 gives the same bits as AVX2.
use crate::half::Storage;
use crate::isa::Isa;
use crate::simd::{Arithmetic, Kernel, Simd, lanes_mut};

/// eˣ, in place. Within 2 ULP, subnormal results included. −∞ → 0, +∞ → +∞, NaN → NaN; above ln f32::MAX → +∞.
///
/// Source: Cody and Waite's reduction, x = n·ln 2 + r with |r| ≤ ln 2 / 2, and a minimax polynomial for eʳ.
///
/// ```
/// use vit_kernels::{Isa, math};
/// let mut x = [0.0, 1.0, f32::NEG_INFINITY];
/// math::exp(Isa::best(), &mut x);
/// assert_eq!([x[0], x[2]], [1.0, 0.0]);
/// assert!((x[1] - std::f32::consts::E).abs() <= 2.0 * 2f32.powi(-22)); // 2 ULP
/// ```
pub fn exp(isa: Isa, x: &mut [f32]) {
    isa.call(Apply { x, f: Exp });
}

/// erf x, in place. Within 8 ULP. ±∞ → ±1, NaN → NaN.
///
/// Source: x·P(x²)/Q(x²), a rational fit with a relative error of 2·10⁻⁸ for |x| < 3.925; beyond, erf x rounds to ±1.
///
/// ```
/// use vit_kernels::{Isa, math};
/// let mut x = [0.0, 0.5, 4.0];
/// math::erf(Isa::best(), &mut x);
/// assert_eq!([x[0], x[2]], [0.0, 1.0]);
/// assert!((x[1] - 0.520_499_9).abs() < 1e-6);
/// ```
pub fn erf(isa: Isa, x: &mut [f32]) {
    isa.call(Apply { x, f: Erf });
}

/// A function of one vector, lane by lane.
pub(crate) trait Function: Copy {
    fn apply<S: Arithmetic>(self, s: S, x: S::V) -> S::V;
}

/// Applies a function to every element.
pub(crate) struct Apply<'a, E, F> {
    pub(crate) x: &'a mut [E],
    pub(crate) f: F,
}

impl<E: Storage, F: Function> Kernel for Apply<'_, E, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        #[cfg(any(no_vectors, test))]
        if !S::VECTORS {
            return crate::arch::small::apply(self.f, self.x);
        }
        let (body, tail) = lanes_mut(self.x);
        for chunk in body {
            E::store(s, s.apply(self.f, E::load(s, chunk)), chunk);
        }
        if !tail.is_empty() {
            E::store_tail(s, s.apply(self.f, E::load_tail(s, tail, 0.0)), tail);
        }
    }
}

#[derive(Clone, Copy)]
struct Exp;

impl Function for Exp {
    #[inline(always)]
    fn apply<S: Arithmetic>(self, s: S, x: S::V) -> S::V {
        exp_lanes(s, x)
    }
}

#[derive(Clone, Copy)]
struct Erf;

impl Function for Erf {
    #[inline(always)]
    fn apply<S: Arithmetic>(self, s: S, x: S::V) -> S::V {
        erf_lanes(s, x)
    }
}

/// c[0] + c[1]·x + … by Horner's rule.
#[inline(always)]
pub(crate) fn polynomial<S: Arithmetic, const N: usize>(s: S, x: S::V, c: [f32; N]) -> S::V {
    let mut sum = s.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = s.mul_add(sum, x, s.splat(c[i]));
    }
    sum
}

/// 1.5·2²³ + 127. Adding it to x, |x| ≤ 2²¹, rounds x to an integer n and leaves n + 127 in the lowest bits: the
/// exponent of 2ⁿ, which [`Simd::power_of_two`] moves into place.
pub(crate) const ROUND_TO_EXPONENT: f32 = 12_582_912.0 + 127.0;

/// ln 2 in two parts; the first has so few bits that its product with n is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// q in eʳ = 1 + r + r²·q(r) for |r| ≤ ln 2 / 2; minimax, relative error 3·10⁻⁹.
const EXP_TAIL: [f32; 5] = [0.5, 0.166_665_18, 0.041_666_206, 0.008_368_918, 0.001_395_053_8];

/// eˣ for every lane; see [`exp`].
#[inline(always)]
pub(crate) fn exp_lanes<S: Arithmetic>(s: S, x: S::V) -> S::V {
    // Beyond these bounds eˣ is 0 or infinite in f32. If x is NaN, `min` and `max` return it, their second argument.
    let x = s.max(s.splat(-104.0), s.min(s.splat(89.0), x));
    let round = s.splat(ROUND_TO_EXPONENT);
    let n = s.sub(s.mul_add(x, s.splat(core::f32::consts::LOG2_E), round), round);
    let r = s.mul_add(n, s.splat(-LN_2_HIGH), x);
    let r = s.mul_add(n, s.splat(-LN_2_LOW), r);
    let q = polynomial(s, r, EXP_TAIL);
    let e = s.add(s.mul_add(s.mul(r, r), q, r), s.splat(1.0));
    // 2ⁿ in two factors, because n is within -150..=128. A product, so that NaN stays NaN.
    let half = s.mul_add(n, s.splat(0.5), round);
    let rest = s.add(s.sub(n, s.sub(half, round)), round);
    s.mul(s.mul(e, s.power_of_two(half)), s.power_of_two(rest))
}

/// 2ʳ for |r| ≤ ½; minimax, relative error 2·10⁻⁹.
const EXP2: [f32; 7] =
    [1.0, core::f32::consts::LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_5, 1.535_336_2e-4];

/// [`EXP2`] for results that are then rounded to int8; minimax, relative error 1.02·10⁻⁴.
const COARSE_EXP2: [f32; 4] = [1.0, 0.693_282_8, 0.242_211_04, 0.055_009_61];

/// 2ˣ for x ≤ 0: within 2 ULP, and 0 below 2⁻¹²⁶. NaN → NaN.
///
/// For the softmax of attention, whose scale includes log₂e: this needs no reduction by ln 2 and cannot overflow.
#[inline(always)]
pub(crate) fn exp2_of_negative<S: Arithmetic>(s: S, x: S::V) -> S::V {
    exp2_by(s, x, EXP2)
}

/// [`exp2_of_negative`] with a relative error of at most 2⁻¹³, for a result that is then rounded to int8. 2⁰ is 1.
#[inline(always)]
pub(crate) fn coarse_exp2_of_negative<S: Arithmetic>(s: S, x: S::V) -> S::V {
    exp2_by(s, x, COARSE_EXP2)
}

/// 2ˣ for x ≤ 0, given a polynomial for 2ʳ.
#[inline(always)]
fn exp2_by<S: Arithmetic, const N: usize>(s: S, x: S::V, c: [f32; N]) -> S::V {
    let least = s.splat(-126.0);
    let negligible = s.gt(least, x);
    let x = s.max(least, x);
    let round = s.splat(ROUND_TO_EXPONENT);
    let rounded = s.add(x, round);
    let r = s.sub(x, s.sub(rounded, round));
    // A product, so that NaN stays NaN.
    s.select(negligible, s.splat(0.0), s.mul(polynomial(s, r, c), s.power_of_two(rounded)))
}

/// 2ˣ with a relative error of at most 2⁻¹³, for x limited to ±126. NaN → NaN.
#[inline(always)]
pub(crate) fn coarse_exp2<S: Arithmetic>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(-126.0), s.min(s.splat(126.0), x));
    let round = s.splat(ROUND_TO_EXPONENT);
    let rounded = s.add(x, round);
    let r = s.sub(x, s.sub(rounded, round));
    s.mul(polynomial(s, r, COARSE_EXP2), s.power_of_two(rounded))
}

/// Beyond this erf rounds to ±1.
const ERF_ONE: f32 = 3.925;

/// erf x for every lane; see [`erf`].
#[inline(always)]
pub(crate) fn erf_lanes<S: Arithmetic>(s: S, x: S::V) -> S::V {
    let square = s.mul(x, x);
    let p = [
        core::f32::consts::FRAC_2_SQRT_PI,
        0.190_594_99,
        0.052_769_467,
        0.003_772_604_5,
        2.848_450_4e-4,
        2.046_021_6e-6,
    ];
    let q = [1.0, 0.502_243_16, 0.114_183_23, 0.014_983_307, 0.001_163_871_5, 3.804_779_4e-5];
    let e = s.div(s.mul(x, polynomial(s, square, p)), polynomial(s, square, q));
    let e = s.select(s.gt(x, s.splat(ERF_ONE)), s.splat(1.0), e);
    s.select(s.gt(s.splat(-ERF_ONE), x), s.splat(-1.0), e)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::reference;
    use crate::testing::{exhaustive, levels, specials, ulps};

    fn sweep() -> Vec<f32> {
        let steps = (-110_000..=110_000).map(|i| i as f32 / 1000.0);
        let small = (-4000..4000).map(|i| i as f32 * 1e-6);
        steps.chain(small).collect()
    }

    #[test]
    fn exp_is_within_2_ulp() {
        for isa in levels() {
            let (x, mut got) = (sweep(), sweep());
            exp(isa, &mut got);
            for (&x, &got) in x.iter().zip(&got) {
                assert!(ulps(got, reference::exp(x.into())) <= 2.0, "{isa}: exp({x}) = {got}");
            }
        }
    }

    #[derive(Clone, Copy)]
    struct Exp2;

    impl Function for Exp2 {
        #[inline(always)]
        fn apply<S: Arithmetic>(self, s: S, x: S::V) -> S::V {
            exp2_of_negative(s, x)
        }
    }

    #[test]
    fn exp2_of_negative_is_within_2_ulp() {
        for isa in levels() {
            let x: Vec<f32> = sweep().into_iter().chain(specials()).map(|x| -x.abs() * 1.2).collect();
            let mut got = x.clone();
            isa.call(Apply { x: &mut got, f: Exp2 });
            for (&x, &got) in x.iter().zip(&got) {
                let want = if x < -126.0 { 0.0 } else { libm::exp2(x.into()) };
                assert!(ulps(got, want) <= 2.0, "{isa}: 2^{x} = {got}");
            }
        }
    }

    #[derive(Clone, Copy)]
    struct CoarseExp2 {
        is_negative: bool,
    }

    impl Function for CoarseExp2 {
        #[inline(always)]
        fn apply<S: Arithmetic>(self, s: S, x: S::V) -> S::V {
            if self.is_negative { coarse_exp2_of_negative(s, x) } else { coarse_exp2(s, x) }
        }
    }

    #[test]
    fn coarse_exp2_is_within_its_bound() {
        for isa in levels() {
            for is_negative in [true, false] {
                let sign = |x: f32| if is_negative { -x.abs() } else { x };
                let x: Vec<f32> = sweep().into_iter().chain(specials()).map(|x| sign(x * 1.2)).collect();
                let mut got = x.clone();
                isa.call(Apply { x: &mut got, f: CoarseExp2 { is_negative } });
                for (&x, &got) in x.iter().zip(&got) {
                    let limited = if is_negative { x } else { x.clamp(-126.0, 126.0) };
                    let want = if limited < -126.0 { 0.0 } else { libm::exp2(limited.into()) };
                    let error = (f64::from(got) - want).abs();
                    let holds = error <= want / 8192.0 || (got.is_nan() && x.is_nan());
                    assert!(holds, "{isa}: 2^{x} = {got}, not {want}");
                }
                assert_eq!(got[110_000], 1.0, "{isa}: 2^0");
            }
        }
    }

    #[test]
    fn erf_is_within_8_ulp() {
        for isa in levels() {
            let (x, mut got) = (sweep(), sweep());
            erf(isa, &mut got);
            for (&x, &got) in x.iter().zip(&got) {
                assert!(ulps(got, reference::erf(x.into())) <= 8.0, "{isa}: erf({x}) = {got}");
            }
        }
    }

    #[test]
    fn special_values() {
        for isa in levels() {
            for x in specials() {
                let (mut e, mut f) = ([x], [x]);
                exp(isa, &mut e);
                erf(isa, &mut f);
                assert!(ulps(e[0], reference::exp(x.into())) <= 2.0, "{isa}: exp({x}) = {}", e[0]);
                assert!(ulps(f[0], reference::erf(x.into())) <= 8.0, "{isa}: erf({x}) = {}", f[0]);
            }
        }
    }

    #[test]
    #[ignore = "all 2^32 f32; minutes"]
    fn exhaustive_exp() {
        exhaustive("exp", exp, reference::exp, |got, want, _| ulps(got, want), 2.0);
    }

    #[test]
    #[ignore = "all 2^32 f32; minutes"]
    fn exhaustive_erf() {
        exhaustive("erf", erf, reference::erf, |got, want, _| ulps(got, want), 8.0);
    }
}
