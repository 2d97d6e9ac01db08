//! CLIP's vision tower (Radford et al. 2021, <https://arxiv.org/abs/2103.00020>), alone or beside a text tower, as
//! transformers saves it.
use serde_json::{Value, json};

use super::hf::{self, none};
use super::{Catalog, Names, OtherSizes, Place, Recipe, ZooError, merged};
use crate::config::{Config, Pool, Readout};
use crate::parameters::{Param, Site};

fn defaults() -> Value {
    json!({
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "image_size": 224, "patch_size": 32, "num_channels": 3,
    })
}

pub(super) fn recipe(config: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    let json = merged(defaults(), hf::vision(config));
    let mut c = hf::plain(&json)?;
    (c.pre_norm, c.final_norm, c.bias.patch) = (true, false, false);
    c.embedding = Some(Readout { pool: Pool::Class, norm: true });
    c.projection = tensors.shape("visual_projection.weight").and_then(|shape| shape.first()).map_or(0, |rows| *rows);
    c.bias.projection = false;
    c.logits = Readout { pool: Pool::MeanPatches, norm: false };
    c.classes = hf::classes(config, tensors, "classifier");
    let prefix = hf::prefix(tensors, &["vision_model.", ""], "embeddings.class_embedding");
    if c.projection == 0
        && architecture(config).is_some_and(|name| name.ends_with("WithProjection") || name == "CLIPModel")
    {
        // The config declares a projection that the file lacks. It is still required, so that loading reports the
        // missing tensor.
        let width = json.get("projection_dim").or(config.get("projection_dim")).and_then(Value::as_u64);
        c.projection = width.unwrap_or(512) as usize;
    }
    Ok(Recipe::new(c, ClipNames { config: c, prefix }, OtherSizes::HF))
}

fn architecture(config: &Value) -> Option<&str> {
    config.get("architectures")?.get(0)?.as_str()
}

struct ClipNames {
    config: Config,
    prefix: String,
}

impl Names for ClipNames {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        let own = |name: &str| format!("{}{name}", self.prefix);
        let module = |name: String| Place::module(param, shape, name);
        match param.site {
            Site::Patch => module(own("embeddings.patch_embedding")).convolution(param, &self.config),
            Site::ClassToken => Place::tensor(shape, own("embeddings.class_embedding")),
            Site::Positions => module(own("embeddings.position_embedding")),
            Site::PreNorm => module(own("pre_layrnorm")),
            Site::HeadNorm => module(own("post_layernorm")),
            Site::Projection => module("visual_projection".into()),
            Site::Head => module("classifier".into()),
            Site::Layer(index, site) => module(hf::clip_layer(&self.prefix, index, site)),
            site => module(none(site)),
        }
    }

    fn ignores(&self, tensor: &str) -> bool {
        hf::ignores(tensor)
    }
}
