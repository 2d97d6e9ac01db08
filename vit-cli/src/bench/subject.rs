//! What is measured: a checkpoint, or an architecture with random weights.
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use vit_engine::file::Loaded;
use vit_engine::{AlignedBox, Config, Model, Precision, zoo::timm};

use super::random::Random;
use crate::options::RunOptions;
use crate::session::open;

/// A model in memory, by whichever way.
pub(super) enum Subject {
    /// A checkpoint, and the milliseconds that loading it took.
    Checkpoint(Loaded, f64),
    /// An architecture's hyper-parameters, and seeded weights.
    Random(Config, AlignedBox),
}

impl Subject {
    /// `model` is a checkpoint's path or an architecture's name; the built-in checkpoint if there is none. An architecture
    /// may have square images of another size.
    pub(super) fn new(model: Option<&str>, image_size: Option<usize>, how: &RunOptions) -> Result<Self> {
        let architecture =
            model.filter(|name| !Path::new(name).exists()).and_then(|name| timm::architecture(&name.replace('-', "_")));
        let Some(mut config) = architecture else {
            ensure!(image_size.is_none(), "--image-size is for architectures: a checkpoint has its own");
            let start = Instant::now();
            let loaded = open(model.map(Path::new), how).with_context(|| {
                let names: Vec<String> = timm::architectures().map(|name| name.replace('_', "-")).collect();
                format!("no such checkpoint or architecture; the architectures are {}", names.join(", "))
            })?;
            return Ok(Self::Checkpoint(loaded, start.elapsed().as_secs_f64() * 1e3));
        };
        if let Some(size) = image_size {
            config.image = [size, size];
        }
        let precision: Precision = how.precision.into();
        let len = Model::bytes(&config, precision)?;
        let mut memory = AlignedBox::new(len).with_context(|| format!("the system does not give {len} bytes"))?;
        Model::fill(&config, precision, &Random { seed: 1 }, &mut memory)?;
        Ok(Self::Random(config, memory))
    }

    pub(super) fn model(&self, how: &RunOptions) -> Result<Model<'_>> {
        Ok(match self {
            Self::Checkpoint(loaded, _) => loaded.model(how.isa()),
            Self::Random(config, memory) => Model::new(config, how.precision.into(), how.isa(), memory)?,
        })
    }

    /// Milliseconds from opening the files to a model that can run; none if there are no files.
    pub(super) fn load_ms(&self) -> Option<f64> {
        match self {
            Self::Checkpoint(_, ms) => Some(*ms),
            Self::Random(..) => None,
        }
    }
}
