//! GELU in its three forms over the feed-forward's hidden layer: ViT-B and fashion-vit.
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use vit_benches::{Storage, naive, noise, run, time_in_place};
use vit_kernels::half::f16;
use vit_kernels::{Activation, Isa, activate};

fn main() {
    run(30, |criterion| {
        let mut group = criterion.benchmark_group("gelu");
        for (rows, cols) in [(197, 3072), (50, 128)] {
            let len = rows * cols;
            group.throughput(Throughput::Elements(len as u64)); // elements
            for (form, name) in
                [(Activation::Gelu, "erf"), (Activation::GeluTanh, "tanh"), (Activation::QuickGelu, "quick")]
            {
                let shape = format!("{name}/{rows}x{cols}");
                kernel::<f32>(&mut group, form, &shape, len);
                kernel::<f16>(&mut group, form, &shape, len);
                group.bench_function(BenchmarkId::new(format!("{shape}/f32"), "naive"), |b| {
                    time_in_place(b, &input(len), |x| naive::activate(form, x));
                });
            }
        }
    });
}

fn kernel<E: Storage>(group: &mut BenchmarkGroup<'_, WallTime>, form: Activation, shape: &str, len: usize) {
    for isa in Isa::available() {
        group.bench_function(BenchmarkId::new(format!("{shape}/{}", E::NAME), isa), |b| {
            time_in_place(b, &input::<E>(len), |x| activate(isa, form, x));
        });
    }
}

/// Uniform in ±4, so that the naive erf takes all of its branches, as with a trained model's activations.
fn input<E: Storage>(len: usize) -> Vec<E> {
    noise::<f32>(len, 1).into_iter().map(|x| E::rounded(4.0 * x)).collect()
}
