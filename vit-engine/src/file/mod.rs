//! Checkpoints as they are published: a folder with `config.json` and `model.safetensors`, or one safetensors file
//! with a `config.json` beside it.
//!
//! # Mapped files
//! With [`Access::Map`] the weights are read straight from the page cache and packed into memory of their own; the
//! mapping ends when the [`Checkpoint`] is dropped, and a loaded model does not look at the file again. While it is
//! being loaded, another process that overwrites the file can mix old and new weights into the model, and one that
//! truncates it can end this process with SIGBUS. Files are replaced safely by renaming a finished one into place; where
//! that cannot be relied on, [`Access::Read`] copies the file first.
mod error;
mod map;
mod safetensors;

use std::path::{Path, PathBuf};

use serde_json::Value;
use vit_kernels::Isa;

pub use error::{LoadError, Problem};
pub use map::Access;

use crate::arena::AlignedBox;
use crate::config::Config;
use crate::model::Model;
use crate::weights::{FillError, Part, Precision};
use crate::zoo::{self, Preprocessing, Recipe};
use map::Bytes;
use safetensors::{File, Tensors};

/// An opened checkpoint.
pub struct Checkpoint<'a> {
    weights: Bytes<'a>,
    weights_path: PathBuf,
    config: Value,
    config_path: PathBuf,
}

/// A model in memory, with what its checkpoint says beside the weights.
pub struct Loaded {
    config: Config,
    precision: Precision,
    memory: AlignedBox,
    /// How pictures become pixels, if the checkpoint says so.
    pub preprocessing: Option<Preprocessing>,
    /// The classes' names; empty if the checkpoint has none.
    pub labels: Vec<String>,
}

/// Larger configs are refused: real ones have a few kilobytes.
const LARGEST_CONFIG: u64 = 16 << 20;

impl<'a> Checkpoint<'a> {
    /// Opens a folder that holds `config.json` and `model.safetensors`, or a safetensors file beside a `config.json`.
    ///
    /// # Errors
    /// When a file is missing, cannot be read or is not what its name says.
    pub fn open(path: &Path, access: Access) -> Result<Self, LoadError> {
        let at = |path: &Path, problem: Problem| LoadError { path: path.into(), problem };
        let metadata = path.metadata().map_err(|error| at(path, Problem::Io(error)))?;
        let (weights_path, folder) = if metadata.is_dir() {
            (path.join("model.safetensors"), path.to_path_buf())
        } else {
            (path.to_path_buf(), path.parent().unwrap_or(Path::new("")).to_path_buf())
        };
        if !weights_path.exists() && has_pickle(&folder) || is_pickle(&weights_path) {
            return Err(at(path, Problem::Pickle));
        }
        let weights = Bytes::open(&weights_path, access).map_err(|error| at(&weights_path, Problem::Io(error)))?;
        let config_path = folder.join("config.json");
        let size = map::regular(&config_path).map_err(|error| at(&config_path, Problem::NoConfig(error)))?;
        if size > LARGEST_CONFIG {
            return Err(at(&config_path, Problem::Json(format!("{size} bytes are too many for a config"))));
        }
        let text = std::fs::read(&config_path).map_err(|error| at(&config_path, Problem::NoConfig(error)))?;
        Self::parse(&text, config_path, weights, weights_path)
    }

    /// A checkpoint that is in memory already: the texts of the two files.
    ///
    /// # Errors
    /// When `config` is not JSON.
    pub fn from_bytes(config: &[u8], weights: &'a [u8]) -> Result<Self, LoadError> {
        Self::parse(config, "config.json".into(), Bytes::Borrowed(weights), "model.safetensors".into())
    }

    fn parse(
        config: &[u8],
        config_path: PathBuf,
        weights: Bytes<'a>,
        weights_path: PathBuf,
    ) -> Result<Self, LoadError> {
        match serde_json::from_slice(config) {
            Ok(config) => Ok(Self { weights, weights_path, config, config_path }),
            Err(error) => Err(LoadError { path: config_path, problem: Problem::Json(error.to_string()) }),
        }
    }

    /// Reads config and names, checks every tensor the model needs, and packs the weights in that precision.
    ///
    /// Memory is allocated once all tensors are known to be there in the right shapes, and is theirs in size, but for
    /// the precision and the padding of each matrix to a multiple of 16 outputs.
    ///
    /// # Errors
    /// What is wrong, with the file and the tensor.
    pub fn load(&self, precision: Precision) -> Result<Loaded, LoadError> {
        let in_config = |problem| LoadError { path: self.config_path.clone(), problem };
        let in_weights = |problem| LoadError { path: self.weights_path.clone(), problem };
        let file = File::parse(&self.weights).map_err(in_weights)?;
        let shapes = |name: &str| file.shape(name).map(<[usize]>::to_vec);
        let recipe = zoo::recipe(&self.config, &shapes).map_err(|error| in_config(Problem::Zoo(error)))?;
        let Recipe { config, names, preprocessing, labels } = recipe;
        if !labels.is_empty() && labels.len() != config.classes {
            return Err(in_config(Problem::Labels { labels: labels.len(), classes: config.classes }));
        }
        if let Some(mean) = preprocessing.as_ref().map(|p| p.mean.len()).filter(|mean| *mean != config.channels) {
            return Err(in_config(Problem::Channels { mean, channels: config.channels }));
        }

        let tensors = Tensors { file: &file, names: &*names };
        tensors.check(&config).map_err(in_weights)?;
        let bytes = Model::bytes(&config, precision).map_err(|error| in_config(Problem::Zoo(error.into())))?;
        let mut memory = AlignedBox::new(bytes).ok_or_else(|| in_weights(Problem::OutOfMemory { bytes }))?;
        Model::fill(&config, precision, &tensors, &mut memory).map_err(|error| {
            in_weights(match error {
                FillError::Source(problem) => problem,
                FillError::NotFinite { param, row, column, value } => {
                    let place = names.place(param);
                    // A bias is one row: what is fused stands in it side by side.
                    let (down, right) =
                        if param.part == Part::Bias { (0, place.first_row) } else { (place.first_row, 0) };
                    Problem::NotFinite { tensor: place.tensor, row: down + row, column: right + column, value }
                }
                FillError::Config(error) => Problem::Zoo(error.into()),
                FillError::Memory(_) => Problem::OutOfMemory { bytes },
            })
        })?;
        Ok(Loaded { config, precision, memory, preprocessing, labels })
    }
}

impl Loaded {
    /// The model, to run on `isa`.
    pub fn model(&self, isa: Isa) -> Model<'_> {
        Model::new(&self.config, self.precision, isa, &self.memory).expect("the memory was filled for this config")
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The packed weights, as [`Model::new`] takes them: what a program without `std` includes or keeps in flash.
    ///
    /// They are for this config and precision, in this machine's byte order and this version's layout, and say so nowhere:
    /// pack them in the build that uses them.
    pub fn weights(&self) -> &[u8] {
        &self.memory
    }
}

impl From<crate::config::ConfigError> for zoo::ZooError {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::Config(error)
    }
}

fn is_pickle(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["pth", "pt", "bin", "pkl", "ckpt"].iter().any(|pickle| extension == *pickle))
}

fn has_pickle(folder: &Path) -> bool {
    folder.read_dir().is_ok_and(|entries| entries.flatten().any(|entry| is_pickle(&entry.path())))
}
