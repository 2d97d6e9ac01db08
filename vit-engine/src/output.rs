//! What a forward pass can output.
use core::fmt;
use core::str::FromStr;

use crate::config::{Config, Pool, checked_product};

/// What a forward pass computes.
///
/// `Display` and `FromStr` are the names of the command line's `--features`.
/// ```
/// use vit_engine::{Config, Output};
///
/// let config = Config { classes: 1000, ..Config::plain([224, 224], [16, 16], 192, 12, 3) };
/// assert_eq!(Output::Logits.shape(&config), [1000]);
/// assert_eq!(Output::Patches.shape(&config), [196, 192]);
/// assert_eq!("layer:3".parse(), Ok(Output::Layer(3)));
/// assert_eq!(Output::Layer(3).shape(&config), [197, 192]);
/// assert_eq!(Output::Registers.len(&config), None); // this model has none
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// The outputs of the head, \[batch, classes\].
    Logits,
    /// The class token after the final norm (where the model has one), \[batch, dim\].
    Class,
    /// The patch tokens after the final norm (where the model has one), \[batch, patches, dim\].
    Patches,
    /// The registers after the final norm (where the model has one), \[batch, registers, dim\].
    Registers,
    /// One vector for the whole image, \[batch, embedding_len\].
    Embedding,
    /// All tokens after this many layers, without the final norm, \[batch, tokens, dim\]; 0 is the input of the first
    /// layer.
    Layer(usize),
    /// The tokens of [`Layer`](Self::Layer) for every number of layers from 0 on, \[batch, depth + 1, tokens, dim\].
    Layers,
    /// The attention probabilities of all layers (after the softmax), \[batch, depth, heads, queries, keys\]; queries
    /// and keys are all tokens.
    Attention,
    /// Those of one layer, \[batch, heads, queries, keys\]. Layers are counted from 1; this one attends to the tokens
    /// of [`Layer`](Self::Layer)(n − 1). Later layers do not run.
    AttentionOfLayer(usize),
    /// The probabilities with which the [attention pool](crate::AttentionPool)'s query attends, \[batch, heads, keys\]
    /// with the heads of the pool; the keys are [the tokens](crate::AttentionPool::tokens) that it attends to.
    PoolAttention,
}

impl Output {
    /// Elements of the output for one image; `None` if the model does not have this output.
    pub const fn len(self, config: &Config) -> Option<usize> {
        let c = config;
        let map = [c.heads, c.tokens(), c.tokens()];
        let len = match self {
            Self::Logits => Some(c.classes),
            Self::Class if c.class_token => Some(c.dim),
            Self::Patches => c.patches().checked_mul(c.dim),
            Self::Registers => c.registers.checked_mul(c.dim),
            Self::Embedding => c.embedding_len(),
            Self::Layer(layer) if layer <= c.depth => c.tokens().checked_mul(c.dim),
            Self::Layers => checked_product(&[c.depth.saturating_add(1), c.tokens(), c.dim]),
            Self::Attention => checked_product(&[c.depth, map[0], map[1], map[2]]),
            Self::AttentionOfLayer(layer) if 0 < layer && layer <= c.depth => checked_product(&map),
            Self::PoolAttention => match c.attention_pool {
                Some(pool) => {
                    let tokens = pool.tokens(c);
                    pool.heads.checked_mul(tokens.end - tokens.start)
                }
                None => None,
            },
            Self::Class | Self::Layer(_) | Self::AttentionOfLayer(_) => None,
        };
        match len {
            Some(0) => None,
            len => len,
        }
    }

