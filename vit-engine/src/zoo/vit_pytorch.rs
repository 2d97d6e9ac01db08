//! `vit_pytorch.ViT` (<https://github.com/lucidrains/vit-pytorch>), in every layout of names since 0.10.1.
//!
//! | Releases | Patch embedding | Layer | End | Mean pooling |
//! |---|---|---|---|---|
//! | 0.10.1–0.40.2 | `.1` Linear | `norm`, `fn` | head `.0` LayerNorm, `.1` Linear | with the class token |
//! | 1.0.0–1.2.9 | `.1` LayerNorm, `.2` Linear, `.3` LayerNorm | `norm`, `fn` | as above | with the class token |
//! | 1.4.0–1.15.7 | as above | no `fn` | `transformer.norm`, plain head | with the class token |
//! | since 1.16.0 | as above | no `fn` | as above | no class token at all |
//!
//! Which layout a checkpoint has is read off its tensors. In all of them a patch is flattened as (row, column, channel),
//! LayerNorm's eps is 1e-5, GELU is exact, scores are scaled by head_dim^−½, and q, k, v share `to_qkv`.
use serde::Deserialize;
use serde_json::Value;
use vit_kernels::Gelu;

use super::{Names, Place, Recipe, Shapes, Size, ZooError, fields};
use crate::config::{Biases, Config, PatchOrder, Pool};
use crate::weights::{LayerSite, Param, Part, Site};

