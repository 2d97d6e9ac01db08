//! OpenCLIP's vision towers (<https://github.com/mlfoundations/open_clip>), native or from timm, with any text tower:
//! `open_clip_config.json` and `open_clip_model.safetensors`.
use serde::Deserialize;
use serde_json::{Map, Value, json};
use vit_kernels::Activation;

use super::hf::none;
use super::{Catalog, Names, OtherSizes, Place, Recipe, Size, View, ZooError, fields, merged, scaled, timm};
use crate::config::{Config, Pool, Readout};
use crate::parameters::{LayerSite, Param, Site};

fn defaults() -> Value {
    json!({
        "layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224,
        "no_ln_pre": false, "final_ln_after_pool": false, "pool_type": "tok", "pos_embed_type": "learnable",
        "attentional_pool": false,
    })
}

/// The fields of the native tower.
#[derive(Deserialize)]
struct Native {
    layers: usize,
    width: usize,
    head_width: usize,
    mlp_ratio: f64,
    patch_size: Size,
    image_size: Size,
    #[serde(default)]
    ls_init_value: Option<f64>,
    no_ln_pre: bool,
    pool_type: String,
    pos_embed_type: String,
    #[serde(default)]
    act_kwargs: Map<String, Value>,
    #[serde(default)]
    norm_kwargs: Map<String, Value>,
}

pub(super) fn recipe(config: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    let model = config.get("model_cfg").unwrap_or(config);
    let vision = model.get("vision_cfg").ok_or_else(|| ZooError::Field("model_cfg has no vision_cfg".into()))?;
    let json = merged(defaults(), vision);
    match json.get("timm_model_name").and_then(Value::as_str) {
        Some(name) => trunk(name, vision, tensors),
        None => native(model, &json, tensors),
    }
}

fn native(model: &Value, json: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    if json["layers"].is_array() {
        return Err(ZooError::Unsupported("OpenCLIP's ResNet".into()));
    }
    if json["attentional_pool"] != Value::Bool(false) {
        return Err(ZooError::Unsupported("OpenCLIP's attentional_pool".into()));
    }
    let n: Native = fields(json)?;
    let switches =
        ["block_type", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"];
    if let Some(switch) = switches.iter().find(|name| timm::truthy(&json[**name])) {
        return Err(ZooError::Unsupported(format!("OpenCLIP's {switch}")));
    }
    if n.pos_embed_type != "learnable" {
        return Err(ZooError::Unsupported(format!("pos_embed_type '{}'", n.pos_embed_type)));
    }
    if let Some(argument) = n.norm_kwargs.keys().find(|name| *name != "eps") {
        return Err(ZooError::Unsupported(format!("norm_kwargs '{argument}'")));
    }
    if !n.act_kwargs.is_empty() {
        return Err(ZooError::Unsupported("act_kwargs".into()));
    }
    let heads = n.width.checked_div(n.head_width).unwrap_or(0);
    if heads == 0 || !n.width.is_multiple_of(heads) {
        return Err(ZooError::Field(format!("width {} is not a multiple of head_width {}", n.width, n.head_width)));
    }
    let mut c = Config::plain(n.image_size.height_width(), n.patch_size.height_width(), n.width, n.layers, heads);
    c.mlp_dim = scaled(c.dim, n.mlp_ratio)?;
    let quick = model.get("quick_gelu").and_then(Value::as_bool).unwrap_or(false);
    c.activation = if quick { Activation::QuickGelu } else { Activation::Gelu };
    c.norm_eps = n.norm_kwargs.get("eps").and_then(Value::as_f64).unwrap_or(1e-5) as f32;
    (c.pre_norm, c.bias.patch, c.bias.projection) = (!n.no_ln_pre, false, false);
    c.layer_scale = n.ls_init_value.is_some();
    let before = json["final_ln_after_pool"] == Value::Bool(false);
    let readout = match &*n.pool_type {
        "tok" => Readout { pool: Pool::Class, norm: true },
        // The norm comes before the mean here, and they cannot be exchanged.
        "avg" => Readout { pool: Pool::MeanPatches, norm: !before },
        other => return Err(ZooError::Unsupported(format!("pool_type '{other}'"))),
    };
    c.final_norm = !readout.norm;
    c.embedding = Some(readout);
    c.projection = tensors.shape("visual.proj").and_then(|shape| shape.get(1)).map_or(0, |columns| *columns);
    let other_sizes =
        OtherSizes { whole_patches: false, by_count: true, from_square: true, rounded: false, ..OtherSizes::TIMM };
    Ok(Recipe::new(c, OpenClipNames { config: c }, other_sizes))
}

struct OpenClipNames {
    config: Config,
}

impl Names for OpenClipNames {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        let own = |name: &str| format!("visual.{name}");
        let module = |name: &str| Place::module(param, shape, own(name));
        match param.site {
            Site::Patch => module("conv1").convolution(param, &self.config),
            Site::ClassToken => Place::tensor(shape, own("class_embedding")),
            Site::Positions => Place::tensor(shape, own("positional_embedding")),
            Site::PreNorm => module("ln_pre"),
            Site::FinalNorm | Site::HeadNorm => module("ln_post"),
            Site::Projection => Place::tensor([shape[1], shape[0]], own("proj")).view(View::Transposed),
            Site::Layer(index, site) => {
                let block = |name: &str| own(&format!("transformer.resblocks.{index}.{name}"));
                let module = |name: &str| Place::module(param, shape, block(name));
                let fused = |index| Place::in_proj(param, shape, &block("attn"), index);
                match site {
                    LayerSite::AttentionNorm => module("ln_1"),
                    LayerSite::Query => fused(0),
                    LayerSite::Key => fused(1),
                    LayerSite::Value => fused(2),
                    LayerSite::Out => module("attn.out_proj"),
                    LayerSite::AttentionScale => Place::tensor(shape, block("ls_1.gamma")),
                    LayerSite::MlpNorm => module("ln_2"),
                    LayerSite::Up => module("mlp.c_fc"),
                    LayerSite::Down => module("mlp.c_proj"),
                    LayerSite::MlpScale => Place::tensor(shape, block("ls_2.gamma")),
                    _ => module(&none(param.site)),
                }
            }
            site => module(&none(site)),
        }
    }

    fn ignores(&self, tensor: &str) -> bool {
        !tensor.starts_with("visual.")
    }
}

