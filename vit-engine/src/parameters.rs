//! What parameters a model of some config has, and in which order they stand in memory: that of their use, so that what
//! is fetched ahead is the next matrix.
use crate::config::{Config, Positions, Readout};

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
#[non_exhaustive]
pub enum Part {
    /// A matrix, a norm's gamma, a token, the positions.
    Weight,
    /// A bias, a norm's beta.
    Bias,
}

/// A part of the model that has parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
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
#[non_exhaustive]
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
    ContextNorm,
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
#[non_exhaustive]
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

/// Parameters that stand together in a model's memory, with their shapes. `S` names parts of the model: a [`Site`], or
/// within a layer a [`LayerSite`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Entry<S> {
    /// Rows of f32.
    Rows { site: S, rows: usize, cols: usize },
    /// gamma and beta.
    Norm { site: S, len: usize },
    /// A matrix \[n, k\] and its bias.
    Linear { site: S, n: usize, k: usize, bias: bool },
    /// Keys \[n, k\] and then values \[n, k\] in one matrix. If one has a bias, the other's is 0 where it has none.
    KeysValues { sites: [S; 2], n: usize, k: usize, bias: [bool; 2] },
}

impl<S: Copy + PartialEq> Entry<S> {
    /// Whether it holds the parameters of exactly these sites, in this order.
    pub(crate) fn holds(&self, sites: &[S]) -> bool {
        match self {
            Self::Rows { site, .. } | Self::Norm { site, .. } | Self::Linear { site, .. } => sites == [*site],
            Self::KeysValues { sites: own, .. } => sites == own,
        }
    }

    /// The same entry under other names of its sites.
    pub(crate) fn named<T>(self, name: impl Fn(S) -> T) -> Entry<T> {
        match self {
            Self::Rows { site, rows, cols } => Entry::Rows { site: name(site), rows, cols },
            Self::Norm { site, len } => Entry::Norm { site: name(site), len },
            Self::Linear { site, n, k, bias } => Entry::Linear { site: name(site), n, k, bias },
            Self::KeysValues { sites, n, k, bias } => Entry::KeysValues { sites: sites.map(name), n, k, bias },
        }
    }
}

impl Entry<Site> {
    /// Its first site.
    pub(crate) fn site(&self) -> Site {
        match *self {
            Self::Rows { site, .. } | Self::Norm { site, .. } | Self::Linear { site, .. } => site,
            Self::KeysValues { sites, .. } => sites[0],
        }
    }

    /// The shape of its matrix, \[n, k\]; of vectors as of one row.
    pub(crate) fn matrix_shape(&self) -> [usize; 2] {
        match *self {
            Self::Rows { rows, cols, .. } => [rows, cols],
            Self::Norm { len, .. } => [1, len],
            Self::Linear { n, k, .. } => [n, k],
            Self::KeysValues { n, k, .. } => [2 * n, k],
        }
    }

    /// The same entry of another layer.
    pub(crate) fn at_layer(self, index: usize) -> Self {
        self.named(|site| match site {
            Site::Layer(_, site) => Site::Layer(index, site),
            other => other,
        })
    }
}

impl Entry<LayerSite> {
    /// The entry of layer `index`.
    pub(crate) fn of_layer(self, index: usize) -> Entry<Site> {
        self.named(|site| Site::Layer(index, site))
    }
}

/// Entries of a layer, before the layers, after them, and of what depends on the image's size: as many as a config can
/// ask for.
pub(crate) const LAYER: usize = 15;
pub(crate) const BEFORE: usize = 7;
pub(crate) const AFTER: usize = 12;
pub(crate) const TABLES: usize = 2;

/// What a layer has, in the order of memory.
pub(crate) fn layer(c: &Config) -> [Option<Entry<LayerSite>>; LAYER] {
    use LayerSite::*;
    let (inner, mlp) = (c.inner(), c.mlp_dim);
    let norm = |site, len| Entry::Norm { site, len };
    let scale = |site| c.layer_scale.then_some(Entry::Rows { site, rows: 1, cols: c.dim });
    let linear = |site, n, k, bias| Entry::Linear { site, n, k, bias };
    let keys_values = Entry::KeysValues { sites: [Key, Value], n: inner, k: c.dim, bias: [c.bias.key, c.bias.value] };
    let relative = || vit_kernels::RelativeBias::row_len(c.grid()).unwrap_or(usize::MAX);
    [
        Some(norm(AttentionNorm, c.dim)),
        Some(keys_values),
        c.qk_norm.then_some(norm(KeyNorm, c.head_dim)),
        Some(linear(Query, inner, c.dim, c.bias.query)),
        c.qk_norm.then_some(norm(QueryNorm, c.head_dim)),
        c.relative_bias.then(|| Entry::Rows { site: RelativeBias, rows: c.heads, cols: relative() }),
        c.context_norm.then_some(norm(ContextNorm, inner)),
        c.out_proj.then_some(linear(Out, c.dim, inner, c.bias.out)),
        scale(AttentionScale),
        Some(norm(MlpNorm, c.dim)),
        c.gated.then_some(linear(Gate, mlp, c.dim, c.bias.mlp)),
        Some(linear(Up, mlp, c.dim, c.bias.mlp)),
        c.hidden_norm.then_some(norm(HiddenNorm, mlp)),
        Some(linear(Down, c.dim, mlp, c.bias.mlp)),
        scale(MlpScale),
    ]
}