/// The constructor's arguments, with its defaults; eps and activation may be named too.
#[derive(Deserialize)]
struct Arguments {
    image_size: Size,
    patch_size: Size,
    num_classes: usize,
    dim: usize,
    depth: usize,
    heads: usize,
    mlp_dim: usize,
    #[serde(default = "cls")]
    pool: Pooling,
    #[serde(default = "three")]
    channels: usize,
    #[serde(default = "sixty_four")]
    dim_head: usize,
    #[serde(default = "eps")]
    layer_norm_eps: f32,
    #[serde(default = "gelu")]
    hidden_act: Activation,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Pooling {
    Cls,
    Mean,
}

#[derive(Deserialize)]
enum Activation {
    #[serde(rename = "gelu")]
    Erf,
    #[serde(rename = "gelu_tanh", alias = "gelu_pytorch_tanh", alias = "gelu_new")]
    Tanh,
    #[serde(rename = "quick_gelu")]
    Quick,
}

fn cls() -> Pooling {
    Pooling::Cls
}
fn three() -> usize {
    3
}
fn sixty_four() -> usize {
    64
}
fn eps() -> f32 {
    1e-5
}
fn gelu() -> Activation {
    Activation::Erf
}

pub(super) fn recipe(config: &Value, shapes: &Shapes<'_>) -> Result<Recipe, ZooError> {
    let a: Arguments = fields(config)?;
    let has = |name: &str| shapes(name).is_some();
    // Two tensors tell the layouts apart, so that either can be missing and be named.
    let wrapped = has("transformer.layers.0.0.fn.to_qkv.weight") || has("transformer.layers.0.1.fn.net.0.weight");
    let layer0 = if wrapped { "transformer.layers.0.0.fn" } else { "transformer.layers.0.0" };
    let patch_norm = has("to_patch_embedding.2.weight") || has("to_patch_embedding.3.weight");
    let config = Config {
        channels: a.channels,
        image: a.image_size.height_width(),
        patch: a.patch_size.height_width(),
        patch_order: PatchOrder::RowColumnChannel,
        patch_norm,
        embed_norm: patch_norm,
        // With mean pooling the newest releases keep a class token of no rows.
        class_token: shapes("cls_token").is_none_or(|shape| !shape.contains(&0)),
        dim: a.dim,
        depth: a.depth,
        heads: a.heads,
        head_dim: a.dim_head,
        mlp_dim: a.mlp_dim,
        out_proj: !(a.heads == 1 && a.dim_head == a.dim),
        bias: Biases { patch: true, qkv: has(&format!("{layer0}.to_qkv.bias")), out: true, mlp: true, head: true },
        attention_scale: 1.0 / (a.dim_head as f32).sqrt(),
        activation: match a.hidden_act {
            Activation::Erf => Gelu::Erf,
            Activation::Tanh => Gelu::Tanh,
            Activation::Quick => Gelu::Quick,
        },
        norm_eps: a.layer_norm_eps,
        final_norm: !wrapped,
        pool: if a.pool == Pooling::Cls { Pool::Class } else { Pool::MeanTokens },
        head_norm: wrapped,
        classes: a.num_classes,
    };
    let names = Box::new(Layout { config, wrapped });
    Ok(Recipe { config, names, preprocessing: None, labels: Vec::new() })
}

struct Layout {
    config: Config,
    wrapped: bool,
}

impl Names for Layout {
    fn place(&self, Param { site, part }: Param) -> Place {
        let c = &self.config;
        let inner = c.inner();
        let place = |prefix: String, matrix: [usize; 2], first_row: usize| {
            let (suffix, shape) = match part {
                Part::Weight => ("weight", matrix.to_vec()),
                Part::Bias => ("bias", vec![matrix[0]]),
            };
            Place { tensor: format!("{prefix}.{suffix}"), shape, first_row }
        };
        let norm = |prefix: String, len: usize| {
            let suffix = if part == Part::Weight { "weight" } else { "bias" };
            Place { tensor: format!("{prefix}.{suffix}"), shape: vec![len], first_row: 0 }
        };
        let whole = |name: &str, shape: [usize; 2]| Place { tensor: name.into(), shape: shape.to_vec(), first_row: 0 };
        match site {
            Site::PatchNorm => norm("to_patch_embedding.1".into(), c.patch_len()),
            Site::Patch => {
                let index = if c.patch_norm { 2 } else { 1 };
                place(format!("to_patch_embedding.{index}"), [c.dim, c.patch_len()], 0)
            }
            Site::EmbedNorm => norm("to_patch_embedding.3".into(), c.dim),
            Site::ClassToken => whole("cls_token", [1, c.dim]),
            Site::Positions => whole("pos_embedding", [c.tokens(), c.dim]),
            Site::FinalNorm => norm("transformer.norm".into(), c.dim),
            Site::HeadNorm => norm("mlp_head.0".into(), c.dim),
            Site::Head => place(if c.head_norm { "mlp_head.1" } else { "mlp_head" }.into(), [c.classes, c.dim], 0),
            Site::Layer(index, site) => {
                let attention = format!("transformer.layers.{index}.0");
                let mlp = format!("transformer.layers.{index}.1");
                // `PreNorm` keeps the norm beside the layer it wraps as `fn`; later the layer brings its own.
                let (fn_, up, down) = if self.wrapped { (".fn", "0", "3") } else { ("", "1", "4") };
                match site {
                    LayerSite::AttentionNorm => norm(format!("{attention}.norm"), c.dim),
                    LayerSite::MlpNorm if self.wrapped => norm(format!("{mlp}.norm"), c.dim),
                    LayerSite::MlpNorm => norm(format!("{mlp}.net.0"), c.dim),
                    LayerSite::Query => place(format!("{attention}{fn_}.to_qkv"), [3 * inner, c.dim], 0),
                    LayerSite::Key => place(format!("{attention}{fn_}.to_qkv"), [3 * inner, c.dim], inner),
                    LayerSite::Value => place(format!("{attention}{fn_}.to_qkv"), [3 * inner, c.dim], 2 * inner),
                    LayerSite::Out => place(format!("{attention}{fn_}.to_out.0"), [c.dim, inner], 0),
                    LayerSite::Up => place(format!("{mlp}{fn_}.net.{up}"), [c.mlp_dim, c.dim], 0),
                    LayerSite::Down => place(format!("{mlp}{fn_}.net.{down}"), [c.dim, c.mlp_dim], 0),
                }
            }
        }
    }
}
