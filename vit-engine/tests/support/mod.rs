//! What the integration tests share: levels, golden models, running a model.
#![allow(dead_code, unreachable_pub)] // Each test binary uses a part.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use vit_engine::file::{Checkpoint, LoadError, Loaded};
use vit_engine::{AlignedBox, Executor, Formats, Images, Isa, Model, Output, Plan, Precision, Serial};

/// The levels to test: the one that `VIT_ISA` names, or all that the CPU has; `VIT_REQUIRE_ISA` names those it must have.
pub fn levels() -> Vec<Isa> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    for name in set("VIT_REQUIRE_ISA").iter().flat_map(|list| list.split(',')) {
        Isa::by_name(name).expect("VIT_REQUIRE_ISA");
    }
    set("VIT_ISA").map_or_else(|| Isa::available().collect(), |name| vec![Isa::by_name(&name).expect("VIT_ISA")])
}

/// The [`levels`]; on an emulated CPU, if there are several, those that have code of their own for a precision, as the
/// table of [`Isa`] says.
pub fn levels_for(precision: Precision) -> Vec<Isa> {
    let levels = levels();
    if levels.len() == 1 || !emulated() {
        return levels;
    }
    let has_own = |isa: &Isa| match isa.name().rsplit_once('-') {
        Some((_, "vnni" | "dotprod" | "i8mm")) => matches!(precision, Precision::Int8 | Precision::Int4),
        Some((_, "bf16")) => precision == Precision::Bf16,
        _ => true,
    };
    levels.into_iter().filter(has_own).collect()
}

/// Whether the CPU is emulated, which `VIT_EMULATED` says: it is a hundred times slower. Tests then try fewer sizes of
/// blocks and fewer threads, where kernels have the same tests for all of theirs.
pub fn emulated() -> bool {
    std::env::var_os("VIT_EMULATED").is_some_and(|value| !value.is_empty())
}

/// A golden model: its folder's files.
pub struct Golden {
    pub name: String,
    pub config: Vec<u8>,
    pub weights: Weights,
    pub truth: Vec<u8>,
}

/// One file of weights, or several.
#[derive(Clone)]
pub enum Weights {
    One(Vec<u8>),
    Sharded { index: Vec<u8>, shards: Vec<(String, Vec<u8>)> },
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
    let found: Vec<_> = folders.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    let expected: Vec<_> = include_str!("../goldens/names.txt").lines().collect();
    assert_eq!(found, expected, "the folders in goldens/ are not those that its names.txt lists");
    folders.iter().map(|folder| Golden::read(folder)).collect()
}

pub fn golden(name: &str) -> Golden {
    Golden::read(&golden_folder().join(name))
}

impl Golden {
    fn read(folder: &Path) -> Self {
        let read = |name: &str| std::fs::read(folder.join(name));
        let either = |name: &str| read(name).or_else(|_| read(&format!("open_clip_{name}")));
        let weights = match read("model.safetensors.index.json") {
            Ok(index) => {
                let files = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
                let shards = files.filter(|name| name.starts_with("model-"));
                Weights::Sharded { index, shards: shards.map(|name| (name.clone(), read(&name).unwrap())).collect() }
            }
            Err(_) => Weights::One(either("model.safetensors").unwrap()),
        };
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into_owned(),
            config: either("config.json").unwrap(),
            weights,
            truth: read("golden.safetensors").unwrap(),
        }
    }

    /// Whether all its weights are stored in that dtype.
    pub fn is_stored_as(&self, dtype: &str) -> bool {
        let Weights::One(file) = &self.weights else { return false };
        let file = SafeTensors::deserialize(file).unwrap();
        file.tensors().iter().all(|(_, view)| view.dtype().to_string().eq_ignore_ascii_case(dtype))
    }

    /// The names of the tensors that it stores.
    pub fn truths(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.truth).unwrap();
        let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    }

    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let file = SafeTensors::deserialize(&self.truth).unwrap();
        let view = file.tensor(name).ok()?;
        let data = view.data().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        Some(Tensor { shape: view.shape().to_vec(), data })
    }

    pub fn load(&self, formats: impl Into<Formats>) -> Loaded {
        self.load_weights(&self.weights, formats)
    }

    /// The model with other weights.
    pub fn load_weights(&self, weights: &Weights, formats: impl Into<Formats>) -> Loaded {
        self.try_load(&self.config, weights, formats).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The model with another config and other weights.
    pub fn try_load(&self, config: &[u8], weights: &Weights, formats: impl Into<Formats>) -> Result<Loaded, LoadError> {
        match weights {
            Weights::One(weights) => Checkpoint::from_bytes(config, weights),
            Weights::Sharded { index, shards } => {
                let shards: Vec<(&str, &[u8])> = shards.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
                Checkpoint::from_shards(config, index, &shards)
            }
        }
        .and_then(|checkpoint| checkpoint.load(formats))
    }
}

impl Weights {
    /// The files, one after the other.
    pub fn files_mut(&mut self) -> Vec<&mut Vec<u8>> {
        match self {
            Self::One(file) => vec![file],
            Self::Sharded { shards, .. } => shards.iter_mut().map(|shard| &mut shard.1).collect(),
        }
    }

    /// The only file.
    pub fn file(&self) -> &[u8] {
        match self {
            Self::One(file) => file,
            Self::Sharded { .. } => panic!("several files"),
        }
    }
}

/// Runs a model over the whole batch of `pixels`.
pub fn run(model: &Model<'_>, output: Output, pixels: &Tensor) -> Vec<f32> {
    let plan = model.plan(output, pixels.shape[0], None).unwrap();
    run_plan(model, &plan, &pixels.data, &Serial)
}

/// Runs a plan. The arena holds junk before.
pub fn run_plan(model: &Model<'_>, plan: &Plan, pixels: &[f32], executor: &dyn Executor) -> Vec<f32> {
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

/// What a stored tensor is, and for images of which size: 'patches', 'layer:2', 'embedding@48x64'.
pub fn parse(name: &str) -> (&str, Option<[usize; 2]>) {
    let Some((kind, size)) = name.split_once('@') else { return (name, None) };
    let (height, width) = size.split_once('x').unwrap();
    (kind, Some([height.parse().unwrap(), width.parse().unwrap()]))
}

/// The output of that name.
pub fn output(kind: &str) -> Output {
    kind.parse().unwrap()
}

/// The model at its own size or another.
pub fn model(loaded: &Loaded, isa: Isa, size: Option<[usize; 2]>) -> Model<'_> {
    size.map_or_else(|| loaded.model(isa), |size| loaded.model_at(isa, size).unwrap())
}

/// A packed file of a model.
pub fn packed(loaded: &Loaded) -> AlignedBox {
    let mut file = Vec::new();
    loaded.write_packed(&mut file).unwrap();
    aligned(&file)
}

/// The same bytes at an aligned address.
pub fn aligned(bytes: &[u8]) -> AlignedBox {
    let mut memory = AlignedBox::new(bytes.len()).unwrap();
    memory.copy_from_slice(bytes);
    memory
}
