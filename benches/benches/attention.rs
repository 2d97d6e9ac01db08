//! Attention of one image over keys and values in f32 and int8, tokens × heads × head_dim: ViT-B, ViT-Ti, fashion-vit, and ViT-Ti at 1024².
use std::hint::black_box;

use criterion::{BenchmarkId, Throughput};
use vit_benches::{naive, noise, run};
use vit_kernels::{Attention, Isa, Job, KvLayout, QuantiseKv, QuantisedKv};

fn main() {
    run(20, |criterion| {
        let mut group = criterion.benchmark_group("attention");
        for (tokens, heads, head_dim) in [(197, 12, 64), (197, 3, 64), (50, 4, 16), (4097, 3, 64)] {
            let layout = KvLayout { heads, head_dim, tokens };
            let (inner, scale) = (heads * head_dim, 1.0 / (head_dim as f32).sqrt());
            let (q, kv) = (noise::<f32>(tokens * inner, 1), noise::<f32>(layout.len().expect("it fits memory"), 2));
            let mut out = vec![0.0; q.len()];
            let id_in = |format, what| BenchmarkId::new(format!("{tokens}x{heads}x{head_dim}/{format}"), what);
            let id = |what| id_in("f32", what);
            group.throughput(Throughput::Elements((4 * tokens * tokens * inner) as u64)); // FLOPs of the two products
            for isa in Isa::available() {
                group.bench_function(id(isa.name()), |b| {
                    b.iter(|| {
                        let job = Attention::new(isa, layout, scale, black_box(&q), &kv[..], black_box(&mut out));
                        job.expect("shapes fit").run();
                    });
                });
            }
            // Quantising the keys and values, which a model does once for all queries, is a part of it.
            let mut values = vec![0; layout.int8_len().expect("it fits memory")];
            let mut scales = vec![0.0; layout.scales_len().expect("it fits memory")];
            for isa in Isa::available() {
                group.bench_function(id_in("int8", isa.name()), |b| {
                    b.iter(|| {
                        let job = QuantiseKv::new(isa, layout, black_box(&kv), 0, &mut values, &mut scales);
                        job.expect("shapes fit").run();
                        let kv = QuantisedKv::new(isa, layout, &values, &scales).expect("shapes fit");
                        let job = Attention::new(isa, layout, scale, black_box(&q), kv, black_box(&mut out));
                        job.expect("shapes fit").run();
                    });
                });
            }
            let mut scores = vec![0.0; tokens];
            group.bench_function(id("naive"), |b| {
                b.iter(|| naive::attention(layout, scale, black_box(&q), &kv[..], &mut scores, black_box(&mut out)));
            });
        }
    });
}
