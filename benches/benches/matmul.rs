//! Matmul, rows × outputs × inputs: ViT-B's projections, ViT-Ti's feed-forward, ViT-B's head for one image, and
//! fashion-vit's feed-forward; against `matrixmultiply` and `gemm` on one thread.
//!
//! Weights are stored in each format; `a` and `out` are f32. For bf16, int8 and int4, `a` is rounded or quantised in every call. Our
//! kernels get packed weights, because a model packs them once; the other libraries pack in every call. There is no
//! epilogue, because the other libraries have none.
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use vit_benches::{naive, noise, packed, run};
use vit_kernels::half::bf16;
use vit_kernels::{
    Epilogue, Format, Inputs, Isa, Job, Matmul, Packed, Quantise, Quantised, RoundToBf16, bf16_len, quantised_len,
};

#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    n: usize,
    k: usize,
}

fn main() {
    run(20, |criterion| {
        let mut group = criterion.benchmark_group("matmul");
        for (rows, n, k) in [(197, 768, 768), (197, 768, 192), (1, 1000, 768), (50, 128, 64)] {
            let shape = Shape { rows, n, k };
            group.throughput(Throughput::Elements((2 * rows * n * k) as u64)); // FLOPs
            Format::ALL.into_iter().for_each(|format| kernel(&mut group, shape, format));
            others(&mut group, shape);
        }
    });
}

fn kernel(group: &mut BenchmarkGroup<'_, WallTime>, shape: Shape, format: Format) {
    let Shape { n, k, .. } = shape;
    for isa in Isa::available() {
        group.bench_function(shape.id(format.name(), isa.name()), |b| {
            let (a, w, mut out) = shape.matrices();
            let lines = packed(format, n, k, &w);
            let weights = Packed::new(format, n, k, &lines).expect("packed for this shape");
            let rows = shape.rows;
            let mut rounded = vec![bf16::ZERO; rows * bf16_len(k)];
            let (mut values, mut scales) = (vec![0; rows * quantised_len(k)], vec![0.0; rows]);
            b.iter(|| {
                let (a, out) = (black_box(&*a), black_box(&mut *out));
                let product = match format.inputs() {
                    Inputs::Bf16 => {
                        RoundToBf16::new(isa, a, k, &mut rounded).expect("shapes fit").run();
                        Matmul::new(isa, &*rounded, weights, Epilogue::default(), out)
                    }
                    Inputs::Int8 => {
                        Quantise::new(isa, a, k, &mut values, &mut scales).expect("shapes fit").run();
                        let a = Quantised::new(isa, k, &values, &scales).expect("shapes fit");
                        Matmul::new(isa, a, weights, Epilogue::default(), out)
                    }
                    _ => Matmul::new(isa, a, weights, Epilogue::default(), out),
                };
                product.expect("shapes fit").run();
            });
        });
    }
}

fn others(group: &mut BenchmarkGroup<'_, WallTime>, shape: Shape) {
    let Shape { rows, n, k } = shape;
    group.bench_function(shape.id("f32", "naive"), |b| {
        let (a, w, mut out) = shape.matrices();
        b.iter(|| naive::matmul(black_box(&a), &w, k, black_box(&mut out)));
    });
    group.bench_function(shape.id("f32", "matrixmultiply"), |b| {
        let (a, w, mut out) = shape.matrices();
        let (k_stride, n_stride) = (k as isize, n as isize);
        b.iter(|| {
            let (a, w, out) = (black_box(&a).as_ptr(), w.as_ptr(), black_box(&mut out).as_mut_ptr());
            // SAFETY: the strides are those of row-major [rows, k], [n, k] transposed, and [rows, n], the shapes of
            // the three; `out` overlaps neither of the others.
            unsafe {
                matrixmultiply::sgemm(rows, k, n, 1.0, a, k_stride, 1, w, 1, k_stride, 0.0, out, n_stride, 1);
            }
        });
    });
    group.bench_function(shape.id("f32", "gemm"), |b| {
        let (a, w, mut out) = shape.matrices();
        let (k_stride, n_stride) = (k as isize, n as isize);
        b.iter(|| {
            let (a, w, out) = (black_box(&a).as_ptr(), w.as_ptr(), black_box(&mut out).as_mut_ptr());
            let serial = gemm::Parallelism::None;
            // SAFETY: as above; column strides come first here, and `out` is not read.
            unsafe {
                gemm::gemm(
                    rows, n, k, out, 1, n_stride, false, a, 1, k_stride, w, k_stride, 1, 0.0, 1.0, false, false, false,
                    serial,
                );
            }
        });
    });
}

impl Shape {
    fn id(self, storage: &str, what: &str) -> BenchmarkId {
        let Self { rows, n, k } = self;
        BenchmarkId::new(format!("{rows}x{n}x{k}/{storage}"), what)
    }

    /// a, \[rows, k\]; w, \[n, k\]; out, \[rows, n\].
    fn matrices(self) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let Self { rows, n, k } = self;
        (noise(rows * k, 1), noise(n * k, 2), vec![0.0; rows * n])
    }
}
