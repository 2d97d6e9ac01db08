//! Activation functions of the feed-forward: GELU (Hendrycks and Gimpel 2016, <https://arxiv.org/abs/1606.08415>) in
//! the three forms that checkpoints use, SiLU and ReLU.
//!
//! | Form | Formula | Error, relative to \|x\| |
//! |---|---|---|
//! | [`Activation::Gelu`] | x·½·(1 + erf(x/√2)) | ≤ 2⁻²¹ |
//! | [`Activation::GeluTanh`] | x·½·(1 + tanh(√(2/π)·(x + 0.044715·x³))) | ≤ 2⁻²¹ |
//! | [`Activation::QuickGelu`] | x·σ(1.702·x) | ≤ 2⁻²¹ |
//! | [`Activation::Silu`] | x·σ(x) | ≤ 2⁻²¹ |
//! | [`Activation::Relu`] | max(x, 0) | exact |
//!
//! The bound is relative to |x|, not to the result, which in the negative tail is far smaller than x. ±0 → ±0,
//! +∞ → +∞; −∞ → NaN (∞·0), as in PyTorch (ReLU: 0); NaN → NaN.
//!
//! Worst found over all 2³² f32 (`cargo test --release -p vit-kernels -- --ignored exhaustive`), in units of 2⁻²³·|x|:
//! erf form 1.65 on AVX2 and AVX-512, 1.92 on the portable level (2026-11-23, Rust 1.95, Intel Xeon model 207); tanh
//! form 1.03, quick form 1.00 on AVX2 and the portable level (2026-11-22, AMD EPYC Zen 3).
//!
//! For results that are rounded to int8 next, a shorter polynomial suffices: [`activate_for_int8`].
use core::f32::consts::LOG2_E;

use crate::half::{Element, Storage};
use crate::isa::Isa;
use crate::math::{Apply, Function, coarse_exp2, exp_lanes, polynomial};
use crate::simd::{Arithmetic, Kernel, Simd};

/// The activation function. It must be the one that the checkpoint was trained with: another form of GELU gives errors
/// of 10⁻² to 10⁻⁴.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// The exact form, with the error function; `nn.GELU()`.
    Gelu,
    /// The tanh approximation; `nn.GELU(approximate="tanh")`, 'gelu_pytorch_tanh', 'gelu_new'.
    GeluTanh,
    /// The sigmoid approximation; 'quick_gelu'.
    QuickGelu,
    /// `nn.SiLU()`, the gate of SwiGLU.
    Silu,
    /// `nn.ReLU()`.
    Relu,
}

/// The activation of every element, in place. Error bounds and special values are in the [module](self)'s table; f16 is
/// rounded once more when stored. An empty slice is a no-op.
///
/// ```
/// use vit_kernels::{Activation, Isa, activate};
/// let mut x = [-1.0f32, 0.0, 1.0];
/// activate(Isa::best(), Activation::Gelu, &mut x);
/// assert_eq!(x[1], 0.0);
/// assert!((x[0] + 0.158_655_25).abs() < 1e-6 && (x[2] - 0.841_344_75).abs() < 1e-6);
/// ```
pub fn activate<E: Element>(isa: Isa, form: Activation, x: &mut [E]) {
    isa.call(Activate::<_, false> { form, x });
}

/// [`activate`] for results that are rounded to int8 next, as in the epilogue of a matmul with int8 activations: the error
/// is at most 2⁻¹³·|x|. Special values are the same, but for −∞ in the tanh, quick and SiLU forms, which gives −∞.
pub fn activate_for_int8(isa: Isa, form: Activation, x: &mut [f32]) {
    isa.call(Activate::<_, true> { form, x });
}

/// One activation over one slice; `COARSE` if the result is then rounded to int8.
struct Activate<'a, E, const COARSE: bool> {
    form: Activation,
    x: &'a mut [E],
}

impl<E: Storage, const COARSE: bool> Kernel for Activate<'_, E, COARSE> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let x = self.x;
        match self.form {
            Activation::Gelu => Apply { x, f: ByErf::<COARSE> }.run(s),
            Activation::GeluTanh => Apply { x, f: ByTanh::<COARSE> }.run(s),
            Activation::QuickGelu => Apply { x, f: BySigmoid::<COARSE>(1.702) }.run(s),
            Activation::Silu => Apply { x, f: BySigmoid::<COARSE>(1.0) }.run(s),
            Activation::Relu => Apply { x, f: Positive }.run(s),
        }
    }
}

