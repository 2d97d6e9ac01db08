//! A model in memory, with what its checkpoint says beside the weights.
use std::collections::HashSet;
use std::io;
use std::ops::Deref;

use vit_kernels::Isa;

use super::safetensors::Rounding;
use super::sizes::Cache;
use crate::config::Config;
use crate::memory::AlignedBox;
use crate::model::Model;
use crate::weights::Precision;
use crate::zoo::{OtherSizes, Preprocessing, Rotary};

/// A model in memory, with what its checkpoint says beside the weights.
pub struct Loaded {
    pub(super) config: Config,
    pub(super) precision: Precision,
    pub(super) packed: bool,
    pub(super) memory: Memory,
    pub(super) other_sizes: OtherSizes,
    /// What positions are stored as.
    pub(super) rounding: Rounding,
    pub(super) rotary: Option<Rotary>,
    /// Positions at other sizes, as far as they were asked for.
    pub(super) cache: Cache,
    /// How pictures become pixels, if the checkpoint says so.
    pub preprocessing: Option<Preprocessing>,
    /// The classes' names; empty if the checkpoint has none.
    pub labels: Vec<String>,
    pub(super) used: HashSet<String>,
    /// Tensors that the model did not ask for and that the family does not know.
    pub unused: Vec<String>,
}

/// Where packed weights stand.
pub(super) enum Memory {
    Own(AlignedBox),
    /// In a mapped file, from a byte on to the end.
    #[cfg(feature = "mmap")]
    Mapped(std::sync::Arc<memmap2::Mmap>, usize),
}

impl Deref for Memory {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(memory) => memory,
            #[cfg(feature = "mmap")]
            Self::Mapped(file, start) => &file[*start..],
        }
    }
}

impl Loaded {
    /// The model over images of its own size, to run on `isa`.
    pub fn model(&self, isa: Isa) -> Model<'_> {
        Model::new(&self.config, self.precision, isa, &self.memory).expect("the memory was filled for this config")
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How the weight matrices are stored.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The packed weights, as [`Model::new`] takes them.
    pub fn weights(&self) -> &[u8] {
        &self.memory
    }

    /// Whether it comes from a packed file.
    pub fn is_packed(&self) -> bool {
        self.packed
    }

    /// Whether the weights are used where their file is mapped: see the [module](super)'s documentation.
    pub fn is_mapped(&self) -> bool {
        match self.memory {
            Memory::Own(_) => false,
            #[cfg(feature = "mmap")]
            Memory::Mapped(..) => true,
        }
    }

    /// Whether a tensor of the checkpoint went into the model. A packed file's tensors are all used.
    pub fn uses(&self, tensor: &str) -> bool {
        self.used.contains(tensor)
    }

    /// Writes the model as a packed file, with all that its checkpoint says; see [`packed`](crate::packed).
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_packed(&self, out: impl io::Write) -> io::Result<()> {
        super::packed::write(self, out)
    }
}
