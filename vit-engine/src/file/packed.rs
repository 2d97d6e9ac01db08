//! Packed files as checkpoints: reads and writes the metadata that is not part of the model itself.
//!
//! | Key | Type | Meaning |
//! |---|---|---|
//! | `vit.other_sizes.filter` | string | how positions are resampled: `none`, `bicubic`, `bicubic_antialiased` |
//! | `vit.other_sizes.whole_patches`, `.by_count`, `.from_square`, `.rounded` | bool | the fields of [`OtherSizes`] |
//! | `vit.other_sizes.stored_as` | string | what the checkpoint stored positions as: `f32`, `f16`, `bf16` |
//! | `vit.rotary.kind` | string | `normalised`, `counted`; absent without rotary positions |
//! | `vit.rotary.base`, `vit.rotary.offset` | f64 | |
//! | `vit.rotary.reference_rows`, `.reference_columns` | u32 | absent if grids are not scaled |
//! | `vit.rotary.x_first` | bool | |
//! | `vit.preprocess.rescale` | f64 | what 8-bit levels are multiplied by; absent if the preprocessing is unknown |
//! | `vit.preprocess.mean`, `vit.preprocess.std` | f32\[\] | one for each channel, or one for all |
//! | `vit.preprocess.arithmetic` | string | what is resized: `bytes`, `floats` |
//! | `vit.preprocess.resize` | string | a [`Target`](vit_image::Target): `exact`, `shortest`, `cover`, `contain`, `within` |
//! | `vit.preprocess.resize_height`, `.resize_width` | u32 | its size, twice the edge of `shortest`; absent if nothing is resized |
//! | `vit.preprocess.resize_limit` | u32 | the limit of `shortest`; may be absent |
//! | `vit.preprocess.filter` | string | `nearest`, `box`, `bilinear`, `hamming`, `bicubic`, `lanczos` |
//! | `vit.preprocess.crop_height`, `.crop_width` | u32 | absent if nothing is cropped |
//! | `vit.preprocess.crop_cuts`, `.crop_pads` | string | how halves are rounded: `down`, `up`, `even` |
//! | `vit.preprocess.crop_fill` | f32\[\] | 8-bit levels, one for each channel or one for all |
//! | `vit.preprocess.crop_pct` | f64 | the crop's share of the resized side; may be absent |
//! | `vit.preprocess.pad_height`, `.pad_width` | u32 | absent if nothing is padded |
//! | `vit.logit_scale`, `vit.logit_bias` | f64 | the fields of [`Contrast`]; may be absent |
//! | `vit.labels` | string\[\] | the names of the classes |
use std::io;

use vit_image::config::ConfigError;

use super::contrast::Contrast;
use super::error::Problem;
use super::loaded::{Loaded, Memory};
use super::map::Bytes;
use super::safetensors::Rounding;
use crate::memory::{AlignedBox, OutOfMemory};
use crate::packed::metadata::{self, size, word};
use crate::packed::{self, Extra, PackedFile, Value, preprocessing};
use crate::weights::Formats;
use crate::zoo::{Filter, OtherSizes, Rotary};

const FILTERS: [(Option<Filter>, &str); 3] =
    [(None, "none"), (Some(Filter::Bicubic), "bicubic"), (Some(Filter::BicubicAntialiased), "bicubic_antialiased")];
const ROUNDINGS: [(Rounding, &str); 3] = [(Rounding::None, "f32"), (Rounding::F16, "f16"), (Rounding::Bf16, "bf16")];

