//! Fields and tensor names that several families of Hugging Face's transformers share.
use serde::Deserialize;
use serde_json::Value;

use super::{Catalog, Size, ZooError, activation, fields};
use crate::config::Config;
use crate::parameters::{LayerSite, Site};

/// Fields that every family has. Each family has its own defaults.
#[derive(Deserialize)]
pub(super) struct Fields {
    pub(super) hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(default)]
    intermediate_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    image_size: Size,
    patch_size: Size,
    num_channels: usize,
    #[serde(default)]
    head_dim: Option<usize>,
    #[serde(default = "yes")]
    qkv_bias: bool,
}

fn yes() -> bool {
    true
}

/// The plain Vision Transformer for a config with its defaults filled in.
pub(super) fn plain(json: &Value) -> Result<Config, ZooError> {
    let f: Fields = fields(json)?;
    let heads = f.num_attention_heads;
    if f.head_dim.is_none() && (heads == 0 || !f.hidden_size.is_multiple_of(heads)) {
        let message = format!("hidden_size {} is not a multiple of num_attention_heads {heads}", f.hidden_size);
        return Err(ZooError::Field(message));
    }
    let mut c = Config::plain(
        f.image_size.height_width(),
        f.patch_size.height_width(),
        f.hidden_size,
        f.num_hidden_layers,
        heads,
    );
    if let Some(head_dim) = f.head_dim {
        (c.head_dim, c.attention_scale) = (head_dim, 1.0 / (head_dim as f32).sqrt());
    }
    (c.bias.query, c.bias.key, c.bias.value) = (f.qkv_bias, f.qkv_bias, f.qkv_bias);
    c.channels = f.num_channels;
    c.mlp_dim = f.intermediate_size;
    c.activation = activation(&f.hidden_act)?;
    c.norm_eps = f.layer_norm_eps;
    Ok(c)
}

/// Refuses grids that are not square, for families whose code assumes a square grid.
pub(super) fn square_grid(c: &Config) -> Result<(), ZooError> {
    let [height, width] = c.image;
    if c.patch.contains(&0) || c.grid()[0] == c.grid()[1] {
        return Ok(());
    }
    Err(ZooError::Unsupported(format!("image_size [{height}, {width}], which is not square in patches,")))
}

/// The number of classes: the rows of the classifier. If the config declares a classifier that the file lacks, the
/// number of labels, so that loading reports the missing tensor.
pub(super) fn classes(json: &Value, tensors: &dyn Catalog, classifier: &str) -> usize {
    if let Some([classes, ..]) = tensors.shape(&format!("{classifier}.weight")) {
        return *classes;
    }
    let architecture = json.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    if !architecture.is_some_and(|name| name.contains("ForImageClassification")) {
        return 0;
    }
    let labels = json.get("id2label").and_then(Value::as_object).map(serde_json::Map::len);
    let number = json.get("num_labels").and_then(Value::as_u64).map(|number| number as usize);
    labels.or(number).unwrap_or(2)
}

/// The first prefix with which the tensor exists; the first of the list if there is none.
pub(super) fn prefix(tensors: &dyn Catalog, prefixes: &[&str], tensor: &str) -> String {
    let found = prefixes.iter().find(|prefix| tensors.has(&format!("{prefix}{tensor}")));
    (*found.unwrap_or(&prefixes[0])).to_owned()
}

/// Names of a layer's linear layers. ViT, DeiT, BEiT and DINOv2 have two generations of names: most files have the old
/// ones, and both are accepted.
pub(super) struct LayerNames {
    /// The part of the name before the layer's number.
    layers: String,
    new_attention: bool,
    new_mlp: bool,
}

impl LayerNames {
    pub(super) fn new(tensors: &dyn Catalog, prefix: &str) -> Self {
        let has = |layers: &str, name: &str| tensors.has(&format!("{layers}0.{name}.weight"));
        let (old, new) = (format!("{prefix}encoder.layer."), format!("{prefix}layers."));
        let layers = if tensors.names().any(|name| name.starts_with(&new)) { new } else { old };
        Self {
            new_attention: has(&layers, "attention.q_proj") || has(&layers, "attention.o_proj"),
            new_mlp: has(&layers, "mlp.fc1") || has(&layers, "mlp.fc2"),
            layers,
        }
    }

    /// The full name of `name` in layer `index`.
    pub(super) fn layer(&self, index: usize, name: &str) -> String {
        format!("{}{index}.{name}", self.layers)
    }

    /// The names of the four linear layers of attention, and of the two of ViT's feed-forward.
    pub(super) fn module(&self, index: usize, site: LayerSite) -> Option<String> {
        let name = match (site, self.new_attention, self.new_mlp) {
            (LayerSite::Query, false, _) => "attention.attention.query",
            (LayerSite::Key, false, _) => "attention.attention.key",
            (LayerSite::Value, false, _) => "attention.attention.value",
            (LayerSite::Out, false, _) => "attention.output.dense",
            (LayerSite::Query, true, _) => "attention.q_proj",
            (LayerSite::Key, true, _) => "attention.k_proj",
            (LayerSite::Value, true, _) => "attention.v_proj",
            (LayerSite::Out, true, _) => "attention.o_proj",
            (LayerSite::Up, _, false) => "intermediate.dense",
            (LayerSite::Down, _, false) => "output.dense",
            (LayerSite::Up, _, true) => "mlp.fc1",
            (LayerSite::Down, _, true) => "mlp.fc2",
            _ => return None,
        };
        Some(self.layer(index, name))
    }
}

/// The names of a layer's parts in CLIP and SigLIP.
pub(super) fn clip_layer(prefix: &str, index: usize, site: LayerSite) -> String {
    let name = match site {
        LayerSite::AttentionNorm => "layer_norm1",
        LayerSite::Query => "self_attn.q_proj",
        LayerSite::Key => "self_attn.k_proj",
        LayerSite::Value => "self_attn.v_proj",
        LayerSite::Out => "self_attn.out_proj",
        LayerSite::MlpNorm => "layer_norm2",
        LayerSite::Up => "mlp.fc1",
        LayerSite::Down => "mlp.fc2",
        other => return none(Site::Layer(index, other)),
    };
    format!("{prefix}encoder.layers.{index}.{name}")
}

/// A placeholder name for a part that the family does not have. Its configs never need it.
pub(super) fn none(site: Site) -> String {
    format!("(no {site:?})")
}

/// The config of the vision tower, if it is nested in another one.
pub(super) fn vision(config: &Value) -> &Value {
    let older = config.get("vision_config_dict").filter(|value| value.is_object());
    older.or_else(|| config.get("vision_config").filter(|value| value.is_object())).unwrap_or(config)
}

/// Unused tensors that are expected: text towers, tensors of the training, index buffers.
pub(super) fn ignores(tensor: &str) -> bool {
    let starts = ["text_model.", "text_projection.", "decoder.", "lm_head.", "logit_scale", "logit_bias"];
    let ends = ["mask_token", "position_ids", "relative_position_index", "inv_freq"];
    starts.iter().any(|start| tensor.starts_with(start)) || ends.iter().any(|end| tensor.ends_with(end))
}
