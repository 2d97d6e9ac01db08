//! The peak rate of the CPU, measured in short windows between the passes.
use std::hint::black_box;
use std::time::{Duration, Instant};

use vit_engine::{Isa, ThreadPool};
use vit_kernels::peak::multiply_adds;

/// A window of multiply–adds on all threads at once.
pub(super) struct Window {
    isa: Isa,
    steps: usize,
}

impl Window {
    const LENGTH: Duration = Duration::from_millis(10);

    /// Finds the number of steps that fill a window.
    pub(super) fn new(isa: Isa) -> Self {
        let mut window = Self { isa, steps: 10_000 };
        while window.run().1 < Self::LENGTH {
            window.steps += window.steps / 2;
        }
        window
    }

    /// GFLOP/s of one thread, and the time taken.
    fn run(&self) -> (f64, Duration) {
        let start = Instant::now();
        let (flops, sum) = multiply_adds(self.isa, black_box(self.steps));
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
