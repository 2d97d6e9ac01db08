//! A packed model in one file: GGUF v3 whose data section is the engine's block of weights, byte for byte.
//!
//! So the engine uses the file in place: mapped on a server, or linked into flash. Nothing is copied, decoded or
//! allocated.
//!
//! ```ignore
//! use vit_engine::{Isa, Model, include_model};
//!
//! static MODEL: &[u8] = include_model!("fashion-vit.gguf");
//!
//! let model = Model::from_packed(MODEL, Isa::best())?;
//! # Ok::<(), vit_engine::PackedError>(())
//! ```
//!
//! # File layout
//! Tensors are in memory order without gaps, each padded to 64 bytes. Matrices are packed in panels, see
//! [`Format`](vit_kernels::Format). Their dimensions, innermost first, are \[16, k, n/16\] in f32 and f16, and \[group,
//! 16, k/group, n/16\] in other formats, with n and k rounded up. Names look like `blk.3.attn_q.weight`; keys and
//! values are one matrix, `blk.3.attn_kv.weight`. Behind each int8 matrix there are `.scale` (F32) and `.sum` (I32),
//! one element per output. An int4 matrix is I8 bytes of two weights each, \[4, 16, k/8, n/16\]; behind it there is
//! `.scale` (F16), \[16, k/32, n/16\]. All other tensors are F32. The [metadata keys](keys) are the fields of [`Config`].
pub mod keys;

mod gguf;
#[cfg(feature = "metadata")]
pub(crate) mod metadata;
#[cfg(feature = "metadata")]
pub(crate) mod preprocessing;
mod tensors;
#[cfg(feature = "checkpoints")]
mod write;

use core::fmt;

use vit_kernels::Isa;

use crate::arena::MemoryError;
use crate::config::{Config, ConfigError};
use crate::model::{Model, ModelError};
use crate::weights::{Formats, WeightLayout};
use gguf::Gguf;
#[cfg(feature = "metadata")]
pub use metadata::Header;
#[cfg(feature = "checkpoints")]
pub use write::{file_len, write_model};
#[cfg(feature = "checkpoints")]
pub(crate) use {
    gguf::Value,
    write::{Extra, write},
};

/// The first bytes of every packed file.
#[cfg(feature = "checkpoints")]
pub(crate) const MAGIC: [u8; 4] = gguf::MAGIC;

/// A packed file. Its table of tensors has been checked against its config and formats.
pub(crate) struct PackedFile<'a> {
    pub(crate) config: Config,
    pub(crate) formats: Formats,
    /// The block of weights.
    pub(crate) weights: &'a [u8],
    #[cfg(feature = "checkpoints")]
    file: Gguf<'a>,
}

impl<'a> PackedFile<'a> {
    pub(crate) fn open(file: &'a [u8]) -> Result<Self, PackedError> {
        let file = Gguf::open(file)?;
        keys::check(&file)?;
        let (config, formats) = (keys::config(&file)?, keys::formats(&file)?);
        let layout = WeightLayout::new(&config, formats).map_err(PackedError::Config)?;
        tensors::check(&file, &layout, &config)?;
        if file.data.len() != layout.bytes() {
            return Err(PackedError::Data { expected: layout.bytes(), found: file.data.len() });
        }
        Ok(Self {
            config,
            formats,
            weights: file.data,
            #[cfg(feature = "checkpoints")]
            file,
        })
    }

    /// What a metadata key says.
    #[cfg(feature = "checkpoints")]
    pub(crate) fn said(&self, key: &'static str) -> metadata::Said<'_, 'a> {
        metadata::Said { file: &self.file, key }
    }
}

