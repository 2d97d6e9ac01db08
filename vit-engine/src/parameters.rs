//! Which parameters a model has, and their order in memory. It is the order of their use, so that prefetching past the
//! end of a matrix reads the next one.
use crate::config::{Config, Positions, Readout};

/// A parameter: a matrix \[out, in\], or a vector as \[1, len\].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Param {
    /// The part of the model.
    pub site: Site,
    /// The weight or the bias.
    pub part: Part,
}

/// Weight or bias. Tokens, positions and scales count as weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// A matrix, a norm's gamma, a token, the positions.
    Weight,
    /// A bias, a norm's beta.
    Bias,
}

/// A place in the model that has parameters.
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
    /// LayerNorm over every token after the last layer.
    FinalNorm,
    /// A part of the attention pool.
    Pool(PoolSite),
    /// LayerNorm over the pooled vector.
    HeadNorm,
    /// The embedding's projection, \[projection, width of the pool\].
    Projection,
    /// The head, \[classes, width of the pool\].
    Head,
    /// The head of the distillation token, \[classes, dim\].
    DistillationHead,
    /// The position embedding, \[position_prefix + patches, dim\]. It depends on the image size.
    Positions,
    /// The cosines and then the sines that rotate queries and keys, \[patches, head_dim\]. They depend on the image
    /// size.
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
    /// LayerNorm over each head's keys.
    KeyNorm,
    /// \[heads·head_dim, dim\].
    Query,
    /// LayerNorm over each head's queries.
    QueryNorm,
    /// The table of [`RelativeBias`](vit_kernels::RelativeBias), one row per head.
    RelativeBias,
    /// LayerNorm over the outputs of all heads (the context).
    ContextNorm,
    /// \[dim, heads·head_dim\].
    Out,
    /// The layer scale of attention, \[1, dim\].
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
    /// The layer scale of the feed-forward, \[1, dim\].
    MlpScale,
}

/// A part of the attention pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PoolSite {
    /// The learned vector that the query is projected from, \[1, dim\].
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

/// Parameters that are next to each other in memory, with their shapes. `S` is the type of their sites: [`Site`], or
/// [`LayerSite`] within a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Entry<S> {
    /// Rows of f32.
    Rows { site: S, rows: usize, cols: usize },
    /// gamma and beta.
    Norm { site: S, len: usize },
    /// A matrix \[n, k\] and its bias.
    Linear { site: S, n: usize, k: usize, bias: bool },
    /// One matrix with the rows of the keys \[n, k\] and then of the values \[n, k\]. If only one of them has a bias,
    /// the bias of the other is 0.
    KeysValues { sites: [S; 2], n: usize, k: usize, bias: [bool; 2] },
}

impl<S: Copy + PartialEq> Entry<S> {
    /// Whether the entry holds exactly these sites, in this order.
    pub(crate) fn holds(&self, sites: &[S]) -> bool {
        match self {
            Self::Rows { site, .. } | Self::Norm { site, .. } | Self::Linear { site, .. } => sites == [*site],
            Self::KeysValues { sites: own, .. } => sites == own,
        }
    }

    /// The first site of the entry.
    pub(crate) fn site(&self) -> S {
        match *self {
            Self::Rows { site, .. } | Self::Norm { site, .. } | Self::Linear { site, .. } => site,
            Self::KeysValues { sites, .. } => sites[0],
        }
    }

    /// The same entry with its sites mapped by a function.
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
    /// The shape of the matrix, \[n, k\]; a vector is one row.
    pub(crate) fn matrix_shape(&self) -> [usize; 2] {
        match *self {
            Self::Rows { rows, cols, .. } => [rows, cols],
            Self::Norm { len, .. } => [1, len],
            Self::Linear { n, k, .. } => [n, k],
            Self::KeysValues { n, k, .. } => [2 * n, k],
        }
    }
}

impl Entry<LayerSite> {
    /// The entry of layer `index`.
    pub(crate) fn of_layer(self, index: usize) -> Entry<Site> {
        self.named(|site| Site::Layer(index, site))
    }
}

/// The entries of a layer, in memory order. They are made one at a time: there is no table that would take stack.
pub(crate) fn layer(c: &Config) -> impl Iterator<Item = Entry<LayerSite>> {
    (0..15).filter_map(|index| layer_entry(c, index))
}

/// The entries before the layers, in memory order.
pub(crate) fn before_layers(c: &Config) -> impl Iterator<Item = Entry<Site>> {
    (0..7).filter_map(|index| entry_before(c, index))
}

/// The entries after the layers, in memory order.
pub(crate) fn after_layers(c: &Config) -> impl Iterator<Item = Entry<Site>> {
    (0..12).filter_map(|index| entry_after(c, index))
}

/// The tables, which depend on the image size, in memory order.
pub(crate) fn tables(c: &Config) -> impl Iterator<Item = Entry<Site>> {
    (0..2).filter_map(|index| table(c, index))
}

