//! Checkpoint names and configs: what families of models call their hyper-parameters and tensors. Nothing else.
//!
//! A family is one file: it reads `config.json` into a [`Config`] and says where each [`Param`] stands.
//!
//! | Family | Told by | Class, patches, registers are those of | Embedding | Logits read |
//! |---|---|---|---|---|
//! | [`vit`]: ViT, DINO, AugReg; MAE's encoder | `model_type` `vit`, `vit_mae` | `last_hidden_state` | class token | class token |
//! | [`vit`]: DeiT | `deit` | `last_hidden_state` | class token | class token, or with two heads the mean of theirs |
//! | [`dinov2`], with registers too | `dinov2`, `dinov2_with_registers` | `last_hidden_state` | class token (`pooler_output`) | class ⊕ mean of patches |
//! | [`clip`] | `clip`, `clip_vision_model` | `last_hidden_state`: before the post-norm | `image_embeds` as projected, or `pooler_output` without projection | mean of patches |
//! | [`siglip`], fixed-size SigLIP2 | `siglip`, `siglip_vision_model` | `last_hidden_state` | `pooler_output`: the attention pool | mean of patches |
//! | [`dinov3`] | `dinov3_vit` | `last_hidden_state` | class token (`pooler_output`) | – |
//! | [`beit`] | `beit` | `last_hidden_state` | `pooler_output` | the embedding |
//! | [`open_clip`] | `open_clip_config.json` | tokens before `ln_post`, after it where their mean is taken | `encode_image` | – |
//! | [`timm`]: ViT, DeiT, EVA, DINOv3, BEiT | `architecture` | `forward_features` | `forward_head(…, pre_logits=True)` | the embedding |
//! | [`vit_pytorch`] | `model_type` `vit-pytorch` | what the transformer gives | what the head reads | the same |
//!
//! Embeddings are not normalised. `layer:N` is counted as Hugging Face's `hidden_states`: 0 is what goes into the first
//! layer, and no final norm is applied.
pub mod beit;
pub mod clip;
pub mod dinov2;
pub mod dinov3;
mod hf;
pub mod open_clip;
mod preprocessing;
pub mod resample;
pub mod rotary;
pub mod siglip;
pub mod timm;
mod unknown;
pub mod vit;
pub mod vit_pytorch;

use core::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};
use vit_kernels::Activation;

pub use preprocessing::{CropMode, Interpolation, Preprocessing};
pub use resample::{Filter, OtherSizes};
pub use rotary::Rotary;

use crate::config::{Config, ConfigError};
use crate::parameters::{Param, Part};

/// Where a parameter stands in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The tensor.
    pub tensor: String,
    /// The tensor's shape; leading dimensions of 1 may be there or not.
    pub shape: Vec<usize>,
    /// Where the parameter starts along the tensor's first dimension, if several are fused into one tensor: a row of a
    /// matrix, an element of a bias.
    pub first_row: usize,
    /// How the parameter is read off those rows.
    pub view: View,
    /// Another tensor, read in the same way, that is added.
    pub plus: Option<String>,
}

/// How a parameter is read off a tensor's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum View {
    /// As they stand.
    Rows,
    /// Rows are columns.
    Transposed,
    /// Rows of a matrix, elements of a vector, in each head 0, 1, 2, 3, … become 0, 2, 4, …, 1, 3, …: neighbours that a
    /// rotary embedding pairs move half a head apart.
    PairsToHalves {
        /// Rows of a head.
        head_dim: usize,
    },
}

impl Place {
    /// `name.weight` or `name.bias`, all of it.
    fn module(param: Param, [n, k]: [usize; 2], name: impl fmt::Display) -> Self {
        let (suffix, shape) = match (param.part, n) {
            (Part::Bias, _) => ("bias", vec![k]),
            (Part::Weight, 1) => ("weight", vec![1, k]),
            (Part::Weight, _) => ("weight", vec![n, k]),
        };
        Self { tensor: format!("{name}.{suffix}"), shape, first_row: 0, view: View::Rows, plus: None }
    }

