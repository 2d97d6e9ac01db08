//! Shared by this crate's tests: levels to run on, special values, errors in ULP, exhaustive sweeps.
use std::vec::Vec;
use std::{env, println};

use crate::{Isa, LANES};

/// The levels to test: the one that `VIT_ISA` names, or all that the CPU has, and that of cores without vectors. Panics
/// if a level in `VIT_REQUIRE_ISA` (a comma-separated list) is missing, so that CI cannot skip it silently.
pub(crate) fn levels() -> Vec<Isa> {
    let forced = env::var("VIT_ISA").ok().filter(|name| !name.is_empty());
    let required = env::var("VIT_REQUIRE_ISA").unwrap_or_default();
    for name in required.split(',').filter(|name| !name.is_empty()) {
        Isa::by_name(name).expect("VIT_REQUIRE_ISA");
    }
    match forced {
        Some(name) => [Isa::by_name(&name).expect("VIT_ISA")].into(),
        // Of the comparisons in its loops over arrays the compiler makes relaxed minima and maxima, which lose NaN.
        None if cfg!(target_feature = "relaxed-simd") => Isa::available().collect(),
        None => Isa::available().chain([Isa::SMALL]).collect(),
    }
}

/// Lengths around multiples of [`LANES`], and typical row lengths.
pub(crate) fn lengths() -> impl Iterator<Item = usize> + Clone {
    (0..=3 * LANES + 1).chain([63, 64, 65, 127, 128, 129, 197, 768, 1000])
}

/// Zeros, subnormals, the largest numbers, infinities and [`nans`].
pub(crate) fn specials() -> Vec<f32> {
    let positive = [0.0, 1.0, f32::from_bits(1), f32::MIN_POSITIVE, f32::MAX, f32::INFINITY];
    positive.into_iter().flat_map(|x| [x, -x]).chain(nans()).collect()
}

/// NaN, quiet and signalling, of both signs, with low, middle and all bits of the payload set.
pub(crate) fn nans() -> [f32; 10] {
    [
        0x7fc0_0000,
        0xffc0_0000,
        0x7fc0_0001,
        0x7fc0_01ff,
        0x7fff_ffff,
        0xffff_ffff,
        0x7f80_0001,
        0xff80_0080,
        0x7f80_2000,
        0x7fa0_0000,
    ]
    .map(f32::from_bits)
}

/// Seeded values in −scale..scale.
pub(crate) fn noise(len: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..len).map(|_| (next() * 2.0 - 1.0) * scale).collect()
}

/// The error of `got` in units in the last place of the exact value, rounded to f32.
pub(crate) fn ulps(got: f32, want: f64) -> f64 {
    let rounded = want as f32;
    if (got.is_nan() && want.is_nan()) || got == rounded {
        return 0.0;
    }
    if !got.is_finite() || !rounded.is_finite() {
        // Infinity counts as one step above the largest f32.
        let step = |x: f32| if x.is_finite() { x } else { f32::MAX.copysign(x) };
        return if got.is_nan() || want.is_nan() { f64::INFINITY } else { 1.0 + ulps(step(got), step(rounded).into()) };
    }
    let exponent = (rounded.to_bits() >> 23 & 0xff).max(1) as i32;
    let unit = 2f64.powi(exponent - 127 - 23);
    (f64::from(got) - want).abs() / unit
}

/// Checks all 2³² f32 on every level: prints the worst error and asserts the bound.
pub(crate) fn exhaustive(
    name: &str,
    kernel: impl Fn(Isa, &mut [f32]),
    exact: impl Fn(f64) -> f64 + Sync,
    error: impl Fn(f32, f64, f32) -> f64 + Sync,
    bound: f64,
) {
    const CHUNK: usize = 1 << 16;
    let levels = levels();
    let mut worst = std::vec![(0.0f64, 0.0f32); levels.len()];
    for chunk in 0..1u64 << 16 {
        let x: Vec<f32> = (0..CHUNK as u64).map(|i| f32::from_bits((chunk * CHUNK as u64 + i) as u32)).collect();
        let want: Vec<f64> = x.iter().map(|&x| exact(x.into())).collect();
        for (&isa, worst) in levels.iter().zip(&mut worst) {
            let mut got = x.clone();
            kernel(isa, &mut got);
            for i in 0..CHUNK {
                let error = error(got[i], want[i], x[i]);
                if error > worst.0 || error.is_nan() {
                    *worst = (error, x[i]);
                }
            }
        }
    }
    for (isa, (error, x)) in levels.iter().zip(&worst) {
        println!("{name} on {isa}: worst {error:.3} at {x:e}");
    }
    for (isa, (error, x)) in levels.iter().zip(&worst) {
        assert!(*error <= bound, "{name} on {isa}: {error} > {bound} at {x}");
    }
}
