//! Softmax over one head's scores: ViT at 224 (197 tokens) and fashion-vit (50).
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use vit_benches::{Storage, naive, noise, run, time_in_place};
use vit_kernels::half::f16;
use vit_kernels::{Isa, softmax};

fn main() {
    run(30, |criterion| {
        let mut group = criterion.benchmark_group("softmax");
        for tokens in [197, 50] {
            group.throughput(Throughput::Elements((tokens * tokens) as u64)); // elements
            kernel::<f32>(&mut group, tokens);
            kernel::<f16>(&mut group, tokens);
            group.bench_function(BenchmarkId::new(format!("{tokens}x{tokens}/f32"), "naive"), |b| {
                time_in_place(b, &noise(tokens * tokens, 1), |x| naive::softmax(x, tokens));
            });
        }
    });
}

fn kernel<E: Storage>(group: &mut BenchmarkGroup<'_, WallTime>, tokens: usize) {
    for isa in Isa::available() {
        group.bench_function(BenchmarkId::new(format!("{tokens}x{tokens}/{}", E::NAME), isa), |b| {
            time_in_place(b, &noise::<E>(tokens * tokens, 1), |x| softmax(isa, x, tokens).expect("whole rows"));
        });
    }
}
