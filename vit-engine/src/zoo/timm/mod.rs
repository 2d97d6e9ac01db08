//! timm's Vision Transformers (<https://github.com/huggingface/pytorch-image-models>), with the `config.json` that timm
//! writes.
//!
//! `architecture` names the arguments of a constructor, which timm keeps in its code; here they stand in
//! `architectures.json`, which `make_table.py` beside it generates. `model_args` overrule them. What an argument asks for
//! and is not supported is an error, and so is an argument that is not known.
mod beit;
mod eva;
mod names;
mod vision_transformer;

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Catalog, OtherSizes, Recipe, Size, ZooError, fields, model_types, scaled};
use crate::config::{Config, Pool, Readout};

/// What timm keeps in its code.
#[derive(Deserialize)]
struct Table {
    /// Defaults of each class's constructor.
    defaults: Map<String, Value>,
    architectures: Map<String, Value>,
    /// Old names, and what they are called now.
    deprecated: Map<String, Value>,
}

#[derive(Deserialize)]
struct Row {
    class: String,
    /// What the function of that name passes to the constructor.
    args: Value,
    /// What it says of the weights that it loads by default.
    cfg: Value,
}

static TABLE: LazyLock<Table> =
    LazyLock::new(|| serde_json::from_str(include_str!("architectures.json")).expect("the table is JSON"));

/// The names of the architectures in the table.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    TABLE.architectures.keys().map(String::as_str)
}

/// The config of an architecture with timm's defaults, and the classes of the weights that timm loads by default.
///
/// # Errors
/// When timm has no such architecture, or it is not supported.
pub fn architecture(name: &str) -> Result<Config, ZooError> {
    let config = recipe(name, &Value::Null, &Nothing)?.config;
    config.validate().map_err(ZooError::Config)?;
    Ok(config)
}

/// No tensors.
pub(super) struct Nothing;

impl Catalog for Nothing {
    fn shape(&self, _: &str) -> Option<&[usize]> {
        None
    }
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(core::iter::empty())
    }
}

pub(super) fn recipe(architecture: &str, config: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    let prefix = if tensors.names().any(|name| name.starts_with("timm_model.")) { "timm_model." } else { "" };
    let (class, mut args) = arguments(architecture, config)?;
    // transformers' wrapper builds the class count that it wants, and without a config nobody says another.
    if config.is_null() || is_wrapper(config) {
        let rows = tensors.shape(&format!("{prefix}head.weight")).and_then(|shape| shape.first());
        if let Some(classes) = rows.copied().or(is_wrapper(config).then_some(0)) {
            args.insert("num_classes".into(), json!(classes));
        }
    }
    let mut recipe = build(&class, &Value::Object(args), prefix)?;
    if architecture.starts_with("flexivit") || architecture.contains("radio") {
        // Their positions have filters of their own.
        recipe.other_sizes = OtherSizes::NONE;
    }
    Ok(recipe)
}

/// Whether transformers' `TimmWrapperModel` wrote it.
fn is_wrapper(config: &Value) -> bool {
    config.get("model_type").and_then(Value::as_str) == Some("timm_wrapper")
}

/// Builds what a constructor builds, its tensors under `prefix`.
pub(super) fn build(class: &str, args: &Value, prefix: &str) -> Result<Recipe, ZooError> {
    match class {
        "Eva" => eva::recipe(args, prefix),
        "Beit" => beit::recipe(args, prefix),
        _ => vision_transformer::recipe(args, class == "VisionTransformerDistilled", prefix),
    }
}

/// Arguments that shape no model, or none that is saved.
const ONLY_TRAINING: [&str; 19] = [
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "weight_init",
    "fix_init",
    "head_init_scale",
    "strict_img_size",
    "features_only",
    "out_indices",
    "pretrained_strict",
    "device",
    "dtype",
    "rope_shift_coords",
    "rope_jitter_coords",
    "rope_rescale_coords",
    "scriptable",
];