/// The model of a packed file: where the file is, or copied if its bytes are the caller's.
pub(super) fn load(file: &PackedFile<'_>, bytes: &Bytes<'_>, formats: Formats) -> Result<Loaded, Problem> {
    let (packed, wanted) = (file.formats.precision(), formats.precision());
    if wanted != packed {
        return Err(Problem::OtherPrecision { packed: packed.name(), wanted: wanted.name() });
    }
    if formats != file.formats {
        return Err(Problem::OtherKeepF32);
    }
    let memory = match bytes {
        #[cfg(feature = "mmap")]
        Bytes::Mapped(map) => Memory::Mapped(map.clone(), map.len() - file.weights.len()),
        Bytes::Read(read) => Memory::Read(read.clone(), read.len() - file.weights.len()),
        Bytes::Borrowed(_) => {
            let memory = AlignedBox::new(file.weights.len());
            let mut memory = memory.map_err(|OutOfMemory { bytes }| Problem::OutOfMemory { bytes })?;
            memory.copy_from_slice(file.weights);
            Memory::Own(memory)
        }
    };
    let said = |key: &'static str| file.said(key);
    let rotary = said("vit.rotary.kind").text()?;
    let base = || said("vit.rotary.base").double();
    let rotary = match rotary {
        None => None,
        Some("normalised") => Some(Rotary::Normalised { theta: base()? }),
        Some("counted") => {
            let reference = [said("vit.rotary.reference_rows").size()?, said("vit.rotary.reference_columns").size()?];
            let reference = reference[0].zip(reference[1]).map(|(rows, columns)| [rows, columns]);
            let (offset, x_first) = (said("vit.rotary.offset").double()?, said("vit.rotary.x_first").flag()?);
            Some(Rotary::Counted { temperature: base()?, offset, reference, x_first })
        }
        Some(_) => return Err(said("vit.rotary.kind").wrong().into()),
    };
    let other_sizes = OtherSizes {
        filter: said("vit.other_sizes.filter").word(&FILTERS)?,
        whole_patches: said("vit.other_sizes.whole_patches").flag()?,
        by_count: said("vit.other_sizes.by_count").flag()?,
        from_square: said("vit.other_sizes.from_square").flag()?,
        rounded: said("vit.other_sizes.rounded").flag()?,
    };
    let preprocessing = preprocessing::read(&said)?.ok_or(ConfigError::Missing);
    let labels = metadata::labels(&said)?;
    if !labels.is_empty() && labels.len() != file.config.classes {
        return Err(Problem::Labels { labels: labels.len(), classes: file.config.classes });
    }
    let logit_scale = said("vit.logit_scale").double_if_there()?;
    let logit_bias = said("vit.logit_bias").double_if_there()?.map(|bias| bias as f32);
    let contrast = logit_scale.map(|scale| Contrast { logit_scale: scale as f32, logit_bias });
    Ok(Loaded {
        config: file.config,
        formats,
        packed: true,
        memory,
        other_sizes,
        rounding: said("vit.other_sizes.stored_as").word(&ROUNDINGS)?,
        rotary,
        cache: Default::default(),
        preprocessing,
        labels,
        contrast,
        used: Default::default(),
        unused: Vec::new(),
    })
}

/// Writes a loaded model with the metadata of its checkpoint.
pub(super) fn write(loaded: &Loaded, out: impl io::Write) -> io::Result<()> {
    let Loaded { config, formats, memory, other_sizes, rounding, rotary, preprocessing, labels, contrast, .. } = loaded;
    let OtherSizes { filter, whole_patches, by_count, from_square, rounded } = *other_sizes;
    let mut extras = vec![
        Extra::Value("vit.other_sizes.filter", word(filter, &FILTERS)),
        Extra::Value("vit.other_sizes.whole_patches", Value::Bool(whole_patches)),
        Extra::Value("vit.other_sizes.by_count", Value::Bool(by_count)),
        Extra::Value("vit.other_sizes.from_square", Value::Bool(from_square)),
        Extra::Value("vit.other_sizes.rounded", Value::Bool(rounded)),
        Extra::Value("vit.other_sizes.stored_as", word(*rounding, &ROUNDINGS)),
    ];
    match *rotary {
        None => {}
        Some(Rotary::Normalised { theta }) => extras.extend([
            Extra::Value("vit.rotary.kind", Value::String(b"normalised")),
            Extra::Value("vit.rotary.base", Value::F64(theta)),
        ]),
        Some(Rotary::Counted { temperature, offset, reference, x_first }) => {
            extras.extend([
                Extra::Value("vit.rotary.kind", Value::String(b"counted")),
                Extra::Value("vit.rotary.base", Value::F64(temperature)),
                Extra::Value("vit.rotary.offset", Value::F64(offset)),
                Extra::Value("vit.rotary.x_first", Value::Bool(x_first)),
            ]);
            if let Some([rows, columns]) = reference {
                extras.push(Extra::Value("vit.rotary.reference_rows", size(rows)));
                extras.push(Extra::Value("vit.rotary.reference_columns", size(columns)));
            }
        }
    }
    let fill = preprocessing.as_ref().map(preprocessing::fill).unwrap_or_default();
    if let Ok(known) = preprocessing {
        preprocessing::write(known, &fill, &mut extras);
    }
    if let Some(Contrast { logit_scale, logit_bias }) = *contrast {
        extras.push(Extra::Value("vit.logit_scale", Value::F64(logit_scale.into())));
        extras.extend(logit_bias.map(|bias| Extra::Value("vit.logit_bias", Value::F64(bias.into()))));
    }
    if !labels.is_empty() {
        extras.push(Extra::Strings(metadata::LABELS, labels));
    }
    packed::write(config, *formats, memory, &extras, out)
}
