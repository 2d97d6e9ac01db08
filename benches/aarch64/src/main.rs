//! Runs kernels at fixed shapes and whole passes of ViT-Ti/16, each once between marks that the QEMU plugin `count.c`
//! counts between, and prints a name for each. `check.py` runs this and compares the counts with a baseline.
//!
//! Usage: `vit-aarch64-counts LEVEL [PART]`, where PART is a part of the names that are wanted

mod kernels;
mod pass;

use std::{env, process};

use vit_kernels::Isa;

/// What is counted: names that contain `part`.
struct Counter {
    part: String,
}

impl Counter {
    /// Runs `work` between marks, once: what the system does at the first run is not counted.
    fn count(&self, name: &str, work: impl FnOnce()) {
        if !self.wants(name) {
            return work();
        }
        mark(0x7001);
        work();
        mark(0x7002);
        println!("{name}");
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.part)
    }
}

/// A system call that Linux does not have.
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn mark(number: u64) {
    // SAFETY: an unknown system call only returns an error in x0.
    unsafe { std::arch::asm!("svc #0", in("x8") number, lateout("x0") _) }
}

/// Counts are taken on 64-bit Arm only.
#[cfg(not(all(target_arch = "aarch64", target_os = "linux")))]
fn mark(_: u64) {}

/// Seeded, uniform in ±1.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| 2.0 * random.f32() - 1.0).collect()
}

fn main() {
    let mut arguments = env::args().skip(1);
    let Some(level) = arguments.next() else { fail("usage: vit-aarch64-counts LEVEL [PART]") };
    let isa = Isa::by_name(&level).unwrap_or_else(|error| fail(&error.to_string()));
    let counter = Counter { part: arguments.next().unwrap_or_default() };
    kernels::count_all(isa, &counter);
    pass::count_all(isa, &counter);
}

fn fail(message: &str) -> ! {
    eprintln!("vit-aarch64-counts: {message}");
    process::exit(2)
}