    /// The shape of the output for one image: what is stated above, without the batch. Its product is
    /// [`len`](Self::len), where the model has this output.
    #[cfg(feature = "std")]
    pub fn shape(self, c: &Config) -> Vec<usize> {
        match self {
            Self::Logits => vec![c.classes],
            Self::Class => vec![c.dim],
            Self::Patches => vec![c.patches(), c.dim],
            Self::Registers => vec![c.registers, c.dim],
            Self::Embedding => c.embedding_len().into_iter().collect(),
            Self::Layer(_) => vec![c.tokens(), c.dim],
            Self::Layers => vec![c.depth + 1, c.tokens(), c.dim],
            Self::Attention => vec![c.depth, c.heads, c.tokens(), c.tokens()],
            Self::AttentionOfLayer(_) => vec![c.heads, c.tokens(), c.tokens()],
            Self::PoolAttention => {
                c.attention_pool.iter().flat_map(|pool| [pool.heads, pool.tokens(c).len()]).collect()
            }
        }
    }

    /// How many layers have to run.
    pub(crate) fn layers(self, config: &Config) -> usize {
        match self {
            Self::Layer(layer) | Self::AttentionOfLayer(layer) => layer,
            _ => config.depth,
        }
    }

    /// Where the attention maps of the layer with this index go: their place among those of each image, and how many
    /// layers' maps an image has. `None` if the output does not have them.
    pub(crate) fn place_of_maps(self, index: usize, config: &Config) -> Option<[usize; 2]> {
        match self {
            Self::Attention => Some([index, config.depth]),
            Self::AttentionOfLayer(layer) if layer == index + 1 => Some([0, 1]),
            _ => None,
        }
    }

    /// How many tokens, from the first on, the last layer computes for each image. The output does not need the others.
    pub(crate) fn rows_of_last_layer(self, config: &Config) -> usize {
        match self {
            Self::Logits => config.logits.pool.rows(config),
            Self::Embedding => config.embedding.map_or(0, |readout| readout.pool.rows(config)),
            Self::Class => 1,
            Self::Registers => config.prefix(),
            Self::Patches
            | Self::Layer(_)
            | Self::Layers
            | Self::Attention
            | Self::AttentionOfLayer(_)
            | Self::PoolAttention => config.tokens(),
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
            Self::PoolAttention => "pool-attention",
            Self::Layers => "layers",
            Self::Layer(layer) => return write!(f, "layer:{layer}"),
            Self::AttentionOfLayer(layer) => return write!(f, "attention:{layer}"),
        })
    }
}

impl FromStr for Output {
    type Err = UnknownOutput;

    /// Parses what `Display` writes, such as 'patches' or 'layer:3'.
    fn from_str(text: &str) -> Result<Self, UnknownOutput> {
        let number = |text: &str| text.parse().map_err(|_| UnknownOutput);
        Ok(match text {
            "logits" => Self::Logits,
            "class" => Self::Class,
            "patches" => Self::Patches,
            "registers" => Self::Registers,
            "embedding" => Self::Embedding,
            "attention" => Self::Attention,
            "pool-attention" => Self::PoolAttention,
            "layers" => Self::Layers,
            _ => match text.split_once(':') {
                Some(("layer", layer)) => Self::Layer(number(layer)?),
                Some(("attention", layer)) => Self::AttentionOfLayer(number(layer)?),
                _ => return Err(UnknownOutput),
            },
        })
    }
}

/// The text is not the name of an [`Output`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownOutput;

impl fmt::Display for UnknownOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected logits, class, patches, registers, embedding, layer:0 (the input of the first layer), \
             layer:N (the tokens after N layers), layers (all of these), attention:N (the maps of the N-th layer), \
             attention (those of all layers) or pool-attention",
        )
    }
}

impl core::error::Error for UnknownOutput {}

impl Pool {
    /// How many tokens of each image it reads, from the first on.
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
        for text in ["logits", "class", "patches", "registers", "embedding", "layer:0", "layer:12", "layers"]
            .into_iter()
            .chain(["attention", "attention:1", "pool-attention"])
        {
            assert_eq!(text.parse::<Output>().unwrap().to_string(), text);
        }
        for text in ["", "layer", "layer:", "layer:-1", "layer:x", "attention:", "patches:1", "Logits", "pooler"] {
            assert_eq!(text.parse::<Output>(), Err(UnknownOutput));
        }
    }
}
