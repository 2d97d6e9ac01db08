//! The metadata keys of the hyper-parameters: one for each field of [`Config`].
//!
//! | Key | Type | Field, or values |
//! |---|---|---|
//! | `general.architecture` | string | `vit` |
//! | `general.alignment` | u32 | 64 |
//! | `vit.layout_version` | u32 | 1; other versions are refused |
//! | `vit.precision` | string | a [`Precision`]'s name |
//! | `vit.keep_f32` | string\[\] | names of the layers' matrices that are kept in F32, such as `blk.3.attn_q`; absent if there are none |
//! | `vit.channels`, `vit.image_height`, `vit.image_width`, `vit.patch_height`, `vit.patch_width` | u32 | |
//! | `vit.patch_order` | string | `channel_row_column`, `row_column_channel` |
//! | `vit.patch_norm`, `vit.embed_norm`, `vit.class_token`, `vit.distillation_token`, `vit.pre_norm`, `vit.final_norm` | bool | |
//! | `vit.register_count` | u32 | registers |
//! | `vit.positions` | string | `absent`, `patches`, `not_registers`, `all` |
//! | `vit.embedding_length`, `vit.block_count`, `vit.feed_forward_length` | u32 | dim, depth, mlp_dim |
//! | `vit.attention.head_count`, `vit.attention.key_length` | u32 | heads, head_dim |
//! | `vit.attention.scale`, `vit.attention.layer_norm_epsilon` | f32 | attention_scale, norm_eps |
//! | `vit.attention.qk_norm`, `vit.attention.rope`, `vit.attention.relative_bias`, `vit.attention.context_norm`, `vit.attention.out_proj` | bool | |
//! | `vit.layer_scale`, `vit.feed_forward_gated`, `vit.feed_forward_norm` | bool | layer_scale, gated, hidden_norm |
//! | `vit.activation` | string | `gelu`, `gelu_tanh`, `quick_gelu`, `silu`, `relu` |
//! | `vit.bias.patch`, `.query`, `.key`, `.value`, `.out`, `.mlp`, `.projection`, `.head` | bool | |
//! | `vit.pool.head_count`, `vit.pool.feed_forward_length`, `vit.pool.all_tokens` | u32, u32, bool | the attention pool; head_count is 0 if there is none |
//! | `vit.embedding.pool`, `vit.logits.pool` | string | `class`, `class_and_distillation`, `mean_tokens`, `mean_patches`, `max_patches`, `mean_max_patches`, `class_then_mean_patches`, `attention`; the embedding's may be `none` |
//! | `vit.embedding.norm`, `vit.logits.norm` | bool | |
//! | `vit.projection_length`, `vit.class_count` | u32 | projection, classes |
//! | `vit.distillation_head` | bool | |
use super::PackedError;
use super::gguf::{Gguf, Value, attempt, equal, kind};
use crate::config::{AttentionPool, Biases, Config, PatchOrder, Pool, Positions, Readout};
use crate::weights::{Formats, KeepF32, LayerMatrix, Precision};
use vit_kernels::Activation;

/// The version of the tensors' names, order and layout that this library writes and reads.
pub const LAYOUT_VERSION: u32 = 1;

pub(super) const ARCHITECTURE: (&str, &str) = ("general.architecture", "vit");
pub(super) const ALIGNMENT: &str = "general.alignment";
pub(super) const VERSION: &str = "vit.layout_version";
pub(super) const PRECISION: &str = "vit.precision";
pub(super) const KEEP_F32: &str = "vit.keep_f32";

