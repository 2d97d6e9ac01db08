//! Model families: how their configs and the tensors in their checkpoints are named.
//!
//! Each family is one file. It reads `config.json` into a [`Config`] and states which tensor each [`Param`] is in.
//!
//! | Family | Recognised by | Class, patches, registers are those of | Embedding | Input of the head |
//! |---|---|---|---|---|
//! | [`vit`]: ViT, DINO, AugReg; MAE's encoder | `model_type` `vit`, `vit_mae` | `last_hidden_state` | class token | class token |
//! | [`vit`]: DeiT | `deit` | `last_hidden_state` | class token | class token; with two heads, their mean |
//! | [`dinov2`], with registers too | `dinov2`, `dinov2_with_registers` | `last_hidden_state` | class token (`pooler_output`) | class ⊕ mean of patches |
//! | [`clip`] | `clip`, `clip_vision_model` | `last_hidden_state`: before the post-norm | `image_embeds` as projected, or `pooler_output` without projection | mean of patches |
//! | [`siglip`], fixed-size SigLIP2 | `siglip`, `siglip_vision_model` | `last_hidden_state` | `pooler_output`: the attention pool | mean of patches |
//! | [`dinov3`] | `dinov3_vit` | `last_hidden_state` | class token (`pooler_output`) | – |
//! | [`beit`] | `beit` | `last_hidden_state` | `pooler_output` | the embedding |
//! | [`open_clip`] | `open_clip_config.json` | tokens before `ln_post`; after it if they are averaged | `encode_image` | – |
//! | [`timm`]: ViT, DeiT, EVA, DINOv3, BEiT | `architecture` | `forward_features` | `forward_head(…, pre_logits=True)` | the embedding |
//! | [`vit_pytorch`] | `model_type` `vit-pytorch` | output of the transformer | input of the head | the embedding |
//!
//! Embeddings are not normalised. `layer:N` counts like Hugging Face's `hidden_states`: 0 is the input of the first
//! layer, and the final norm is not applied.
pub mod beit;
pub mod clip;
pub mod dinov2;
pub mod dinov3;
mod hf;
mod labels;
pub mod open_clip;
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

pub use labels::imagenet_1k;
pub use resample::{Filter, OtherSizes};
pub use rotary::Rotary;

use crate::config::{Config, ConfigError};
use crate::parameters::{Param, Part};

/// Where a parameter is in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The name of the tensor.
    pub tensor: String,
    /// The shape of the tensor. Leading dimensions of 1 are optional.
    pub shape: Vec<usize>,
    /// The start of the parameter along the first dimension, if several are fused into one tensor: a row of a matrix,
    /// an element of a bias.
    pub first_row: usize,
    /// How the parameter is read from the rows of the tensor.
    pub view: View,
    /// Another tensor, read in the same way, that is added to the first.
    pub plus: Option<String>,
}

/// How a parameter is read from the rows of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum View {
    /// Unchanged.
    Rows,
    /// Transposed.
    Transposed,
    /// Reorders the rows of a matrix, or the elements of a vector, within each head: first 0, 2, 4, …, then 1, 3, 5, ….
    /// Rotary embeddings that rotate pairs of neighbours need this, because the engine rotates halves.
    PairsToHalves {
        /// Rows of one head.
        head_dim: usize,
    },
}

impl Place {
    /// The whole of `name.weight` or `name.bias`.
    fn module(param: Param, [n, k]: [usize; 2], name: impl fmt::Display) -> Self {
        let (suffix, shape) = match (param.part, n) {
            (Part::Bias, _) => ("bias", vec![k]),
            (Part::Weight, 1) => ("weight", vec![1, k]),
            (Part::Weight, _) => ("weight", vec![n, k]),
        };
        Self { tensor: format!("{name}.{suffix}"), shape, first_row: 0, view: View::Rows, plus: None }
    }