    /// Queries, keys or values, 0, 1, 2, of an `nn.MultiheadAttention`, whose fused tensors' names have no dot.
    fn in_proj(param: Param, shape: [usize; 2], attention: &str, index: usize) -> Self {
        let suffix = if param.part == Part::Weight { "weight" } else { "bias" };
        Self { tensor: format!("{attention}.in_proj_{suffix}"), ..Self::module(param, shape, attention).part(index, 3) }
    }

    /// A tensor of that very name.
    fn tensor([n, k]: [usize; 2], name: impl Into<String>) -> Self {
        Self { tensor: name.into(), shape: vec![n, k], first_row: 0, view: View::Rows, plus: None }
    }

    /// Part `index` of `count` alike, fused into one tensor.
    fn part(mut self, index: usize, count: usize) -> Self {
        // A bias is one row: its elements are what stands side by side.
        let vector = self.shape.len() == 1;
        let rows = if vector { &mut self.shape[0] } else { self.shape.first_mut().expect("a matrix has rows") };
        self.first_row = index * *rows;
        *rows *= count;
        self
    }

    /// A weight as a convolution over patches has it.
    fn convolution(mut self, param: Param, c: &Config) -> Self {
        if param.part == Part::Weight {
            self.shape = vec![c.dim, c.channels, c.patch[0], c.patch[1]];
        }
        self
    }

    fn view(self, view: View) -> Self {
        Self { view, ..self }
    }
}

/// What a family says about a checkpoint.
pub struct Recipe {
    /// The hyper-parameters.
    pub config: Config,
    /// Where the parameters stand.
    pub names: Box<dyn Names>,
    /// What happens to positions at other sizes of image.
    pub other_sizes: OtherSizes,
    /// By which angles queries and keys are rotated.
    pub rotary: Option<Rotary>,
    /// How pictures become pixels, if the checkpoint says so.
    pub preprocessing: Option<Preprocessing>,
    /// The classes' names, if the checkpoint has them.
    pub labels: Vec<String>,
}

impl Recipe {
    fn new(config: Config, names: impl Names + 'static, other_sizes: OtherSizes) -> Self {
        Self { config, names: Box::new(names), other_sizes, rotary: None, preprocessing: None, labels: Vec::new() }
    }
}

/// A family's names for parameters.
pub trait Names: Send + Sync {
    /// Where a parameter of that shape stands.
    fn place(&self, param: Param, shape: [usize; 2]) -> Place;

    /// Whether a tensor that is no parameter is nothing to wonder about: a text tower, a mask token.
    fn ignores(&self, _tensor: &str) -> bool {
        false
    }
}

/// The tensors that a checkpoint has.
pub trait Catalog {
    /// A tensor's shape, if it is there.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// Every tensor's name.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// Whether a tensor is there.
    fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }
}

/// Finds the family of a config and lets it read it. `family` overrules what the config says: a `model_type`, or an
/// architecture of timm's.
///
/// # Errors
/// When no family knows the config, or it contradicts itself or the tensors.
pub fn recipe(config: &Value, family: Option<&str>, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    let field = |name: &str| config.get(name).and_then(Value::as_str);
    let mut recipe = match (family, field("model_type"), field("architecture")) {
        (Some(family), ..) => by_family(family, config, tensors)?,
        (None, None | Some("timm_wrapper"), Some(architecture)) => timm::recipe(architecture, config, tensors)?,
        (None, Some(model_type), _) => by_model_type(model_type, config, tensors)
            .unwrap_or_else(|| Err(ZooError::Unsupported(format!("model_type '{model_type}'"))))?,
        (None, None, None) if config.get("model_cfg").is_some() => open_clip::recipe(config, tensors)?,
        (None, None, None) => by_family(unknown::family(config, tensors)?, config, tensors)?,
    };
    (recipe.preprocessing, recipe.labels) = preprocessing::read(config)?;
    recipe.config.validate().map_err(ZooError::Config)?;
    Ok(recipe)
}

