//! How pictures become pixels, in the words of timm's `pretrained_cfg`.
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::{ZooError, fields};

/// From a decoded picture to the model's input.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    /// Subtracted from each channel, scaled to 0..1.
    pub mean: Vec<f32>,
    /// What each channel is then divided by.
    pub std: Vec<f32>,
    /// How pictures are resized.
    pub interpolation: Interpolation,
    /// What part of the resized picture's side the crop takes.
    pub crop_pct: f32,
    /// What happens to pictures of another aspect ratio.
    pub crop_mode: CropMode,
}

impl Preprocessing {
    /// Whether mean and std are finite numbers, one of each for every channel, std above 0.
    fn has_valid_statistics(&self) -> bool {
        let Self { mean, std, .. } = self;
        let finite = mean.iter().chain(std).all(|x| x.is_finite()) && std.iter().all(|x| *x > 0.0);
        !mean.is_empty() && mean.len() == std.len() && finite
    }

    /// Whether every value is one that pictures can be prepared with.
    pub(crate) fn is_valid(&self) -> bool {
        self.has_valid_statistics() && (0.01..=1.0).contains(&self.crop_pct)
    }
}

/// A resampling filter, Pillow's of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Catmull–Rom, a = −0.5.
    Bicubic,
    /// Triangle.
    Bilinear,
    /// The nearest pixel.
    Nearest,
    /// Three lobes.
    Lanczos,
}

/// What happens to pictures of another aspect ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropMode {
    /// The shorter side is resized, the centre is kept.
    Center,
    /// Both sides are resized, each for itself.
    Squash,
    /// What is missing is filled up: not done here yet.
    Border,
}

#[derive(Deserialize)]
struct PretrainedCfg {
    mean: Vec<f32>,
    std: Vec<f32>,
    #[serde(default = "bicubic")]
    interpolation: Interpolation,
    #[serde(default = "one")]
    crop_pct: f32,
    #[serde(default = "center")]
    crop_mode: CropMode,
}

fn bicubic() -> Interpolation {
    Interpolation::Bicubic
}
fn one() -> f32 {
    1.0
}
fn center() -> CropMode {
    CropMode::Center
}

/// Label names: a list, or an object of numbers and names, of which only one without gaps is a list.
#[derive(Deserialize)]
#[serde(untagged, expecting = "label names have to be a list of strings, or an object of numbers and strings")]
enum Labels {
    List(Vec<String>),
    ById(HashMap<String, String>),
}

impl Labels {
    fn list(self) -> Vec<String> {
        match self {
            Self::List(list) => list,
            Self::ById(mut names) => {
                let list: Option<Vec<_>> = (0..names.len()).map(|id| names.remove(&id.to_string())).collect();
                list.unwrap_or_default()
            }
        }
    }
}

/// Reads `pretrained_cfg`, and the label names where timm or transformers put them.
pub(super) fn read(config: &Value) -> Result<(Option<Preprocessing>, Vec<String>), ZooError> {
    let cfg = config.get("pretrained_cfg");
    let names = cfg.and_then(|cfg| cfg.get("label_names")).or(config.get("label_names")).or(config.get("id2label"));
    let mut labels = names.map(fields::<Option<Labels>>).transpose()?.flatten().map(Labels::list).unwrap_or_default();
    // What transformers writes where nobody gave names.
    if labels.iter().enumerate().all(|(id, label)| *label == format!("LABEL_{id}")) {
        labels.clear();
    }
    let Some(cfg) = cfg.filter(|cfg| cfg.get("mean").is_some()) else { return Ok((None, labels)) };
    let cfg: PretrainedCfg = fields(cfg)?;
    let PretrainedCfg { mean, std, interpolation, crop_pct, crop_mode } = cfg;
    let preprocessing = Preprocessing { mean, std, interpolation, crop_pct, crop_mode };
    if !preprocessing.has_valid_statistics() {
        return Err(ZooError::Field("pretrained_cfg: mean and std need a finite number a channel, std above 0".into()));
    }
    if !preprocessing.is_valid() {
        return Err(ZooError::Field(format!("pretrained_cfg: crop_pct is {crop_pct}, and has to be in 0.01..=1")));
    }
    Ok((Some(preprocessing), labels))
}
