//! BEiT (Bao, Dong, Piao, Wei 2021, <https://arxiv.org/abs/2106.08254>), as transformers saves it.
use serde::Deserialize;
use serde_json::{Value, json};

use super::hf::{self, LayerNames, none};
use super::{Catalog, Names, OtherSizes, Place, Recipe, View, ZooError, fields, merged};
use crate::config::{Config, Pool, Positions, Readout};
use crate::parameters::{LayerSite, Param, Site};

fn defaults() -> Value {
    json!({
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16, "num_channels": 3,
        "use_absolute_position_embeddings": false, "use_relative_position_bias": false,
        "use_shared_relative_position_bias": false, "layer_scale_init_value": 0.1, "use_mean_pooling": true,
    })
}

#[derive(Deserialize)]
struct Own {
    use_absolute_position_embeddings: bool,
    use_relative_position_bias: bool,
    use_shared_relative_position_bias: bool,
    layer_scale_init_value: f64,
    use_mean_pooling: bool,
}

pub(super) fn recipe(config: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    let json = merged(defaults(), config);
    let own: Own = fields(&json)?;
    let mut c = hf::plain(&json)?;
    c.bias.key = false;
    c.positions = if own.use_absolute_position_embeddings { Positions::All } else { Positions::Absent };
    c.relative_bias = own.use_relative_position_bias || own.use_shared_relative_position_bias;
    let [height, width] = c.image;
    if c.relative_bias && (c.image[0] / c.patch[0].max(1)) != (c.image[1] / c.patch[1].max(1)) {
        return Err(ZooError::Unsupported(format!(
            "BEiT with relative position biases and images of {height}×{width}"
        )));
    }
    c.layer_scale = own.layer_scale_init_value > 0.0;
    c.final_norm = !own.use_mean_pooling;
    let readout = if own.use_mean_pooling {
        Readout { pool: Pool::MeanPatches, norm: true }
    } else {
        Readout { pool: Pool::Class, norm: false }
    };
    let prefix = hf::prefix(tensors, &["", "beit."], "embeddings.cls_token");
    // Checkpoints from masked-image pretraining have no norm after pooling.
    let pools = !own.use_mean_pooling || tensors.has(&format!("{prefix}pooler.layernorm.weight"));
    (c.embedding, c.logits) = (pools.then_some(readout), readout);
    c.classes = hf::classes(&json, tensors, "classifier");
    if !pools && c.classes == 0 {
        c.final_norm = tensors.has(&format!("{prefix}layernorm.weight"));
    }
    // Learned positions are resampled as in ViT; a relative bias fits only its own grid.
    let other_sizes = if c.relative_bias { OtherSizes::NONE } else { OtherSizes::HF };
    let names = BeitNames {
        config: c,
        own_bias: own.use_relative_position_bias,
        layers: LayerNames::new(tensors, &prefix),
        shared: own.use_shared_relative_position_bias.then(|| {
            let tensor = "relative_position_bias.relative_position_bias_table";
            let old = format!("{prefix}encoder.{tensor}");
            if tensors.has(&old) { old } else { format!("{prefix}shared_position_bias.relative_position_bias_table") }
        }),
        old_bias: tensors.names().any(|name| name.contains(".attention.attention.relative_position_bias.")),
        prefix,
    };
    Ok(Recipe::new(c, names, other_sizes))
}

struct BeitNames {
    config: Config,
    prefix: String,
    layers: LayerNames,
    /// Whether each layer has its own table of relative biases.
    own_bias: bool,
    /// The name of the table that all layers share.
    shared: Option<String>,
    /// Whether the tensor of a layer's own table is in its attention module, as in old names.
    old_bias: bool,
}

impl Names for BeitNames {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        let embeddings = |name: &str| format!("{}embeddings.{name}", self.prefix);
        let module = |name: String| Place::module(param, shape, name);
        let [rows, columns] = shape;
        match param.site {
            Site::Patch => module(embeddings("patch_embeddings.projection")).convolution(param, &self.config),
            Site::ClassToken => Place::tensor(shape, embeddings("cls_token")),
            Site::Positions => Place::tensor(shape, embeddings("position_embeddings")),
            Site::FinalNorm => module(format!("{}layernorm", self.prefix)),
            Site::HeadNorm => module(format!("{}pooler.layernorm", self.prefix)),
            Site::Head => module("classifier".into()),
            Site::Layer(index, site) => {
                let layer = |name: &str| self.layers.layer(index, name);
                match site {
                    LayerSite::AttentionNorm => module(layer("layernorm_before")),
                    LayerSite::AttentionScale => Place::tensor(shape, layer("lambda_1")),
                    LayerSite::MlpNorm => module(layer("layernorm_after")),
                    LayerSite::MlpScale => Place::tensor(shape, layer("lambda_2")),
                    LayerSite::RelativeBias => {
                        let own = "relative_position_bias.relative_position_bias_table";
                        let within = if self.old_bias { "attention.attention." } else { "" };
                        let own = self.own_bias.then(|| layer(&format!("{within}{own}")));
                        let mut tables = own.into_iter().chain(self.shared.clone());
                        let table = Place::tensor([columns, rows], tables.next().unwrap_or_default());
                        Place { plus: tables.next(), ..table.view(View::Transposed) }
                    }
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
