//! One of the two models and its outputs.
use std::io::{self, Write};
use std::sync::Arc;

use anyhow::{Result, ensure};
use vit_engine::file::Loaded;
use vit_engine::{Config, Output, Session, ThreadPool};

use crate::model;
use crate::options::RunOptions;

/// A model with a session for each output that is compared.
pub(super) struct Subject {
    sessions: [Option<Session>; 3],
}

/// The outputs for a batch.
pub(super) struct Outputs {
    lens: [usize; 3],
    numbers: [Vec<f32>; 3],
}

/// The outputs that are compared. A model may have no logits or no embedding.
const KINDS: [Output; 3] = [Output::Layers, Output::Logits, Output::Embedding];

impl Subject {
    pub(super) fn new(
        pool: &Arc<ThreadPool>,
        loaded: &Arc<Loaded>,
        run: &RunOptions,
        size: (usize, Option<[usize; 2]>),
    ) -> Result<Self> {
        let config = loaded.config_at(size.1.unwrap_or(loaded.config().image))?;
        let session = |features: Output| {
            let there = features.len(&config).is_some();
            there.then(|| model::session_on(pool, Arc::clone(loaded), run, features, size)).transpose()
        };
        let sessions = [session(KINDS[0])?, session(KINDS[1])?, session(KINDS[2])?];
        Ok(Self { sessions })
    }

    /// Computes the outputs for whole images.
    pub(super) fn outputs(&mut self, pixels: &[f32]) -> Result<Outputs> {
        let mut outputs = Outputs { lens: [0; 3], numbers: Default::default() };
        for (i, session) in self.sessions.iter_mut().enumerate() {
            if let Some(session) = session {
                outputs.lens[i] = session.output_len(1);
                outputs.numbers[i] = model::output(session, pixels)?;
            }
        }
        Ok(outputs)
    }
}

/// The outputs for one picture. An output that the model does not have is empty.
#[derive(Clone, Copy)]
pub(super) struct Numbers<'a> {
    pub(super) layers: &'a [f32],
    pub(super) logits: &'a [f32],
    pub(super) embedding: &'a [f32],
}

impl Outputs {
    pub(super) fn of(&self, picture: usize) -> Numbers<'_> {
        let of = |kind: usize| &self.numbers[kind][picture * self.lens[kind]..][..self.lens[kind]];
        Numbers { layers: of(0), logits: of(1), embedding: of(2) }
    }
}

impl<'a> Numbers<'a> {
    /// The tokens after each number of layers from 0 to `depth`.
    pub(super) fn each_layer(&self, depth: usize) -> impl Iterator<Item = &'a [f32]> {
        self.layers.chunks_exact(self.layers.len() / (depth + 1))
    }

    /// The output that [`main_output`] names.
    pub(super) fn main(&self, depth: usize) -> &'a [f32] {
        match (self.logits, self.embedding) {
            ([], []) => self.each_layer(depth).last().unwrap_or_default(),
            ([], embedding) => embedding,
            (logits, _) => logits,
        }
    }

    /// The first output that has NaN or infinite numbers.
    pub(super) fn broken(&self) -> Option<&'static str> {
        let parts = [(self.layers, "tokens"), (self.logits, "logits"), (self.embedding, "embedding")];
        parts.into_iter().find(|(numbers, _)| numbers.iter().any(|x| !x.is_finite())).map(|(_, name)| name)
    }
}

/// The output to measure speed and gains with.
pub(super) fn main_output(config: &Config) -> Output {
    let kinds = [Output::Logits, Output::Embedding];
    kinds.into_iter().find(|kind| kind.len(config).is_some()).unwrap_or(Output::Layer(config.depth))
}

/// Checks that two models take the same images and have the same outputs.
pub(super) fn check_alike(a: &Config, b: &Config) -> Result<()> {
    let facts = |c: &Config| {
        [
            ("channels", vec![c.channels]),
            ("images", c.image.to_vec()),
            ("tokens", vec![c.tokens()]),
            ("dim", vec![c.dim]),
            ("layers", vec![c.depth]),
            ("classes", vec![c.classes]),
            ("elements of the embedding", c.embedding_len().into_iter().collect()),
        ]
    };
    for ((what, a), (_, b)) in facts(a).into_iter().zip(facts(b)) {
        let shown = |sizes: &[usize]| match sizes {
            [] => "none".to_owned(),
            sizes => sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join("×"),
        };
        ensure!(a == b, "the models are of different shapes, {what}: {} and {}", shown(&a), shown(&b));
    }
    Ok(())
}

/// The size of a model as a packed file, in bytes.
pub(super) fn file_bytes(loaded: &Loaded) -> Result<u64> {
    let mut count = Count(0);
    loaded.write_packed(&mut count)?;
    Ok(count.0)
}

/// Counts the bytes that are written.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
