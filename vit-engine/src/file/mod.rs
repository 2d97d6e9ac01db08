//! Checkpoints in the form in which they are published: a folder with `config.json` and `model.safetensors` (or shards
//! with their index, or OpenCLIP's two files), a safetensors file with its config in the same folder, a
//! [packed](crate::packed) file, or `org/name` in the local cache of a model hub.
//!
//! # Mapped files
//! With [`Access::Map`] the weights of a checkpoint are read from the page cache and packed into separate memory. The
//! mapping ends when the [`Checkpoint`] is dropped, and a loaded model does not access the file again. The weights of a
//! packed file are used directly in the mapping, as long as the [`Loaded`] model lives. While a file is mapped, a
//! process that overwrites it can mix old and new weights into the model, and a process that truncates it can end this
//! process with SIGBUS. To replace a file safely, write a new one and rename it over the old one. If you cannot rely on
//! that, use [`Access::Read`], which reads the file into memory first.
mod cache;
mod contrast;
mod error;
mod folder;
pub mod hub;
mod loaded;
mod map;
mod packed;
mod preprocessing;
mod safetensors;
mod sizes;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use contrast::Contrast;
pub use error::{LoadError, Problem};
pub use loaded::Loaded;
pub use map::Access;
pub use sizes::SizeError;

use crate::config::Config;
use crate::memory::{AlignedBox, OutOfMemory};
use crate::model::Model;
use crate::packed::PackedFile;
use crate::parameters::{Param, Part, for_each_param};
#[cfg(doc)]
use crate::weights::Precision;
use crate::weights::{FillError, Formats};
use crate::zoo;
use cache::Cache;
use folder::{Files, Index, Weights};
use loaded::Memory;
use map::Bytes;
use preprocessing::Processors;
use safetensors::{Parameters, Tensors};

/// An opened checkpoint.
///
/// ```
/// use vit_engine::Precision;
/// use vit_engine::file::{Access, Checkpoint};
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../vit-cli/models/fashion-vit");
/// let checkpoint = Checkpoint::open(folder, Access::Map)?; // or a file, or a name in the hub's cache
/// assert_eq!(checkpoint.config()?.dim, 64); // without its weights
///
/// let loaded = checkpoint.load(Precision::Int8)?;
/// assert_eq!(loaded.labels[9], "Ankle boot");
/// assert!(loaded.preprocessing.is_ok() && loaded.unused.is_empty());
///
/// let mut file = Vec::new(); // what `vit convert` writes
/// loaded.write_packed(&mut file)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Checkpoint<'a> {
    /// The weights files by name: one file, or those of the index.
    weights: Vec<(Cow<'a, str>, Bytes<'a>)>,
    index: Option<Index>,
    weights_path: PathBuf,
    config: Value,
    config_path: PathBuf,
    family: Option<String>,
    processors: Processors,
}

/// The largest config that is read: real ones have a few kilobytes.
const LARGEST_CONFIG: u64 = 16 << 20;

/// The largest index that is read: a model with a thousand tensors needs 100 KB.
const LARGEST_INDEX: u64 = 64 << 20;

impl<'a> Checkpoint<'a> {
    /// Opens a folder, a safetensors file or an index with the config in the same folder, or a packed file. If there is
    /// no such path, `org/name` in the local cache of the Hugging Face hub.
    ///
    /// # Errors
    /// If a file is missing, cannot be read or is not in the format of its name.
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self, LoadError> {
        Self::open_path(path.as_ref(), access)
    }

