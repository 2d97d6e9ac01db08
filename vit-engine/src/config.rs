//! Hyper-parameters. Everything in which checkpoints differ is a field of [`Config`].
use core::fmt;

use vit_kernels::Activation;

use crate::weights::LayerMatrix;

/// The hyper-parameters of a Vision Transformer: plain data, checked by [`validate`](Self::validate).
///
/// The order of the tokens is class, distillation, registers, patches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Channels of the image.
    pub channels: usize,
    /// Height and width of the image in pixels. Pixels at the right and at the bottom that do not fill a patch are
    /// ignored.
    pub image: [usize; 2],
    /// Height and width of a patch in pixels.
    pub patch: [usize; 2],
    /// The order in which the pixels of a patch are flattened.
    pub patch_order: PatchOrder,
    /// LayerNorm over a flattened patch, before the projection.
    pub patch_norm: bool,
    /// LayerNorm over a projected patch, before the position is added.
    pub embed_norm: bool,
    /// Whether there is a class token in front of the patches.
    pub class_token: bool,
    /// Whether a distillation token follows the class token.
    pub distillation_token: bool,
    /// Number of registers: learned tokens in front of the patches, behind the class and distillation tokens.
    pub registers: usize,
    /// Which tokens a learned position is added to.
    pub positions: Positions,
    /// LayerNorm over every token before the first layer.
    pub pre_norm: bool,
    /// Width of a token (the embedding dimension).
    pub dim: usize,
    /// Transformer layers.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of each head's queries, keys and values. heads × head_dim may differ from dim.
    pub head_dim: usize,
    /// The factor of the scores, usually 1/√head_dim.
    pub attention_scale: f32,
    /// LayerNorm over each head's queries and keys.
    pub qk_norm: bool,
    /// Whether the queries and keys of patches are rotated by their position (RoPE).
    pub rope: bool,
    /// Whether the scores have a relative position bias. It needs a class token and no other token besides patches.
    pub relative_bias: bool,
    /// LayerNorm over the outputs of all heads (the context), before the output projection.
    pub context_norm: bool,
    /// Whether attention has an output projection. Without it heads × head_dim must be dim.
    pub out_proj: bool,
    /// Whether the outputs of attention and feed-forward are scaled channel by channel (LayerScale).
    pub layer_scale: bool,
    /// Width of the feed-forward's hidden layer.
    pub mlp_dim: usize,
    /// Whether the hidden layer is activation(gate(x)) ⊙ up(x) instead of activation(up(x)).
    pub gated: bool,
    /// LayerNorm over the hidden layer.
    pub hidden_norm: bool,
    /// The activation of the feed-forward.
    pub activation: Activation,
    /// Which linear layers have biases.
    pub bias: Biases,
    /// The eps of every LayerNorm.
    pub norm_eps: f32,
    /// LayerNorm over every token after the last layer.
    pub final_norm: bool,
    /// The attention pool, if the model has one.
    pub attention_pool: Option<AttentionPool>,
    /// How the embedding, one vector for the image, is read from the tokens; `None` if the model has none.
    pub embedding: Option<Readout>,
    /// Width of the embedding after its projection; 0 without a projection.
    pub projection: usize,
    /// How the input of the head is read from the tokens.
    pub logits: Readout,
    /// Whether the distillation token has its own head. Then the logits are the mean of both heads, and their readout
    /// must be [`Pool::ClassAndDistillation`] without a norm.
    pub distillation_head: bool,
    /// Number of outputs of the head; 0 without a head.
    pub classes: usize,
}

/// The order in which the pixels of a patch are flattened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PatchOrder {
    /// (row, column, channel), as in vit-pytorch.
    RowColumnChannel,
    /// (channel, row, column), as in convolutional patch embeddings (timm, Hugging Face).
    ChannelRowColumn,
}

/// Which tokens a learned position is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Positions {
    /// No tokens: the model has no learned positions.
    Absent,
    /// Patches.
    Patches,
    /// All tokens except registers.
    NotRegisters,
    /// All tokens.
    All,
}

/// How the tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readout {
    /// The pooling.
    pub pool: Pool,
    /// Whether LayerNorm follows. Embedding and logits share its parameters.
    pub norm: bool,
}

