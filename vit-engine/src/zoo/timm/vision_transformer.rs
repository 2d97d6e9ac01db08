//! `timm.models.vision_transformer` and `.deit`: plain, distilled, with registers, CLIP's, SigLIP's, DINOv2's, …
use serde::Deserialize;
use serde_json::Value;

use super::super::hf::none;
use super::super::{Names, OtherSizes, Place, Recipe, Size, ZooError, activation, fields, scaled};
use super::{Common, Norm, ignores, only, pool, pool_place, read_out, truthy};
use crate::config::{AttentionPool, Config, Pool, Positions, Readout};
use crate::parameters::{LayerSite, Param, Site};

/// The constructor's arguments.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    img_size: Size,
    patch_size: Size,
    in_chans: usize,
    num_classes: usize,
    global_pool: String,
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    mlp_ratio: f64,
    qkv_bias: bool,
    qk_norm: bool,
    scale_attn_norm: bool,
    scale_mlp_norm: bool,
    proj_bias: bool,
    init_values: Value,
    class_token: bool,
    pos_embed: String,
    no_embed_class: bool,
    reg_tokens: usize,
    pre_norm: bool,
    final_norm: bool,
    fc_norm: Option<bool>,
    pool_include_prefix: bool,
    #[serde(rename = "dynamic_img_size")]
    _dynamic_img_size: Value,
    dynamic_img_pad: bool,
    embed_layer: String,
    embed_norm_layer: Option<Norm>,
    norm_layer: Norm,
    act_layer: String,
    block_fn: String,
    mlp_layer: String,
    attn_layer: String,
}

pub(super) fn recipe(args: &Value, distilled: bool, prefix: &str) -> Result<Recipe, ZooError> {
    let a: Arguments = fields(args)?;
    only("block_fn", &a.block_fn, &["Block"])?;
    only("attn_layer", &a.attn_layer, &["Attention", "attn"])?;
    only("embed_layer", &a.embed_layer, &["PatchEmbed"])?;
    only("mlp_layer", &a.mlp_layer, &["Mlp", "SwiGLU", "SwiGLUPacked"])?;
    only("pos_embed", &a.pos_embed, &["learn", "none", ""])?;
    if a.dynamic_img_pad {
        return Err(ZooError::Unsupported("dynamic_img_pad".into()));
    }
    let common = Common {
        image: a.img_size,
        patch: a.patch_size,
        channels: a.in_chans,
        dim: a.embed_dim,
        depth: a.depth,
        heads: a.num_heads,
        classes: a.num_classes,
    };
    let mut c = common.config()?;
    let hidden = scaled(c.dim, a.mlp_ratio)?;
    let packed = a.mlp_layer == "SwiGLUPacked";
    c.mlp_dim = if packed { hidden / 2 } else { hidden };
    c.gated = a.mlp_layer != "Mlp";
    c.activation = activation(&a.act_layer)?;
    (c.bias.query, c.bias.key, c.bias.value) = (a.qkv_bias, a.qkv_bias, a.qkv_bias);
    (c.bias.out, c.bias.mlp) = (a.proj_bias, a.proj_bias);
    c.bias.patch = !a.pre_norm;
    (c.class_token, c.distillation_token, c.registers) = (a.class_token, distilled, a.reg_tokens);
    c.positions = match (&*a.pos_embed, a.no_embed_class) {
        ("learn", false) => Positions::All,
        ("learn", true) => Positions::Patches,
        _ => Positions::Absent,
    };
    (c.pre_norm, c.embed_norm) = (a.pre_norm, a.embed_norm_layer.is_some());
    (c.qk_norm, c.mixed_norm, c.hidden_norm) = (a.qk_norm, a.scale_attn_norm, a.scale_mlp_norm);
    c.layer_scale = truthy(&a.init_values);
    c.norm_eps = a.norm_layer.eps()?;
    if a.embed_norm_layer.as_ref().map(Norm::eps).transpose()?.is_some_and(|eps| eps != c.norm_eps) {
        return Err(ZooError::Unsupported("norms of different eps".into()));
    }
    let pool = pool(&a.global_pool, a.pool_include_prefix)?;
    if pool == Some(Pool::Attention) {
        c.attention_pool = Some(AttentionPool { heads: c.heads, mlp_dim: hidden });
    }
    let averages = matches!(&*a.global_pool, "avg" | "avgmax" | "max");
    let norm_after = a.fc_norm.unwrap_or(averages);
    c.final_norm = a.final_norm && !norm_after;
    read_out(&mut c, pool, a.final_norm && norm_after)?;
    if distilled {
        if a.global_pool != "token" {
            return Err(ZooError::Unsupported(format!("global_pool '{}' with a distillation token", a.global_pool)));
        }
        c.embedding = Some(Readout { pool: Pool::ClassAndDistillation, norm: false });
        (c.logits, c.distillation_head) = (Readout { pool: Pool::ClassAndDistillation, norm: false }, c.classes > 0);
    }
    Ok(Recipe::new(c, Layout { config: c, packed, prefix: prefix.into() }, OtherSizes::TIMM))
}