    fn open_path(path: &Path, access: Access) -> Result<Self, LoadError> {
        let at = |path: &Path, problem: Problem| LoadError { path: path.into(), problem };
        let files = Files::find(path)?;
        let open = |path: &Path| Bytes::open(path, access).map_err(|error| at(path, Problem::Io(error)));
        let (weights_path, weights, index) = match files.weights {
            Weights::One(path) => (path.clone(), vec![("".into(), open(&path)?)], None),
            Weights::Sharded(path) => {
                let in_index = |problem| at(&path, problem);
                let index =
                    Index::parse(&folder::read_small(&path, LARGEST_INDEX).map_err(in_index)?).map_err(in_index)?;
                let beside = path.parent().unwrap_or(Path::new(""));
                let shard = |name: &str| Ok((name.to_owned().into(), open(&beside.join(name))?));
                let weights = index.files().into_iter().map(shard).collect::<Result<_, _>>()?;
                (path, weights, Some(index))
            }
        };
        let packed = matches!(&*weights, [(_, file)] if file.starts_with(&crate::packed::MAGIC));
        let (config_path, config) = match files.config {
            _ if packed => (weights_path.clone(), Value::Null),
            None => (weights_path.clone(), Value::Null),
            Some(path) => {
                let text = folder::read_small(&path, LARGEST_CONFIG).map_err(|problem| match problem {
                    Problem::Io(error) => at(&path, Problem::NoConfig(error)),
                    problem => at(&path, problem),
                })?;
                (path.clone(), parse(&text).map_err(|problem| at(&path, problem))?)
            }
        };
        let processors = if packed { Processors::default() } else { Processors::beside(&weights_path, LARGEST_CONFIG) };
        Ok(Self { weights, index, weights_path, config, config_path, family: None, processors })
    }

    /// A checkpoint in memory: the contents of `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// If `config` is not JSON.
    pub fn from_bytes(config: &[u8], weights: &'a [u8]) -> Result<Self, LoadError> {
        Self::in_memory(config, None, vec![("".into(), Bytes::Borrowed(weights))])
    }

    /// A sharded checkpoint in memory: the contents of `config.json`, of `model.safetensors.index.json`, and of the
    /// files that the index names.
    ///
    /// # Errors
    /// If `config` is not JSON, or `index` is not a valid index.
    pub fn from_shards(config: &[u8], index: &[u8], shards: &[(&'a str, &'a [u8])]) -> Result<Self, LoadError> {
        let path = PathBuf::from("model.safetensors.index.json");
        let index = Index::parse(index).map_err(|problem| LoadError { path, problem })?;
        let shards = shards.iter().map(|&(name, bytes)| (name.into(), Bytes::Borrowed(bytes))).collect();
        Self::in_memory(config, Some(index), shards)
    }

    fn in_memory(
        config: &[u8],
        index: Option<Index>,
        weights: Vec<(Cow<'a, str>, Bytes<'a>)>,
    ) -> Result<Self, LoadError> {
        let config_path = PathBuf::from("config.json");
        let config = parse(config).map_err(|problem| LoadError { path: config_path.clone(), problem })?;
        let (weights_path, processors) = ("model.safetensors".into(), Processors::default());
        Ok(Self { weights, index, weights_path, config, config_path, family: None, processors })
    }

    /// Adds what a folder has beside its config: the contents of `preprocessor_config.json`.
    ///
    /// # Errors
    /// If it is not JSON.
    pub fn with_preprocessor(mut self, preprocessor: &[u8]) -> Result<Self, LoadError> {
        let path = PathBuf::from("preprocessor_config.json");
        self.processors.preprocessor = Some(parse(preprocessor).map_err(|problem| LoadError { path, problem })?);
        Ok(self)
    }

    /// Reads the checkpoint as a model of this family, whatever its config says. `family` is a `model_type`, or an
    /// architecture of timm, which needs no config at all.
    #[must_use]
    pub fn assume(mut self, family: Option<&str>) -> Self {
        self.family = family.map(str::to_owned);
        self
    }