impl Activation {
    /// [`activate`] inside a kernel.
    #[inline(always)]
    pub(crate) fn slice<S: Simd, const COARSE: bool>(self, s: S, x: &mut [f32]) {
        let kernel = Activate::<_, COARSE> { form: self, x };
        if S::VECTORS { kernel.run(s) } else { s.call(kernel) }
    }

    #[inline(always)]
    pub(crate) fn lanes<S: Simd, const COARSE: bool>(self, s: S, x: S::V) -> S::V {
        match self {
            Self::Gelu => s.apply(ByErf::<COARSE>, x),
            Self::GeluTanh => s.apply(ByTanh::<COARSE>, x),
            Self::QuickGelu => s.apply(BySigmoid::<COARSE>(1.702), x),
            Self::Silu => s.apply(BySigmoid::<COARSE>(1.0), x),
            Self::Relu => s.apply(Positive, x),
        }
    }
}

#[derive(Clone, Copy)]
struct ByErf<const COARSE: bool>;
#[derive(Clone, Copy)]
struct ByTanh<const COARSE: bool>;
#[derive(Clone, Copy)]
struct Positive;
/// x·σ(c·x).
#[derive(Clone, Copy)]
struct BySigmoid<const COARSE: bool>(f32);

/// The normal distribution Φ(x) = ½·(1 + erf(x/√2)) as ½ + x·PHI(u), u = 2x²/PHI_END² − 1, for |x| ≤ PHI_END: minimax,
/// absolute error 6.5·10⁻⁸. u is within ±1, which avoids the cancellation of a polynomial in x².
const PHI: [f32; 14] = [
    0.135_95,
    -0.067_743_67,
    0.050_024_52,
    -0.039_929_82,
    0.031_989_958,
    -0.024_723_63,
    0.017_954_787,
    -0.012_505_122,
    0.008_559_968,
    -0.004_789_038_6,
    0.001_800_121_9,
    -0.001_221_493_9,
    0.001_268_511_3,
    -0.000_481_277_03,
];

/// Above this 1 − Φ is below 10⁻⁷.
const PHI_END: f32 = 5.2;

/// [`PHI`] up to [`COARSE_PHI_END`]; absolute error 2.2·10⁻⁵.
const COARSE_PHI: [f32; 8] = [
    0.175_942_91,
    -0.084_343_48,
    0.056_189_37,
    -0.036_711_354,
    0.021_085_123,
    -0.012_560_514,
    0.008_699_736,
    -0.003_315_019,
];

/// Above this 1 − Φ is below 3.2·10⁻⁵.
const COARSE_PHI_END: f32 = 4.0;

impl<const COARSE: bool> Function for ByErf<COARSE> {
    #[inline(always)]
    fn apply<S: Arithmetic>(self, s: S, x: S::V) -> S::V {
        if COARSE { by_phi(s, x, COARSE_PHI, COARSE_PHI_END) } else { by_phi(s, x, PHI, PHI_END) }
    }
}

/// x·Φ(x), given a polynomial for Φ as in [`PHI`] and its end.
#[inline(always)]
fn by_phi<S: Arithmetic, const N: usize>(s: S, x: S::V, c: [f32; N], end: f32) -> S::V {
    let square = s.min(s.splat(end * end), s.mul(x, x));
    let u = s.mul_add(square, s.splat(2.0 / (end * end)), s.splat(-1.0));
    let phi = s.mul_add(x, polynomial(s, u, c), s.splat(0.5));
    // Beyond ±end u is 1, so phi is linear in x; it is clamped to 0…1.
    let phi = s.max(s.splat(0.0), s.min(s.splat(1.0), phi));
    s.mul(x, phi)
}

impl<const COARSE: bool> Function for ByTanh<COARSE> {
    /// ½·(1 + tanh y) = σ(2y), which does not cancel for very negative y.
    #[inline(always)]
    fn apply<S: Arithmetic>(self, s: S, x: S::V) -> S::V {
        let (two_over_pi, cubic) = (0.797_884_6, 0.044_715);
        let inner = s.mul_add(s.mul(x, x), s.splat(2.0 * two_over_pi * cubic), s.splat(2.0 * two_over_pi));
        x_sigmoid::<S, COARSE>(s, x, s.mul(x, inner))
    }
}

