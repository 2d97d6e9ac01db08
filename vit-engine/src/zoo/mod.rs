//! Checkpoint names and configs: what families of models call their hyper-parameters and tensors. Nothing else.
//!
//! A family is one file: it reads `config.json` into a [`Config`] and says where each
//! [`Param`] stands.
//!
//! | Family | `config.json` | Tensors |
//! |---|---|---|
//! | [`vit_pytorch`] | `"model_type": "vit-pytorch"`, the arguments of `vit_pytorch.ViT` | every layout since 0.10.1 |
//! | [`timm`] | `"architecture": "vit_…"`, as timm writes it | the plain Vision Transformer |
mod preprocessing;
pub mod timm;
pub mod vit_pytorch;

use core::fmt;

use serde::Deserialize;
use serde_json::Value;

pub use preprocessing::{CropMode, Interpolation, Preprocessing};

use crate::config::{Config, ConfigError};
use crate::weights::Param;

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
}

/// What a family says about a checkpoint.
pub struct Recipe {
    /// The hyper-parameters.
    pub config: Config,
    /// Where the parameters stand.
    pub names: Box<dyn Names>,
    /// How pictures become pixels, if the checkpoint says so.
    pub preprocessing: Option<Preprocessing>,
    /// The classes' names, if the checkpoint has them.
    pub labels: Vec<String>,
}

/// A family's names for parameters.
pub trait Names: Send + Sync {
    /// Where a parameter stands.
    fn place(&self, param: Param) -> Place;
}

/// The shape of a tensor, if the checkpoint has it.
pub type Shapes<'a> = dyn Fn(&str) -> Option<Vec<usize>> + 'a;

/// Finds the family of a `config.json` and lets it read it.
///
/// # Errors
/// When no family knows the config, or it contradicts itself or the tensors.
pub fn recipe(config: &Value, shapes: &Shapes<'_>) -> Result<Recipe, ZooError> {
    let field = |name: &str| config.get(name).and_then(Value::as_str);
    let mut recipe = match (field("model_type"), field("architecture")) {
        (Some("vit-pytorch" | "vit_pytorch"), _) => vit_pytorch::recipe(config, shapes)?,
        (None, Some(architecture)) => timm::recipe(architecture, config)?,
        (Some(other), _) => return Err(ZooError::Unsupported(format!("model_type '{other}'"))),
        (None, None) => return Err(ZooError::NoFamily),
    };
    (recipe.preprocessing, recipe.labels) = preprocessing::read(config)?;
    recipe.config.validate().map_err(ZooError::Config)?;
    Ok(recipe)
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
    T::deserialize(json).map_err(|error| ZooError::Field(error.to_string()))
}

/// Why a config cannot be read.
#[derive(Debug, Clone, PartialEq)]
pub enum ZooError {
    /// Neither `model_type` nor `architecture` is there.
    NoFamily,
    /// No family here knows this.
    Unsupported(String),
    /// A field is missing or has the wrong type or value.
    Field(String),
    /// The hyper-parameters make no model.
    Config(ConfigError),
}

impl fmt::Display for ZooError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFamily => write!(
                f,
                "neither 'model_type' nor 'architecture' says what it is; add \"model_type\": \"vit-pytorch\" \
                 and the arguments of vit_pytorch.ViT, or use the config.json that timm writes"
            ),
            Self::Unsupported(what) => {
                write!(f, "{what} is not supported; there are vit-pytorch and timm's plain Vision Transformers")
            }
            Self::Field(error) => f.write_str(error),
            Self::Config(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ZooError {}
