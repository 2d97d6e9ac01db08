//! The model that is measured: a checkpoint, or an architecture with random weights.
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use vit_engine::file::Loaded;
use vit_engine::{AlignedBox, Config, Formats, Isa, Model, zoo::timm};

use super::random::Random;
use crate::model::open;
use crate::options::LoadOptions;

/// A model in memory from either source.
pub(super) enum Subject {
    /// A checkpoint, the milliseconds that loading took, and another image size if there is one.
    Checkpoint(Box<Loaded>, f64, Option<[usize; 2]>),
    /// The hyper-parameters of an architecture, and seeded weights.
    Random(Box<Config>, Formats, AlignedBox),
}

impl Subject {
    /// `model` is a checkpoint's path or an architecture's name; the built-in checkpoint if there is none. Images may have
    /// another size.
    pub(super) fn new(model: Option<&str>, image_size: Option<[usize; 2]>, how: &LoadOptions) -> Result<Self> {
        // A name that is neither a path nor in the local cache can only be an architecture.
        let name =
            model.filter(|name| !name.contains('/') && !Path::new(name).exists()).map(|name| name.replace('-', "_"));
        let Some(name) = name else {
            let start = Instant::now();
            let loaded = open(model.map(Path::new), how)?;
            return Ok(Self::Checkpoint(Box::new(loaded), start.elapsed().as_secs_f64() * 1e3, image_size));
        };
        let mut config = timm::architecture(&name)?;
        if let Some(size) = image_size {
            config.image = size;
        }
        let formats = how.formats(&config)?;
        let mut memory = AlignedBox::new(Model::bytes(&config, formats)?)?;
        Model::fill(&config, formats, &Random { seed: 1 }, &mut memory)?;
        Ok(Self::Random(Box::new(config), formats, memory))
    }

    pub(super) fn model(&self, isa: Isa) -> Result<Model<'_>> {
        Ok(match self {
            Self::Checkpoint(loaded, _, None) => loaded.model(isa),
            Self::Checkpoint(loaded, _, Some(size)) => loaded.model_at(isa, *size)?,
            Self::Random(config, formats, memory) => Model::new(config, *formats, isa, memory)?,
        })
    }

    /// Milliseconds from opening the files to a model that can run; `None` if there are no files.
    pub(super) fn load_ms(&self) -> Option<f64> {
        match self {
            Self::Checkpoint(_, ms, _) => Some(*ms),
            Self::Random(..) => None,
        }
    }
}