/// A value and the word for it.
type Words<T, const N: usize> = [(T, &'static str); N];

const PRECISIONS: Words<Precision, { Precision::ALL.len() }> = {
    let mut words = [(Precision::F32, ""); Precision::ALL.len()];
    let mut i = 0;
    while i < words.len() {
        words[i] = (Precision::ALL[i], Precision::ALL[i].name());
        i += 1;
    }
    words
};

const PATCH_ORDERS: Words<PatchOrder, 2> =
    [(PatchOrder::ChannelRowColumn, "channel_row_column"), (PatchOrder::RowColumnChannel, "row_column_channel")];

const POSITIONS: Words<Positions, 4> = [
    (Positions::Absent, "absent"),
    (Positions::Patches, "patches"),
    (Positions::NotRegisters, "not_registers"),
    (Positions::All, "all"),
];

const ACTIVATIONS: Words<Activation, 5> = [
    (Activation::Gelu, "gelu"),
    (Activation::GeluTanh, "gelu_tanh"),
    (Activation::QuickGelu, "quick_gelu"),
    (Activation::Silu, "silu"),
    (Activation::Relu, "relu"),
];

const POOLS: Words<Option<Pool>, 9> = [
    (None, "none"),
    (Some(Pool::Class), "class"),
    (Some(Pool::ClassAndDistillation), "class_and_distillation"),
    (Some(Pool::MeanTokens), "mean_tokens"),
    (Some(Pool::MeanPatches), "mean_patches"),
    (Some(Pool::MaxPatches), "max_patches"),
    (Some(Pool::MeanMaxPatches), "mean_max_patches"),
    (Some(Pool::ClassThenMeanPatches), "class_then_mean_patches"),
    (Some(Pool::Attention), "attention"),
];

/// Reads the value of a required key, with its type.
impl Gguf<'_> {
    pub(super) const fn number(&self, key: &'static str) -> Result<usize, PackedError> {
        match attempt!(self.get(key)) {
            Some(Value::U32(value)) => Ok(value as usize),
            _ => Err(PackedError::Metadata(key)),
        }
    }

    pub(super) const fn flag(&self, key: &'static str) -> Result<bool, PackedError> {
        match attempt!(self.get(key)) {
            Some(Value::Bool(value)) => Ok(value),
            _ => Err(PackedError::Metadata(key)),
        }
    }

    pub(super) const fn float(&self, key: &'static str) -> Result<f32, PackedError> {
        match attempt!(self.get(key)) {
            Some(Value::F32(value)) => Ok(value),
            _ => Err(PackedError::Metadata(key)),
        }
    }

    const fn word<T: Copy, const N: usize>(&self, key: &'static str, words: &Words<T, N>) -> Result<T, PackedError> {
        if let Some(Value::String(found)) = attempt!(self.get(key)) {
            let mut i = 0;
            while i < N {
                if equal(found, words[i].1.as_bytes()) {
                    return Ok(words[i].0);
                }
                i += 1;
            }
        }
        Err(PackedError::Metadata(key))
    }
}

/// Checks the architecture, the alignment and the layout version.
pub(super) const fn check(file: &Gguf<'_>) -> Result<(), PackedError> {
    match attempt!(file.get(ARCHITECTURE.0)) {
        Some(Value::String(found)) if equal(found, ARCHITECTURE.1.as_bytes()) => {}
        _ => return Err(PackedError::Metadata(ARCHITECTURE.0)),
    }
    if attempt!(file.number(ALIGNMENT)) != crate::ALIGN {
        return Err(PackedError::Metadata(ALIGNMENT));
    }
    let version = attempt!(file.number(VERSION));
    if version != LAYOUT_VERSION as usize { Err(PackedError::LayoutVersion(version)) } else { Ok(()) }
}

pub(super) fn formats(file: &Gguf<'_>) -> Result<Formats, PackedError> {
    Ok(Formats::new(file.word(PRECISION, &PRECISIONS)?, keep_f32(file)?))
}

fn keep_f32(file: &Gguf<'_>) -> Result<KeepF32, PackedError> {
    match file.get(KEEP_F32)? {
        None => Ok(KeepF32::NONE),
        Some(Value::Array { kind: kind::STRING, count, mut elements }) => {
            (0..count).try_fold(KeepF32::NONE, |keep, _| {
                let name = core::str::from_utf8(elements.string()?).ok();
                let matrix = name.and_then(|name| name.parse::<LayerMatrix>().ok());
                matrix.and_then(|matrix| keep.with(matrix).ok()).ok_or(PackedError::Metadata(KEEP_F32))
            })
        }
        Some(_) => Err(PackedError::Metadata(KEEP_F32)),
    }
}

/// Reads the hyper-parameters. They are not validated yet.
pub(super) const fn config(file: &Gguf<'_>) -> Result<Config, PackedError> {
    let embedding = attempt!(file.word("vit.embedding.pool", &POOLS));
    let Some(logits) = attempt!(file.word("vit.logits.pool", &POOLS)) else {
        return Err(PackedError::Metadata("vit.logits.pool"));
    };
    let pool = AttentionPool {
        heads: attempt!(file.number("vit.pool.head_count")),
        mlp_dim: attempt!(file.number("vit.pool.feed_forward_length")),
        all_tokens: attempt!(file.flag("vit.pool.all_tokens")),
    };
    Ok(Config {
        channels: attempt!(file.number("vit.channels")),
        image: [attempt!(file.number("vit.image_height")), attempt!(file.number("vit.image_width"))],
        patch: [attempt!(file.number("vit.patch_height")), attempt!(file.number("vit.patch_width"))],
        patch_order: attempt!(file.word("vit.patch_order", &PATCH_ORDERS)),
        patch_norm: attempt!(file.flag("vit.patch_norm")),
        embed_norm: attempt!(file.flag("vit.embed_norm")),
        class_token: attempt!(file.flag("vit.class_token")),
        distillation_token: attempt!(file.flag("vit.distillation_token")),
        registers: attempt!(file.number("vit.register_count")),
        positions: attempt!(file.word("vit.positions", &POSITIONS)),
        pre_norm: attempt!(file.flag("vit.pre_norm")),
        dim: attempt!(file.number("vit.embedding_length")),
        depth: attempt!(file.number("vit.block_count")),
        heads: attempt!(file.number("vit.attention.head_count")),
        head_dim: attempt!(file.number("vit.attention.key_length")),
        attention_scale: attempt!(file.float("vit.attention.scale")),
        qk_norm: attempt!(file.flag("vit.attention.qk_norm")),
        rope: attempt!(file.flag("vit.attention.rope")),
        relative_bias: attempt!(file.flag("vit.attention.relative_bias")),
        context_norm: attempt!(file.flag("vit.attention.context_norm")),
        out_proj: attempt!(file.flag("vit.attention.out_proj")),
        layer_scale: attempt!(file.flag("vit.layer_scale")),
        mlp_dim: attempt!(file.number("vit.feed_forward_length")),
        gated: attempt!(file.flag("vit.feed_forward_gated")),
        hidden_norm: attempt!(file.flag("vit.feed_forward_norm")),
        activation: attempt!(file.word("vit.activation", &ACTIVATIONS)),
        bias: Biases {
            patch: attempt!(file.flag("vit.bias.patch")),
            query: attempt!(file.flag("vit.bias.query")),
            key: attempt!(file.flag("vit.bias.key")),
            value: attempt!(file.flag("vit.bias.value")),
            out: attempt!(file.flag("vit.bias.out")),
            mlp: attempt!(file.flag("vit.bias.mlp")),
            projection: attempt!(file.flag("vit.bias.projection")),
            head: attempt!(file.flag("vit.bias.head")),
        },
        norm_eps: attempt!(file.float("vit.attention.layer_norm_epsilon")),
        final_norm: attempt!(file.flag("vit.final_norm")),
        attention_pool: if pool.heads == 0 { None } else { Some(pool) },
        embedding: match embedding {
            Some(pool) => Some(Readout { pool, norm: attempt!(file.flag("vit.embedding.norm")) }),
            None => None,
        },
        projection: attempt!(file.number("vit.projection_length")),
        logits: Readout { pool: logits, norm: attempt!(file.flag("vit.logits.norm")) },
        distillation_head: attempt!(file.flag("vit.distillation_head")),
        classes: attempt!(file.number("vit.class_count")),
    })
}

/// Calls `put` with every key and value of the hyper-parameters.
#[cfg(feature = "checkpoints")]
pub(super) fn put_config(config: &Config, put: &mut impl FnMut(&'static str, Value<'static>)) {
    // All fields are named, so the compiler reports a new field that is missing here.
    let Config {
        channels,
        image,
        patch,
        patch_order,
        patch_norm,
        embed_norm,
        class_token,
        distillation_token,
        registers,
        positions,
        pre_norm,
        dim,
        depth,
        heads,
        head_dim,
        attention_scale,
        qk_norm,
        rope,
        relative_bias,
        context_norm,
        out_proj,
        layer_scale,
        mlp_dim,
        gated,
        hidden_norm,
        activation,
        bias,
        norm_eps,
        final_norm,
        attention_pool,
        embedding,
        projection,
        logits,
        distillation_head,
        classes,
    } = *config;
    // The sizes of a valid config are below 2²⁴.
    let number = |value: usize| Value::U32(u32::try_from(value).unwrap_or(u32::MAX));
    put("vit.channels", number(channels));
    put("vit.image_height", number(image[0]));
    put("vit.image_width", number(image[1]));
    put("vit.patch_height", number(patch[0]));
    put("vit.patch_width", number(patch[1]));
    put("vit.patch_order", word(patch_order, &PATCH_ORDERS));
    put("vit.patch_norm", Value::Bool(patch_norm));
    put("vit.embed_norm", Value::Bool(embed_norm));
    put("vit.class_token", Value::Bool(class_token));
    put("vit.distillation_token", Value::Bool(distillation_token));
    put("vit.register_count", number(registers));
    put("vit.positions", word(positions, &POSITIONS));
    put("vit.pre_norm", Value::Bool(pre_norm));
    put("vit.embedding_length", number(dim));
    put("vit.block_count", number(depth));
    put("vit.attention.head_count", number(heads));
    put("vit.attention.key_length", number(head_dim));
    put("vit.attention.scale", Value::F32(attention_scale));
    put("vit.attention.qk_norm", Value::Bool(qk_norm));
    put("vit.attention.rope", Value::Bool(rope));
    put("vit.attention.relative_bias", Value::Bool(relative_bias));
    put("vit.attention.context_norm", Value::Bool(context_norm));
    put("vit.attention.out_proj", Value::Bool(out_proj));
    put("vit.layer_scale", Value::Bool(layer_scale));
    put("vit.feed_forward_length", number(mlp_dim));
    put("vit.feed_forward_gated", Value::Bool(gated));
    put("vit.feed_forward_norm", Value::Bool(hidden_norm));
    put("vit.activation", word(activation, &ACTIVATIONS));
    put("vit.bias.patch", Value::Bool(bias.patch));
    put("vit.bias.query", Value::Bool(bias.query));
    put("vit.bias.key", Value::Bool(bias.key));
    put("vit.bias.value", Value::Bool(bias.value));
    put("vit.bias.out", Value::Bool(bias.out));
    put("vit.bias.mlp", Value::Bool(bias.mlp));
    put("vit.bias.projection", Value::Bool(bias.projection));
    put("vit.bias.head", Value::Bool(bias.head));
    put("vit.attention.layer_norm_epsilon", Value::F32(norm_eps));
    put("vit.final_norm", Value::Bool(final_norm));
    let pool = attention_pool.unwrap_or(AttentionPool { heads: 0, mlp_dim: 0, all_tokens: false });
    put("vit.pool.head_count", number(pool.heads));
    put("vit.pool.feed_forward_length", number(pool.mlp_dim));
    put("vit.pool.all_tokens", Value::Bool(pool.all_tokens));
    put("vit.embedding.pool", word(embedding.map(|readout| readout.pool), &POOLS));
    put("vit.embedding.norm", Value::Bool(embedding.is_some_and(|readout| readout.norm)));
    put("vit.projection_length", number(projection));
    put("vit.logits.pool", word(Some(logits.pool), &POOLS));
    put("vit.logits.norm", Value::Bool(logits.norm));
    put("vit.distillation_head", Value::Bool(distillation_head));
    put("vit.class_count", number(classes));
}

#[cfg(feature = "checkpoints")]
fn word<T: PartialEq + Copy, const N: usize>(value: T, words: &Words<T, N>) -> Value<'static> {
    let found = words.iter().find(|(known, _)| *known == value);
    Value::String(found.expect("the table has a word for every value").1.as_bytes())
}
