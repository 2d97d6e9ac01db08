//! DINOv2 (Oquab et al. 2023, <https://arxiv.org/abs/2304.07193>), and with registers (Darcet et al. 2023,
//! <https://arxiv.org/abs/2309.16588>), as transformers saves them.
use serde::Deserialize;
use serde_json::{Value, json};
use vit_kernels::Activation;

use super::hf::{self, LayerNames, none};
use super::{Catalog, Filter, Names, OtherSizes, Place, Recipe, ZooError, fields, merged, scaled};
use crate::config::{Config, Pool, Positions, Readout};
use crate::parameters::{LayerSite, Param, Site};

fn defaults(registers: bool) -> Value {
    json!({
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_ratio": 4, "hidden_act": "gelu",
        "layer_norm_eps": 1e-6, "image_size": 224, "patch_size": if registers { 16 } else { 14 }, "num_channels": 3,
        "qkv_bias": true, "use_swiglu_ffn": false, "num_register_tokens": if registers { 4 } else { 0 },
    })
}

#[derive(Deserialize)]
struct Own {
    mlp_ratio: f64,
    use_swiglu_ffn: bool,
    num_register_tokens: usize,
}

pub(super) fn recipe(model_type: &str, config: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    let registers = model_type == "dinov2_with_registers";
    let json = merged(defaults(registers), config);
    let own: Own = fields(&json)?;
    let mut c = hf::plain(&json)?;
    hf::square_grid(&c)?;
    c.mlp_dim = scaled(c.dim, own.mlp_ratio)?;
    if own.use_swiglu_ffn {
        // SwiGLU is two thirds as wide, rounded up to a multiple of 8. It uses SiLU whatever hidden_act says.
        c.mlp_dim = ((c.mlp_dim as f64 * 2.0 / 3.0) as usize).div_ceil(8) * 8;
        (c.gated, c.activation) = (true, Activation::Silu);
    }
    c.layer_scale = true;
    let mut other_sizes = OtherSizes::HF;
    if registers {
        (c.registers, c.positions) = (own.num_register_tokens, Positions::NotRegisters);
        other_sizes.filter = Some(Filter::BicubicAntialiased);
    }
    c.logits = Readout { pool: Pool::ClassThenMeanPatches, norm: false };
    c.classes = hf::classes(&json, tensors, "classifier");
    let prefix = hf::prefix(tensors, &["", "dinov2.", "dinov2_with_registers."], "embeddings.cls_token");
    let layers = LayerNames::new(tensors, &prefix);
    let fused = tensors.names().any(|name| name.contains(".mlp.weights_in."));
    Ok(Recipe::new(c, DinoV2Names { config: c, prefix, layers, fused }, other_sizes))
}

struct DinoV2Names {
    config: Config,
    prefix: String,
    layers: LayerNames,
    /// Whether gate and up are in one tensor, as in old names.
    fused: bool,
}

impl Names for DinoV2Names {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        let embeddings = |name: &str| format!("{}embeddings.{name}", self.prefix);
        let module = |name: String| Place::module(param, shape, name);
        match param.site {
            Site::Patch => module(embeddings("patch_embeddings.projection")).convolution(param, &self.config),
            Site::ClassToken => Place::tensor(shape, embeddings("cls_token")),
            Site::Registers => Place::tensor(shape, embeddings("register_tokens")),
            Site::Positions => Place::tensor(shape, embeddings("position_embeddings")),
            Site::FinalNorm => module(format!("{}layernorm", self.prefix)),
            Site::Head => module("classifier".into()),
            Site::Layer(index, site) => {
                let layer = |name: &str| self.layers.layer(index, name);
                let mlp = |name: &str| module(layer("mlp") + "." + name);
                match (site, self.config.gated, self.fused) {
                    (LayerSite::AttentionNorm, ..) => module(layer("norm1")),
                    (LayerSite::AttentionScale, ..) => Place::tensor(shape, layer("layer_scale1.lambda1")),
                    (LayerSite::MlpNorm, ..) => module(layer("norm2")),
                    (LayerSite::MlpScale, ..) => Place::tensor(shape, layer("layer_scale2.lambda1")),
                    (LayerSite::Gate, _, true) => mlp("weights_in").part(0, 2),
                    (LayerSite::Up, true, true) => mlp("weights_in").part(1, 2),
                    (LayerSite::Down, true, true) => mlp("weights_out"),
                    (LayerSite::Gate, _, false) => mlp("gate_proj"),
                    (LayerSite::Up, true, false) => mlp("up_proj"),
                    (LayerSite::Down, true, false) => mlp("down_proj"),
                    (LayerSite::Up, false, _) => mlp("fc1"),
                    (LayerSite::Down, false, _) => mlp("fc2"),
                    _ => module(self.layers.module(index, site).unwrap_or_else(|| none(param.site))),
                }
            }
            site => module(none(site)),
        }
    }

    fn ignores(&self, tensor: &str) -> bool {
        hf::ignores(tensor)
    }
}