/// A tower from timm, with its tensors under `visual.trunk.`, and OpenCLIP's projection after it.
fn trunk(name: &str, vision: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    // In this config null is not the same as absent: it means none.
    let text = |field: &str, default| vision.get(field).map_or(default, |value| value.as_str().unwrap_or_default());
    let rows = |tensor: &str| tensors.shape(tensor).and_then(|shape| shape.first()).copied();
    let (projection, pool) = (text("timm_proj", "linear"), text("timm_pool", "avg"));
    // The image size of the trunk follows from its name.
    let (class, mut args) = timm::arguments(name, &Value::Null)?;
    let own_head = projection.is_empty();
    args.insert("num_classes".into(), json!(if own_head { rows("visual.trunk.head.weight").unwrap_or(0) } else { 0 }));
    // If a projection follows, OpenCLIP builds the trunk from its name and changes the pooling afterwards.
    let pools_afterwards = projection == "linear";
    if !pools_afterwards {
        args.insert("global_pool".into(), pool.into());
    }
    let mut recipe = timm::build(&class, &Value::Object(args), "visual.trunk.")?;
    let config = &mut recipe.config;
    if let (true, Some(readout)) = (pools_afterwards && !pool.is_empty(), &mut config.embedding) {
        if pool == "map" && readout.pool != Pool::Attention {
            return Err(ZooError::Unsupported("timm_pool 'map' with a trunk that has no attention pool".into()));
        }
        readout.pool = timm::pool(pool, false)?.unwrap_or(readout.pool);
    }
    match projection {
        "linear" => {
            config.projection = rows("visual.head.proj.weight").unwrap_or(1);
            config.bias.projection = vision["timm_proj_bias"] == Value::Bool(true);
        }
        "" => (config.projection, config.classes) = (config.classes, 0),
        "none" => {}
        other => return Err(ZooError::Unsupported(format!("timm_proj '{other}'"))),
    }
    recipe.other_sizes.rounded = false;
    recipe.names = Box::new(Trunk { names: recipe.names, own_head });
    Ok(recipe)
}

struct Trunk {
    names: Box<dyn Names>,
    /// Whether the projection is the head of the trunk.
    own_head: bool,
}

impl Names for Trunk {
    fn place(&self, param: Param, shape: [usize; 2]) -> Place {
        match (param.site, self.own_head) {
            (Site::Projection, true) => self.names.place(Param { site: Site::Head, ..param }, shape),
            (Site::Projection, false) => Place::module(param, shape, "visual.head.proj"),
            _ => self.names.place(param, shape),
        }
    }

    fn ignores(&self, tensor: &str) -> bool {
        !tensor.starts_with("visual.") || self.names.ignores(tensor)
    }
}
