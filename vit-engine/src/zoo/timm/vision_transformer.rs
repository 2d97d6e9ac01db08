//! `timm.models.vision_transformer` and `.deit`: plain, distilled, with registers, CLIP's, SigLIP's, DINOv2's, …
use serde::Deserialize;
use serde_json::Value;

use super::super::{Recipe, ZooError, activation, fields};
use super::names::TimmNames;
use super::{Common, Norm, only, other_sizes, pool, read_out, truthy};
use crate::config::{AttentionPool, Pool, Positions, Readout};

/// The arguments of the constructor that not all classes have.
#[derive(Deserialize)]
struct Arguments {
    qk_norm: bool,
    scale_attn_norm: bool,
    scale_mlp_norm: bool,
    proj_bias: bool,
    class_token: bool,
    pos_embed: String,
    no_embed_class: bool,
    reg_tokens: usize,
    pre_norm: bool,
    final_norm: bool,
    fc_norm: Option<bool>,
    pool_include_prefix: bool,
    dynamic_img_size: bool,
    dynamic_img_pad: bool,
    embed_layer: String,
    embed_norm_layer: Option<Norm>,
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
    let common: Common = fields(args)?;
    let mut c = common.config()?;
    let hidden = c.mlp_dim;
    let packed = a.mlp_layer == "SwiGLUPacked";
    c.mlp_dim = if packed { hidden / 2 } else { hidden };
    c.gated = a.mlp_layer != "Mlp";
    c.activation = activation(&a.act_layer)?;
    (c.bias.out, c.bias.mlp) = (a.proj_bias, a.proj_bias);
    c.bias.patch = !a.pre_norm;
    (c.class_token, c.distillation_token, c.registers) = (a.class_token, distilled, a.reg_tokens);
    c.positions = match (&*a.pos_embed, a.no_embed_class) {
        ("learn", false) => Positions::All,
        ("learn", true) => Positions::Patches,
        _ => Positions::Absent,
    };
    if distilled {
        // The distilled class always has positions, and its forward pass ignores registers.
        c.positions = if a.no_embed_class { Positions::Patches } else { Positions::All };
        c.registers = 0;
    }
    (c.pre_norm, c.embed_norm) = (a.pre_norm, a.embed_norm_layer.is_some());
    (c.qk_norm, c.context_norm, c.hidden_norm) = (a.qk_norm, a.scale_attn_norm, a.scale_mlp_norm);
    c.layer_scale = truthy(&common.init_values);
    if a.embed_norm_layer.as_ref().map(Norm::eps).transpose()?.is_some_and(|eps| eps != c.norm_eps) {
        return Err(ZooError::Unsupported("norms of different eps".into()));
    }
    let pool = pool(&common.global_pool, a.pool_include_prefix)?;
    if pool == Some(Pool::Attention) {
        c.attention_pool = Some(AttentionPool { heads: c.heads, mlp_dim: hidden, all_tokens: a.pool_include_prefix });
    }
    let averages = matches!(&*common.global_pool, "avg" | "avgmax" | "max");
    let norm_after = a.fc_norm.unwrap_or(averages);
    c.final_norm = a.final_norm && !norm_after;
    read_out(&mut c, pool, a.final_norm && norm_after);
    if distilled {
        if common.global_pool != "token" {
            return Err(ZooError::Unsupported(format!(
                "global_pool '{}' with a distillation token",
                common.global_pool
            )));
        }
        c.embedding = Some(Readout { pool: Pool::ClassAndDistillation, norm: false });
        (c.logits, c.distillation_head) = (Readout { pool: Pool::ClassAndDistillation, norm: false }, c.classes > 0);
    }
    let other_sizes = other_sizes(&c, a.dynamic_img_size)?;
    Ok(Recipe::new(c, TimmNames { packed, ..TimmNames::new(c, prefix) }, other_sizes))
}