/// A layer's entry at this place in memory.
fn layer_entry(c: &Config, index: usize) -> Option<Entry<LayerSite>> {
    use LayerSite::*;
    let (inner, mlp) = (c.inner(), c.mlp_dim);
    let norm = |site, len| Entry::Norm { site, len };
    let scale = |site| c.layer_scale.then_some(Entry::Rows { site, rows: 1, cols: c.dim });
    let linear = |site, n, k, bias| Entry::Linear { site, n, k, bias };
    let keys_values = Entry::KeysValues { sites: [Key, Value], n: inner, k: c.dim, bias: [c.bias.key, c.bias.value] };
    let relative = || vit_kernels::RelativeBias::row_len(c.grid()).unwrap_or(usize::MAX);
    match index {
        0 => Some(norm(AttentionNorm, c.dim)),
        1 => Some(keys_values),
        2 => c.qk_norm.then_some(norm(KeyNorm, c.head_dim)),
        3 => Some(linear(Query, inner, c.dim, c.bias.query)),
        4 => c.qk_norm.then_some(norm(QueryNorm, c.head_dim)),
        5 => c.relative_bias.then(|| Entry::Rows { site: RelativeBias, rows: c.heads, cols: relative() }),
        6 => c.context_norm.then_some(norm(ContextNorm, inner)),
        7 => c.out_proj.then_some(linear(Out, c.dim, inner, c.bias.out)),
        8 => scale(AttentionScale),
        9 => Some(norm(MlpNorm, c.dim)),
        10 => c.gated.then_some(linear(Gate, mlp, c.dim, c.bias.mlp)),
        11 => Some(linear(Up, mlp, c.dim, c.bias.mlp)),
        12 => c.hidden_norm.then_some(norm(HiddenNorm, mlp)),
        13 => Some(linear(Down, c.dim, mlp, c.bias.mlp)),
        14 => scale(MlpScale),
        _ => None,
    }
}

/// The entry at this place before the layers.
fn entry_before(c: &Config, index: usize) -> Option<Entry<Site>> {
    let rows = |site, rows: usize| (rows > 0).then_some(Entry::Rows { site, rows, cols: c.dim });
    let norm = |site, len| Entry::Norm { site, len };
    match index {
        0 => c.patch_norm.then(|| norm(Site::PatchNorm, c.patch_len())),
        1 => Some(Entry::Linear { site: Site::Patch, n: c.dim, k: c.patch_len(), bias: c.bias.patch }),
        2 => c.embed_norm.then_some(norm(Site::EmbedNorm, c.dim)),
        3 => rows(Site::ClassToken, c.class_token.into()),
        4 => rows(Site::DistillationToken, c.distillation_token.into()),
        5 => rows(Site::Registers, c.registers),
        6 => c.pre_norm.then_some(norm(Site::PreNorm, c.dim)),
        _ => None,
    }
}

/// The entry at this place after the layers.
fn entry_after(c: &Config, index: usize) -> Option<Entry<Site>> {
    use PoolSite::*;
    let dim = c.dim;
    let norm = |site, len| Entry::Norm { site, len };
    let linear = |site, n, k, bias| Entry::Linear { site, n, k, bias };
    let pool = |entry: Entry<PoolSite>| c.attention_pool.map(|_| entry.named(Site::Pool));
    let in_pool = |site, n, k| pool(Entry::Linear { site, n, k, bias: true });
    let hidden = c.attention_pool.map_or(0, |pool| pool.mlp_dim);
    let width = |readout: Readout| readout.pool.width(dim);
    let (embedding, logits) = (c.embedding.filter(|_| c.projection > 0), c.logits_readout());
    match index {
        0 => c.final_norm.then_some(norm(Site::FinalNorm, dim)),
        1 => pool(Entry::Rows { site: Probe, rows: 1, cols: dim }),
        2 => in_pool(Query, dim, dim),
        3 => pool(Entry::KeysValues { sites: [Key, Value], n: dim, k: dim, bias: [true; 2] }),
        4 => in_pool(Out, dim, dim),
        5 => pool(Entry::Norm { site: Norm, len: dim }),
        6 => in_pool(Up, hidden, dim),
        7 => in_pool(Down, dim, hidden),
        8 => c.normed_readouts().next().map(|readout| norm(Site::HeadNorm, width(readout))),
        9 => embedding.map(|readout| linear(Site::Projection, c.projection, width(readout), c.bias.projection)),
        10 => logits.map(|readout| linear(Site::Head, c.classes, width(readout), c.bias.head)),
        11 => {
            logits.filter(|_| c.distillation_head).map(|_| linear(Site::DistillationHead, c.classes, dim, c.bias.head))
        }
        _ => None,
    }
}

/// The table at this place: an entry that depends on the image size.
fn table(c: &Config, index: usize) -> Option<Entry<Site>> {
    let positions = Entry::Rows { site: Site::Positions, rows: c.position_prefix() + c.patches(), cols: c.dim };
    match index {
        0 => (c.positions != Positions::Absent).then_some(positions),
        1 => c.rope.then(|| Entry::Rows { site: Site::Rope, rows: c.patches(), cols: c.head_dim }),
        _ => None,
    }
}

impl Site {
    /// Whether the parameter depends on the image size.
    pub fn is_table(self) -> bool {
        matches!(self, Self::Positions | Self::Rope)
    }
}

impl LayerSite {
    /// The name in packed files. Keys and values are one matrix, and have one name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::AttentionNorm => "attn_norm",
            Self::Key | Self::Value => "attn_kv",
            Self::KeyNorm => "attn_k_norm",
            Self::Query => "attn_q",
            Self::QueryNorm => "attn_q_norm",
            Self::RelativeBias => "attn_rel_bias",
            Self::ContextNorm => "attn_context_norm",
            Self::Out => "attn_out",
            Self::AttentionScale => "attn_scale",
            Self::MlpNorm => "ffn_norm",
            Self::Gate => "ffn_gate",
            Self::Up => "ffn_up",
            Self::HiddenNorm => "ffn_hidden_norm",
            Self::Down => "ffn_down",
            Self::MlpScale => "ffn_scale",
        }
    }
}

/// Calls `visit` with every parameter of a model with this config, and its shape.
///
/// # Errors
/// The first error that `visit` returns.
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
    before_layers(config).try_for_each(&mut each)?;
    for index in 0..config.depth {
        layer(config).try_for_each(|entry| each(entry.of_layer(index)))?;
    }
    after_layers(config).chain(tables(config)).try_for_each(each)
}
