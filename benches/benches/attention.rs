//! Attention of one image, rows × heads × head_dim: ViT-B, ViT-Ti and fashion-vit. All of it is f32.
//!
//! `pack_kv` puts keys and values where the kernel reads them, the same on every level; the naive loop reads them as
//! they are.
use std::hint::black_box;

use criterion::{BenchmarkId, Throughput};
use vit_benches::{naive, noise, run};
use vit_kernels::{Attention, Isa, Job, KvLayout, PackKv};

fn main() {
    run(20, |criterion| {
        let mut group = criterion.benchmark_group("attention");
        for (tokens, heads, head_dim) in [(197, 12, 64), (197, 3, 64), (50, 4, 16)] {
            let layout = KvLayout { heads, head_dim, tokens };
            let (inner, scale) = (heads * head_dim, 1.0 / (head_dim as f32).sqrt());
            let (q, kv) = (noise::<f32>(tokens * inner, 1), noise::<f32>(tokens * 2 * inner, 2));
            let fits = "it fits memory";
            let (mut k, mut v) = (vec![0.0; layout.k_len().expect(fits)], vec![0.0; layout.v_len().expect(fits)]);
            let mut out = vec![0.0; q.len()];
            let mut pack = || PackKv::new(layout, black_box(&kv), 0, &mut k, &mut v).expect("shapes fit").run();
            pack();

            let id = |what| BenchmarkId::new(format!("{tokens}x{heads}x{head_dim}/f32"), what);
            group.throughput(Throughput::Elements((2 * tokens * inner) as u64)); // elements
            group.bench_function(id("pack_kv"), |b| b.iter(&mut pack));

            group.throughput(Throughput::Elements((4 * tokens * tokens * inner) as u64)); // FLOPs of the two products
            for isa in Isa::available() {
                group.bench_function(id(isa.name()), |b| {
                    b.iter(|| {
                        let job = Attention::new(isa, layout, scale, black_box(&q), (&k, &v), black_box(&mut out));
                        job.expect("shapes fit").run();
                    });
                });
            }
            let mut scores = vec![0.0; tokens];
            group.bench_function(id("naive"), |b| {
                b.iter(|| naive::attention(layout, scale, black_box(&q), &kv, &mut scores, black_box(&mut out)));
            });
        }
    });
}
