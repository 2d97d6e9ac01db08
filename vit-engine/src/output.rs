//! What a user may ask for.
use core::fmt;
use core::str::FromStr;

use crate::config::{Config, Pool};

/// The output of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// The head's outputs, \[batch, classes\].
    Logits,
    /// The class token after the final norm (where the model has one), \[batch, dim\].
    Class,
    /// The patch tokens after the final norm (where the model has one), \[batch, patches, dim\].
    Patches,
    /// The registers after the final norm (where the model has one), \[batch, registers, dim\].
    Registers,
    /// The vector that stands for the image, \[batch, embedding_len\].
    Embedding,
    /// All tokens after that many layers, before the final norm, \[batch, tokens, dim\]; 0 is what goes into the first.
    Layer(usize),
    /// What every query gives to every key, after the softmax, \[batch, depth, heads, tokens, tokens\].
    Attention,
}

impl Output {
    /// Elements of the output for one image; `None` where the model does not have it.
    pub fn len(self, config: &Config) -> Option<usize> {
        let c = config;
        match self {
            Self::Logits => Some(c.classes).filter(|classes| *classes > 0),
            Self::Class => c.class_token.then_some(c.dim),
            Self::Patches => c.patches().checked_mul(c.dim),
            Self::Registers => c.registers.checked_mul(c.dim).filter(|len| *len > 0),
            Self::Embedding => c.embedding_len(),
            Self::Layer(layer) if layer <= c.depth => c.tokens().checked_mul(c.dim),
            Self::Layer(_) => None,
            Self::Attention => {
                let map = c.tokens().checked_mul(c.tokens())?;
                c.depth.checked_mul(c.heads)?.checked_mul(map).filter(|len| *len > 0)
            }
        }
    }

    /// Layers that have to run.
    pub(crate) fn layers(self, config: &Config) -> usize {
        match self {
            Self::Layer(layer) => layer,
            _ => config.depth,
        }
    }

    /// How many of an image's first tokens the last layer has to deliver: the other rows of it are not computed.
    pub(crate) fn rows_of_last_layer(self, config: &Config) -> usize {
        match self {
            Self::Logits => config.logits.pool.rows(config),
            Self::Embedding => config.embedding.map_or(0, |readout| readout.pool.rows(config)),
            Self::Class => 1,
            Self::Registers => config.prefix(),
            Self::Patches | Self::Layer(_) | Self::Attention => config.tokens(),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Logits => "logits",
            Self::Class => "class",
            Self::Patches => "patches",
            Self::Registers => "registers",
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::Layer(layer) => return write!(f, "layer:{layer}"),
        })
    }
}

impl FromStr for Output {
    type Err = UnknownOutput;

    /// Reads what `Display` writes: 'patches', 'layer:3'.
    fn from_str(text: &str) -> Result<Self, UnknownOutput> {
        Ok(match text {
            "logits" => Self::Logits,
            "class" => Self::Class,
            "patches" => Self::Patches,
            "registers" => Self::Registers,
            "embedding" => Self::Embedding,
            "attention" => Self::Attention,
            _ => Self::Layer(text.strip_prefix("layer:").and_then(|layer| layer.parse().ok()).ok_or(UnknownOutput)?),
        })
    }
}

/// A text that names no features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownOutput;

impl fmt::Display for UnknownOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "there are logits, class, patches, registers, embedding, attention, and layer:0, the input of the first \
             layer, layer:1, …",
        )
    }
}

impl core::error::Error for UnknownOutput {}

impl Pool {
    /// How many of an image's first tokens it reads.
    fn rows(self, config: &Config) -> usize {
        match self {
            Self::Class => 1,
            Self::ClassAndDistillation => 2,
            _ => config.tokens(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn they_are_read_as_they_are_written() {
        for text in ["logits", "class", "patches", "registers", "embedding", "layer:0", "layer:12", "attention"] {
            assert_eq!(text.parse::<Output>().unwrap().to_string(), text);
        }
        for text in ["", "layer", "layer:", "layer:-1", "layer:x", "Logits", "pooler"] {
            assert_eq!(text.parse::<Output>(), Err(UnknownOutput));
        }
    }
}
