//! `vit_pytorch.ViT` (<https://github.com/lucidrains/vit-pytorch>), with the tensor names of every release since
//! 0.10.1.
//!
//! | Releases | Patch embedding | Layer | End | Mean pooling |
//! |---|---|---|---|---|
//! | 0.10.1–0.40.2 | `.1` Linear | `norm`, `fn` | head `.0` LayerNorm, `.1` Linear | with the class token |
//! | 1.0.0–1.2.9 | `.1` LayerNorm, `.2` Linear, `.3` LayerNorm | `norm`, `fn` | as above | with the class token |
//! | 1.4.0–1.15.7 | as above | no `fn` | `transformer.norm`, plain head | with the class token |
//! | since 1.16.0 | as above | no `fn` | as above | no class token at all |
//!
//! The tensors show which names a checkpoint has. In all releases a patch is flattened as (row, column, channel),
//! LayerNorm's eps is 1e-5, GELU is exact, scores are scaled by head_dim^−½, and q, k, v share `to_qkv`.
use serde::Deserialize;
use serde_json::Value;

use super::hf::none;
use super::{Catalog, Names, OtherSizes, Place, Recipe, Size, ZooError, activation, fields};
use crate::config::{Biases, Config, PatchOrder, Pool, Readout};
use crate::parameters::{LayerSite, Param, Site};

/// The arguments of the constructor, with its defaults. The config may also have eps and activation.
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
    hidden_act: String,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Pooling {
    Cls,
    Mean,
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
fn gelu() -> String {
    "gelu".into()
}

pub(super) fn recipe(config: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    let a: Arguments = fields(config)?;
    let has = |name: &str| tensors.has(name);
    // Two tensors distinguish the releases, so that one of them may be missing, which loading then reports.
    let wrapped = has("transformer.layers.0.0.fn.to_qkv.weight") || has("transformer.layers.0.1.fn.net.0.weight");
    let layer0 = if wrapped { "transformer.layers.0.0.fn" } else { "transformer.layers.0.0" };
    let patch_norm = has("to_patch_embedding.2.weight") || has("to_patch_embedding.3.weight");
    let qkv = has(&format!("{layer0}.to_qkv.bias"));
    let readout = Readout { pool: if a.pool == Pooling::Cls { Pool::Class } else { Pool::MeanTokens }, norm: wrapped };
    let config = Config {
        channels: a.channels,
        patch_order: PatchOrder::RowColumnChannel,
        patch_norm,
        embed_norm: patch_norm,
        // With mean pooling the newest releases have a class token with 0 rows.
        class_token: tensors.shape("cls_token").is_none_or(|shape| !shape.contains(&0)),
        head_dim: a.dim_head,
        attention_scale: 1.0 / (a.dim_head as f32).sqrt(),
        mlp_dim: a.mlp_dim,
        out_proj: !(a.heads == 1 && a.dim_head == a.dim),
        bias: Biases { query: qkv, key: qkv, value: qkv, ..Biases::all(true) },
        activation: activation(&a.hidden_act)?,
        norm_eps: a.layer_norm_eps,
        final_norm: !wrapped,
        embedding: Some(readout),
        logits: readout,
        classes: a.num_classes,
        ..Config::plain(a.image_size.height_width(), a.patch_size.height_width(), a.dim, a.depth, a.heads)
    };
    config.validate().map_err(ZooError::Config)?;
    if !config.image[0].is_multiple_of(config.patch[0].max(1))
        || !config.image[1].is_multiple_of(config.patch[1].max(1))
    {
        let ([h, w], [ph, pw]) = (config.image, config.patch);
        let message = format!("an image of {h}×{w} is not a whole number of patches of {ph}×{pw}");
        return Err(ZooError::Field(message));
    }
    // vit-pytorch has no code for other sizes.
    Ok(Recipe::new(config, VitPytorchNames { config, wrapped }, OtherSizes::NONE))
}

struct VitPytorchNames {
    config: Config,
    wrapped: bool,
}

impl Names for VitPytorchNames {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        let c = &self.config;
        let module = |name: &str| Place::module(param, shape, name);
        match param.site {
            Site::PatchNorm => module("to_patch_embedding.1"),
            Site::Patch => module(if c.patch_norm { "to_patch_embedding.2" } else { "to_patch_embedding.1" }),
            Site::EmbedNorm => module("to_patch_embedding.3"),
            Site::ClassToken => Place::tensor(shape, "cls_token"),
            Site::Positions => Place::tensor(shape, "pos_embedding"),
            Site::FinalNorm => module("transformer.norm"),
            Site::HeadNorm => module("mlp_head.0"),
            Site::Head => module(if c.logits.norm { "mlp_head.1" } else { "mlp_head" }),
            Site::Layer(index, site) => {
                let block = |part: usize, name: &str| module(&format!("transformer.layers.{index}.{part}{name}"));
                // Old releases have the norm in a `PreNorm` next to the layer `fn` that it wraps; newer layers contain
                // their norm.
                match (site, self.wrapped) {
                    (LayerSite::AttentionNorm, _) => block(0, ".norm"),
                    (LayerSite::MlpNorm, true) => block(1, ".norm"),
                    (LayerSite::MlpNorm, false) => block(1, ".net.0"),
                    (LayerSite::Query, true) => block(0, ".fn.to_qkv").part(0, 3),
                    (LayerSite::Key, true) => block(0, ".fn.to_qkv").part(1, 3),
                    (LayerSite::Value, true) => block(0, ".fn.to_qkv").part(2, 3),
                    (LayerSite::Out, true) => block(0, ".fn.to_out.0"),
                    (LayerSite::Up, true) => block(1, ".fn.net.0"),
                    (LayerSite::Down, true) => block(1, ".fn.net.3"),
                    (LayerSite::Query, false) => block(0, ".to_qkv").part(0, 3),
                    (LayerSite::Key, false) => block(0, ".to_qkv").part(1, 3),
                    (LayerSite::Value, false) => block(0, ".to_qkv").part(2, 3),
                    (LayerSite::Out, false) => block(0, ".to_out.0"),
                    (LayerSite::Up, false) => block(1, ".net.1"),
                    (LayerSite::Down, false) => block(1, ".net.4"),
                    _ => module(&none(param.site)),
                }
            }
            site => module(&none(site)),
        }
    }
}
