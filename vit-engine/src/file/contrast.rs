//! The scale and the bias of models that were trained to match pictures and texts.
use super::safetensors::Tensors;

/// How the cosine of a picture's and a text's embedding becomes a logit, in CLIP, SigLIP and their kin: the
/// checkpoint's own numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrast {
    /// The logarithm of what cosines are multiplied by.
    pub logit_scale: f32,
    /// What is added. Models that have it were trained with a sigmoid for each pair, others with a softmax over all
    /// texts.
    pub logit_bias: Option<f32>,
}

impl Contrast {
    /// exp(`logit_scale`) · cosine + `logit_bias`.
    pub fn logit(&self, cosine: f64) -> f64 {
        f64::from(self.logit_scale).exp() * cosine + f64::from(self.logit_bias.unwrap_or(0.0))
    }
}

/// The scalars `logit_scale` and `logit_bias`, as transformers and OpenCLIP store them; `None` without a scale.
pub(super) fn read(tensors: &Tensors<'_>) -> Option<Contrast> {
    Some(Contrast { logit_scale: tensors.scalar("logit_scale")?, logit_bias: tensors.scalar("logit_bias") })
}
