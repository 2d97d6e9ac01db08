//! timm's `pretrained_cfg`, as `create_transform(**resolve_model_data_config(model))` uses it
//! (<https://github.com/huggingface/pytorch-image-models/blob/main/timm/data/transforms_factory.py>).
use serde_json::Value;

use super::fields::{IMAGENET, length, quoted, single};
use super::{ConfigError, Fields};
use crate::description::{Arithmetic, Crop, Filter, Preprocessing, Resize, Rounding, Target};

pub(super) fn read(cfg: &Value, image: Option<[usize; 2]>) -> Result<Preprocessing, ConfigError> {
    let fields = Fields::of(cfg, "pretrained_cfg")?;
    let size = match fields.get("input_size") {
        Some(size) => input_size(size).ok_or_else(|| fields.wrong("input_size", "[channels, height, width]"))?,
        None => image.unwrap_or([224, 224]),
    };
    // 0 and '' count as not given, as in Python.
    let share = fields.number("crop_pct")?.filter(|share| *share != 0.0).unwrap_or(0.875);
    let mode = fields.text("crop_mode")?.filter(|mode| !mode.is_empty()).unwrap_or("center");
    let filter = fields.text("interpolation")?.filter(|name| !name.is_empty()).unwrap_or("bicubic");
    let filter = Filter::by_name(filter)
        .ok_or_else(|| ConfigError::Unsupported(format!("pretrained_cfg: the interpolation {}", quoted(filter))))?;
    let mean = fields.numbers("mean")?.unwrap_or(IMAGENET.0.to_vec());
    let std = fields.numbers("std")?.unwrap_or(IMAGENET.1.to_vec());

    let scaled = size.map(|side| (side as f64 / share).floor() as usize);
    let mut fill = vec![0];
    let to = match mode {
        "center" if scaled[0] == scaled[1] => Target::Shortest { edge: scaled[0], limit: None },
        "center" => Target::Cover(scaled),
        "squash" => Target::Exact(scaled),
        "border" => {
            fill = mean.iter().map(|x| (255.0 * x).round_ties_even() as u8).collect();
            Target::Contain(scaled)
        }
        other => return Err(ConfigError::Unsupported(format!("pretrained_cfg: the crop_mode {}", quoted(other)))),
    };
    Ok(Preprocessing {
        resize: Some(Resize { to, filter }),
        crop: Some(torchvision_crop(size, fill)),
        crop_pct: Some(share),
        rescale: 1.0 / 255.0,
        mean: single(&mean),
        std: single(&std),
        pad: None,
        arithmetic: Arithmetic::Bytes,
    })
}

/// torchvision's `CenterCrop`, and timm's and OpenCLIP's `CenterCropOrPad`.
pub(super) fn torchvision_crop(size: [usize; 2], fill: Vec<u8>) -> Crop {
    Crop { size, cuts: Rounding::Even, pads: Rounding::Down, fill }
}

/// `[channels, height, width]`
fn input_size(value: &Value) -> Option<[usize; 2]> {
    match value.as_array()?.as_slice() {
        [channels, height, width] if channels.is_u64() => Some([length(height)?, length(width)?]),
        _ => None,
    }
}
