//! Instructions of each kernel at a fixed shape, counted by valgrind; load on the machine does not change the counts.
//! valgrind does not support AVX-512, so the levels are portable and AVX2.
//!
//! `../check.py` runs this and compares the counts with a baseline.
#![allow(unused_qualifications, missing_docs)] // The macros expand to such code.

use std::hint::black_box;

use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use vit_kernels::half::bf16;
use vit_kernels::{
    Activation, Attention, Epilogue, Format, Isa, Job, KvLayout, Line, Matmul, Packed, Quantise, QuantiseKv, Quantised,
    QuantisedKv, RelativeBias, Rope, RoundToBf16, Scores, activate, bf16_len, elementwise, layer_norm, math, matmul,
    quantised_len, softmax,
};

/// Seeded, uniform in ±1.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| 2.0 * random.f32() - 1.0).collect()
}

fn level(name: &str) -> Isa {
    Isa::by_name(name).expect("valgrind emulates this level")
}

/// A level and seeded elements, made before counting starts.
fn elements(name: &str, len: usize) -> (Isa, Vec<f32>) {
    (level(name), noise(len, 1))
}

#[library_benchmark(setup = elements)]
#[bench::portable("portable", 64 * 197)]
#[bench::avx2("avx2", 64 * 197)]
fn softmax_64x197((isa, mut x): (Isa, Vec<f32>)) -> Vec<f32> {
    softmax(isa, black_box(&mut x), 197).expect("whole rows");
    x
}

#[library_benchmark(setup = elements)]
#[bench::portable("portable", 64 * 768)]
#[bench::avx2("avx2", 64 * 768)]
fn layer_norm_64x768((isa, x): (Isa, Vec<f32>)) -> Vec<f32> {
    let (gamma, mut out) = (vec![1.0; 768], vec![0.0; x.len()]);
    layer_norm(isa, black_box(&x), &gamma, &gamma, 1e-6, &mut out).expect("whole rows");
    out
}

#[library_benchmark(setup = elements)]
#[bench::portable("portable", 16_384)]
#[bench::avx2("avx2", 16_384)]
fn gelu_erf_16384((isa, mut x): (Isa, Vec<f32>)) -> Vec<f32> {
    activate(isa, Activation::Gelu, black_box(&mut x));
    x
}

#[library_benchmark(setup = elements)]
#[bench::portable("portable", 16_384)]
#[bench::avx2("avx2", 16_384)]
fn gelu_tanh_16384((isa, mut x): (Isa, Vec<f32>)) -> Vec<f32> {
    activate(isa, Activation::GeluTanh, black_box(&mut x));
    x
}

#[library_benchmark(setup = elements)]
#[bench::portable("portable", 16_384)]
#[bench::avx2("avx2", 16_384)]
fn gelu_quick_16384((isa, mut x): (Isa, Vec<f32>)) -> Vec<f32> {
    activate(isa, Activation::QuickGelu, black_box(&mut x));
    x
}

#[library_benchmark(setup = elements)]
#[bench::portable("portable", 16_384)]
#[bench::avx2("avx2", 16_384)]
fn silu_16384((isa, mut x): (Isa, Vec<f32>)) -> Vec<f32> {
    activate(isa, Activation::Silu, black_box(&mut x));
    x
}

#[library_benchmark(setup = elements)]
#[bench::portable("portable", 16_384)]
#[bench::avx2("avx2", 16_384)]
fn exp_16384((isa, mut x): (Isa, Vec<f32>)) -> Vec<f32> {
    math::exp(isa, black_box(&mut x));
    x
}

#[library_benchmark(setup = elements)]
#[bench::portable("portable", 16_384)]
#[bench::avx2("avx2", 16_384)]
fn erf_16384((isa, mut x): (Isa, Vec<f32>)) -> Vec<f32> {
    math::erf(isa, black_box(&mut x));
    x
}

#[library_benchmark(setup = elements)]
#[bench::portable("portable", 16_384)]
#[bench::avx2("avx2", 16_384)]
fn scale_16384((isa, mut x): (Isa, Vec<f32>)) -> Vec<f32> {
    elementwise::scale(isa, black_box(&mut x), 0.5);
    x
}

#[library_benchmark(setup = elements)]
#[bench::portable("portable", 16_384)]
#[bench::avx2("avx2", 16_384)]
fn add_16384((isa, mut x): (Isa, Vec<f32>)) -> Vec<f32> {
    let y = vec![1.0; x.len()];
    elementwise::add(isa, black_box(&mut x), &y).expect("the same length");
    x
}

/// The operands of a matmul.
struct Product {
    isa: Isa,
    format: Format,
    a: Vec<f32>,
    lines: Vec<Line>,
    out: Vec<f32>,
}

const N: usize = 192;
const K: usize = 192;

