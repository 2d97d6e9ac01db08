//! Whole forward passes, pixels to logits, of fashion-vit, ViT-Ti/16 and ViT-B/16 with random weights, on one thread
//! and on all cores. Only the pass is timed; it allocates nothing, because its memory is allocated before.
use std::cell::{OnceCell, RefCell};
use std::convert::Infallible;
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use vit_benches::{noise, run};
use vit_engine::zoo::timm;
use vit_engine::{AlignedBox, Biases, Config, Executor, Images, Isa, Model, Output, Param, Plan, Precision, Serial};
use vit_engine::{Source, ThreadPool, Values};

const TINY: &str = "vit_tiny_patch16_224";
const BASE: &str = "vit_base_patch16_224";

fn main() {
    let tiny = timm::architecture(TINY).expect("timm has it");
    let base = timm::architecture(BASE).expect("timm has it");
    let models = [("fashion-vit", fashion(&tiny), [1, 8].as_slice()), (TINY, tiny, &[1]), (BASE, base, &[1])];
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = ThreadPool::new(cores).expect("the system starts threads");
    // The fewest samples that criterion allows: a pass of ViT-B on the lowest level takes seconds.
    run(10, |criterion| {
        let mut group = criterion.benchmark_group("forward");
        for (name, config, batches) in models {
            for precision in Precision::ALL {
                let weights = Weights { name, config, precision, memory: OnceCell::new() };
                for &batch in batches {
                    for isa in Isa::available() {
                        weights.bench(&mut group, isa, batch, ("serial", &Serial));
                        weights.bench(&mut group, isa, batch, ("threads", &pool));
                    }
                }
            }
        }
    });
}

/// The config of fashion-vit: `other` with its sizes.
fn fashion(other: &Config) -> Config {
    Config {
        channels: 1,
        image: [28, 28],
        patch: [4, 4],
        dim: 64,
        depth: 6,
        heads: 4,
        head_dim: 16,
        mlp_dim: 128,
        bias: Biases { query: false, key: false, value: false, ..other.bias },
        attention_scale: 0.25,
        classes: 10,
        ..*other
    }
}

/// A model's weights, made only when a selected benchmark needs them: ViT-B's take a second.
struct Weights {
    name: &'static str,
    config: Config,
    precision: Precision,
    memory: OnceCell<AlignedBox>,
}

impl Weights {
    fn bench(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        isa: Isa,
        batch: usize,
        (executor_name, executor): (&str, &dyn Executor),
    ) {
        let Self { name, config: c, precision, memory } = self;
        let plan = Plan::new(c, *precision, Output::Logits, batch, None).expect("there is no budget to exceed");
        group.throughput(Throughput::Elements(2 * plan.macs())); // FLOPs
        let function = format!("{name}/batch{batch}/{}/{isa}", precision.name());
        group.bench_function(BenchmarkId::new(function, executor_name), |b| {
            let memory = memory.get_or_init(|| random_weights(c, *precision));
            let model = Model::new(c, *precision, isa, memory).expect("it was filled for these");
            let pixels = noise::<f32>(batch * c.channels * c.image[0] * c.image[1], 1);
            let mut images = Images::new(&pixels, [c.channels, c.image[0], c.image[1]]).expect("whole images");
            let mut arena = AlignedBox::new(plan.arena_bytes()).expect("memory for the arena");
            let mut logits = vec![0.0; plan.output_len()];
            b.iter(|| {
                let images = black_box(&mut images);
                model.forward(&plan, images, &mut arena, executor, black_box(&mut logits)).expect("all of it fits");
            });
        });
    }
}

fn random_weights(config: &Config, precision: Precision) -> AlignedBox {
    let bytes = Model::bytes(config, precision).expect("the config makes a model");
    let mut memory = AlignedBox::new(bytes).expect("memory for the weights");
    let noise = Noise(RefCell::new(fastrand::Rng::with_seed(1)));
    Model::fill(config, precision, &noise, &mut memory).expect("noise is finite");
    memory
}

/// Every parameter uniform in ±1/√columns, as `nn.Linear` is initialised: nothing overflows or becomes subnormal.
struct Noise(RefCell<fastrand::Rng>);

impl Source for Noise {
    type Error = Infallible;

    fn open(&self, _: Param, [_, columns]: [usize; 2]) -> Result<impl Values, Infallible> {
        let bound = 1.0 / (columns as f32).sqrt();
        Ok(move |_row: usize, _start: usize, into: &mut [f32]| {
            let mut random = self.0.borrow_mut();
            into.fill_with(|| bound * (2.0 * random.f32() - 1.0));
        })
    }
}
