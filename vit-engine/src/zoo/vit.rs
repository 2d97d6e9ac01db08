//! ViT (Dosovitskiy et al. 2020), DINO and AugReg, MAE's encoder (He et al. 2021) on all patches in order, and DeiT
//! with its distillation token (Touvron et al. 2020), as transformers saves them.
use serde_json::{Value, json};

use super::hf::{self, LayerNames, none};
use super::{Catalog, Names, OtherSizes, Place, Recipe, ZooError, merged};
use crate::config::{Config, Pool, Readout};
use crate::parameters::{LayerSite, Param, Site};

fn defaults() -> Value {
    json!({
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16, "num_channels": 3,
        "qkv_bias": true,
    })
}

pub(super) fn recipe(model_type: &str, config: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    let json = merged(defaults(), config);
    let mut c = hf::plain(&json)?;
    let prefix = hf::prefix(tensors, &["", "vit.", "deit."], "embeddings.cls_token");
    let mut head = "classifier";
    if model_type == "deit" {
        c.distillation_token = true;
        if tensors.has("cls_classifier.weight") || tensors.has("distillation_classifier.weight") {
            head = "cls_classifier";
            c.distillation_head = true;
            c.logits = Readout { pool: Pool::ClassAndDistillation, norm: false };
        }
    }
    c.classes = if model_type == "vit_mae" { 0 } else { hf::classes(&json, tensors, head) };
    let names = VitNames { config: c, layers: LayerNames::new(tensors, &prefix), prefix, head };
    Ok(Recipe::new(c, names, OtherSizes::HF))
}

struct VitNames {
    config: Config,
    prefix: String,
    layers: LayerNames,
    head: &'static str,
}

impl Names for VitNames {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        let embeddings = |name: &str| format!("{}embeddings.{name}", self.prefix);
        let module = |name: String| Place::module(param, shape, name);
        match param.site {
            Site::Patch => module(embeddings("patch_embeddings.projection")).convolution(param, &self.config),
            Site::ClassToken => Place::tensor(shape, embeddings("cls_token")),
            Site::DistillationToken => Place::tensor(shape, embeddings("distillation_token")),
            Site::Positions => Place::tensor(shape, embeddings("position_embeddings")),
            Site::FinalNorm => module(format!("{}layernorm", self.prefix)),
            Site::Head => module(self.head.into()),
            Site::DistillationHead => module("distillation_classifier".into()),
            Site::Layer(index, LayerSite::AttentionNorm) => module(self.layers.layer(index, "layernorm_before")),
            Site::Layer(index, LayerSite::MlpNorm) => module(self.layers.layer(index, "layernorm_after")),
            Site::Layer(index, site) => module(self.layers.module(index, site).unwrap_or_else(|| none(param.site))),
            site => module(none(site)),
        }
    }

    fn ignores(&self, tensor: &str) -> bool {
        // The embedding is not the pooler's output, and DINO's files have no pooler.
        hf::ignores(tensor) || tensor.contains("pooler.dense.")
    }
}
