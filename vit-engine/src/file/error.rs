//! Errors of loading a checkpoint.
use core::fmt;
use std::io;
use std::path::PathBuf;

use crate::packed::PackedError;
use crate::zoo::{Shown, ZooError};

/// Why a checkpoint cannot be loaded: the file, and what is wrong with it.
///
/// The message already contains the message of its [`source`](core::error::Error::source).
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
    /// The file cannot be read.
    Io(io::Error),
    /// config.json is missing or cannot be read.
    NoConfig(io::Error),
    /// The folder has no weights in a known format. Holds the names of some files in it.
    NoWeights(Vec<String>),
    /// The index of shards is invalid, names a file in another folder, or names a tensor that its file lacks.
    Index(String),
    /// The name is no path, and the local cache of the model hub does not have it.
    NotInHub {
        /// 'org/name'.
        name: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The file is a pickle. Reading one can run arbitrary code.
    Pickle,
    /// config.json is not valid JSON.
    Json(String),
    /// No model family can read config.json.
    Zoo(ZooError),
    /// The packed file is damaged or of another version.
    Packed(PackedError),
    /// The packed file has another precision than the one requested.
    OtherPrecision {
        /// The precision of the file.
        packed: &'static str,
        /// The precision requested.
        wanted: &'static str,
    },
    /// The packed file keeps other matrices in f32 than the ones requested.
    OtherKeepF32,
    /// The number of labels differs from the number of classes.
    Labels {
        /// Number of label names in config.json.
        labels: usize,
        /// Number of classes of the model.
        classes: usize,
    },
    /// The file is not a safetensors file, is truncated, or has offsets that overlap or point outside.
    Safetensors(String),
    /// Tensors that the model needs are missing.
    Missing {
        /// The names of the tensors.
        tensors: Vec<String>,
        /// Whether there are more than these.
        more: bool,
    },
    /// A tensor does not have the shape that the config implies.
    Shape {
        /// The name of the tensor.
        tensor: String,
        /// The shape that the config implies.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// The dtype of a tensor is not supported for weights.
    Dtype {
        /// The name of the tensor.
        tensor: String,
        /// The dtype in the file.
        found: String,
    },
    /// A weight is NaN or infinite, or too large for its storage format.
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
    /// The memory for the weights cannot be allocated.
    OutOfMemory {
        /// The size of the allocation in bytes.
        bytes: usize,
    },
}

impl From<PackedError> for Problem {
    fn from(error: PackedError) -> Self {
        Self::Packed(error)
    }
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
                    "no model.safetensors, model.safetensors.index.json or open_clip_model.safetensors in this folder"
                )?;
                if found.is_empty() {
                    write!(f, "; it is empty")
                } else {
                    write!(f, "; it contains {}", Shown(&found.join(", ")))
                }
            }
            Self::Index(error) => write!(f, "not a valid index of shards: {}", Shown(error)),
            Self::NotInHub { name, cache } => write!(
                f,
                "no such file or folder, and no '{name}' in the local cache {}; nothing is ever downloaded: download it with \
                 `hf download {name}`",
                cache.display()
            ),
            Self::NoConfig(error) => write!(f, "{error}; put the model's config.json beside its weights"),
            Self::Pickle => write!(
                f,
                "reading a pickle (.pth, .pt, .bin) can run any code, so it is refused; convert it once, in Python:\n  \
                 import torch, safetensors.torch\n  \
                 safetensors.torch.save_file(torch.load('FILE', weights_only=True), 'model.safetensors')"
            ),
            Self::Json(error) => write!(f, "not a valid config: {}", Shown(error)),
            Self::Zoo(error) => error.fmt(f),
            Self::Packed(error) => error.fmt(f),
            Self::OtherPrecision { packed, wanted } => write!(
                f,
                "the file is packed in {packed} and cannot become {wanted}: convert the original checkpoint with \
                 --precision {wanted}"
            ),
            Self::OtherKeepF32 => f.write_str(
                "the file is packed with other matrices kept in f32: convert the checkpoint it was made of, with \
                 --keep-f32",
            ),
            Self::Labels { labels, classes } => write!(f, "{labels} label names, but the model has {classes} classes"),
            Self::Safetensors(error) => write!(f, "not a valid safetensors file: {}", Shown(error)),
            Self::Missing { tensors, more } => {
                let list = tensors.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
                write!(f, "missing: {list}{}", if *more { " and more" } else { "" })
            }
            Self::Shape { tensor, expected, found } => {
                let (tensor, found) = (Shown(tensor), format!("{found:?}"));
                write!(f, "'{tensor}': the config implies shape {expected:?}, the file has {}", Shown(&found))
            }
            Self::Dtype { tensor, found } => write!(f, "'{}': expected F32, F16 or BF16, found {found}", Shown(tensor)),
            Self::OutOfRange { tensor, row, column, value, format } if value.is_finite() => {
                write!(f, "'{tensor}' at [{row}, {column}]: {value} is too large for {format}; load it as f32")
            }
            Self::OutOfRange { tensor, row, column, value, .. } => {
                write!(f, "'{tensor}' at [{row}, {column}]: expected a finite number, found {value}")
            }
            Self::OutOfMemory { bytes } => write!(f, "cannot allocate {bytes} bytes for the weights"),
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
