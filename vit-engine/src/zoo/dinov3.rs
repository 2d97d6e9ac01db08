//! DINOv3's Vision Transformers (Siméoni et al. 2025, <https://arxiv.org/abs/2508.10104>), as transformers saves them.
use serde::Deserialize;
use serde_json::{Value, json};

use super::hf::{self, none};
use super::{Catalog, Names, OtherSizes, Place, Recipe, Rotary, ZooError, fields, merged};
use crate::config::{Config, Positions};
use crate::parameters::{LayerSite, Param, Site};

fn defaults() -> Value {
    json!({
        "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536,
        "hidden_act": "gelu", "layer_norm_eps": 1e-5, "image_size": 224, "patch_size": 16, "num_channels": 3,
        "rope_theta": 100.0, "query_bias": true, "key_bias": false, "value_bias": true, "proj_bias": true,
        "mlp_bias": true, "use_gated_mlp": false, "num_register_tokens": 0,
    })
}

#[derive(Deserialize)]
struct Own {
    rope_theta: f64,
    query_bias: bool,
    key_bias: bool,
    value_bias: bool,
    proj_bias: bool,
    mlp_bias: bool,
    use_gated_mlp: bool,
    num_register_tokens: usize,
}

pub(super) fn recipe(config: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    let mut json = merged(defaults(), config);
    // Newer configs have the base in `rope_parameters`. A field head_dim has no effect in transformers' code.
    if let Some(theta) = json.pointer("/rope_parameters/rope_theta").cloned() {
        json["rope_theta"] = theta;
    }
    json["head_dim"] = Value::Null;
    let own: Own = fields(&json)?;
    let mut c = hf::plain(&json)?;
    (c.bias.query, c.bias.key, c.bias.value) = (own.query_bias, own.key_bias, own.value_bias);
    (c.bias.out, c.bias.mlp) = (own.proj_bias, own.mlp_bias);
    (c.registers, c.positions, c.rope) = (own.num_register_tokens, Positions::Absent, true);
    (c.layer_scale, c.gated) = (true, own.use_gated_mlp);
    if !c.head_dim.is_multiple_of(4) {
        return Err(ZooError::Field(format!(
            "head_dim is {}; RoPE over rows and columns needs a multiple of 4",
            c.head_dim
        )));
    }
    let layers = if tensors.has("model.layer.0.norm1.weight") { "model.layer." } else { "layer." };
    let mut recipe = Recipe::new(c, DinoV3Names { config: c, layers }, OtherSizes::HF);
    recipe.rotary = Some(Rotary::Normalised { theta: own.rope_theta });
    Ok(recipe)
}

struct DinoV3Names {
    config: Config,
    layers: &'static str,
}

impl Names for DinoV3Names {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        let module = |name: String| Place::module(param, shape, name);
        let embeddings = |name: &str| format!("embeddings.{name}");
        match param.site {
            Site::Patch => module(embeddings("patch_embeddings")).convolution(param, &self.config),
            Site::ClassToken => Place::tensor(shape, embeddings("cls_token")),
            Site::Registers => Place::tensor(shape, embeddings("register_tokens")),
            Site::FinalNorm => module("norm".into()),
            Site::Layer(index, site) => {
                let layer = |name: &str| format!("{}{index}.{name}", self.layers);
                match site {
                    LayerSite::AttentionNorm => module(layer("norm1")),
                    LayerSite::Query => module(layer("attention.q_proj")),
                    LayerSite::Key => module(layer("attention.k_proj")),
                    LayerSite::Value => module(layer("attention.v_proj")),
                    LayerSite::Out => module(layer("attention.o_proj")),
                    LayerSite::AttentionScale => Place::tensor(shape, layer("layer_scale1.lambda1")),
                    LayerSite::MlpNorm => module(layer("norm2")),
                    LayerSite::Gate => module(layer("mlp.gate_proj")),
                    LayerSite::Up => module(layer("mlp.up_proj")),
                    LayerSite::Down => module(layer("mlp.down_proj")),
                    LayerSite::MlpScale => Place::tensor(shape, layer("layer_scale2.lambda1")),
                    _ => module(none(param.site)),
                }
            }
            site => module(none(site)),
        }
    }

    fn ignores(&self, tensor: &str) -> bool {
        hf::ignores(tensor) || tensor.starts_with("rope")
    }
}
