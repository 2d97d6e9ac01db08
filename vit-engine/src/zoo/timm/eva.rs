//! `timm.models.eva`: EVA (Fang et al. 2022, <https://arxiv.org/abs/2211.07636>), EVA-02 (Fang et al. 2023,
//! <https://arxiv.org/abs/2303.11331>), DINOv3 and others with rotary positions.
use serde::Deserialize;
use serde_json::Value;
use vit_kernels::Activation;

use super::super::hf::none;
use super::super::{Names, OtherSizes, Place, Recipe, Rotary, Size, View, ZooError, fields, scaled};
use super::{Common, Norm, fused_without_key_bias, ignores, only, pool, read_out};
use crate::config::{Config, Pool, Positions};
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
    num_kv_heads: Value,
    qkv_bias: bool,
    qkv_fused: bool,
    qk_norm: bool,
    mlp_ratio: f64,
    swiglu_mlp: bool,
    swiglu_align_to: usize,
    scale_mlp: bool,
    scale_attn_inner: bool,
    attn_type: String,
    norm_layer: Norm,
    init_values: Value,
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
    #[serde(rename = "rope_mrope_section")]
    _rope_mrope_section: Value,
    use_post_norm: bool,
    use_pre_transformer_norm: bool,
    use_post_transformer_norm: Option<bool>,
    use_fc_norm: Option<bool>,
    #[serde(rename = "attn_pool_num_heads")]
    _attn_pool_num_heads: Value,
    #[serde(rename = "attn_pool_mlp_ratio")]
    _attn_pool_mlp_ratio: Value,
    #[serde(rename = "dynamic_img_size")]
    _dynamic_img_size: Value,
    dynamic_img_pad: bool,
    ref_feat_shape: Option<Size>,
}

impl Arguments {
    /// What of it is not supported.
    fn check(&self) -> Result<(), ZooError> {
        only("attn_type", &self.attn_type, &["eva", "rope"])?;
        let flags = [
            (!self.num_kv_heads.is_null(), "num_kv_heads"),
            (self.attn_only_layer_scale, "attn_only_layer_scale"),
            (self.use_post_norm, "use_post_norm"),
            (self.dynamic_img_pad, "dynamic_img_pad"),
            // It attends to the tokens in front of the patches as well.
            (self.global_pool == "map", "global_pool 'map' of EVA"),
            // Rows of queries are reordered when they are loaded; a norm over all heads at once would be too.
            (self.attn_type == "rope" && self.scale_attn_inner, "scale_attn_inner with attn_type 'rope'"),
        ];
        match flags.into_iter().find(|(set, _)| *set) {
            Some((_, what)) => Err(ZooError::Unsupported(what.into())),
            None => Ok(()),
        }
    }

    /// The rotation, if there is one, and whether it pairs neighbours.
    fn rotary(&self) -> Result<Option<(Rotary, bool)>, ZooError> {
        if !self.use_rot_pos_emb {
            return Ok(None);
        }
        let theta = self.rope_temperature;
        match (self.rope_type.as_deref().unwrap_or("cat"), self.rope_rotate_half) {
            ("dinov3", true) => Ok(Some((Rotary::Normalised { theta }, false))),
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
            (kind, half) => Err(ZooError::Unsupported(format!("rope_type '{kind}' with rope_rotate_half {half}"))),
        }
    }
}

