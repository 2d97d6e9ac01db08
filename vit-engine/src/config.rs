//! Hyper-parameters. Nothing about a model is assumed: what checkpoints differ in stands here.
use core::fmt;

use vit_kernels::Gelu;

/// A Vision Transformer's hyper-parameters; plain data, checked by [`validate`](Self::validate).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Channels of the image.
    pub channels: usize,
    /// Height and width of the image in pixels, multiples of the patch's.
    pub image: [usize; 2],
    /// Height and width of a patch in pixels.
    pub patch: [usize; 2],
    /// In which order a patch's pixels are flattened.
    pub patch_order: PatchOrder,
    /// LayerNorm over a flattened patch, before the projection.
    pub patch_norm: bool,
    /// LayerNorm over a projected patch, before the position is added.
    pub embed_norm: bool,
    /// Whether a learned token is put in front of the patches.
    pub class_token: bool,
    /// Width of a token.
    pub dim: usize,
    /// Transformer layers.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a head's queries, keys and values; heads × head_dim need not be dim.
    pub head_dim: usize,
    /// Width of the feed-forward's hidden layer.
    pub mlp_dim: usize,
    /// Whether attention projects its output; without it heads × head_dim is dim.
    pub out_proj: bool,
    /// Which linear layers have biases.
    pub bias: Biases,
    /// What scores are multiplied by: 1/√head_dim as a rule.
    pub attention_scale: f32,
    /// The feed-forward's activation.
    pub activation: Gelu,
    /// The eps of every LayerNorm.
    pub norm_eps: f32,
    /// LayerNorm over every token after the last layer.
    pub final_norm: bool,
    /// What the head reads.
    pub pool: Pool,
    /// LayerNorm over what was pooled.
    pub head_norm: bool,
    /// Outputs of the head; 0 where there is none.
    pub classes: usize,
}

/// The order of a patch's pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchOrder {
    /// (row, column, channel), as vit-pytorch has it.
    RowColumnChannel,
    /// (channel, row, column), as convolutional patch embeddings (timm, Hugging Face) have it.
    ChannelRowColumn,
}

/// What the head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// The class token.
    Class,
    /// The mean of all tokens, the class token among them if there is one.
    MeanTokens,
    /// The mean of the patch tokens alone.
    MeanPatches,
}

/// Which linear layers have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Biases {
    /// The patch projection.
    pub patch: bool,
    /// Queries, keys and values.
    pub qkv: bool,
    /// Attention's output projection.
    pub out: bool,
    /// Both layers of the feed-forward.
    pub mlp: bool,
    /// The head.
    pub head: bool,
}

impl Config {
    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sizes = [
            (self.channels, "channels"),
            (self.image[0], "image height"),
            (self.image[1], "image width"),
            (self.patch[0], "patch height"),
            (self.patch[1], "patch width"),
            (self.dim, "dim"),
            (self.heads, "heads"),
            (self.head_dim, "head_dim"),
            (self.mlp_dim, "mlp_dim"),
        ];
        for (size, name) in sizes {
            match size {
                0 => return Err(ConfigError::Zero(name)),
                size if size > Self::LARGEST => return Err(ConfigError::TooLarge),
                _ => {}
            }
        }
        if self.classes > Self::LARGEST || self.depth > Self::LARGEST || !self.products_fit() {
            return Err(ConfigError::TooLarge);
        }
        if !self.image[0].is_multiple_of(self.patch[0]) || !self.image[1].is_multiple_of(self.patch[1]) {
            return Err(ConfigError::NotWholePatches { image: self.image, patch: self.patch });
        }
        if !self.out_proj && self.inner() != self.dim {
            return Err(ConfigError::NeedsProjection { inner: self.inner(), dim: self.dim });
        }
        if self.pool == Pool::Class && !self.class_token {
            return Err(ConfigError::NoClassToken);
        }
        if !(self.attention_scale.is_finite() && self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(ConfigError::NotFinite);
        }
        Ok(())
    }

    /// No model has a size above this one; products of two fit 64 bits with room to spare.
    const LARGEST: usize = 1 << 24;

    /// Whether what the accessors below multiply fits a `usize`.
    fn products_fit(&self) -> bool {
        let patch_len = self.channels.checked_mul(self.patch[0]).and_then(|len| len.checked_mul(self.patch[1]));
        let pixels = self.image[0].checked_mul(self.image[1]);
        let kv = self.heads.checked_mul(self.head_dim).and_then(|inner| inner.checked_mul(2));
        patch_len.is_some() && pixels.is_some_and(|pixels| pixels < usize::MAX) && kv.is_some()
    }

    /// Rows and columns of the grid of patches.
    pub fn grid(&self) -> [usize; 2] {
        [self.image[0] / self.patch[0], self.image[1] / self.patch[1]]
    }

    /// Patches of an image.
    pub fn patches(&self) -> usize {
        self.grid()[0] * self.grid()[1]
    }

    /// Tokens in front of the patches.
    pub fn prefix(&self) -> usize {
        usize::from(self.class_token)
    }

    /// Tokens of an image.
    pub fn tokens(&self) -> usize {
        self.prefix() + self.patches()
    }

    /// Values of a flattened patch.
    pub fn patch_len(&self) -> usize {
        self.channels * self.patch[0] * self.patch[1]
    }

    /// heads × head_dim.
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Why hyper-parameters make no model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigError {
    /// This size is 0.
    Zero(&'static str),
    /// A size, or what it leads to, does not fit this machine's address space.
    TooLarge,
    /// The image is not a whole number of patches.
    NotWholePatches {
        /// Height and width of the image.
        image: [usize; 2],
        /// Height and width of a patch.
        patch: [usize; 2],
    },
    /// Without an output projection, heads × head_dim has to be dim.
    NeedsProjection {
        /// heads × head_dim.
        inner: usize,
        /// dim.
        dim: usize,
    },
    /// The class token is to be pooled, and there is none.
    NoClassToken,
    /// The attention scale or eps is not a finite number, or eps is negative.
    NotFinite,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero(name) => write!(f, "{name} is 0"),
            Self::TooLarge => write!(f, "the model's sizes do not fit this machine's address space"),
            Self::NotWholePatches { image: [h, w], patch: [ph, pw] } => {
                write!(f, "an image of {h}×{w} is not a whole number of patches of {ph}×{pw}")
            }
            Self::NeedsProjection { inner, dim } => {
                write!(f, "heads × head_dim is {inner}; without an output projection it has to be dim, {dim}")
            }
            Self::NoClassToken => write!(f, "the class token is to be pooled, and the model has none"),
            Self::NotFinite => write!(f, "the attention scale and eps have to be finite, and eps not negative"),
        }
    }
}

impl core::error::Error for ConfigError {}