impl<'a> Model<'a> {
    /// The model of a packed file, to run on `isa`. It borrows the weights from `file`.
    ///
    /// `file` must start at a multiple of 64 bytes; [`include_model!`](crate::include_model) and mapped files do.
    ///
    /// # Errors
    /// If the file is not a packed model, is truncated or inconsistent, has another version, or is misaligned, or if the
    /// model needs a Cargo feature that this build leaves out.
    pub fn from_packed(file: &'a [u8], isa: Isa) -> Result<Self, PackedError> {
        let PackedFile { config, formats, weights, .. } = PackedFile::open(file)?;
        Self::new(&config, formats, isa, weights).map_err(|error| match error {
            ModelError::Config(error) => PackedError::Config(error),
            ModelError::Memory(error) => PackedError::Memory(error),
            ModelError::LeftOut { feature } => PackedError::LeftOut { feature },
            ModelError::OtherGrid { .. } => unreachable!("the image size is the model's own"),
        })
    }
}

/// The hyper-parameters of a packed file. It reads only the header, so that a program can compute sizes at compile
/// time.
///
/// # Errors
/// If the file is not a packed model, its header is truncated, or it has another version.
pub const fn config_of(file: &[u8]) -> Result<Config, PackedError> {
    let file = gguf::attempt!(Gguf::open(file));
    gguf::attempt!(keys::check(&file));
    keys::config(&file)
}

/// The weights of a packed file, for [`Model::new`]. It reads only the header, so that a program can leave the header out
/// of its flash: that the table of tensors is the one that the config implies is then up to who wrote the file.
///
/// # Errors
/// As [`config_of`].
pub const fn weights_of(file: &[u8]) -> Result<&[u8], PackedError> {
    let file = gguf::attempt!(Gguf::open(file));
    gguf::attempt!(keys::check(&file));
    Ok(file.data)
}

/// Why a file cannot be used as a packed model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PackedError {
    /// The file does not begin like a GGUF file.
    NotGguf,
    /// The version of GGUF is not 3.
    Version(u32),
    /// The file ends too early, or its structure is broken.
    Truncated,
    /// A metadata key is missing, or has an invalid type or value.
    Metadata(&'static str),
    /// The file has another layout version.
    LayoutVersion(usize),
    /// The hyper-parameters are invalid.
    Config(ConfigError),
    /// The tensor at this index of the table is not the one that the config implies.
    Tensor(usize),
    /// The data section does not have the length that the config implies.
    Data {
        /// The length that the config implies, in bytes.
        expected: usize,
        /// The length in the file, in bytes.
        found: usize,
    },
    /// The file is misaligned in memory.
    Memory(MemoryError),
    /// The model needs a Cargo feature of this crate that is not enabled.
    LeftOut {
        /// The feature.
        feature: &'static str,
    },
}

impl fmt::Display for PackedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGguf => write!(f, "not a GGUF file"),
            Self::Version(found) => write!(f, "GGUF version {found}; this library reads version 3"),
            Self::Truncated => write!(f, "the file is truncated or damaged"),
            Self::Metadata(key) => {
                write!(f, "the metadata key '{key}' is missing or has an unknown value")
            }
            Self::LayoutVersion(found) => {
                write!(
                    f,
                    "packed in layout version {found}; this library reads version {}: convert the checkpoint again",
                    keys::LAYOUT_VERSION
                )
            }
            Self::Config(error) => error.fmt(f),
            Self::Tensor(index) => {
                write!(f, "tensor {index} of the table is not the one that the metadata implies")
            }
            Self::Data { expected, found } => {
                write!(f, "expected {expected} bytes of weights, found {found}")
            }
            Self::Memory(error) => error.fmt(f),
            Self::LeftOut { feature } => write!(f, "the model needs the Cargo feature '{feature}', which is left out"),
        }
    }
}

impl core::error::Error for PackedError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Memory(error) => Some(error),
            _ => None,
        }
    }
}

/// Includes a packed file in the program, at an aligned address: `&'static [u8]`.
#[macro_export]
macro_rules! include_model {
    ($path:expr $(,)?) => {{
        #[repr(C, align(64))]
        struct Aligned<T: ?Sized>(T);
        static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &FILE.0
    }};
}
