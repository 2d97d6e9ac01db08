//! Times kernels at fixed shapes and whole passes of ViT-Ti/16, those that `vit-aarch64-counts` counts, and the peaks of
//! f32 and int8, on one thread: the least and the median time of a name's runs, in milliseconds.
//!
//! Usage: `vit-wasm-times [PART]`, where PART is a part of the names that are wanted

#[path = "../../aarch64/src/kernels.rs"]
mod kernels;
#[path = "../../aarch64/src/pass.rs"]
mod pass;

use std::env;
use std::time::{Duration, Instant};

use vit_kernels::{Isa, peak};

/// For how long a name is run, and how often at least.
const TIME: Duration = Duration::from_millis(1500);
const RUNS: usize = 5;

/// What is timed: names that contain `part`.
struct Counter {
    part: String,
}

impl Counter {
    /// Runs `work` again and again; not counted at first, as the engine has yet to compile it.
    fn count(&self, name: &str, mut work: impl FnMut()) {
        if !self.wants(name) {
            return work();
        }
        let (start, mut times) = (Instant::now(), Vec::new());
        while start.elapsed() < TIME || times.len() < RUNS {
            let start = Instant::now();
            work();
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.drain(..times.len() / 4);
        times.sort_by(f64::total_cmp);
        println!("{name:<28} {:>9.4} {:>9.4} ms", times[0], times[times.len() / 2]);
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.part)
    }

    /// The rate of operations that `work` returns the number of, in 10⁹ a second.
    fn peak(&self, name: &str, work: impl Fn() -> u64) {
        if !self.wants(name) {
            return;
        }
        let best = (0..20).map(|_| {
            let (start, operations) = (Instant::now(), work());
            operations as f64 / start.elapsed().as_secs_f64() / 1e9
        });
        println!("{name:<28} {:>9.1} GOP/s", best.fold(0.0, f64::max));
    }
}

/// Seeded, uniform in ±1.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| 2.0 * random.f32() - 1.0).collect()
}

fn main() {
    let (isa, counter) = (Isa::best(), Counter { part: env::args().nth(1).unwrap_or_default() });
    println!("level {isa}: least and median");
    pass::count_all(isa, &counter);
    counter.peak("peak_f32", || peak::multiply_adds(isa, 100_000).0);
    counter.peak("peak_int8", || peak::int8_multiply_adds(isa, 20_000).0);
    kernels::count_all(isa, &counter);
}