fn by_family(family: &str, config: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    match by_model_type(family, config, tensors) {
        // Defaults fill in what a config leaves out; they are no config.
        Some(_) if !config.is_object() => Err(ZooError::NoFamily(format!(
            "a '{family}' needs the model's own config.json: heads, eps and activation do not show in tensors"
        ))),
        Some(recipe) => recipe,
        None => timm::recipe(family, config, tensors),
    }
}

/// Reads the config of a family that a `model_type` names.
type Reader = fn(&str, &Value, &dyn Catalog) -> Result<Recipe, ZooError>;

/// Every `model_type`, and who reads its config.
const MODEL_TYPES: [(&str, Reader); 14] = [
    ("vit", vit::recipe),
    ("vit_mae", vit::recipe),
    ("deit", vit::recipe),
    ("dinov2", dinov2::recipe),
    ("dinov2_with_registers", dinov2::recipe),
    ("dinov3_vit", |_, config, tensors| dinov3::recipe(config, tensors)),
    ("clip", |_, config, tensors| clip::recipe(config, tensors)),
    ("clip_vision_model", |_, config, tensors| clip::recipe(config, tensors)),
    ("siglip", |_, config, tensors| siglip::recipe(config, tensors)),
    ("siglip_vision_model", |_, config, tensors| siglip::recipe(config, tensors)),
    ("beit", |_, config, tensors| beit::recipe(config, tensors)),
    ("open_clip", |_, config, tensors| open_clip::recipe(config, tensors)),
    ("vit-pytorch", |_, config, tensors| vit_pytorch::recipe(config, tensors)),
    ("vit_pytorch", |_, config, tensors| vit_pytorch::recipe(config, tensors)),
];

/// Every `model_type`.
fn model_types() -> impl Iterator<Item = &'static str> {
    MODEL_TYPES.into_iter().map(|(name, _)| name)
}

/// The families that `model_type` names; `None` if it names none.
fn by_model_type(name: &str, config: &Value, tensors: &dyn Catalog) -> Option<Result<Recipe, ZooError>> {
    let (_, read) = MODEL_TYPES.into_iter().find(|(known, _)| *known == name)?;
    Some(read(name, config, tensors))
}

/// A size that may be written as one number or as \[height, width\].
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Size {
    Square(usize),
    Rectangle([usize; 2]),
}

impl Size {
    fn height_width(self) -> [usize; 2] {
        match self {
            Self::Square(side) => [side, side],
            Self::Rectangle(size) => size,
        }
    }
}

/// Reads a family's own fields out of a JSON object.
fn fields<'a, T: Deserialize<'a>>(json: &'a Value) -> Result<T, ZooError> {
    serde_path_to_error::deserialize(json).map_err(|error| match error.path().to_string().as_str() {
        "." => ZooError::Field(error.inner().to_string()),
        path => ZooError::Field(format!("{path}: {}", error.inner())),
    })
}

/// An object's fields over defaults. A field that is null counts as not there.
fn merged(defaults: Value, over: &Value) -> Value {
    let mut all = defaults;
    if let (Value::Object(all), Value::Object(over)) = (&mut all, over) {
        let set = over.iter().filter(|(_, value)| !value.is_null());
        all.extend(set.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>());
    }
    all
}

/// An activation by the names that transformers and timm have for it.
fn activation(name: &str) -> Result<Activation, ZooError> {
    Ok(match name {
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_tanh" | "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" => Activation::GeluTanh,
        "quick_gelu" => Activation::QuickGelu,
        "silu" | "swish" => Activation::Silu,
        "relu" => Activation::Relu,
        other => return Err(ZooError::Unsupported(format!("the activation '{other}'"))),
    })
}

