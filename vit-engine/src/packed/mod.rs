//! A packed model as one file: GGUF v3, whose section of data is the engine's block of weights byte for byte.
//!
//! So it is used where it stands: mapped on a server, or linked into flash. Nothing is copied, decoded or allocated.
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
//! # Layout
//! Tensors stand in the order of memory, each at the end of the one before, padded to 64 bytes. Matrices are packed panels
//! as [`Format`](vit_kernels::Format) has them: their dimensions, innermost first, are \[16, k, n/16\] in f32 and f16,
//! \[group, 16, k/group, n/16\] in other formats, n and k rounded up. Names are like `blk.3.attn_q.weight`; keys and values
//! are one matrix, `blk.3.attn_kv.weight`. int8 matrices are followed by `.scale`, F32, and `.sum`, I32, one for each output.
//! int4 matrices are I8 bytes of two weights each, \[4, 16, k/8, n/16\], followed by `.scale`, F16, \[16, k/32, n/16\].
//! Everything that is no matrix is F32. The [keys of the metadata](keys) are the
//! fields of [`Config`].
pub mod keys;

mod gguf;
mod tensors;
#[cfg(feature = "checkpoints")]
mod write;

use core::fmt;

use vit_kernels::Isa;

use crate::arena::MemoryError;
use crate::config::{Config, ConfigError};
use crate::model::{Model, ModelError};
use crate::weights::{Layout, Precision};
use gguf::Gguf;
#[cfg(feature = "checkpoints")]
pub(crate) use {
    gguf::{Value, kind},
    write::{Extra, write},
};

/// Bytes that every packed file begins with.
#[cfg(feature = "checkpoints")]
pub(crate) const MAGIC: [u8; 4] = gguf::MAGIC;

/// A packed file whose table of tensors is that of its config and precision.
pub(crate) struct PackedFile<'a> {
    pub(crate) config: Config,
    pub(crate) precision: Precision,
    /// The block of weights.
    pub(crate) weights: &'a [u8],
    #[cfg(feature = "checkpoints")]
    file: Gguf<'a>,
}

impl<'a> PackedFile<'a> {
    pub(crate) fn open(file: &'a [u8]) -> Result<Self, PackedError> {
        let file = Gguf::open(file)?;
        keys::check(&file)?;
        let (config, precision) = (keys::config(&file)?, keys::precision(&file)?);
        let layout = Layout::new(&config, precision).map_err(PackedError::Config)?;
        tensors::check(&file, &layout, &config)?;
        if file.data.len() != layout.bytes() {
            return Err(PackedError::Data { expected: layout.bytes(), found: file.data.len() });
        }
        Ok(Self {
            config,
            precision,
            weights: file.data,
            #[cfg(feature = "checkpoints")]
            file,
        })
    }

    /// The value of a key of the metadata.
    #[cfg(feature = "checkpoints")]
    pub(crate) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.file.get(key).ok().flatten()
    }
}

impl<'a> Model<'a> {
    /// The model of a packed file, to run on `isa`; its weights stay where they are.
    ///
    /// `file` starts at a multiple of 64 bytes: [`include_model!`](crate::include_model) and mapped files do.
    ///
    /// # Errors
    /// When the file is no packed model, is truncated or contradicts itself, is of another version, or is misaligned.
    pub fn from_packed(file: &'a [u8], isa: Isa) -> Result<Self, PackedError> {
        let PackedFile { config, precision, weights, .. } = PackedFile::open(file)?;
        Self::new(&config, precision, isa, weights).map_err(|error| match error {
            ModelError::Config(error) => PackedError::Config(error),
            ModelError::Memory(error) => PackedError::Memory(error),
            ModelError::OtherGrid { .. } => unreachable!("the model is at its own size"),
        })
    }
}

/// The hyper-parameters of a packed file: of its header alone, so that sizes can be known when a program is compiled.
///
/// # Errors
/// When the file is no packed model, is truncated before its data, or is of another version.
pub const fn config_of(file: &[u8]) -> Result<Config, PackedError> {
    let file = gguf::attempt!(Gguf::open(file));
    gguf::attempt!(keys::check(&file));
    keys::config(&file)
}

/// Why a file is no packed model that this version can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PackedError {
    /// It does not begin as a GGUF file does.
    NotGguf,
    /// A version of GGUF other than 3.
    Version(u32),
    /// It ends too early, or its structure is broken.
    Truncated,
    /// A key of the metadata is missing, or has a type or value that it cannot have.
    Metadata(&'static str),
    /// Packed by another version of this library.
    LayoutVersion(usize),
    /// The hyper-parameters make no model.
    Config(ConfigError),
    /// The tensor at this place of the table is not the one that the config implies.
    Tensor(usize),
    /// The section of data has another length than the config implies.
    Data {
        /// The bytes of such a model.
        expected: usize,
        /// The bytes in the file.
        found: usize,
    },
    /// It is not aligned in memory.
    Memory(MemoryError),
}

impl fmt::Display for PackedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGguf => write!(f, "not a GGUF file"),
            Self::Version(found) => write!(f, "GGUF version {found}; this library reads version 3"),
            Self::Truncated => write!(f, "the file is truncated or damaged"),
            Self::Metadata(key) => {
                write!(f, "the metadata's '{key}' is missing or has a value that this library does not know")
            }
            Self::LayoutVersion(found) => {
                write!(
                    f,
                    "packed in layout version {found}; this library reads version {}: convert it again",
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

/// A packed file's bytes, at an aligned address in the program: `&'static [u8]`.
#[macro_export]
macro_rules! include_model {
    ($path:expr $(,)?) => {{
        #[repr(C, align(64))]
        struct Aligned<T: ?Sized>(T);
        static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &FILE.0
    }};
}
