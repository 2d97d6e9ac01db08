//! A model in memory, with the metadata of its checkpoint.
use std::collections::HashSet;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use vit_image::Preprocessing;
use vit_image::config::ConfigError;
use vit_kernels::Isa;

use super::cache::Cache;
use super::contrast::Contrast;
use super::safetensors::Rounding;
use crate::config::Config;
use crate::memory::AlignedBox;
use crate::model::Model;
use crate::weights::{Formats, Precision};
use crate::zoo::{OtherSizes, Rotary};

/// A model in memory, with the metadata of its checkpoint.
pub struct Loaded {
    pub(super) config: Config,
    pub(super) formats: Formats,
    pub(super) packed: bool,
    pub(super) memory: Memory,
    pub(super) other_sizes: OtherSizes,
    /// The dtype in which the checkpoint stores the positions.
    pub(super) rounding: Rounding,
    pub(super) rotary: Option<Rotary>,
    /// The tables for other image sizes that have been used.
    pub(super) cache: Cache,
    /// How pictures are preprocessed, or why that is not known.
    pub preprocessing: Result<Preprocessing, ConfigError>,
    /// The names of the classes; empty if the checkpoint has none.
    pub labels: Vec<String>,
    /// How embeddings are compared with those of texts; `None` if the checkpoint has no scale for it.
    pub contrast: Option<Contrast>,
    pub(super) used: HashSet<String>,
    /// Tensors that the model does not use and that are not known to be harmless.
    pub unused: Vec<String>,
}

/// The memory of the packed weights.
pub(super) enum Memory {
    Own(AlignedBox),
    /// A packed file in memory, from this offset to the end.
    Read(Arc<AlignedBox>, usize),
    /// A mapped file, from this offset to the end.
    #[cfg(feature = "mmap")]
    Mapped(Arc<memmap2::Mmap>, usize),
}

impl Deref for Memory {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(memory) => memory,
            Self::Read(file, start) => &file[*start..],
            #[cfg(feature = "mmap")]
            Self::Mapped(file, start) => &file[*start..],
        }
    }
}

impl Loaded {
    /// The model for images of the checkpoint's size, to run on `isa`.
    pub fn model(&self, isa: Isa) -> Model<'_> {
        Model::new(&self.config, self.formats, isa, &self.memory)
            .expect("the memory was filled for this config and these formats")
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The precision of the weight matrices. Single matrices of the layers may be kept in f32: see
    /// [`formats`](Self::formats).
    pub fn precision(&self) -> Precision {
        self.formats.precision()
    }

    /// The precision, and which matrices are kept in f32.
    pub fn formats(&self) -> Formats {
        self.formats
    }

    /// The packed weights, as [`Model::new`] takes them.
    pub fn weights(&self) -> &[u8] {
        &self.memory
    }

    /// Whether the model comes from a packed file.
    pub fn is_packed(&self) -> bool {
        self.packed
    }

    /// Whether the weights are in a mapped file; see the documentation of the [module](super).
    pub fn is_mapped(&self) -> bool {
        match self.memory {
            Memory::Own(_) | Memory::Read(..) => false,
            #[cfg(feature = "mmap")]
            Memory::Mapped(..) => true,
        }
    }

    /// Whether the model uses this tensor of the checkpoint. It uses all tensors of a packed file.
    pub fn uses(&self, tensor: &str) -> bool {
        self.used.contains(tensor)
    }

    /// Writes the model as a packed file, with the metadata of its checkpoint; see [`packed`](crate::packed).
    ///
    /// # Errors
    /// The errors of `out`.
    pub fn write_packed(&self, out: impl io::Write) -> io::Result<()> {
        super::packed::write(self, out)
    }
}