pub(super) fn recipe(args: &Value, prefix: &str) -> Result<Recipe, ZooError> {
    let a: Arguments = fields(args)?;
    a.check()?;
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
    let split = a.swiglu_mlp && (a.scale_mlp || a.swiglu_align_to > 0);
    c.mlp_dim = scaled(c.dim, a.mlp_ratio)?;
    if split && a.swiglu_align_to > 0 {
        c.mlp_dim = c.mlp_dim.div_ceil(a.swiglu_align_to) * a.swiglu_align_to;
    }
    (c.gated, c.hidden_norm) = (a.swiglu_mlp, a.scale_mlp);
    c.activation = if a.swiglu_mlp { Activation::Silu } else { Activation::Gelu };
    (c.bias.query, c.bias.value) = (a.qkv_bias, a.qkv_bias);
    c.bias.key = a.qkv_bias && a.attn_type == "rope";
    c.bias.patch = !a.use_pre_transformer_norm;
    c.pre_norm = a.use_pre_transformer_norm;
    (c.qk_norm, c.mixed_norm) = (a.qk_norm, a.scale_attn_inner);
    c.layer_scale = !a.init_values.is_null();
    c.norm_eps = a.norm_layer.eps()?;
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
            "a head is {} wide; RoPE over rows and columns needs a multiple of 4",
            c.head_dim
        )));
    }
    let norm_after = a.use_fc_norm.unwrap_or(a.global_pool == "avg");
    c.final_norm = a.use_post_transformer_norm.unwrap_or(!norm_after);
    let pool = match pool(&a.global_pool, false)? {
        // Without a class token it is the first token, whatever that is.
        Some(Pool::Class) if !c.class_token => {
            return Err(ZooError::Unsupported("a token pool without class token".into()));
        }
        pool => pool,
    };
    read_out(&mut c, pool, norm_after)?;
    let names = Layout {
        config: c,
        prefix: prefix.into(),
        fused: a.qkv_fused,
        key_bias: c.bias.key,
        split,
        pairs: rotary.is_some_and(|rotary| rotary.1),
    };
    let mut recipe = Recipe::new(c, names, OtherSizes::TIMM);
    recipe.rotary = rotary.map(|rotary| rotary.0);
    Ok(recipe)
}

struct Layout {
    config: Config,
    prefix: String,
    /// Whether queries, keys and values stand in one tensor.
    fused: bool,
    /// Whether that one has a bias for all of them.
    key_bias: bool,
    /// Whether gate and up stand apart.
    split: bool,
    /// Whether rotations pair neighbours.
    pairs: bool,
}

impl Layout {
    fn attention(&self, param: Param, shape: [usize; 2], attention: &str, index: usize) -> Place {
        let name = ["q_proj", "k_proj", "v_proj"][index];
        match (self.fused, self.key_bias) {
            (false, _) => Place::module(param, shape, format!("{attention}{name}")),
            (true, true) => Place::module(param, shape, format!("{attention}qkv")).part(index, 3),
            (true, false) => fused_without_key_bias(param, shape, attention, index),
        }
    }
}

impl Names for Layout {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        let own = |name: &str| format!("{}{name}", self.prefix);
        let module = |name: &str| Place::module(param, shape, own(name));
        match param.site {
            Site::Patch => module("patch_embed.proj").convolution(param, &self.config),
            Site::ClassToken => Place::tensor(shape, own("cls_token")),
            Site::Registers => Place::tensor(shape, own("reg_token")),
            Site::Positions => Place::tensor(shape, own("pos_embed")),
            Site::PreNorm => module("norm_pre"),
            Site::FinalNorm => module("norm"),
            Site::HeadNorm => module("fc_norm"),
            Site::Head => module("head"),
            Site::Layer(index, site) => {
                let block = |name: &str| own(&format!("blocks.{index}.{name}"));
                let module = |name: &str| Place::module(param, shape, block(name));
                let attention = block("attn.");
                let view = if self.pairs { View::PairsToHalves { head_dim: self.config.head_dim } } else { View::Rows };
                match site {
                    LayerSite::AttentionNorm => module("norm1"),
                    LayerSite::Query => self.attention(param, shape, &attention, 0).view(view),
                    LayerSite::Key => self.attention(param, shape, &attention, 1).view(view),
                    LayerSite::Value => self.attention(param, shape, &attention, 2),
                    LayerSite::QueryNorm => module("attn.q_norm").view(view),
                    LayerSite::KeyNorm => module("attn.k_norm").view(view),
                    LayerSite::MixedNorm => module("attn.norm"),
                    LayerSite::Out => module("attn.proj"),
                    LayerSite::AttentionScale => Place::tensor(shape, block("gamma_1")),
                    LayerSite::MlpNorm => module("norm2"),
                    LayerSite::Gate if self.split => module("mlp.fc1_g"),
                    LayerSite::Up if self.split => module("mlp.fc1_x"),
                    LayerSite::Gate => module("mlp.fc1").part(0, 2),
                    LayerSite::Up if self.config.gated => module("mlp.fc1").part(1, 2),
                    LayerSite::Up => module("mlp.fc1"),
                    LayerSite::HiddenNorm => module("mlp.norm"),
                    LayerSite::Down => module("mlp.fc2"),
                    LayerSite::MlpScale => Place::tensor(shape, block("gamma_2")),
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
