//! The peak rate of the CPU, measured in short windows between the passes.
use std::hint::black_box;
use std::time::{Duration, Instant};

use vit_engine::{Isa, Precision, ThreadPool};
use vit_kernels::Inputs;
use vit_kernels::peak::{bf16_multiply_adds, int8_multiply_adds, multiply_adds};

/// A window of multiply–adds on all threads at once.
pub(super) struct Window {
    isa: Isa,
    multiply_adds: fn(Isa, usize) -> (u64, f32),
    steps: usize,
}

impl Window {
    const LENGTH: Duration = Duration::from_millis(10);

    /// The multiply–adds of a precision: of bf16 or 8-bit numbers if it multiplies those, else of f32. Finds the number of
    /// steps that fill a window.
    pub(super) fn new(isa: Isa, precision: Precision) -> Self {
        let multiply_adds = match precision.inputs() {
            Inputs::Bf16 => bf16_multiply_adds,
            Inputs::Int8 => int8_multiply_adds,
            _ => multiply_adds,
        };
        let mut window = Self { isa, multiply_adds, steps: 10_000 };
        while window.run().1 < Self::LENGTH {
            window.steps += window.steps / 2;
        }
        window
    }

    /// GFLOP/s of one thread, and the time taken.
    fn run(&self) -> (f64, Duration) {
        let start = Instant::now();
        let (flops, sum) = (self.multiply_adds)(self.isa, black_box(self.steps));
        black_box(sum);
        let time = start.elapsed();
        (flops as f64 / time.as_secs_f64() / 1e9, time)
    }

    /// GFLOP/s of all threads together.
    pub(super) fn measure(&self, pool: &ThreadPool) -> f64 {
        let mut rates = vec![0.0; pool.threads()];
        pool.for_each(&mut rates, |_, rate| *rate = self.run().0);
        rates.iter().sum()
    }
}