fn product(name: &str, rows: usize, format: Format) -> Product {
    let (w, mut lines) = (noise(N * K, 2), vec![Line::ZERO; format.lines(N, K).expect("it fits memory")]);
    let read = |row: usize, start: usize, into: &mut [f32]| into.copy_from_slice(&w[row * K + start..][..into.len()]);
    format.pack(N, K, read, &mut lines).expect("noise is finite");
    Product { isa: level(name), format, a: noise(rows * K, 1), lines, out: vec![0.0; rows * N] }
}

/// A product with its activations rounded.
struct Bf16Product {
    product: Product,
    rows: Vec<bf16>,
}

fn bf16_product(name: &str, rows: usize) -> Bf16Product {
    let product = product(name, rows, Format::Bf16);
    let mut rounded = vec![bf16::ZERO; rows * bf16_len(K)];
    RoundToBf16::new(product.isa, &product.a, K, &mut rounded).expect("shapes fit").run();
    Bf16Product { product, rows: rounded }
}

fn multiply(mut p: Product) -> Product {
    let weights = Packed::new(p.format, N, K, &p.lines).expect("packed for this shape");
    matmul(p.isa, black_box(&p.a), weights, Epilogue::default(), &mut p.out).expect("shapes fit");
    p
}

#[library_benchmark(setup = product)]
#[bench::portable("portable", 50, Format::F32)]
#[bench::avx2("avx2", 50, Format::F32)]
#[bench::portable_1_row("portable", 1, Format::F32)]
#[bench::avx2_1_row("avx2", 1, Format::F32)]
fn matmul_192x192(p: Product) -> Product {
    multiply(p)
}

#[library_benchmark(setup = product)]
#[bench::portable("portable", 50, Format::F16)]
#[bench::avx2("avx2", 50, Format::F16)]
fn matmul_192x192_f16(p: Product) -> Product {
    multiply(p)
}

#[library_benchmark(setup = bf16_product)]
#[bench::portable("portable", 50)]
#[bench::avx2("avx2", 50)]
fn matmul_192x192_bf16(mut p: Bf16Product) -> Bf16Product {
    let Product { isa, format, lines, out, .. } = &mut p.product;
    let weights = Packed::new(*format, N, K, lines).expect("packed for this shape");
    Matmul::new(*isa, black_box(&*p.rows), weights, Epilogue::default(), out).expect("shapes fit").run();
    p
}

/// A product with its activations quantised.
struct Int8Product {
    product: Product,
    values: Vec<i8>,
    scales: Vec<f32>,
}

fn int8_product(name: &str, rows: usize, format: Format) -> Int8Product {
    let product = product(name, rows, format);
    let (values, scales) = (vec![0; rows * quantised_len(K)], vec![0.0; rows]);
    quantise(Int8Product { product, values, scales })
}

fn quantise(mut p: Int8Product) -> Int8Product {
    let Product { isa, a, .. } = &p.product;
    Quantise::new(*isa, black_box(a), K, &mut p.values, &mut p.scales).expect("shapes fit").run();
    p
}

fn multiply_int8(mut p: Int8Product) -> Int8Product {
    let Product { isa, format, lines, out, .. } = &mut p.product;
    let a = Quantised::new(*isa, K, black_box(&p.values), &p.scales).expect("shapes fit");
    let weights = Packed::new(*format, N, K, lines).expect("packed for this shape");
    Matmul::new(*isa, a, weights, Epilogue::default(), out).expect("shapes fit").run();
    p
}

#[library_benchmark(setup = int8_product)]
#[bench::portable("portable", 50, Format::Int8)]
#[bench::avx2("avx2", 50, Format::Int8)]
#[bench::portable_1_row("portable", 1, Format::Int8)]
#[bench::avx2_1_row("avx2", 1, Format::Int8)]
fn matmul_192x192_int8(p: Int8Product) -> Int8Product {
    multiply_int8(p)
}

#[library_benchmark(setup = int8_product)]
#[bench::portable("portable", 50, Format::Int4)]
#[bench::avx2("avx2", 50, Format::Int4)]
#[bench::portable_1_row("portable", 1, Format::Int4)]
#[bench::avx2_1_row("avx2", 1, Format::Int4)]
fn matmul_192x192_int4(p: Int8Product) -> Int8Product {
    multiply_int8(p)
}

#[library_benchmark(setup = int8_product)]
#[bench::portable("portable", 50, Format::Int8)]
#[bench::avx2("avx2", 50, Format::Int8)]
fn quantise_50x192(p: Int8Product) -> Int8Product {
    quantise(p)
}

#[library_benchmark(setup = product)]
#[bench::any("portable", 1, Format::F32)]
fn pack_192x192(mut p: Product) -> Product {
    let w = black_box(&p.a);
    let read = |_: usize, start: usize, into: &mut [f32]| into.copy_from_slice(&w[start..][..into.len()]);
    p.format.pack(N, K, read, &mut p.lines).expect("finite");
    p
}

