//! `add` and `scale` over an image's tokens: ViT-B and fashion-vit.
//!
//! They are too fast to refill `x` or to read the clock around each call, so each call continues with the same `x`.
//! Operands of ±1 make that harmless: products keep their magnitude, and sums grow until adding 1 changes nothing.
use std::hint::black_box;

use criterion::{Bencher, BenchmarkId, Throughput};
use vit_benches::{naive, noise, run};
use vit_kernels::{Isa, elementwise};

fn main() {
    run(30, |criterion| {
        let mut group = criterion.benchmark_group("elementwise");
        for (rows, cols) in [(197, 768), (50, 64)] {
            let len = rows * cols;
            group.throughput(Throughput::Elements(len as u64)); // elements
            let id = |kernel: &str, what: &str| BenchmarkId::new(format!("{kernel}/{rows}x{cols}/f32"), what);
            for isa in Isa::available() {
                group.bench_function(id("add", isa.name()), |b| {
                    time(b, len, |x, y| elementwise::add(isa, x, y).expect("the same length"));
                });
                group.bench_function(id("scale", isa.name()), |b| {
                    time(b, len, |x, _| elementwise::scale(isa, x, black_box(-1.0)));
                });
            }
            group.bench_function(id("add", "naive"), |b| time(b, len, naive::add));
            group.bench_function(id("scale", "naive"), |b| time(b, len, |x, _| naive::scale(x, black_box(-1.0))));
        }
    });
}

fn time(b: &mut Bencher<'_>, len: usize, operation: impl Fn(&mut [f32], &[f32])) {
    let mut x = noise(len, 1);
    let signs: Vec<f32> = noise::<f32>(len, 2).into_iter().map(f32::signum).collect();
    b.iter(|| operation(black_box(&mut x), black_box(&signs)));
}