struct Layout {
    config: Config,
    /// Whether gate and up stand in one tensor.
    packed: bool,
    prefix: String,
}

impl Names for Layout {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        let own = |name: &str| format!("{}{name}", self.prefix);
        let module = |name: &str| Place::module(param, shape, own(name));
        match param.site {
            Site::Patch => module("patch_embed.proj").convolution(param, &self.config),
            Site::EmbedNorm => module("patch_embed.norm"),
            Site::ClassToken => Place::tensor(shape, own("cls_token")),
            Site::DistillationToken => Place::tensor(shape, own("dist_token")),
            Site::Registers => Place::tensor(shape, own("reg_token")),
            Site::Positions => Place::tensor(shape, own("pos_embed")),
            Site::PreNorm => module("norm_pre"),
            Site::FinalNorm => module("norm"),
            Site::HeadNorm => module("fc_norm"),
            Site::Head => module("head"),
            Site::DistillationHead => module("head_dist"),
            Site::Pool(site) => pool_place(param, shape, &self.prefix, site),
            Site::Layer(index, site) => {
                let block = |name: &str| own(&format!("blocks.{index}.{name}"));
                let module = |name: &str| Place::module(param, shape, block(name));
                match site {
                    LayerSite::AttentionNorm => module("norm1"),
                    LayerSite::Query => module("attn.qkv").part(0, 3),
                    LayerSite::Key => module("attn.qkv").part(1, 3),
                    LayerSite::Value => module("attn.qkv").part(2, 3),
                    LayerSite::QueryNorm => module("attn.q_norm"),
                    LayerSite::KeyNorm => module("attn.k_norm"),
                    LayerSite::MixedNorm => module("attn.norm"),
                    LayerSite::Out => module("attn.proj"),
                    LayerSite::AttentionScale => Place::tensor(shape, block("ls1.gamma")),
                    LayerSite::MlpNorm => module("norm2"),
                    LayerSite::Gate if self.packed => module("mlp.fc1").part(0, 2),
                    LayerSite::Up if self.packed => module("mlp.fc1").part(1, 2),
                    LayerSite::Gate => module("mlp.fc1_g"),
                    LayerSite::Up if self.config.gated => module("mlp.fc1_x"),
                    LayerSite::Up => module("mlp.fc1"),
                    LayerSite::HiddenNorm => module("mlp.norm"),
                    LayerSite::Down => module("mlp.fc2"),
                    LayerSite::MlpScale => Place::tensor(shape, block("ls2.gamma")),
                    LayerSite::RelativeBias => module(&none(param.site)),
                }
            }
            site => module(&none(site)),
        }
    }

    fn ignores(&self, tensor: &str) -> bool {
        ignores(tensor)
    }
}
