//! Residual, bias and scale over an image's tokens: ViT-B and fashion-vit.
//!
//! They are too fast to refill `x` or to read the clock around each call, so they run on the same `x` over and over.
//! Operands of ±1 keep that harmless: products keep their size, and sums grow until they absorb what is added.
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{Bencher, BenchmarkGroup, BenchmarkId, Throughput};
use vit_benches::{Storage, naive, noise, run};
use vit_kernels::half::f16;
use vit_kernels::{Isa, elementwise};

type Shape = (usize, usize);
/// Of x, as many signs, and a row of them.
type Naive = fn(&mut [f32], &[f32], &[f32]);
type Kernel<E> = fn(Isa, &mut [E], &[E], &[E]);

fn main() {
    run(30, |criterion| {
        let mut group = criterion.benchmark_group("elementwise");
        for shape in [(197, 768), (50, 64)] {
            group.throughput(Throughput::Elements((shape.0 * shape.1) as u64)); // elements
            kernels::<f32>(&mut group, shape);
            kernels::<f16>(&mut group, shape);
            let naive: [(&str, Naive); 4] = [
                ("add", |x, y, _| naive::add(x, y)),
                ("add_row", |x, _, row| naive::add_row(x, row)),
                ("scale_row", |x, _, row| naive::scale_row(x, row)),
                ("scale", |x, _, row| naive::scale(x, row[0])),
            ];
            for (name, naive) in naive {
                group.bench_function(id::<f32>(name, shape, "naive"), |b| time(b, shape, naive));
            }
        }
    });
}

fn kernels<E: Storage>(group: &mut BenchmarkGroup<'_, WallTime>, shape: Shape) {
    let kernels: [(&str, Kernel<E>); 4] = [
        ("add", |isa, x, y, _| elementwise::add(isa, x, y).expect("the same length")),
        ("add_row", |isa, x, _, row| elementwise::add_row(isa, x, row).expect("whole rows")),
        ("scale_row", |isa, x, _, row| elementwise::scale_row(isa, x, row).expect("whole rows")),
        ("scale", |isa, x, _, _| elementwise::scale(isa, x, black_box(-1.0))),
    ];
    for (name, kernel) in kernels {
        for isa in Isa::available() {
            group.bench_function(id::<E>(name, shape, isa.name()), |b| {
                time(b, shape, |x, y, row| kernel(isa, x, y, row));
            });
        }
    }
}

fn id<E: Storage>(kernel: &str, (rows, cols): Shape, what: &str) -> BenchmarkId {
    BenchmarkId::new(format!("{kernel}/{rows}x{cols}/{}", E::NAME), what)
}

fn time<E: Storage>(b: &mut Bencher<'_>, (rows, cols): Shape, operation: impl Fn(&mut [E], &[E], &[E])) {
    let mut x = noise(rows * cols, 1);
    let signs: Vec<E> = noise::<f32>(x.len(), 2).into_iter().map(|x| E::rounded(x.signum())).collect();
    b.iter(|| operation(black_box(&mut x), black_box(&signs), &signs[..cols]));
}