/// What comes before the layers, in the order of memory.
pub(crate) fn before_layers(c: &Config) -> [Option<Entry<Site>>; BEFORE] {
    let rows = |site, rows: usize| (rows > 0).then_some(Entry::Rows { site, rows, cols: c.dim });
    let norm = |site, len| Entry::Norm { site, len };
    [
        c.patch_norm.then(|| norm(Site::PatchNorm, c.patch_len())),
        Some(Entry::Linear { site: Site::Patch, n: c.dim, k: c.patch_len(), bias: c.bias.patch }),
        c.embed_norm.then_some(norm(Site::EmbedNorm, c.dim)),
        rows(Site::ClassToken, c.class_token.into()),
        rows(Site::DistillationToken, c.distillation_token.into()),
        rows(Site::Registers, c.registers),
        c.pre_norm.then_some(norm(Site::PreNorm, c.dim)),
    ]
}

/// What comes after the layers, in the order of memory.
pub(crate) fn after_layers(c: &Config) -> [Option<Entry<Site>>; AFTER] {
    use PoolSite::*;
    let dim = c.dim;
    let norm = |site, len| Entry::Norm { site, len };
    let linear = |site, n, k, bias| Entry::Linear { site, n, k, bias };
    let pool = |entry: Entry<PoolSite>| c.attention_pool.map(|_| entry.named(Site::Pool));
    let in_pool = |site, n, k| pool(Entry::Linear { site, n, k, bias: true });
    let hidden = c.attention_pool.map_or(0, |pool| pool.mlp_dim);
    let width = |readout: Readout| readout.pool.width(dim);
    let (embedding, logits) = (c.embedding.filter(|_| c.projection > 0), c.logits_readout());
    [
        c.final_norm.then_some(norm(Site::FinalNorm, dim)),
        pool(Entry::Rows { site: Probe, rows: 1, cols: dim }),
        in_pool(Query, dim, dim),
        pool(Entry::KeysValues { sites: [Key, Value], n: dim, k: dim, bias: [true; 2] }),
        in_pool(Out, dim, dim),
        pool(Entry::Norm { site: Norm, len: dim }),
        in_pool(Up, hidden, dim),
        in_pool(Down, dim, hidden),
        c.normed_readouts().next().map(|readout| norm(Site::HeadNorm, width(readout))),
        embedding.map(|readout| linear(Site::Projection, c.projection, width(readout), c.bias.projection)),
        logits.map(|readout| linear(Site::Head, c.classes, width(readout), c.bias.head)),
        logits.filter(|_| c.distillation_head).map(|_| linear(Site::DistillationHead, c.classes, dim, c.bias.head)),
    ]
}

/// What depends on the image's size.
pub(crate) fn tables(c: &Config) -> [Option<Entry<Site>>; TABLES] {
    let positions = Entry::Rows { site: Site::Positions, rows: c.position_prefix() + c.patches(), cols: c.dim };
    [
        (c.positions != Positions::Absent).then_some(positions),
        c.rope.then(|| Entry::Rows { site: Site::Rope, rows: c.patches(), cols: c.head_dim }),
    ]
}

impl Site {
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
    let mut each = |entry: Entry<Site>| {
        let mut params = |site, weight, bias: Option<usize>| {
            visit(Param { site, part: Part::Weight }, weight)?;
            bias.map_or(Ok(()), |len| visit(Param { site, part: Part::Bias }, [1, len]))
        };
        match entry {
            Entry::Rows { site, rows, cols } => params(site, [rows, cols], None),
            Entry::Norm { site, len } => params(site, [1, len], Some(len)),
            Entry::Linear { site, n, k, bias } => params(site, [n, k], bias.then_some(n)),
            Entry::KeysValues { sites: [keys, values], n, k, bias } => {
                params(keys, [n, k], bias[0].then_some(n))?;
                params(values, [n, k], bias[1].then_some(n))
            }
        }
    };
    before_layers(config).into_iter().flatten().try_for_each(&mut each)?;
    for index in 0..config.depth {
        layer(config).into_iter().flatten().try_for_each(|entry| each(entry.of_layer(index)))?;
    }
    after_layers(config).into_iter().chain(tables(config)).flatten().try_for_each(each)
}