/// How the tokens of an image are pooled, after the final norm if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pool {
    /// The class token.
    Class,
    /// The mean of the class and the distillation token.
    ClassAndDistillation,
    /// The mean of all tokens, including those in front of the patches.
    MeanTokens,
    /// The mean of the patch tokens.
    MeanPatches,
    /// The maximum of the patch tokens, channel by channel.
    MaxPatches,
    /// The mean of [`MeanPatches`](Self::MeanPatches) and [`MaxPatches`](Self::MaxPatches).
    MeanMaxPatches,
    /// The class token followed by the mean of the patch tokens: 2·dim wide.
    ClassThenMeanPatches,
    /// The attention pool.
    Attention,
}

/// A learned query that attends to the tokens (Lee et al. 2019, <https://arxiv.org/abs/1810.00825>), as in SigLIP: a =
/// out(attention(query(probe), tokens)), pooled = a + down(activation(up(norm(a)))).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionPool {
    /// Number of heads, each dim/heads wide.
    pub heads: usize,
    /// Width of the hidden layer.
    pub mlp_dim: usize,
    /// Whether it also attends to the tokens in front of the patches.
    pub all_tokens: bool,
}

impl AttentionPool {
    /// The range of tokens that it attends to, in a model with that config.
    pub const fn tokens(&self, config: &Config) -> core::ops::Range<usize> {
        (if self.all_tokens { 0 } else { config.prefix() })..config.tokens()
    }
}

/// Which linear layers have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Biases {
    /// The patch projection.
    pub patch: bool,
    /// Queries.
    pub query: bool,
    /// Keys.
    pub key: bool,
    /// Values.
    pub value: bool,
    /// Attention's output projection.
    pub out: bool,
    /// All layers of the feed-forward.
    pub mlp: bool,
    /// The embedding's projection.
    pub projection: bool,
    /// The head.
    pub head: bool,
}

impl Biases {
    /// Biases in all layers, or in none.
    pub const fn all(bias: bool) -> Self {
        Self { patch: bias, query: bias, key: bias, value: bias, out: bias, mlp: bias, projection: bias, head: bias }
    }
}

impl Config {
    /// The plain Vision Transformer (Dosovitskiy et al. 2020, <https://arxiv.org/abs/2010.11929>): class token,
    /// positions for all tokens, biases in all layers, exact GELU, a feed-forward of 4·dim, a head on the class token.
    ///
    /// Use it as a base for models that differ in a few fields: `Config { layer_scale: true, ..Config::plain(…) }`.
    ///
    /// ```
    /// use vit_engine::{Config, Model, Precision};
    ///
    /// // DeiT-Ti/16
    /// let config = Config { classes: 1000, ..Config::plain([224, 224], [16, 16], 192, 12, 3) };
    /// assert_eq!((config.tokens(), config.mlp_dim), (197, 768));
    /// assert_eq!(Model::bytes(&config, Precision::F32)? / 4, 5_718_960); // 5,717,416 parameters, and the head padded to 1008 classes
    /// # Ok::<(), vit_engine::ConfigError>(())
    /// ```
    pub fn plain(image: [usize; 2], patch: [usize; 2], dim: usize, depth: usize, heads: usize) -> Self {
        let head_dim = dim.checked_div(heads).unwrap_or(0);
        Self {
            channels: 3,
            image,
            patch,
            patch_order: PatchOrder::ChannelRowColumn,
            patch_norm: false,
            embed_norm: false,
            class_token: true,
            distillation_token: false,
            registers: 0,
            positions: Positions::All,
            pre_norm: false,
            dim,
            depth,
            heads,
            head_dim,
            attention_scale: 1.0 / libm::sqrtf(head_dim as f32),
            qk_norm: false,
            rope: false,
            relative_bias: false,
            context_norm: false,
            out_proj: true,
            layer_scale: false,
            mlp_dim: dim.saturating_mul(4),
            gated: false,
            hidden_norm: false,
            activation: Activation::Gelu,
            bias: Biases::all(true),
            norm_eps: 1e-6,
            final_norm: true,
            attention_pool: None,
            embedding: Some(Readout { pool: Pool::Class, norm: false }),
            projection: 0,
            logits: Readout { pool: Pool::Class, norm: false },
            distillation_head: false,
            classes: 0,
        }
    }

