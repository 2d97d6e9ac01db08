//! What the integration tests share: levels, golden models, running a model.
#![allow(dead_code, unreachable_pub)] // Each test binary uses a part.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use vit_engine::file::{Checkpoint, Loaded};
use vit_engine::{AlignedBox, Executor, Features, Images, Isa, Model, Plan, Precision, Serial};

/// The levels to test: the one that `VIT_ISA` names, or all that the CPU has; `VIT_REQUIRE_ISA` names those it must have.
pub fn levels() -> Vec<Isa> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    for name in set("VIT_REQUIRE_ISA").iter().flat_map(|list| list.split(',')) {
        Isa::by_name(name).expect("VIT_REQUIRE_ISA");
    }
    set("VIT_ISA").map_or_else(|| Isa::available().collect(), |name| vec![Isa::by_name(&name).expect("VIT_ISA")])
}

/// A golden model: its folder's files.
pub struct Golden {
    pub name: String,
    pub config: Vec<u8>,
    pub weights: Vec<u8>,
    pub truth: Vec<u8>,
}

/// A tensor of `golden.safetensors`.
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

pub fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

pub fn goldens() -> Vec<Golden> {
    let entries = golden_folder().read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 21, "golden models are missing: {}", folders.len());
    folders.iter().map(|folder| Golden::read(folder)).collect()
}

pub fn golden(name: &str) -> Golden {
    Golden::read(&golden_folder().join(name))
}

impl Golden {
    fn read(folder: &Path) -> Self {
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            config: read("config.json"),
            weights: read("model.safetensors"),
            truth: read("golden.safetensors"),
        }
    }

    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let file = SafeTensors::deserialize(&self.truth).unwrap();
        let view = file.tensor(name).ok()?;
        let data = view.data().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        Some(Tensor { shape: view.shape().to_vec(), data })
    }

    pub fn load(&self, precision: Precision) -> Loaded {
        self.load_weights(&self.weights, precision)
    }

    /// The model with other weights.
    pub fn load_weights(&self, weights: &[u8], precision: Precision) -> Loaded {
        let checkpoint = Checkpoint::from_bytes(&self.config, weights).unwrap();
        checkpoint.load(precision).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// Runs a model over the whole batch of `pixels`.
pub fn run(model: &Model<'_>, features: Features, pixels: &Tensor) -> Vec<f32> {
    let plan = Plan::new(model.config(), features, pixels.shape[0], None).unwrap();
    run_plan(model, &plan, &pixels.data, &Serial)
}

/// Runs a plan. The arena holds junk before.
pub fn run_plan(model: &Model<'_>, plan: &Plan, pixels: &[f32], executor: &impl Executor) -> Vec<f32> {
    let c = model.config();
    let mut arena = AlignedBox::new(plan.arena_bytes()).unwrap();
    arena.fill(0xff);
    let mut out = vec![f32::NAN; plan.output_len()];
    let mut images = Images::new(pixels, [c.channels, c.image[0], c.image[1]]).unwrap();
    model.forward(plan, &mut images, &mut arena, executor, &mut out).unwrap();
    out
}

/// max|difference| ÷ max|reference|.
pub fn distance(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0f32, |a, x| a.max(x.abs()));
    let differences = got.iter().zip(want).map(|(got, want)| (got - want).abs());
    // Not f32::max, which would drop a NaN.
    differences.fold(0.0f32, |a, b| if b > a || b.is_nan() { b } else { a }) / largest
}
