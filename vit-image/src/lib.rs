//! From a picture to the input of a Vision Transformer, as the model's own files say.
//!
//! 1. [`config::find`] reads a model's files (`preprocessor_config.json`, `processor_config.json`, `config.json` with
//!    timm's `pretrained_cfg`, `open_clip_config.json`) into one description, [`Preprocessing`].
//! 2. [`Picture::decode`] decodes PNG, JPEG, WebP, GIF, BMP and TIFF, upright by their EXIF orientation, to 8-bit RGB or
//!    grey.
//! 3. [`Preprocessing::apply`] resizes, crops, pads, rescales and normalises.
//!
//!
//! [`Preprocessing::view`] says where in the picture a pixel of the input comes from.
//!
//! ```
//! use vit_image::{Picture, Preprocessing, config};
//!
//! let processor = br#"{"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}"#;
//! let files = config::Files { preprocessor: serde_json::from_slice(processor).ok(), ..Default::default() };
//! let preprocessing = config::find(&files)?;
//! let picture = Picture::new([2, 3], 3, vec![255; 18])?; // height, width; RGB
//! let [height, width] = preprocessing.output_size(picture.size())?;
//! let mut pixels = vec![0.0; 3 * height * width]; // [3, 16, 16]
//! preprocessing.apply(&picture, 1 << 20, &mut pixels)?;
//! assert_eq!(pixels, [1.0; 3 * 16 * 16]); // (255 / 255 - 0.5) / 0.5
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Agreement with the reference implementations
//! References are Pillow and, on top of it, transformers' Pillow processors (`ViTImageProcessorPil` and its kin), timm's
//! `create_transform`, OpenCLIP's `image_transform_v2`. transformers' DINOv3 processor has no Pillow variant; its reference
//! is torchvision's.
//!
//! - 8-bit samples are equal, to the bit: what Pillow resizes, and what it decodes, also of JPEG and lossy WebP. (DINOv3's
//!   processor without `do_rescale`, which resizes bytes in torchvision, is within 1 level on 1 %.)
//! - Processors that resize floating-point samples: 0.05 of a level on average.
//!
//! The tests in `tests/parity.rs` check these bounds; `tests/goldens/make.py` makes what they compare with, and
//! `tests/live.py` compares with the installed libraries.
//!
//! Known differences:
//! - Pillow before 13 resizes the width first, always; here it is Pillow 13's order, [`Arithmetic::Bytes`].
//! - transformers 5 puts transparent pictures on white (`do_convert_rgb`); here, as in Pillow's `convert("RGB")` and in
//!   timm, OpenCLIP and transformers 4, alpha is dropped.
//! - Pillow clips 16-bit grey to white above level 255; here it is scaled to 8 bits.
//! - transformers' default is the torchvision processor, where that is installed. It resizes 8-bit samples with weights of 16
//!   bits, and so differs from the Pillow processor, and from this crate, by 1 level on some samples.
//!
//! # Features
//! | Feature | What it adds |
//! |---|---|
//! | `config` | reading JSON files |
//! | `decode` | reading picture files |
//! | `resize` | [`Preprocessing::apply`] |
//!
//! All are on by default. Without them the crate is [`Preprocessing`] and [`Picture`] alone. It starts no threads and opens no
//! files.
#![forbid(unsafe_code)]

#[cfg(feature = "resize")]
mod apply;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "decode")]
mod decode;
mod description;
mod error;
mod geometry;
mod picture;
#[cfg(feature = "resize")]
mod pillow;
mod view;

#[cfg(feature = "decode")]
pub use decode::DecodeError;
pub use description::{Arithmetic, Crop, Filter, Preprocessing, Resize, Rounding, Target};
pub use error::Error;
pub use picture::Picture;
pub use view::View;
