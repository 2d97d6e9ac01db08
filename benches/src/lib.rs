//! Shared by the benchmarks: criterion's settings, seeded noise, a timer for kernels that work in place, and the
//! [`naive`] loops that kernels are compared with.
//!
//! An id is `kernel/shape/storage/what`, where *what* is an instruction-set level, `naive` or another library. Forward
//! passes have `forward/model/batch/storage/level/executor`. A filter on the command line is a regex over the ids.
pub mod naive;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion};
use vit_kernels::half::{Element, f16};
use vit_kernels::{Format, Line};

/// Runs benchmarks under criterion. Its command line overrides these settings. `samples` must be at least 10.
///
/// Measurement times are short because there are some two hundred benchmarks. Resamples are few because criterion's
/// 100,000 would take seconds per benchmark.
pub fn run(samples: usize, benchmarks: impl FnOnce(&mut Criterion)) {
    let (warm_up, measurement) = (Duration::from_millis(100), Duration::from_millis(400));
    let criterion = Criterion::default().sample_size(samples).nresamples(5_000);
    let mut criterion = criterion.warm_up_time(warm_up).measurement_time(measurement).configure_from_args();
    benchmarks(&mut criterion);
    criterion.final_summary();
}

/// Times `kernel` alone, on a buffer that is filled from `input` before every call. Otherwise a kernel that works in
/// place would read its own output, and repeated GELU shrinks it to subnormals.
///
/// Reading the clock adds some 50 ns to every call.
pub fn time_in_place<E: Copy>(b: &mut Bencher<'_>, input: &[E], mut kernel: impl FnMut(&mut [E])) {
    let mut x = input.to_vec();
    b.iter_custom(|times| {
        let once = |_| {
            x.copy_from_slice(input);
            let start = Instant::now();
            kernel(black_box(&mut x));
            start.elapsed()
        };
        (0..times).map(once).sum()
    });
}

/// A storage type of benchmark data.
pub trait Storage: Element {
    /// The name in ids.
    const NAME: &'static str;

    /// `x` rounded to nearest even.
    fn rounded(x: f32) -> Self;
}

impl Storage for f32 {
    const NAME: &'static str = "f32";
    fn rounded(x: f32) -> Self {
        x
    }
}

impl Storage for f16 {
    const NAME: &'static str = "f16";
    fn rounded(x: f32) -> Self {
        Self::from_f32(x)
    }
}

/// \[n, k\] weights in panels.
pub fn packed(format: Format, n: usize, k: usize, w: &[f32]) -> Vec<Line> {
    let mut lines = vec![Line::ZERO; format.lines(n, k).expect("it fits memory")];
    let read = |row: usize, start: usize, into: &mut [f32]| into.copy_from_slice(&w[row * k + start..][..into.len()]);
    format.pack(n, k, read, &mut lines).expect("finite weights of this shape");
    lines
}

/// `len` values, uniform in ±1; the same for the same seed.
pub fn noise<E: Storage>(len: usize, seed: u64) -> Vec<E> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| E::rounded(2.0 * random.f32() - 1.0)).collect()
}