/// The class of an architecture and its constructor's arguments: `model_args` over what the architecture's function sets,
/// over what the weights' own config says, over the constructor's defaults.
pub(super) fn arguments(architecture: &str, config: &Value) -> Result<(String, Map<String, Value>), ZooError> {
    // A tag ('.augreg_in21k_ft_in1k') names weights, not an architecture.
    let name = architecture.split('.').next().unwrap_or_default();
    let name = TABLE.deprecated.get(name).and_then(Value::as_str).unwrap_or(name);
    let row = TABLE.architectures.get(name).ok_or_else(|| unknown(architecture))?;
    let row: Row = fields(row)?;
    let none = Map::new();
    let model_args = config.get("model_args").and_then(Value::as_object).unwrap_or(&none);

    // Old files have the weights' config at the top. Without files, and behind transformers' wrapper, it is the table's.
    let at_top = Some(config).filter(|config| config.is_object() && !is_wrapper(config));
    let cfg = config.get("pretrained_cfg").or(at_top).unwrap_or(&row.cfg);
    let field = |name: &str| cfg.get(name).filter(|value| !value.is_null());
    let mut input: [Value; 3] = fields(field("input_size").unwrap_or(&json!([3, 224, 224])))?;
    if let Some(channels) = model_args.get("in_chans") {
        input[0] = channels.clone();
    }
    let flexible = |name: &str, value: bool| model_args.get(name).and_then(Value::as_bool) == Some(value);
    let flexible = !is_wrapper(config) && (flexible("dynamic_img_size", true) || flexible("strict_img_size", false));
    let fixed = field("fixed_input_size").and_then(Value::as_bool).unwrap_or(false) && !flexible;

    let mut args = TABLE.defaults.get(&row.class).and_then(Value::as_object).cloned().unwrap_or_default();
    let classes = config.get("num_classes").filter(|value| !value.is_null()).or(field("num_classes"));
    if let Some(classes) = classes.filter(|classes| classes.as_i64().is_none_or(|classes| classes >= 0)) {
        args.insert("num_classes".into(), classes.clone());
    }
    args.insert("in_chans".into(), input[0].clone());
    if fixed {
        args.insert("img_size".into(), json!([input[1], input[2]]));
    }
    args.extend(row.args.as_object().cloned().unwrap_or_default());
    if model_args.get("use_naflex").is_some_and(truthy) {
        return Err(ZooError::Unsupported("use_naflex".into()));
    }
    let shapes = |name: &String| name != "use_naflex" && !ONLY_TRAINING.contains(&name.as_str());
    let shaping: Vec<_> = model_args.iter().filter(|(name, _)| shapes(name)).collect();
    if let Some((name, _)) = shaping.iter().find(|(name, _)| !args.contains_key(*name)) {
        return Err(ZooError::Field(format!(
            "model_args: '{name}' is no argument of timm's {} that is known here",
            row.class
        )));
    }
    args.extend(shaping.into_iter().map(|(name, value)| (name.clone(), value.clone())));
    Ok((row.class, args))
}

/// An error that lists the names nearest to one that is not there.
fn unknown(name: &str) -> ZooError {
    /// Longer names are near none: the longest here has half of it, and a search takes time in proportion.
    const LONGEST: usize = 100;
    let known = architectures().chain(model_types()).filter(|_| name.len() <= LONGEST);
    let mut near: Vec<_> = known.map(|known| (strsim::normalized_damerau_levenshtein(known, name), known)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    ZooError::NoArchitecture { name: name.into(), near: near.iter().take(4).map(|near| near.1.to_owned()).collect() }
}

/// A norm, as the table or `model_args` have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Norm {
    Full {
        #[serde(rename = "type")]
        kind: String,
        eps: f32,
    },
    Name(String),
}

impl Norm {
    /// The eps of a LayerNorm.
    fn eps(&self) -> Result<f32, ZooError> {
        match self {
            Self::Full { kind, eps } if kind == "LayerNorm" => Ok(*eps),
            Self::Name(name) if name == "layernorm" => Ok(1e-6),
            Self::Full { kind: name, .. } | Self::Name(name) => {
                Err(ZooError::Unsupported(format!("the norm '{name}'")))
            }
        }
    }
}

/// Arguments that all classes have.
#[derive(Deserialize)]
struct Common {
    img_size: Size,
    patch_size: Size,
    in_chans: usize,
    num_classes: usize,
    global_pool: String,
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    mlp_ratio: f64,
    qkv_bias: bool,
    norm_layer: Norm,
    init_values: Value,
}