    /// The formats of a packed file, the only ones that it can be loaded in; `None` for a checkpoint, which can be
    /// loaded in any.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn formats(&self) -> Result<Option<Formats>, LoadError> {
        Ok(self.packed_file()?.map(|file| file.formats))
    }

    /// The hyper-parameters, before anything is loaded.
    ///
    /// # Errors
    /// If the config or the names of the tensors are not those of a supported model.
    pub fn config(&self) -> Result<Config, LoadError> {
        match self.packed_file()? {
            Some(file) => Ok(file.config),
            None => Ok(self.recipe(&self.tensors()?)?.config),
        }
    }

    /// The packed file, if the checkpoint is one.
    fn packed_file(&self) -> Result<Option<PackedFile<'_>>, LoadError> {
        match &*self.weights {
            [(_, file)] if file.starts_with(&crate::packed::MAGIC) => {
                PackedFile::open(file).map(Some).map_err(|error| self.in_weights(Problem::Packed(error)))
            }
            _ => Ok(None),
        }
    }

    fn in_config(&self, problem: Problem) -> LoadError {
        LoadError { path: self.config_path.clone(), problem }
    }

    fn in_weights(&self, problem: Problem) -> LoadError {
        LoadError { path: self.weights_path.clone(), problem }
    }

    fn tensors(&self) -> Result<Tensors<'_>, LoadError> {
        match (&self.index, &*self.weights) {
            (None, [(_, bytes), ..]) => Tensors::of(bytes),
            (None, []) => Tensors::of(&[]),
            (Some(index), files) => {
                Tensors::sharded(files.iter().map(|(name, bytes)| (&**name, &**bytes)), &index.weight_map)
            }
        }
        .map_err(|problem| self.in_weights(problem))
    }

    /// Reads the config and checks that it is consistent.
    fn recipe(&self, tensors: &Tensors<'_>) -> Result<zoo::Recipe, LoadError> {
        let in_config = |problem| self.in_config(problem);
        let recipe = zoo::recipe(&self.config, self.family.as_deref(), tensors)
            .map_err(|error| in_config(Problem::Zoo(error)))?;
        let config = recipe.config;
        if config.classes > 0 && !recipe.labels.is_empty() && recipe.labels.len() != config.classes {
            return Err(in_config(Problem::Labels { labels: recipe.labels.len(), classes: config.classes }));
        }
        Ok(recipe)
    }

    /// Reads the config and the tensors' names, checks every tensor that the model needs, and packs the weights in
    /// these formats: a [`Precision`], or [`Formats`] that keep some matrices in f32.
    ///
    /// Memory is allocated only after all tensors are found in the right shapes. Its size is that of the tensors in
    /// these formats, plus the padding of each matrix to a multiple of 16 outputs.
    ///
    /// # Errors
    /// The problem, with the file and the tensor.
    pub fn load(&self, formats: impl Into<Formats>) -> Result<Loaded, LoadError> {
        self.load_as(formats.into())
    }

    fn load_as(&self, formats: Formats) -> Result<Loaded, LoadError> {
        if let Some(file) = self.packed_file()? {
            let loaded = packed::load(&file, &self.weights[0].1, formats);
            return loaded.map_err(|problem| self.in_weights(problem));
        }
        let (in_config, in_weights) = (|problem| self.in_config(problem), |problem| self.in_weights(problem));
        let tensors = self.tensors()?;
        let recipe = self.recipe(&tensors)?;
        let config = recipe.config;

        let parameters = Parameters { tensors: &tensors, recipe: &recipe };
        let (used, unused) = parameters.check().map_err(in_weights)?;
        let rounding = parameters.rounding();
        let bytes = Model::bytes(&config, formats).map_err(|error| in_config(Problem::Zoo(error.into())))?;
        let memory = AlignedBox::new(bytes);
        let mut memory = memory.map_err(|OutOfMemory { bytes }| in_weights(Problem::OutOfMemory { bytes }))?;
        Model::fill(&config, formats, &parameters, &mut memory).map_err(|error| {
            in_weights(match error {
                FillError::Source(problem) => problem,
                FillError::OutOfRange { param, row, column, value, format } => {
                    let place = recipe.names.place(param, shape_of(&config, param));
                    // A bias is one row, so fused biases are next to each other in it.
                    let (down, right) =
                        if param.part == Part::Bias { (0, place.first_row) } else { (place.first_row, 0) };
                    Problem::OutOfRange { tensor: place.tensor, row: down + row, column: right + column, value, format }
                }
                FillError::Config(error) => Problem::Zoo(error.into()),
                FillError::Memory(_) => Problem::OutOfMemory { bytes },
            })
        })?;
        // A model without a head may still have label names, from its training.
        let labels = if config.classes > 0 { recipe.labels } else { Vec::new() };
        Ok(Loaded {
            config,
            formats,
            packed: false,
            memory: Memory::Own(memory),
            other_sizes: recipe.other_sizes,
            rounding,
            rotary: recipe.rotary,
            cache: Cache::default(),
            preprocessing: self.processors.find(&self.config, config.image),
            labels,
            contrast: contrast::read(&tensors),
            used,
            unused,
        })
    }
}

fn shape_of(config: &Config, param: Param) -> [usize; 2] {
    let found = for_each_param(config, |other, shape| if other == param { Err(shape) } else { Ok(()) });
    found.err().unwrap_or([1, 1])
}

fn parse(config: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(config).map_err(|error| Problem::Json(error.to_string()))
}

impl From<crate::config::ConfigError> for zoo::ZooError {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::Config(error)
    }
}
