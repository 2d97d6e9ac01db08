//! Rotary positions of an image's queries in f32, rows × heads × head_dim: DINOv3's ViT-B and ViT-S.
use criterion::{BenchmarkId, Throughput};
use vit_benches::{naive, noise, run, time_in_place};
use vit_kernels::{Isa, Job, Rope};

fn main() {
    run(30, |criterion| {
        let mut group = criterion.benchmark_group("rope");
        for (rows, heads, head_dim) in [(196, 12, 64), (196, 6, 64)] {
            let angles = noise::<f32>(rows * head_dim / 2, 2);
            let mut table = Vec::new();
            for angles in angles.chunks(head_dim / 2) {
                table.extend(angles.iter().map(|x| x.cos()));
                table.extend(angles.iter().map(|x| x.sin()));
            }
            let x = noise::<f32>(rows * heads * head_dim, 1);
            group.throughput(Throughput::Elements(x.len() as u64)); // elements
            let id = |what| BenchmarkId::new(format!("{rows}x{heads}x{head_dim}/f32"), what);
            for isa in Isa::available() {
                group.bench_function(id(isa.name()), |b| {
                    time_in_place(b, &x, |x| {
                        Rope::new(isa, x, heads * head_dim, [heads, head_dim], &table).expect("shapes fit").run();
                    });
                });
            }
            group.bench_function(id("naive"), |b| {
                time_in_place(b, &x, |x| naive::rope(x, [heads, head_dim], &table));
            });
        }
    });
}
