//! SigLIP's vision tower (Zhai et al. 2023, <https://arxiv.org/abs/2303.15343>) and that of fixed-size SigLIP2
//! (Tschannen et al. 2025, <https://arxiv.org/abs/2502.14786>), alone or beside a text tower, as transformers saves
//! them.
use serde::Deserialize;
use serde_json::{Value, json};

use super::hf::{self, none};
use super::{Catalog, Names, OtherSizes, Place, Recipe, ZooError, fields, merged};
use crate::config::{AttentionPool, Config, Pool, Readout};
use crate::parameters::{Param, PoolSite, Site};

fn defaults() -> Value {
    json!({
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "image_size": 224, "patch_size": 16,
        "num_channels": 3, "vision_use_head": true,
    })
}

#[derive(Deserialize)]
struct Own {
    vision_use_head: bool,
}

pub(super) fn recipe(config: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    let json = merged(defaults(), hf::vision(config));
    let own: Own = fields(&json)?;
    let mut c = hf::plain(&json)?;
    c.class_token = false;
    c.embedding = None;
    if own.vision_use_head {
        c.attention_pool = Some(AttentionPool { heads: c.heads, mlp_dim: c.mlp_dim, all_tokens: false });
        c.embedding = Some(Readout { pool: Pool::Attention, norm: false });
    }
    c.logits = Readout { pool: Pool::MeanPatches, norm: false };
    c.classes = hf::classes(config, tensors, "classifier");
    let prefix = hf::prefix(tensors, &["vision_model.", ""], "embeddings.patch_embedding.weight");
    Ok(Recipe::new(c, SiglipNames { config: c, prefix }, OtherSizes::HF))
}

struct SiglipNames {
    config: Config,
    prefix: String,
}

impl Names for SiglipNames {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        let own = |name: &str| format!("{}{name}", self.prefix);
        let module = |name: String| Place::module(param, shape, name);
        match param.site {
            Site::Patch => module(own("embeddings.patch_embedding")).convolution(param, &self.config),
            Site::Positions => module(own("embeddings.position_embedding")),
            Site::FinalNorm => module(own("post_layernorm")),
            Site::Head => module("classifier".into()),
            Site::Layer(index, site) => module(hf::clip_layer(&self.prefix, index, site)),
            Site::Pool(site) => {
                let fused = |index| Place::in_proj(param, shape, &own("head.attention"), index);
                match site {
                    PoolSite::Probe => Place::tensor(shape, own("head.probe")),
                    PoolSite::Query => fused(0),
                    PoolSite::Key => fused(1),
                    PoolSite::Value => fused(2),
                    PoolSite::Out => module(own("head.attention.out_proj")),
                    PoolSite::Norm => module(own("head.layernorm")),
                    PoolSite::Up => module(own("head.mlp.fc1")),
                    PoolSite::Down => module(own("head.mlp.fc2")),
                }
            }
            site => module(none(site)),
        }
    }

    fn ignores(&self, tensor: &str) -> bool {
        hf::ignores(tensor)
    }
}