    /// The part of [`validate`](Self::validate) that checks sizes. If it succeeds, no accessor divides by 0 or
    /// overflows.
    pub(crate) const fn validate_sizes(&self) -> Result<(), ConfigError> {
        let mut sizes = [
            (self.channels, "channels"),
            (self.image[0], "image height"),
            (self.image[1], "image width"),
            (self.patch[0], "patch height"),
            (self.patch[1], "patch width"),
            (self.dim, "dim"),
            (self.heads, "heads"),
            (self.head_dim, "head_dim"),
            (self.mlp_dim, "mlp_dim"),
            (1, "the attention pool's heads"),
            (1, "the attention pool's mlp_dim"),
        ];
        if let Some(pool) = self.attention_pool {
            (sizes[9].0, sizes[10].0) = (pool.heads, pool.mlp_dim);
        }
        // A `for` cannot run in a `const fn`.
        let mut index = 0;
        while index < sizes.len() {
            match sizes[index] {
                (0, name) => return Err(ConfigError::Zero(name)),
                (size, _) if size > Self::LARGEST => return Err(ConfigError::TooLarge),
                _ => index += 1,
            }
        }
        let may_be_0 = max(max(self.classes, self.depth), max(self.registers, self.projection));
        if may_be_0 > Self::LARGEST || !self.products_fit() {
            return Err(ConfigError::TooLarge);
        }
        if self.image[0] < self.patch[0] || self.image[1] < self.patch[1] {
            return Err(ConfigError::NoPatch { image: self.image, patch: self.patch });
        }
        Ok(())
    }

    /// Checks that the hyper-parameters describe a model.
    ///
    /// # Errors
    /// The first problem that it finds.
    pub const fn validate(&self) -> Result<(), ConfigError> {
        // A `?` cannot stand in a `const fn`.
        if let Err(error) = self.validate_sizes() {
            return Err(error);
        }
        if !self.out_proj && (self.inner() != self.dim || self.layer_scale || self.context_norm) {
            return Err(ConfigError::NeedsProjection { inner: self.inner(), dim: self.dim });
        }
        if self.distillation_token && !self.class_token {
            return Err(ConfigError::NoToken("a distillation token needs a class token"));
        }
        let (embedding, logits) = (self.embedding, self.logits_readout());
        if let Some(readout) = embedding
            && let Err(error) = self.has_what_is_pooled(readout.pool)
        {
            return Err(error);
        }
        if let Some(readout) = logits
            && let Err(error) = self.has_what_is_pooled(readout.pool)
        {
            return Err(error);
        }
        if let Some(pool) = self.attention_pool
            && !self.dim.is_multiple_of(pool.heads)
        {
            return Err(ConfigError::PoolHeads);
        }
        if self.distillation_head && !self.distillation_token {
            return Err(ConfigError::NoToken("distillation_head needs a distillation token"));
        }
        if let (true, Some(logits)) = (self.distillation_head, logits)
            && !matches!(logits, Readout { pool: Pool::ClassAndDistillation, norm: false })
        {
            return Err(ConfigError::DistillationHead(logits));
        }
        if let (Some(embedding), Some(logits)) = (embedding, logits)
            && embedding.norm
            && logits.norm
            && embedding.pool.width(self.dim) != logits.pool.width(self.dim)
        {
            let [embedding, logits] = [embedding.pool.width(self.dim), logits.pool.width(self.dim)];
            return Err(ConfigError::HeadNorm { embedding, logits });
        }
        if self.rope && !self.head_dim.is_multiple_of(2) {
            return Err(ConfigError::Odd);
        }
        if self.relative_bias && (!self.class_token || self.prefix() != 1) {
            return Err(ConfigError::NoToken(
                "relative position biases need a class token, and no tokens besides it and the patches",
            ));
        }
        if !(self.attention_scale.is_finite() && self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(ConfigError::NotFinite);
        }
        Ok(())
    }

