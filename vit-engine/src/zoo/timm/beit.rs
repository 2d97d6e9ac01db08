//! `timm.models.beit`: BEiT and BEiT v2 (Peng et al. 2022, <https://arxiv.org/abs/2208.06366>).
use serde::Deserialize;
use serde_json::Value;
use vit_kernels::Activation;

use super::super::hf::none;
use super::super::{Names, OtherSizes, Place, Recipe, Size, View, ZooError, fields, scaled};
use super::{Common, Norm, fused_without_key_bias, ignores, pool, read_out, truthy};
use crate::config::{Config, Positions};
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
    qkv_bias: bool,
    mlp_ratio: f64,
    swiglu_mlp: bool,
    scale_mlp: bool,
    norm_layer: Norm,
    init_values: Value,
    use_abs_pos_emb: bool,
    use_rel_pos_bias: bool,
    use_shared_rel_pos_bias: bool,
    use_fc_norm: Option<bool>,
}

pub(super) fn recipe(args: &Value, prefix: &str) -> Result<Recipe, ZooError> {
    let a: Arguments = fields(args)?;
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
    c.mlp_dim = scaled(c.dim, a.mlp_ratio)?;
    (c.gated, c.hidden_norm) = (a.swiglu_mlp, a.scale_mlp);
    c.activation = if a.swiglu_mlp { Activation::Silu } else { Activation::Gelu };
    (c.bias.query, c.bias.key, c.bias.value) = (a.qkv_bias, false, a.qkv_bias);
    c.positions = if a.use_abs_pos_emb { Positions::All } else { Positions::Absent };
    c.relative_bias = a.use_rel_pos_bias || a.use_shared_rel_pos_bias;
    c.layer_scale = truthy(&a.init_values);
    c.norm_eps = a.norm_layer.eps()?;
    let norm_after = a.use_fc_norm.unwrap_or(a.global_pool == "avg");
    c.final_norm = !norm_after;
    read_out(&mut c, pool(&a.global_pool, false)?, norm_after)?;
    let other_sizes = if c.relative_bias { OtherSizes::NONE } else { OtherSizes::TIMM };
    let names = Layout { config: c, prefix: prefix.into(), shared: a.use_shared_rel_pos_bias };
    Ok(Recipe::new(c, names, other_sizes))
}

struct Layout {
    config: Config,
    prefix: String,
    /// Whether all layers share one table of biases.
    shared: bool,
}

impl Names for Layout {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        let own = |name: &str| format!("{}{name}", self.prefix);
        let module = |name: &str| Place::module(param, shape, own(name));
        match param.site {
            Site::Patch => module("patch_embed.proj").convolution(param, &self.config),
            Site::ClassToken => Place::tensor(shape, own("cls_token")),
            Site::Positions => Place::tensor(shape, own("pos_embed")),
            Site::FinalNorm => module("norm"),
            Site::HeadNorm => module("fc_norm"),
            Site::Head => module("head"),
            Site::Layer(index, site) => {
                let block = |name: &str| own(&format!("blocks.{index}.{name}"));
                let module = |name: &str| Place::module(param, shape, block(name));
                let attention = |index| fused_without_key_bias(param, shape, &block("attn."), index);
                match site {
                    LayerSite::AttentionNorm => module("norm1"),
                    LayerSite::Query => attention(0),
                    LayerSite::Key => attention(1),
                    LayerSite::Value => attention(2),
                    LayerSite::RelativeBias => {
                        let [heads, biases] = shape;
                        let (own, shared) = (block("attn."), own("rel_pos_bias."));
                        let tensor = (if self.shared { shared } else { own }) + "relative_position_bias_table";
                        Place::tensor([biases, heads], tensor).view(View::Transposed)
                    }
                    LayerSite::Out => module("attn.proj"),
                    LayerSite::AttentionScale => Place::tensor(shape, block("gamma_1")),
                    LayerSite::MlpNorm => module("norm2"),
                    LayerSite::Gate => module("mlp.fc1_g"),
                    LayerSite::Up if self.config.gated => module("mlp.fc1_x"),
                    LayerSite::Up => module("mlp.fc1"),
                    LayerSite::HiddenNorm => module("mlp.norm"),
                    LayerSite::Down => module("mlp.fc2"),
                    LayerSite::MlpScale => Place::tensor(shape, block("gamma_2")),
                    LayerSite::QueryNorm | LayerSite::KeyNorm | LayerSite::MixedNorm => module(&none(param.site)),
                }
            }
            site => module(&none(site)),
        }
    }

    fn ignores(&self, tensor: &str) -> bool {
        ignores(tensor)
    }
}