    /// Queries, keys or values (0, 1, 2) of an `nn.MultiheadAttention`. The names of its fused tensors have no dot.
    fn in_proj(param: Param, shape: [usize; 2], attention: &str, index: usize) -> Self {
        let suffix = if param.part == Part::Weight { "weight" } else { "bias" };
        Self { tensor: format!("{attention}.in_proj_{suffix}"), ..Self::module(param, shape, attention).part(index, 3) }
    }

    /// The tensor with exactly this name.
    fn tensor([n, k]: [usize; 2], name: impl Into<String>) -> Self {
        Self { tensor: name.into(), shape: vec![n, k], first_row: 0, view: View::Rows, plus: None }
    }

    /// Part `index` of `count` equal parts that are fused into one tensor.
    fn part(mut self, index: usize, count: usize) -> Self {
        // A bias is one row, so its fused parts are ranges of elements.
        let vector = self.shape.len() == 1;
        let rows = if vector { &mut self.shape[0] } else { self.shape.first_mut().expect("a matrix has rows") };
        self.first_row = index * *rows;
        *rows *= count;
        self
    }

    /// The weight of a convolution over patches.
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

/// How to load a checkpoint, as its family states it.
pub struct Recipe {
    /// The hyper-parameters.
    pub config: Config,
    /// Where the parameters are.
    pub names: Box<dyn Names>,
    /// How positions change with the image size.
    pub other_sizes: OtherSizes,
    /// The angles that rotate queries and keys.
    pub rotary: Option<Rotary>,
    /// The names of the classes, if the checkpoint has them.
    pub labels: Vec<String>,
}

impl Recipe {
    fn new(config: Config, names: impl Names + 'static, other_sizes: OtherSizes) -> Self {
        Self { config, names: Box::new(names), other_sizes, rotary: None, labels: Vec::new() }
    }
}

/// The tensor names of a family.
pub trait Names: Send + Sync {
    /// Where a parameter of this shape is.
    fn place(&self, param: Param, shape: [usize; 2]) -> Place;

    /// Whether an unused tensor is expected, such as a text tower or a mask token. Other unused tensors cause a
    /// warning.
    fn ignores(&self, _tensor: &str) -> bool {
        false
    }
}

/// The names and shapes of a checkpoint's tensors.
pub trait Catalog {
    /// The shape of a tensor, if it exists.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// The names of all tensors.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// Whether a tensor exists.
    fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }
}

/// Finds the family of a config and reads the config with it. `family`, a `model_type` or an architecture of timm,
/// overrides what the config says.
///
/// # Errors
/// If no family knows the config, or the config is inconsistent or does not match the tensors.
///
/// # Example
/// ```
/// use vit_engine::zoo::{self, Catalog};
///
/// /// A checkpoint without tensors.
/// struct Empty;
/// impl Catalog for Empty {
///     fn shape(&self, _name: &str) -> Option<&[usize]> {
///         None
///     }
///     fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
///         Box::new(std::iter::empty())
///     }
/// }
///
/// let config = serde_json::json!({
///     "model_type": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2,
///     "num_attention_heads": 3, "intermediate_size": 96,
/// });
/// let recipe = zoo::recipe(&config, None, &Empty)?;
/// assert_eq!((recipe.config.tokens(), recipe.config.classes), (17, 0));
///
/// let error = zoo::recipe(&serde_json::json!({"model_type": "resnet"}), None, &Empty).err().unwrap();
/// assert!(error.to_string().contains("resnet"));
/// # Ok::<(), zoo::ZooError>(())
/// ```
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
    recipe.labels = labels::read(config)?;
    recipe.config.validate().map_err(ZooError::Config)?;
    Ok(recipe)
}

fn by_family(family: &str, config: &Value, tensors: &dyn Catalog) -> Result<Recipe, ZooError> {
    match by_model_type(family, config, tensors) {
        // Defaults complete a config, they do not replace one.
        Some(_) if !config.is_object() => Err(ZooError::NoFamily(format!(
            "'{family}' needs the config.json of the model: the tensors do not show heads, eps and activation"
        ))),
        Some(recipe) => recipe,
        None => timm::recipe(family, config, tensors),
    }
}

