//! Zero-shot classification, as CLIP (Radford et al. 2021, <https://arxiv.org/abs/2103.00020>) and SigLIP (Zhai et
//! al. 2023, <https://arxiv.org/abs/2303.15343>) do it: a class's logit is exp(logit_scale) · cosine + logit_bias, of
//! the picture's embedding and the text's.
use std::path::Path;

use anyhow::{Context, Result, ensure};
use vit_engine::Output;
use vit_engine::file::{Contrast, Loaded};
use vit_engine::logits::Probability;

use crate::embeddings::unit;
use crate::{inputs, npy};

pub(super) struct ZeroShot {
    /// \[classes, dim\], each of norm 1.
    texts: Vec<f64>,
    dim: usize,
    contrast: Contrast,
}

impl ZeroShot {
    /// Reads the embeddings of the classes' texts.
    pub(super) fn read(file: &Path, loaded: &Loaded) -> Result<Self> {
        let contrast = loaded.contrast.context(
            "the checkpoint has no logit_scale: embeddings of texts go with whole models of CLIP and SigLIP, not with \
             a vision tower alone",
        )?;
        let dim = Output::Embedding.len(loaded.config()).context("the model has no embedding")?;
        let read = || {
            let npy = npy::open(file)?;
            let shape = npy.shape().to_vec();
            let fits = matches!(*shape, [classes, found] if classes > 0 && found == dim);
            ensure!(fits, "the shape is {shape:?}, but this model takes [classes, {dim}]");
            Self::new(&npy.read()?, dim, contrast)
        };
        read().with_context(|| inputs::shown(file))
    }

    fn new(texts: &[f32], dim: usize, contrast: Contrast) -> Result<Self> {
        let broken = texts.iter().position(|x| !x.is_finite());
        ensure!(broken.is_none(), "the embedding of class {} has NaN or infinite numbers", broken.unwrap_or(0) / dim);
        Ok(Self { texts: texts.chunks_exact(dim).flat_map(unit).collect(), dim, contrast })
    }

    pub(super) fn classes(&self) -> usize {
        self.texts.len() / self.dim
    }

    /// A model with a bias was trained with a sigmoid for each pair of picture and text, one without with a softmax.
    pub(super) fn probability(&self) -> Probability {
        if self.contrast.logit_bias.is_some() { Probability::Sigmoid } else { Probability::Softmax }
    }

    /// The logits of a picture. NaN if its embedding is not finite.
    pub(super) fn logits(&self, row: &[f32]) -> Vec<f32> {
        let image = unit(row);
        let cosine = |text: &[f64]| text.iter().zip(&image).map(|(x, y)| x * y).sum::<f64>();
        let logit = |text: &[f64]| self.contrast.logit(cosine(text)) as f32;
        self.texts.chunks_exact(self.dim).map(logit).collect()
    }
}
