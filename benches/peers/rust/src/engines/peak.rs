//! Not an engine: multiply–adds alone, the peak rate of the cores.
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use rayon::ThreadPoolBuilder;
use vit_kernels::Isa;
use vit_kernels::peak::{int8_multiply_adds, multiply_adds};

use crate::Task;
use crate::protocol::{self, Ready, version};

/// As long as an inference of a small model, so that the time to wake the threads is negligible.
const WINDOW: Duration = Duration::from_millis(10);

pub(super) fn serve(task: &Task) -> Result<()> {
    let isa = Isa::best();
    let multiply_adds = if task.precision.quantises() { int8_multiply_adds } else { multiply_adds };
    let window = |steps: usize| {
        let (flops, sum) = multiply_adds(isa, black_box(steps));
        black_box(sum);
        flops
    };
    let mut steps = 10_000;
    while time(|| window(steps)) < WINDOW {
        steps += steps / 2;
    }
    let flops = task.threads as u64 * window(steps);
    let ready = Ready { version: version("vit-kernels"), about: isa.name().into(), flops: Some(flops) };
    if task.threads == 1 {
        return protocol::serve(&ready, |_| {
            window(steps);
            Ok(())
        });
    }
    let pool = ThreadPoolBuilder::new().num_threads(task.threads).build()?;
    protocol::serve(&ready, |_| {
        pool.broadcast(|_| window(steps));
        Ok(())
    })
}

fn time<R>(run: impl FnOnce() -> R) -> Duration {
    let start = Instant::now();
    black_box(run());
    start.elapsed()
}
