//! `timm.models.eva`: EVA (Fang et al. 2022, <https://arxiv.org/abs/2211.07636>), EVA-02 (Fang et al. 2023,
//! <https://arxiv.org/abs/2303.11331>), DINOv3 and others with rotary positions.
use serde::Deserialize;
use serde_json::Value;
use vit_kernels::Activation;

use super::super::{Recipe, Rotary, Size, ZooError, fields, scaled};
use super::names::{Qkv, TimmNames};
use super::{Common, only, other_sizes, pool, read_out};
use crate::config::{AttentionPool, Pool, Positions};

/// The arguments of the constructor that not all classes have.
#[derive(Deserialize)]
struct Arguments {
    num_kv_heads: Value,
    qkv_fused: bool,
    qk_norm: bool,
    swiglu_mlp: bool,
    swiglu_align_to: usize,
    scale_mlp: bool,
    scale_attn_inner: bool,
    attn_type: String,
    attn_only_layer_scale: bool,
    class_token: bool,
    num_reg_tokens: usize,
    no_embed_class: bool,
    use_abs_pos_emb: bool,
    use_rot_pos_emb: bool,
    rope_type: Option<String>,
    rope_grid_offset: f64,
    rope_grid_indexing: String,
    rope_temperature: f64,
    rope_rotate_half: bool,
    use_post_norm: bool,
    use_pre_transformer_norm: bool,
    use_post_transformer_norm: Option<bool>,
    use_fc_norm: Option<bool>,
    attn_pool_num_heads: Option<usize>,
    attn_pool_mlp_ratio: Option<f64>,
    dynamic_img_size: bool,
    dynamic_img_pad: bool,
    ref_feat_shape: Option<Size>,
}

impl Arguments {
    /// Returns an error for arguments that are not supported.
    fn check(&self) -> Result<(), ZooError> {
        only("attn_type", &self.attn_type, &["eva", "rope"])?;
        let flags = [
            (!self.num_kv_heads.is_null(), "num_kv_heads"),
            (self.attn_only_layer_scale, "attn_only_layer_scale"),
            (self.use_post_norm, "use_post_norm"),
            (self.dynamic_img_pad, "dynamic_img_pad"),
        ];
        match flags.into_iter().find(|(set, _)| *set) {
            Some((_, what)) => Err(ZooError::Unsupported(what.into())),
            None => Ok(()),
        }
    }

    /// The rotary positions, if there are any, and whether they rotate pairs of neighbours.
    fn rotary(&self) -> Result<Option<(Rotary, bool)>, ZooError> {
        if !self.use_rot_pos_emb {
            return Ok(None);
        }
        let theta = self.rope_temperature;
        match (self.rope_type.as_deref().unwrap_or("cat"), self.rope_rotate_half) {
            ("dinov3", true) if self.rope_grid_offset == 0.0 => {
                only("rope_type 'dinov3' with rope_grid_indexing", &self.rope_grid_indexing, &["ij"])?;
                Ok(Some((Rotary::Normalised { theta }, false)))
            }
            ("cat", false) => {
                only("rope_grid_indexing", &self.rope_grid_indexing, &["ij", "xy"])?;
                let counted = Rotary::Counted {
                    temperature: theta,
                    offset: self.rope_grid_offset,
                    reference: self.ref_feat_shape.map(Size::height_width),
                    x_first: self.rope_grid_indexing == "xy",
                };
                Ok(Some((counted, true)))
            }
            (kind, half) => Err(ZooError::Unsupported(format!(
                "rope_type '{kind}' with rope_rotate_half {half} and rope_grid_offset {}",
                self.rope_grid_offset
            ))),
        }
    }
}

pub(super) fn recipe(args: &Value, prefix: &str) -> Result<Recipe, ZooError> {
    let a: Arguments = fields(args)?;
    a.check()?;
    let common: Common = fields(args)?;
    let mut c = common.config()?;
    let split = a.swiglu_mlp && (a.scale_mlp || a.swiglu_align_to > 0);
    if split && a.swiglu_align_to > 0 {
        c.mlp_dim = c.mlp_dim.div_ceil(a.swiglu_align_to) * a.swiglu_align_to;
    }
    (c.gated, c.hidden_norm) = (a.swiglu_mlp, a.scale_mlp);
    c.activation = if a.swiglu_mlp { Activation::Silu } else { Activation::Gelu };
    c.bias.key &= a.attn_type == "rope";
    c.bias.patch = !a.use_pre_transformer_norm;
    c.pre_norm = a.use_pre_transformer_norm;
    (c.qk_norm, c.context_norm) = (a.qk_norm, a.scale_attn_inner);
    c.layer_scale = !common.init_values.is_null();
    (c.class_token, c.registers) = (a.class_token, a.num_reg_tokens);
    c.positions = match (a.use_abs_pos_emb, a.no_embed_class) {
        (true, false) => Positions::All,
        (true, true) => Positions::Patches,
        (false, _) => Positions::Absent,
    };
    let rotary = a.rotary()?;
    c.rope = rotary.is_some();
    if c.rope && !c.head_dim.is_multiple_of(4) {
        return Err(ZooError::Field(format!(
            "head_dim is {}; RoPE over rows and columns needs a multiple of 4",
            c.head_dim
        )));
    }
    let norm_after = a.use_fc_norm.unwrap_or(common.global_pool == "avg");
    c.final_norm = a.use_post_transformer_norm.unwrap_or(!norm_after);
    if common.global_pool == "map" {
        if a.swiglu_mlp {
            return Err(ZooError::Unsupported("global_pool 'map' with a gated feed-forward".into()));
        }
        c.attention_pool = Some(AttentionPool {
            heads: a.attn_pool_num_heads.unwrap_or(c.heads),
            mlp_dim: scaled(c.dim, a.attn_pool_mlp_ratio.unwrap_or(common.mlp_ratio))?,
            all_tokens: true,
        });
    }
    let pool = match pool(&common.global_pool, false)? {
        // Without a class token timm would take the first token, whatever it is.
        Some(Pool::Class) if !c.class_token => {
            return Err(ZooError::Unsupported("global_pool 'token' without a class token".into()));
        }
        pool => pool,
    };
    read_out(&mut c, pool, norm_after);
    let names = TimmNames {
        qkv: match (a.qkv_fused, &*a.attn_type) {
            (false, _) => Qkv::Apart,
            (true, "rope") => Qkv::Fused,
            (true, _) => Qkv::FusedApartFromBiases,
        },
        pairs: rotary.is_some_and(|rotary| rotary.1),
        packed: a.swiglu_mlp && !split,
        scales: ["gamma_1", "gamma_2"],
        ..TimmNames::new(c, prefix)
    };
    let mut recipe = Recipe::new(c, names, other_sizes(&c, a.dynamic_img_size)?);
    recipe.rotary = rotary.map(|rotary| rotary.0);
    Ok(recipe)
}
