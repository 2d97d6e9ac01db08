//! How the output of a model becomes classes: by its own head, by the nearest pictures of a file, or by embeddings of
//! texts.
mod neighbours;
mod zero_shot;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use vit_engine::file::Loaded;
use vit_engine::logits::{Logits, Probability};
use vit_engine::{Output, ThreadPool};

use crate::embeddings::{self, Description};
use crate::labels::Names;
use crate::options::{SourceOptions, positive};
use crate::picture::Preparer;
use crate::{labels, model};
use neighbours::Neighbours;
use zero_shot::ZeroShot;

/// What classifies, where it is not the model's own head.
#[derive(Args, Clone)]
pub(crate) struct HeadOptions {
    /// Classify by the nearest pictures of this file of 'vit embed', made by the same model. The classes are the
    /// names of their folders
    #[arg(long, value_name = "FILE", conflicts_with = "class_embeddings")]
    pub(crate) neighbours: Option<PathBuf>,

    /// How many neighbours; each counts as exp(cosine / 0.07)
    #[arg(long, value_name = "K", default_value = "20", value_parser = positive, requires = "neighbours")]
    k: usize,

    /// Classify by embeddings of texts, f32 [classes,E] as .npy, with the checkpoint's own logit_scale (CLIP:
    /// softmax), and logit_bias (SigLIP: sigmoid). --labels names the classes
    #[arg(long, value_name = "FILE")]
    class_embeddings: Option<PathBuf>,
}

impl HeadOptions {
    /// Reads what classifies the pictures of a model. `names` are those of the classes, unless these are folders.
    pub(crate) fn open(
        &self,
        loaded: &Loaded,
        preparer: &Preparer,
        source: &SourceOptions,
        names: Names<'_>,
    ) -> Result<Head> {
        if let Some(file) = &self.neighbours {
            let output = embeddings::describe(file)?.0.output()?;
            let own = Description::of(loaded, output, preparer, source.name())?;
            let neighbours = Neighbours::read(file, &own, self.k, &loaded.labels)?;
            let names = neighbours.names().to_vec();
            return Ok(Head { output, classes: names.len(), names, kind: Kind::Neighbours(Box::new(neighbours)) });
        }
        if let Some(file) = &self.class_embeddings {
            let texts = ZeroShot::read(file, loaded)?;
            let classes = texts.classes();
            let names = match names {
                Names::Of(Some(file)) => labels::of_file(file, classes)?,
                _ => Vec::new(),
            };
            return Ok(Head { output: Output::Embedding, classes, names, kind: Kind::ZeroShot(texts) });
        }
        let classes = loaded.config().classes;
        ensure!(classes > 0, "the model has no head: give --neighbours, or --class-embeddings");
        let names = match names {
            Names::Of(file) => labels::of(loaded, file)?,
            Names::Unused => Vec::new(),
        };
        Ok(Head { output: Output::Logits, classes, names, kind: Kind::Own })
    }
}

/// What makes classes of a model's output.
pub(crate) struct Head {
    /// The output that the model has to compute.
    pub(crate) output: Output,
    pub(crate) classes: usize,
    /// The names of the classes; may be empty.
    pub(crate) names: Vec<String>,
    kind: Kind,
}

enum Kind {
    Own,
    Neighbours(Box<Neighbours>),
    ZeroShot(ZeroShot),
}

impl Head {
    /// The logits of the pictures of a batch, from their rows.
    pub(crate) fn logits(&self, mut rows: Vec<Result<Vec<f32>>>, pool: &ThreadPool) -> Vec<Result<Vec<f32>>> {
        pool.for_each(&mut rows, |_, row| {
            if let Ok(row) = row {
                match &self.kind {
                    Kind::Own => {}
                    Kind::Neighbours(neighbours) => *row = neighbours.logits(row),
                    Kind::ZeroShot(texts) => *row = texts.logits(row),
                }
            }
        });
        rows
    }

    /// Reads what [`logits`](Self::logits) computed.
    ///
    /// # Errors
    /// If the model computed NaN or infinite numbers.
    pub(crate) fn read<'a>(&self, logits: &'a [f32]) -> Result<Logits<'a>> {
        let (probability, broken) = match &self.kind {
            Kind::Own => return Ok(Logits::new(logits)?),
            // A class without neighbours has −∞.
            Kind::Neighbours(_) => (Probability::Softmax, logits.iter().any(|x| x.is_nan())),
            Kind::ZeroShot(texts) => (texts.probability(), logits.iter().any(|x| !x.is_finite())),
        };
        ensure!(!broken, model::NOT_FINITE);
        Ok(Logits::unchecked(logits, probability))
    }

    /// Whether the names of the classes are those of folders.
    pub(crate) fn is_of_folders(&self) -> bool {
        matches!(self.kind, Kind::Neighbours(_))
    }
}