impl Common {
    /// The plain Vision Transformer of these arguments.
    fn config(&self) -> Result<Config, ZooError> {
        let (dim, heads) = (self.embed_dim, self.num_heads);
        if heads == 0 || !dim.is_multiple_of(heads) {
            return Err(ZooError::Field(format!("embed_dim {dim} is not a multiple of num_heads {heads}")));
        }
        let (image, patch) = (self.img_size.height_width(), self.patch_size.height_width());
        let mut c = Config::plain(image, patch, dim, self.depth, heads);
        (c.channels, c.classes) = (self.in_chans, self.num_classes);
        c.mlp_dim = scaled(dim, self.mlp_ratio)?;
        (c.bias.query, c.bias.key, c.bias.value) = (self.qkv_bias, self.qkv_bias, self.qkv_bias);
        c.norm_eps = self.norm_layer.eps()?;
        Ok(c)
    }
}

/// What is pooled; `None` where nothing is.
pub(super) fn pool(name: &str, include_prefix: bool) -> Result<Option<Pool>, ZooError> {
    Ok(Some(match (name, include_prefix) {
        ("token", _) => Pool::Class,
        ("avg", false) => Pool::MeanPatches,
        ("avg", true) => Pool::MeanTokens,
        ("max", false) => Pool::MaxPatches,
        ("avgmax", false) => Pool::MeanMaxPatches,
        ("map", _) => Pool::Attention,
        ("", _) => return Ok(None),
        (other, prefix) => {
            let prefix = if prefix { " with the tokens in front of the patches" } else { "" };
            return Err(ZooError::Unsupported(format!("global_pool '{other}'{prefix}")));
        }
    }))
}

/// What is pooled as embedding and for the logits.
fn read_out(c: &mut Config, pool: Option<Pool>, norm: bool) {
    let readout = pool.map(|pool| Readout { pool, norm });
    if readout.is_none() {
        // A head that would classify every token is left aside.
        c.classes = 0;
    }
    c.embedding = readout;
    c.logits = readout.unwrap_or(c.logits);
}

/// What happens at other sizes. Where sizes are dynamic, positions are resampled as they run, in f32.
fn other_sizes(c: &Config, dynamic: bool) -> Result<OtherSizes, ZooError> {
    let ([height, width], [ph, pw]) = (c.image, c.patch);
    if dynamic && ph > 0 && pw > 0 && (height % ph != 0 || width % pw != 0) {
        return Err(ZooError::Field(format!("dynamic_img_size: {height}×{width} is not whole patches of {ph}×{pw}")));
    }
    Ok(OtherSizes { rounded: !dynamic, ..OtherSizes::TIMM })
}

/// An argument that has to have one value.
fn only(argument: &str, value: &str, supported: &[&str]) -> Result<(), ZooError> {
    if supported.contains(&value) {
        return Ok(());
    }
    Err(ZooError::Unsupported(format!("{argument} '{value}'")))
}

/// `true` in JSON for anything that Python takes for true.
pub(super) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every architecture either makes a model or says what of it is not supported.
    #[test]
    fn every_architecture_is_read() {
        let mut unsupported = Vec::new();
        for name in architectures() {
            match architecture(name) {
                Ok(_) => {}
                Err(ZooError::Unsupported(what)) => unsupported.push((name, what)),
                Err(error) => panic!("{name}: {error}"),
            }
        }
        // RMSNorm, parallel and differential blocks, learned rotations, grouped keys: each by its name, so that none is lost
        // or forgotten.
        let names: Vec<_> = unsupported.iter().map(|(name, _)| *name).collect();
        let listed: Vec<_> = include_str!("unsupported.txt").lines().collect();
        assert_eq!(names, listed, "{unsupported:#?}");
        assert_eq!(architectures().count(), 251);
    }

    #[test]
    fn an_unknown_name_is_told_what_is_near() {
        let Err(error) = architecture("vit_bse_patch16_224") else { panic!() };
        assert!(error.to_string().contains("vit_base_patch16_224"), "{error}");
        assert!(architecture("vit_base_patch16_224.augreg_in1k").is_ok());
        let longest = architectures().chain(model_types()).map(str::len).max();
        assert!(longest.is_some_and(|longest| longest <= 60), "{longest:?}");
        for long in ["vit_base_patch16_224".repeat(6), "x".repeat(1 << 20)] {
            let Err(ZooError::NoArchitecture { near, .. }) = architecture(&long) else { panic!() };
            assert!(near.is_empty(), "{near:?}");
        }
    }
}
