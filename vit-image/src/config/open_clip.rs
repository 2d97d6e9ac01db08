//! OpenCLIP's `preprocess_cfg`, as `image_transform_v2` uses it
//! (<https://github.com/mlfoundations/open_clip/blob/main/src/open_clip/transform.py>).
use serde_json::Value;

use super::fields::{OPENAI, height_width, length, quoted, single};
use super::timm::torchvision_crop;
use super::{ConfigError, Fields};
use crate::description::{Arithmetic, Filter, Preprocessing, Resize, Target};

/// `image` is the size of the model's own images, which OpenCLIP puts before the size in the file.
pub(super) fn read(cfg: &Value, image: Option<[usize; 2]>) -> Result<Preprocessing, ConfigError> {
    let fields = Fields::of(cfg, "preprocess_cfg")?;
    let size = match (image, fields.get("size")) {
        (Some(size), _) => size,
        (None, Some(size)) => height_width(size).ok_or_else(|| fields.wrong("size", "a number or [height, width]"))?,
        (None, None) => [224, 224],
    };
    if let Some(mode) = fields.text("mode")?.filter(|mode| *mode != "RGB") {
        return Err(ConfigError::Unsupported(format!("preprocess_cfg: the mode {}", quoted(mode))));
    }
    let filter = match fields.text("interpolation")? {
        // 'random' is for training, and bicubic otherwise.
        None | Some("" | "bicubic" | "random") => Filter::Bicubic,
        Some("bilinear") => Filter::Bilinear,
        Some(other) => {
            return Err(ConfigError::Unsupported(format!("preprocess_cfg: the interpolation {}", quoted(other))));
        }
    };
    let fill = match fields.get("fill_color") {
        None => 0,
        Some(color) => length(color)
            .and_then(|color| u8::try_from(color).ok())
            .ok_or_else(|| fields.wrong("fill_color", "a whole number from 0 to 255"))?,
    };
    let (resize, crop) = match fields.text("resize_mode")? {
        None | Some("" | "shortest") if size[0] == size[1] => {
            let to = Target::Shortest { edge: size[0], limit: None };
            (Resize { to, filter }, Some(torchvision_crop(size, vec![0])))
        }
        // OpenCLIP does not hand its interpolation on here.
        None | Some("" | "shortest") => {
            let resize = Resize { to: Target::Cover(size), filter: Filter::Bicubic };
            (resize, Some(torchvision_crop(size, vec![0])))
        }
        Some("longest") => (Resize { to: Target::Contain(size), filter }, Some(torchvision_crop(size, vec![fill]))),
        Some("squash") => (Resize { to: Target::Exact(size), filter }, None),
        Some(other) => {
            return Err(ConfigError::Unsupported(format!("preprocess_cfg: the resize_mode {}", quoted(other))));
        }
    };
    Ok(Preprocessing {
        resize: Some(resize),
        crop,
        crop_pct: None,
        rescale: 1.0 / 255.0,
        mean: single(&fields.numbers("mean")?.unwrap_or(OPENAI.0.to_vec())),
        std: single(&fields.numbers("std")?.unwrap_or(OPENAI.1.to_vec())),
        pad: None,
        arithmetic: Arithmetic::Bytes,
    })
}