    /// The readout of the logits, if there is a head.
    pub(crate) const fn logits_readout(&self) -> Option<Readout> {
        if self.classes > 0 { Some(self.logits) } else { None }
    }

    /// The readouts (embedding, logits) that end with the norm, which they share.
    pub(crate) fn normed_readouts(&self) -> impl Iterator<Item = Readout> {
        self.embedding.into_iter().chain(self.logits_readout()).filter(|readout| readout.norm)
    }

    const fn has_what_is_pooled(&self, pool: Pool) -> Result<(), ConfigError> {
        match pool {
            Pool::Class | Pool::ClassThenMeanPatches if !self.class_token => {
                Err(ConfigError::NoToken("a readout pools the class token, but the model has none"))
            }
            Pool::ClassAndDistillation if !self.distillation_token => {
                Err(ConfigError::NoToken("a readout pools the distillation token, but the model has none"))
            }
            Pool::Attention => match self.attention_pool {
                Some(_) => Ok(()),
                None => Err(ConfigError::NoToken("a readout uses the attention pool, but the model has none")),
            },
            _ => Ok(()),
        }
    }

    /// The largest allowed size. Products of two sizes fit 64 bits.
    const LARGEST: usize = 1 << 24;

    /// Whether the products in the accessors below fit a `usize`.
    const fn products_fit(&self) -> bool {
        let patch_len = checked_product(&[self.channels, self.patch[0], self.patch[1]]);
        let kv = checked_product(&[self.heads, self.head_dim, 2]);
        let Some(pixels) = checked_product(&self.image) else { return false };
        patch_len.is_some() && kv.is_some() && pixels.checked_add(Self::LARGEST + 2).is_some()
    }

    /// The same model for images of another size.
    pub fn with_image(self, image: [usize; 2]) -> Self {
        Self { image, ..self }
    }

    /// Rows and columns of the patch grid.
    pub const fn grid(&self) -> [usize; 2] {
        [self.image[0] / self.patch[0], self.image[1] / self.patch[1]]
    }

    /// Number of patches of an image.
    pub const fn patches(&self) -> usize {
        self.grid()[0] * self.grid()[1]
    }

    /// Number of tokens in front of the patches.
    pub const fn prefix(&self) -> usize {
        self.special_tokens() + self.registers
    }

    /// Number of class and distillation tokens: 0, 1 or 2.
    const fn special_tokens(&self) -> usize {
        self.class_token as usize + self.distillation_token as usize
    }

    /// Number of tokens of an image.
    pub const fn tokens(&self) -> usize {
        self.prefix() + self.patches()
    }

    /// Rows of the position embedding for tokens in front of the patches.
    pub fn position_prefix(&self) -> usize {
        match self.positions {
            Positions::Absent | Positions::Patches => 0,
            Positions::NotRegisters => self.special_tokens(),
            Positions::All => self.prefix(),
        }
    }

    /// Elements of a flattened patch.
    pub const fn patch_len(&self) -> usize {
        self.channels * self.patch[0] * self.patch[1]
    }

    /// Width of all heads together: heads × head_dim.
    pub const fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of the embedding; `None` if the model has none.
    pub const fn embedding_len(&self) -> Option<usize> {
        let Some(readout) = self.embedding else { return None };
        Some(if self.projection > 0 { self.projection } else { readout.pool.width(self.dim) })
    }
}

impl Pool {
    /// Elements of the pooled vector.
    pub const fn width(self, dim: usize) -> usize {
        if matches!(self, Self::ClassThenMeanPatches) { 2 * dim } else { dim }
    }
}

/// The product; `None` on overflow.
pub(crate) const fn checked_product(factors: &[usize]) -> Option<usize> {
    let (mut product, mut index) = (1usize, 0);
    while index < factors.len() {
        let Some(next) = product.checked_mul(factors[index]) else { return None };
        (product, index) = (next, index + 1);
    }
    Some(product)
}

/// [`Ord::max`] for a `const fn`.
pub(crate) const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