#[library_benchmark(setup = level)]
#[bench::portable("portable")]
#[bench::avx2("avx2")]
fn attention_50x3x64(isa: Isa) -> Vec<f32> {
    let layout = KvLayout { heads: 3, head_dim: 64, tokens: 50 };
    let (q, kv) = (noise(50 * 192, 1), noise(layout.len().expect("it fits memory"), 2));
    let mut out = vec![0.0; q.len()];
    Attention::new(isa, layout, 0.125, black_box(&q), &kv[..], &mut out).expect("shapes fit").run();
    out
}

/// 50 queries, and as many keys and values in int8.
struct Int8Attention {
    isa: Isa,
    layout: KvLayout,
    q: Vec<f32>,
    kv: Vec<f32>,
    values: Vec<i8>,
    scales: Vec<f32>,
}

fn int8_attention(name: &str) -> Int8Attention {
    let (isa, layout) = (level(name), KvLayout { heads: 3, head_dim: 64, tokens: 50 });
    let (q, kv) = (noise(50 * 192, 1), noise(layout.len().expect("it fits memory"), 2));
    let values = vec![0; layout.int8_len().expect("it fits memory")];
    let scales = vec![0.0; layout.scales_len().expect("it fits memory")];
    quantise_kv(Int8Attention { isa, layout, q, kv, values, scales })
}

fn quantise_kv(mut x: Int8Attention) -> Int8Attention {
    let kv = black_box(&x.kv);
    QuantiseKv::new(x.isa, x.layout, kv, 0, &mut x.values, &mut x.scales).expect("shapes fit").run();
    x
}

#[library_benchmark(setup = int8_attention)]
#[bench::portable("portable")]
#[bench::avx2("avx2")]
fn quantise_kv_50x3x64(x: Int8Attention) -> Int8Attention {
    quantise_kv(x)
}

#[library_benchmark(setup = int8_attention)]
#[bench::portable("portable")]
#[bench::avx2("avx2")]
fn attention_int8_50x3x64(x: Int8Attention) -> Vec<f32> {
    let mut out = vec![0.0; x.q.len()];
    let kv = QuantisedKv::new(x.isa, x.layout, &x.values, &x.scales).expect("shapes fit");
    Attention::new(x.isa, x.layout, 0.125, black_box(&x.q), kv, &mut out).expect("shapes fit").run();
    out
}

#[library_benchmark(setup = level)]
#[bench::portable("portable")]
#[bench::avx2("avx2")]
fn attention_biased_50x3x64(isa: Isa) -> Vec<f32> {
    let layout = KvLayout { heads: 3, head_dim: 64, tokens: 50 };
    let (q, kv) = (noise(50 * 192, 1), noise(layout.len().expect("it fits memory"), 2));
    let table = noise(3 * RelativeBias::row_len([7, 7]).expect("it fits memory"), 3);
    let bias = RelativeBias { table: &table, grid: [7, 7], first_query: 0 };
    let mut out = vec![0.0; q.len()];
    let scores = Scores::new(isa, layout, 0.125, black_box(&q), &kv[..]).and_then(|scores| scores.with_bias(bias));
    scores.and_then(|scores| scores.attend(&mut out)).expect("shapes fit").run();
    out
}

#[library_benchmark(setup = level)]
#[bench::portable("portable")]
#[bench::avx2("avx2")]
fn attention_maps_50x3x64(isa: Isa) -> Vec<f32> {
    let layout = KvLayout { heads: 3, head_dim: 64, tokens: 50 };
    let (q, kv) = (noise(50 * 192, 1), noise(layout.len().expect("it fits memory"), 2));
    let mut out = vec![0.0; 3 * 50 * 50];
    let scores = Scores::new(isa, layout, 0.125, black_box(&q), &kv[..]);
    scores.and_then(|scores| scores.maps(0, 50, &mut out)).expect("shapes fit").run();
    out
}

#[library_benchmark(setup = elements)]
#[bench::portable("portable", 50 * 192)]
#[bench::avx2("avx2", 50 * 192)]
fn rope_50x3x64((isa, mut x): (Isa, Vec<f32>)) -> Vec<f32> {
    let table = noise(50 * 64, 2);
    Rope::new(isa, black_box(&mut x), 192, [3, 64], &table).expect("shapes fit").run();
    x
}

library_benchmark_group!(
    name = kernels;
    benchmarks = softmax_64x197, layer_norm_64x768, gelu_erf_16384, gelu_tanh_16384, gelu_quick_16384, exp_16384,
        erf_16384, scale_16384, add_16384, matmul_192x192, matmul_192x192_f16, matmul_192x192_bf16,
        matmul_192x192_int8, matmul_192x192_int4, quantise_50x192, pack_192x192, attention_50x3x64,
        attention_biased_50x3x64, attention_maps_50x3x64, attention_int8_50x3x64, quantise_kv_50x3x64, rope_50x3x64, silu_16384
);

main!(
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"]));
    library_benchmark_groups = kernels
);
