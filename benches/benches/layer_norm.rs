//! LayerNorm over an image's tokens: ViT-B, ViT-Ti and fashion-vit.
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use vit_benches::{Storage, naive, noise, run};
use vit_kernels::half::f16;
use vit_kernels::{Isa, layer_norm};

const EPS: f32 = 1e-6;

fn main() {
    run(30, |criterion| {
        let mut group = criterion.benchmark_group("layer_norm");
        for (rows, cols) in [(197, 768), (197, 192), (50, 64)] {
            group.throughput(Throughput::Elements((rows * cols) as u64)); // elements
            kernel::<f32>(&mut group, rows, cols);
            kernel::<f16>(&mut group, rows, cols);
            group.bench_function(BenchmarkId::new(format!("{rows}x{cols}/f32"), "naive"), |b| {
                let (x, gamma, beta) = (noise(rows * cols, 1), noise(cols, 2), noise(cols, 3));
                let mut out = vec![0.0; x.len()];
                b.iter(|| naive::layer_norm(black_box(&x), &gamma, &beta, EPS, black_box(&mut out)));
            });
        }
    });
}

fn kernel<E: Storage>(group: &mut BenchmarkGroup<'_, WallTime>, rows: usize, cols: usize) {
    for isa in Isa::available() {
        group.bench_function(BenchmarkId::new(format!("{rows}x{cols}/{}", E::NAME), isa), |b| {
            let (x, gamma, beta) = (noise::<E>(rows * cols, 1), noise(cols, 2), noise(cols, 3));
            let mut out = x.clone();
            b.iter(|| layer_norm(isa, black_box(&x), &gamma, &beta, EPS, black_box(&mut out)).expect("shapes fit"));
        });
    }
}