/// Reads a config with the family of its `model_type`.
type Reader = fn(&str, &Value, &dyn Catalog) -> Result<Recipe, ZooError>;

/// Every `model_type`, and the function that reads its config.
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

/// The names of all `model_type`s.
fn model_types() -> impl Iterator<Item = &'static str> {
    MODEL_TYPES.into_iter().map(|(name, _)| name)
}

/// The families that `model_type` names; `None` if it names none.
fn by_model_type(name: &str, config: &Value, tensors: &dyn Catalog) -> Option<Result<Recipe, ZooError>> {
    let (_, read) = MODEL_TYPES.into_iter().find(|(known, _)| *known == name)?;
    Some(read(name, config, tensors))
}

/// A size written as one number or as \[height, width\].
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

/// Reads the fields of `T` from a JSON object.
fn fields<'a, T: Deserialize<'a>>(json: &'a Value) -> Result<T, ZooError> {
    serde_path_to_error::deserialize(json).map_err(|error| match error.path().to_string().as_str() {
        "." => ZooError::Field(error.inner().to_string()),
        path => ZooError::Field(format!("{path}: {}", error.inner())),
    })
}

/// The defaults, overridden by the fields of an object. A field that is null counts as absent.
fn merged(defaults: Value, over: &Value) -> Value {
    let mut all = defaults;
    if let (Value::Object(all), Value::Object(over)) = (&mut all, over) {
        let set = over.iter().filter(|(_, value)| !value.is_null());
        all.extend(set.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>());
    }
    all
}

/// The activation with this name in transformers or timm.
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

/// ⌊dim · ratio⌋, like Python's int().
fn scaled(dim: usize, ratio: f64) -> Result<usize, ZooError> {
    let width = dim as f64 * ratio;
    if dim == 0 {
        return Ok(0);
    }
    if (1.0..=f64::from(u32::MAX)).contains(&width) {
        return Ok(width as usize);
    }
    Err(ZooError::Field(format!("mlp_ratio {ratio} of {dim} is not a valid width")))
}

/// Why a config cannot be read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ZooError {
    /// The family is unknown. The text says what the tensors look like and what to do.
    NoFamily(String),
    /// The config asks for something that is not supported.
    Unsupported(String),
    /// There is no `model_type` or architecture with this name.
    NoArchitecture {
        /// The name.
        name: String,
        /// The most similar known names.
        near: Vec<String>,
    },
    /// A field is missing or has the wrong type or value.
    Field(String),
    /// The hyper-parameters are invalid.
    Config(ConfigError),
}

impl fmt::Display for ZooError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFamily(what) => Shown(what).fmt(f),
            Self::Unsupported(what) => {
                write!(f, "{} is not supported; supported are ", Shown(what))?;
                model_types().try_for_each(|name| write!(f, "{name}, "))?;
                f.write_str("and timm's ViT, DeiT, EVA, DINOv3 and BEiT")
            }
            Self::NoArchitecture { name, near } => {
                let name = Shown(name);
                write!(f, "'{name}' is not supported: it is not a known model_type or architecture")?;
                if near.is_empty() { Ok(()) } else { write!(f, "; similar names: {}", near.join(", ")) }
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

/// Displays text from a file in an error message: long text is cut in the middle, control characters are escaped.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl Shown<'_> {
    /// How many bytes of the beginning are shown.
    const HEAD: usize = 1500;
    /// How many bytes of the end are shown. They contain what follows a quotation.
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
        recipe(config, None, &timm::Nothing).err().expect("expected an error").to_string()
    }

    /// Messages quote the config, but only up to a limited length.
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
            assert!(near.split("; similar names: ").nth(1).is_some_and(|near| near.contains(name)), "{near}");
        }
    }
}