/// ⌊dim · ratio⌋, as Python's int() has it.
fn scaled(dim: usize, ratio: f64) -> Result<usize, ZooError> {
    let width = dim as f64 * ratio;
    if dim == 0 {
        return Ok(0);
    }
    if (1.0..=f64::from(u32::MAX)).contains(&width) {
        return Ok(width as usize);
    }
    Err(ZooError::Field(format!("mlp_ratio {ratio} of {dim} is no width")))
}

/// Why a config cannot be read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ZooError {
    /// Nothing says what it is, or not enough of it. What the tensors look like, and what to do.
    NoFamily(String),
    /// No family here knows this.
    Unsupported(String),
    /// timm has no architecture of that name.
    NoArchitecture {
        /// The name.
        name: String,
        /// The nearest that there are.
        near: Vec<String>,
    },
    /// A field is missing or has the wrong type or value.
    Field(String),
    /// The hyper-parameters make no model.
    Config(ConfigError),
}

impl fmt::Display for ZooError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFamily(what) => Shown(what).fmt(f),
            Self::Unsupported(what) => {
                write!(f, "{} is not supported; there are ", Shown(what))?;
                model_types().try_for_each(|name| write!(f, "{name}, "))?;
                f.write_str("and timm's ViT, DeiT, EVA, DINOv3 and BEiT")
            }
            Self::NoArchitecture { name, near } => {
                let name = Shown(name);
                write!(f, "'{name}' is not supported: it is no model_type or architecture that is known here")?;
                if near.is_empty() { Ok(()) } else { write!(f, "; near it are {}", near.join(", ")) }
            }
            Self::Field(error) => Shown(error).fmt(f),
            Self::Config(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ZooError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        if let Self::Config(error) = self { Some(error) } else { None }
    }
}

/// Text that quotes a file, as an error message shows it: cut in the middle where it is too long, control characters
/// escaped.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl Shown<'_> {
    /// Bytes of the beginning that are shown.
    const HEAD: usize = 1500;
    /// Bytes of the end that are shown: what is said after a quotation.
    const TAIL: usize = 500;
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        let mut escaped = |text: &str| {
            text.chars()
                .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
        };
        if text.len() <= Self::HEAD + Self::TAIL {
            return escaped(text);
        }
        escaped(&text[..text.floor_char_boundary(Self::HEAD)])?;
        escaped(" … ")?;
        escaped(&text[text.ceil_char_boundary(text.len() - Self::TAIL)..])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(config: &Value) -> String {
        recipe(config, None, &timm::Nothing).err().expect("no model").to_string()
    }

    /// What a config says is quoted, but not at any length.
    #[test]
    fn long_strings_are_cut() {
        let long = "é".repeat(1 << 19);
        let vit = |key: &str| {
            let mut config = json!({"architecture": "vit_tiny_patch16_224", "model_args": {}});
            config["model_args"][key] = json!(long);
            config
        };
        let configs = [
            json!({"model_type": long}),
            json!({"architecture": long}),
            json!({"model_type": "vit", "hidden_act": long}),
            json!({"model_type": "vit", "hidden_size": long}),
            vit("global_pool"),
            vit("norm_layer"),
            vit("depth"),
            json!({"architecture": "vit_tiny_patch16_224", "model_args": {&long: 1}}),
        ];
        for config in configs {
            let error = error(&config);
            assert!(error.len() < 3000 && error.contains('…'), "{} bytes: {error:.300}", error.len());
        }
        assert!(error(&json!({"architecture": "vit_\u{1b}[2J"})).contains("'vit_\\u{1b}[2J'"));
    }

    #[test]
    fn every_model_type_is_known_to_the_errors() {
        for name in model_types() {
            assert!(by_model_type(name, &json!({}), &timm::Nothing).is_some());
            assert!(error(&json!({"model_type": "x"})).contains(&format!(" {name},")));
            let near = error(&json!({"architecture": format!("{name}x")}));
            assert!(near.split("; near it are ").nth(1).is_some_and(|near| near.contains(name)), "{near}");
        }
    }
}