pub(crate) const fn min(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

/// Why hyper-parameters are invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// This size is 0.
    Zero(&'static str),
    /// A size, or a product of sizes, does not fit the address space of this machine.
    TooLarge,
    /// The image is smaller than a patch.
    NoPatch {
        /// Height and width of the image.
        image: [usize; 2],
        /// Height and width of a patch.
        patch: [usize; 2],
    },
    /// Without an output projection, heads × head_dim must be dim, and the model cannot have LayerScale or
    /// `context_norm`.
    NeedsProjection {
        /// heads × head_dim.
        inner: usize,
        /// dim.
        dim: usize,
    },
    /// The model lacks a token or pool that another field needs.
    NoToken(&'static str),
    /// With a head for the distillation token, the readout of the logits must be [`Pool::ClassAndDistillation`] without
    /// a norm. It is this one.
    DistillationHead(Readout),
    /// Embedding and logits share one norm, but their pooled vectors have different widths.
    HeadNorm {
        /// Width of the vector pooled for the embedding.
        embedding: usize,
        /// Width of the vector pooled for the logits.
        logits: usize,
    },
    /// dim is not a multiple of the attention pool's heads.
    PoolHeads,
    /// Rotary positions need an even head_dim.
    Odd,
    /// The attention scale or eps is not a finite number, or eps is negative.
    NotFinite,
    /// The model does not have this matrix, which was to be kept in f32.
    NoMatrix(LayerMatrix),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero(name) => write!(f, "{name} is 0"),
            Self::TooLarge => write!(f, "the model is too large for the address space of this machine"),
            Self::NoPatch { image: [h, w], patch: [ph, pw] } => {
                write!(f, "an image of {h}×{w} is smaller than a patch of {ph}×{pw}")
            }
            Self::NeedsProjection { inner, dim } => {
                write!(
                    f,
                    "without an output projection heads × head_dim must be dim ({dim}, found {inner}), without \
                     layer scale and without context_norm"
                )
            }
            Self::NoToken(what) => f.write_str(what),
            Self::DistillationHead(Readout { pool, norm }) => write!(
                f,
                "with distillation_head the logits must pool ClassAndDistillation without a norm, found \
                 {pool:?}{}",
                if *norm { " with a norm" } else { "" }
            ),
            Self::HeadNorm { embedding, logits } => write!(
                f,
                "embedding and logits share one norm, but their pooled vectors have {embedding} and {logits} elements"
            ),
            Self::PoolHeads => write!(f, "dim is not a multiple of the attention pool's heads"),
            Self::Odd => write!(f, "rotary positions need an even head_dim"),
            Self::NotFinite => write!(f, "the attention scale and eps must be finite, and eps must not be negative"),
            Self::NoMatrix(matrix) => write!(f, "the model has no {matrix} to keep in f32"),
        }
    }
}

impl core::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tiny;

    #[test]
    fn readouts_that_contradict_each_other() {
        let readout = |pool, norm| Readout { pool, norm };
        let both = readout(Pool::ClassAndDistillation, false);
        let distilled = Config { distillation_token: true, distillation_head: true, logits: both, ..tiny() };
        assert_eq!(distilled.validate(), Ok(()));
        for logits in [readout(Pool::Class, false), readout(Pool::MeanTokens, false), Readout { norm: true, ..both }] {
            let config = Config { logits, ..distilled };
            assert_eq!(config.validate(), Err(ConfigError::DistillationHead(logits)));
            assert_eq!(Config { classes: 0, ..config }.validate(), Ok(()));
        }

        let [narrow, wide] = [Pool::Class, Pool::ClassThenMeanPatches];
        let config = |embedding, logits| Config { embedding: Some(embedding), logits, ..tiny() };
        let error = ConfigError::HeadNorm { embedding: 24, logits: 48 };
        assert_eq!(config(readout(narrow, true), readout(wide, true)).validate(), Err(error));
        for (embedding, logits) in [
            (readout(narrow, true), readout(wide, false)),
            (readout(narrow, false), readout(wide, true)),
            (readout(wide, true), readout(wide, true)),
            (readout(narrow, true), readout(Pool::MeanPatches, true)),
        ] {
            assert_eq!(config(embedding, logits).validate(), Ok(()));
        }
    }
}
