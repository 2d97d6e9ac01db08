//! What parameters a model of some config has, and in which order they stand in memory: that of their use, so that what
//! is fetched ahead is the next matrix.
use crate::config::Config;

/// A parameter: a matrix \[out, in\], or a vector seen as \[1, len\].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Param {
    /// The part of the model.
    pub site: Site,
    /// Its weight or its bias.
    pub part: Part,
}

/// Weight or bias; tokens, positions and scales are weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// A matrix, a norm's gamma, a token, the positions.
    Weight,
    /// A bias, a norm's beta.
    Bias,
}

/// A part of the model that has parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Site {
    /// LayerNorm over a flattened patch.
    PatchNorm,
    /// Patch projection, \[dim, patch_len\] in the config's patch order.
    Patch,
    /// LayerNorm over a projected patch.
    EmbedNorm,
    /// The class token, \[1, dim\].
    ClassToken,
    /// The distillation token, \[1, dim\].
    DistillationToken,
    /// \[registers, dim\].
    Registers,
    /// LayerNorm over every token before the layers.
    PreNorm,
    /// A part of a layer.
    Layer(usize, LayerSite),
    /// LayerNorm over every token at the end.
    FinalNorm,
    /// A part of the attention pool.
    Pool(PoolSite),
    /// LayerNorm over what was pooled.
    HeadNorm,
    /// The embedding's projection, \[projection, width of the pool\].
    Projection,
    /// The head, \[classes, width of the pool\].
    Head,
    /// The head of the distillation token, \[classes, dim\].
    DistillationHead,
    /// The position embedding, \[position_prefix + patches, dim\]. It depends on the image's size.
    Positions,
    /// The cosines and then the sines by which queries and keys are rotated, \[patches, head_dim\]. They depend on the
    /// image's size.
    Rope,
}

/// A part of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerSite {
    /// LayerNorm before attention.
    AttentionNorm,
    /// \[heads·head_dim, dim\].
    Key,
    /// \[heads·head_dim, dim\].
    Value,
    /// LayerNorm over a head's key.
    KeyNorm,
    /// \[heads·head_dim, dim\].
    Query,
    /// LayerNorm over a head's query.
    QueryNorm,
    /// The biases of [`RelativeBias`](vit_kernels::RelativeBias), a row a head.
    RelativeBias,
    /// LayerNorm over what the heads give.
    MixedNorm,
    /// \[dim, heads·head_dim\].
    Out,
    /// What scales attention's part of the residual, \[1, dim\].
    AttentionScale,
    /// LayerNorm before the feed-forward.
    MlpNorm,
    /// \[mlp_dim, dim\].
    Gate,
    /// \[mlp_dim, dim\].
    Up,
    /// LayerNorm over the hidden layer.
    HiddenNorm,
    /// \[dim, mlp_dim\].
    Down,
    /// What scales the feed-forward's part of the residual, \[1, dim\].
    MlpScale,
}

/// A part of the attention pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolSite {
    /// What the query is made of, \[1, dim\].
    Probe,
    /// \[dim, dim\].
    Query,
    /// \[dim, dim\].
    Key,
    /// \[dim, dim\].
    Value,
    /// \[dim, dim\].
    Out,
    /// LayerNorm before the feed-forward.
    Norm,
    /// \[mlp_dim, dim\].
    Up,
    /// \[dim, mlp_dim\].
    Down,
}

/// What stands at a site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    /// Rows of f32.
    Rows { rows: usize, cols: usize },
    /// gamma and beta.
    Norm { len: usize },
    /// A matrix \[n, k\] and its bias.
    Linear { n: usize, k: usize, bias: bool },
    /// Keys \[n, k\] and then values \[n, k\] in one matrix. If one has a bias, the other's is 0 where it has none.
    KeysValues { n: usize, k: usize, bias: [bool; 2] },
}

/// What a layer has, in the order of memory. Values stand with the keys.
pub(crate) fn layer(c: &Config) -> [(LayerSite, Option<Shape>); 15] {
    use LayerSite::*;
    let (inner, mlp) = (c.inner(), c.mlp_dim);
    let norm = |len| Shape::Norm { len };
    let scale = c.layer_scale.then_some(Shape::Rows { rows: 1, cols: c.dim });
    let linear = |n, k, bias| Shape::Linear { n, k, bias };
    let relative = || vit_kernels::RelativeBias::row_len(c.grid()).unwrap_or(usize::MAX);
    [
        (AttentionNorm, Some(norm(c.dim))),
        (Key, Some(Shape::KeysValues { n: inner, k: c.dim, bias: [c.bias.key, c.bias.value] })),
        (KeyNorm, c.qk_norm.then_some(norm(c.head_dim))),
        (Query, Some(linear(inner, c.dim, c.bias.query))),
        (QueryNorm, c.qk_norm.then_some(norm(c.head_dim))),
        (RelativeBias, c.relative_bias.then(|| Shape::Rows { rows: c.heads, cols: relative() })),
        (MixedNorm, c.mixed_norm.then_some(norm(inner))),
        (Out, c.out_proj.then_some(linear(c.dim, inner, c.bias.out))),
        (AttentionScale, scale),
        (MlpNorm, Some(norm(c.dim))),
        (Gate, c.gated.then_some(linear(mlp, c.dim, c.bias.mlp))),
        (Up, Some(linear(mlp, c.dim, c.bias.mlp))),
        (HiddenNorm, c.hidden_norm.then_some(norm(mlp))),
        (Down, Some(linear(c.dim, mlp, c.bias.mlp))),
        (MlpScale, scale),
    ]
}

