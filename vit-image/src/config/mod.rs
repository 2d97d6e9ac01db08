//! The description out of a model's own files.
//!
//! # Which file counts
//! | The model's config | What is read |
//! |---|---|
//! | has `model_cfg`: OpenCLIP | its `preprocess_cfg`, as [`image_transform_v2`] uses it |
//! | has `architecture`, and no `model_type` but `timm_wrapper`: timm | `pretrained_cfg`, or the config itself in timm's older format, as `create_transform(**resolve_model_data_config(model))` uses it |
//! | else | `image_processor` in `processor_config.json`, or `preprocessor_config.json`, as `AutoImageProcessor` finds it; or `pretrained_cfg` in the config |
//!
//! # transformers' classes
//! The class is `image_processor_type`; else `feature_extractor_type`; else the config's `image_processor_type`; else the one
//! of its `model_type`. The endings `FeatureExtractor`, `Fast` and `Pil` mean the same class. What the file leaves out or sets
//! to null is the class's default. A class that is not among these is refused by its name:
//!
//! | Class | Size | Crop | Filter | Mean, std | An integer size is |
//! |---|---|---|---|---|---|
//! | `ViTImageProcessor` (`vit`, `vit_mae`) | 224×224 | – | bilinear | 0.5 | a square |
//! | `DeiTImageProcessor` (`deit`) | 256×256 | 224×224 | bicubic | 0.5 | a square |
//! | `BeitImageProcessor` (`beit`) | 224×224 | off, 224×224 | bicubic | 0.5 | a square |
//! | `CLIPImageProcessor` (`clip`) | shortest edge 224 | 224×224 | bicubic | OpenAI's | the shortest edge |
//! | `BitImageProcessor` (`dinov2`) | shortest edge 224 | 224×224 | bicubic | OpenAI's | the shortest edge |
//! | `SiglipImageProcessor` (`siglip`) | 224×224 | – | bicubic | 0.5 | the shortest edge |
//! | `ConvNextImageProcessor` | shortest edge 384 | by `crop_pct`, 224 / 256, below 384 | bicubic | 0.5 | the shortest edge |
//! | `DINOv3ViTImageProcessor` (`dinov3_vit`) | 224×224 | – | bilinear | ImageNet's | a square |
//!
//! These defaults are those of transformers 5.24.
//!
//! [`image_transform_v2`]: https://github.com/mlfoundations/open_clip/blob/main/src/open_clip/transform.py
mod fields;
mod open_clip;
mod timm;
mod transformers;

use std::fmt;

use serde_json::Value;

use crate::description::Preprocessing;
use fields::Fields;

/// The files of a model, parsed. Those that are not there are null or `None`.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// `config.json` or `open_clip_config.json`: the one that goes with the weights.
    pub config: Value,
    /// `preprocessor_config.json`.
    pub preprocessor: Option<Value>,
    /// `processor_config.json`.
    pub processor: Option<Value>,
    /// Height and width of the model's images, for OpenCLIP, which takes them from the model, and for a `pretrained_cfg` that
    /// has no `input_size`.
    pub image: Option<[usize; 2]>,
}

/// Reads how a model's pictures are prepared.
///
/// # Errors
/// When no file says it, or what it says is not known here.
pub fn find(files: &Files) -> Result<Preprocessing, ConfigError> {
    let config = &files.config;
    let text = |field: &str| config.get(field).and_then(Value::as_str);
    let preprocessing = if config.get("model_cfg").is_some() {
        open_clip::read(config.get("preprocess_cfg").unwrap_or(&Value::Null), files.image)?
    } else if let (Some(_), None | Some("timm_wrapper")) = (text("architecture"), text("model_type")) {
        // Old files have the weights' config at the top.
        timm::read(config.get("pretrained_cfg").unwrap_or(config), files.image)?
    } else if let Some(processor) = processor(files) {
        transformers::read(processor, config)?
    } else if let Some(cfg) = config.get("pretrained_cfg").filter(|cfg| cfg.is_object()) {
        timm::read(cfg, files.image)?
    } else {
        return Err(ConfigError::Missing);
    };
    match preprocessing.check() {
        Ok(()) => Ok(preprocessing),
        Err(error) => Err(ConfigError::Field(error.to_string())),
    }
}

/// transformers' description: nested in the processor's, where that is the newer format, or in a file of its own.
fn processor(files: &Files) -> Option<&Value> {
    let nested = files.processor.as_ref().and_then(|processor| processor.get("image_processor"));
    nested.or(files.preprocessor.as_ref())
}

/// Why a model's files do not say how its pictures are prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// No file says anything about it.
    Missing,
    /// The file names no class of processor, and nor does the `model_type`, which is this.
    NoClass(Option<String>),
    /// A class of transformers' processors that is not known here.
    UnknownClass(String),
    /// Something else that is not supported: its name and value.
    Unsupported(String),
    /// A field has the wrong type or value.
    Field(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "the model's files do not say how pictures are prepared"),
            Self::NoClass(None) => write!(f, "the model's files name no image processor and no model_type"),
            Self::NoClass(Some(model_type)) => {
                write!(f, "the model's files name no image processor, and transformers has none for the model_type ")?;
                fields::quote(f, model_type)
            }
            Self::UnknownClass(class) => {
                write!(f, "the image processor ")?;
                fields::quote(f, class)?;
                write!(f, " is not supported; there are ")?;
                f.write_str(&transformers::classes().collect::<Vec<_>>().join(", "))
            }
            Self::Unsupported(what) => write!(f, "{what} is not supported"),
            Self::Field(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for ConfigError {}