impl<const COARSE: bool> Function for BySigmoid<COARSE> {
    #[inline(always)]
    fn apply<S: Arithmetic>(self, s: S, x: S::V) -> S::V {
        x_sigmoid::<S, COARSE>(s, x, s.mul(x, s.splat(self.0)))
    }
}

impl Function for Positive {
    #[inline(always)]
    fn apply<S: Arithmetic>(self, s: S, x: S::V) -> S::V {
        // If either is NaN, `max` returns its second argument.
        s.max(s.splat(0.0), x)
    }
}

/// x·σ(y) = x / (1 + e⁻ʸ).
#[inline(always)]
fn x_sigmoid<S: Arithmetic, const COARSE: bool>(s: S, x: S::V, y: S::V) -> S::V {
    let e = if COARSE { coarse_exp2(s, s.mul(y, s.splat(-LOG2_E))) } else { exp_lanes(s, s.sub(s.splat(0.0), y)) };
    s.div(x, s.add(e, s.splat(1.0)))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::half::f16;
    use crate::reference;
    use crate::testing::{exhaustive, levels, specials};

    const FORMS: [Activation; 5] =
        [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu, Activation::Relu];
    const BOUND: f64 = 4.0;

    /// The difference in units of 2⁻²³·|x|.
    fn error(got: f32, want: f64, x: f32) -> f64 {
        match (f64::from(got), f64::from(x).abs()) {
            (got, _) if got == want || (got.is_nan() && want.is_nan()) => 0.0,
            // Near 0 the relative bound is smaller than a subnormal step: two steps are allowed.
            (got, _) if (got - want).abs() <= 2.0 * f64::from(f32::from_bits(1)) => 0.0,
            (got, x) => (got - want).abs() / x * 8_388_608.0,
        }
    }

    #[test]
    fn bound_holds_for_every_form_and_length() {
        for isa in levels() {
            for form in FORMS {
                for len in (0..=67).chain([1000]) {
                    let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37 - 0.185 * len as f32) * 0.3).collect();
                    let mut got = x.clone();
                    activate(isa, form, &mut got);
                    for (&x, &got) in x.iter().zip(&got) {
                        let want = reference::activate(form, x.into());
                        assert!(error(got, want, x) <= BOUND, "{isa} {form:?}({x}) = {got}, not {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn coarse_forms_are_within_their_bound() {
        // Units of 2⁻²³·|x|.
        const BOUND: f64 = 1024.0;
        for isa in levels() {
            for form in FORMS {
                let steps = (-40_000..=40_000).map(|i| i as f32 / 1000.0);
                let x: Vec<f32> = steps.chain(specials()).filter(|x| *x != f32::NEG_INFINITY).collect();
                let mut got = x.clone();
                activate_for_int8(isa, form, &mut got);
                for (&x, &got) in x.iter().zip(&got) {
                    let want = reference::activate(form, x.into());
                    assert!(error(got, want, x) <= BOUND, "{isa} {form:?}({x}) = {got}, not {want}");
                }
            }
        }
    }

    #[test]
    fn special_values() {
        for isa in levels() {
            for form in FORMS {
                for x in specials() {
                    let mut got = [x];
                    activate(isa, form, &mut got);
                    let want = reference::activate(form, x.into());
                    assert!(error(got[0], want, x) <= BOUND, "{isa} {form:?}({x}) = {}, not {want}", got[0]);
                }
            }
        }
    }

    #[test]
    fn f16_is_the_f32_result_rounded_once() {
        for isa in levels() {
            for form in FORMS {
                let x: Vec<f16> = (0..=0x7bff).step_by(7).map(f16::from_bits).collect();
                let mut wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
                let mut got = x.clone();
                activate(isa, form, &mut wide);
                activate(isa, form, &mut got);
                assert!(got.iter().zip(&wide).all(|(&got, &wide)| got == Storage::from_f32(wide)), "{isa} {form:?}");
            }
        }
    }

    #[test]
    #[ignore = "all 2^32 f32, five forms; minutes"]
    fn exhaustive_activation() {
        for form in FORMS {
            let kernel = |isa, x: &mut [f32]| activate(isa, form, x);
            exhaustive(&std::format!("{form:?}"), kernel, |x| reference::activate(form, x), error, BOUND);
        }
    }
}