/// What comes before the layers, in the order of memory.
pub(crate) fn before_layers(c: &Config) -> [(Site, Option<Shape>); 7] {
    let row = |rows: usize| (rows > 0).then_some(Shape::Rows { rows, cols: c.dim });
    [
        (Site::PatchNorm, c.patch_norm.then_some(Shape::Norm { len: c.patch_len() })),
        (Site::Patch, Some(Shape::Linear { n: c.dim, k: c.patch_len(), bias: c.bias.patch })),
        (Site::EmbedNorm, c.embed_norm.then_some(Shape::Norm { len: c.dim })),
        (Site::ClassToken, row(c.class_token.into())),
        (Site::DistillationToken, row(c.distillation_token.into())),
        (Site::Registers, row(c.registers)),
        (Site::PreNorm, c.pre_norm.then_some(Shape::Norm { len: c.dim })),
    ]
}

/// What comes after the layers, in the order of memory. The pool's values stand with its keys.
pub(crate) fn after_layers(c: &Config) -> [(Site, Option<Shape>); 12] {
    let dim = c.dim;
    let norm = |len| Shape::Norm { len };
    let linear = |n, k, bias| Shape::Linear { n, k, bias };
    let pool = |shape: Shape| c.attention_pool.map(|_| shape);
    let hidden = c.attention_pool.map_or(0, |pool| pool.mlp_dim);
    let embedding = c.embedding.filter(|_| c.projection > 0);
    let logits = (c.classes > 0).then_some(c.logits);
    let normed = c.embedding.into_iter().chain(logits).find(|readout| readout.norm);
    [
        (Site::FinalNorm, c.final_norm.then_some(norm(dim))),
        (Site::Pool(PoolSite::Probe), pool(Shape::Rows { rows: 1, cols: dim })),
        (Site::Pool(PoolSite::Query), pool(linear(dim, dim, true))),
        (Site::Pool(PoolSite::Key), pool(Shape::KeysValues { n: dim, k: dim, bias: [true; 2] })),
        (Site::Pool(PoolSite::Out), pool(linear(dim, dim, true))),
        (Site::Pool(PoolSite::Norm), pool(norm(dim))),
        (Site::Pool(PoolSite::Up), pool(linear(hidden, dim, true))),
        (Site::Pool(PoolSite::Down), pool(linear(dim, hidden, true))),
        (Site::HeadNorm, normed.map(|readout| norm(readout.pool.width(dim)))),
        (Site::Projection, embedding.map(|r| linear(c.projection, r.pool.width(dim), c.bias.projection))),
        (Site::Head, logits.map(|r| linear(c.classes, r.pool.width(dim), c.bias.head))),
        (Site::DistillationHead, logits.filter(|_| c.distillation_head).map(|_| linear(c.classes, dim, c.bias.head))),
    ]
}

/// What depends on the image's size.
pub(crate) fn tables(c: &Config) -> [(Site, Option<Shape>); 2] {
    use crate::config::Positions;
    let positions = Shape::Rows { rows: c.position_prefix() + c.patches(), cols: c.dim };
    [
        (Site::Positions, (c.positions != Positions::Absent).then_some(positions)),
        (Site::Rope, c.rope.then(|| Shape::Rows { rows: c.patches(), cols: c.head_dim })),
    ]
}

impl Site {
    /// The site of the values that stand with these keys.
    pub(crate) fn values(self) -> Self {
        match self {
            Self::Layer(index, _) => Self::Layer(index, LayerSite::Value),
            _ => Self::Pool(PoolSite::Value),
        }
    }

    /// Whether it depends on the image's size.
    pub fn is_table(self) -> bool {
        matches!(self, Self::Positions | Self::Rope)
    }
}

/// Calls `visit` with every parameter a model of this config has, and its shape.
///
/// # Errors
/// The first that `visit` gives.
pub fn for_each_param<E>(config: &Config, mut visit: impl FnMut(Param, [usize; 2]) -> Result<(), E>) -> Result<(), E> {
    let mut site = |site: Site, shape: Option<Shape>| {
        let mut part = |site, part, rows, cols| visit(Param { site, part }, [rows, cols]);
        let mut linear = |site, n, k, bias: bool| {
            part(site, Part::Weight, n, k)?;
            if bias { part(site, Part::Bias, 1, n) } else { Ok(()) }
        };
        match shape {
            None => Ok(()),
            Some(Shape::Rows { rows, cols }) => part(site, Part::Weight, rows, cols),
            Some(Shape::Norm { len }) => linear(site, 1, len, false).and_then(|()| part(site, Part::Bias, 1, len)),
            Some(Shape::Linear { n, k, bias }) => linear(site, n, k, bias),
            Some(Shape::KeysValues { n, k, bias: [key, value] }) => {
                linear(site, n, k, key)?;
                linear(site.values(), n, k, value)
            }
        }
    };
    before_layers(config).into_iter().try_for_each(|(at, shape)| site(at, shape))?;
    for index in 0..config.depth {
        layer(config).into_iter().try_for_each(|(at, shape)| site(Site::Layer(index, at), shape))?;
    }
    let rest = after_layers(config).into_iter().chain(tables(config));
    rest.into_iter().try_for_each(|(at, shape)| site(at, shape))
}
