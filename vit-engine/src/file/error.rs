//! What can be wrong with a checkpoint.
use core::fmt;
use std::io;
use std::path::PathBuf;

use crate::packed::PackedError;
use crate::zoo::{Shown, ZooError};

/// A checkpoint that cannot be loaded: which file, and what is wrong with it.
///
/// The message is complete: what [`source`](core::error::Error::source) gives is in it already.
#[derive(Debug)]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a checkpoint.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// The system does not give the file.
    Io(io::Error),
    /// There is no readable config.json where it should be.
    NoConfig(io::Error),
    /// A folder without weights that can be read; what is in it.
    NoWeights(Vec<String>),
    /// An index of shards that is not one, names a file elsewhere, or a tensor that is not there.
    Index(String),
    /// Neither a path nor in the local cache of a model hub; where that was looked for.
    NotInHub {
        /// 'org/name'.
        name: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// A pickle: running it could run anything.
    Pickle,
    /// config.json is not JSON.
    Json(String),
    /// config.json says what no family understands.
    Zoo(ZooError),
    /// A packed file that is damaged, or of another version.
    Packed(PackedError),
    /// A packed file is to be loaded in another precision than its own.
    OtherPrecision {
        /// The file's.
        packed: &'static str,
        /// The one asked for.
        wanted: &'static str,
    },
    /// The labels are not as many as the classes.
    Labels {
        /// Label names in config.json.
        labels: usize,
        /// Classes of the model.
        classes: usize,
    },
    /// The preprocessing is for another number of channels.
    Channels {
        /// Elements of the mean.
        mean: usize,
        /// Channels of the model.
        channels: usize,
    },
    /// The file is not safetensors, or is truncated, or its offsets overlap or lead outside.
    Safetensors(String),
    /// Tensors that the model needs are not there.
    Missing {
        /// Their names.
        tensors: Vec<String>,
        /// Whether there are more than are named.
        more: bool,
    },
    /// A tensor has another shape than the config says.
    Shape {
        /// Its name.
        tensor: String,
        /// The shape that the config asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor has a dtype that weights cannot have.
    Dtype {
        /// Its name.
        tensor: String,
        /// The dtype in the file.
        found: String,
    },
    /// A weight is NaN or infinite, or too large for the format that it is to be stored in.
    OutOfRange {
        /// The tensor's name.
        tensor: String,
        /// The weight's row; a vector is one row.
        row: usize,
        /// The weight's column.
        column: usize,
        /// The weight.
        value: f32,
        /// The format's name.
        format: &'static str,
    },
    /// The system does not give the memory.
    OutOfMemory {
        /// The bytes asked for.
        bytes: usize,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::NoWeights(found) => {
                write!(
                    f,
                    "neither model.safetensors nor model.safetensors.index.json nor open_clip_model.safetensors"
                )?;
                if found.is_empty() {
                    write!(f, "; the folder is empty")
                } else {
                    write!(f, "; there are {}", Shown(&found.join(", ")))
                }
            }
            Self::Index(error) => write!(f, "not a valid index of shards: {}", Shown(error)),
            Self::NotInHub { name, cache } => write!(
                f,
                "no such file or folder, and no '{name}' in the local cache {}; nothing is ever downloaded: fetch it with \
                 `hf download {name}`",
                cache.display()
            ),
            Self::NoConfig(error) => write!(f, "{error}; put the model's config.json beside its weights"),
            Self::Pickle => write!(
                f,
                "pickles (.pth, .pt, .bin) can run code when read and are not; convert it once, in Python:\n  \
                 import torch, safetensors.torch\n  \
                 safetensors.torch.save_file(torch.load('FILE', weights_only=True), 'model.safetensors')"
            ),
            Self::Json(error) => write!(f, "not a valid config: {}", Shown(error)),
            Self::Zoo(error) => error.fmt(f),
            Self::Packed(error) => error.fmt(f),
            Self::OtherPrecision { packed, wanted } => write!(
                f,
                "the file is packed in {packed} and cannot become {wanted}: convert the checkpoint it was made of, with \
                 --precision {wanted}"
            ),
            Self::Labels { labels, classes } => write!(f, "{labels} label names, but the model has {classes} classes"),
            Self::Channels { mean, channels } => {
                write!(f, "mean and std are for {mean} channels, but the model has {channels}")
            }
            Self::Safetensors(error) => write!(f, "not a valid safetensors file: {}", Shown(error)),
            Self::Missing { tensors, more } => {
                let list = tensors.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
                write!(f, "missing: {list}{}", if *more { " and more" } else { "" })
            }
            Self::Shape { tensor, expected, found } => {
                let (tensor, found) = (Shown(tensor), format!("{found:?}"));
                write!(f, "'{tensor}': the config asks for shape {expected:?}, the file has {}", Shown(&found))
            }
            Self::Dtype { tensor, found } => write!(f, "'{}': expected F32, F16 or BF16, found {found}", Shown(tensor)),
            Self::OutOfRange { tensor, row, column, value, format } if value.is_finite() => {
                write!(f, "'{tensor}' at [{row}, {column}]: {value} is too large for {format}; load it as f32")
            }
            Self::OutOfRange { tensor, row, column, value, .. } => {
                write!(f, "'{tensor}' at [{row}, {column}]: expected a finite number, found {value}")
            }
            Self::OutOfMemory { bytes } => write!(f, "the system does not give {bytes} bytes for the weights"),
        }
    }
}

impl core::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.problem)
    }
}

impl core::error::Error for Problem {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io(error) | Self::NoConfig(error) => Some(error),
            Self::Zoo(error) => Some(error),
            Self::Packed(error) => Some(error),
            _ => None,
        }
    }
}
