//! The keys of the preprocessing.
use vit_image::{Arithmetic, Crop, Filter, Preprocessing, Resize, Rounding, Target};

use super::PackedError;
#[cfg(feature = "checkpoints")]
use super::gguf::Value;
use super::metadata::Said;
#[cfg(feature = "checkpoints")]
use super::metadata::{size, word};
#[cfg(feature = "checkpoints")]
use super::write::Extra;

const ARITHMETICS: [(Arithmetic, &str); 2] = [(Arithmetic::Bytes, "bytes"), (Arithmetic::Floats, "floats")];
const ROUNDINGS: [(Rounding, &str); 3] = [(Rounding::Down, "down"), (Rounding::Up, "up"), (Rounding::Even, "even")];

/// What the keys say; `None` if there are none.
pub(crate) fn read<'f, 'a: 'f>(
    said: &dyn Fn(&'static str) -> Said<'f, 'a>,
) -> Result<Option<Preprocessing>, PackedError> {
    let Some(rescale) = said("vit.preprocess.rescale").double_if_there()? else { return Ok(None) };
    let both = |height: &'static str, width: &'static str| -> Result<Option<[usize; 2]>, PackedError> {
        Ok(said(height).size()?.zip(said(width).size()?).map(|(height, width)| [height, width]))
    };
    let floats = |key| said(key).floats()?.ok_or_else(|| said(key).wrong());
    let to = match both("vit.preprocess.resize_height", "vit.preprocess.resize_width")? {
        None => None,
        Some([height, width]) => Some(match said("vit.preprocess.resize").text()? {
            Some("exact") => Target::Exact([height, width]),
            Some("shortest") => Target::Shortest { edge: height, limit: said("vit.preprocess.resize_limit").size()? },
            Some("cover") => Target::Cover([height, width]),
            Some("contain") => Target::Contain([height, width]),
            Some("within") => Target::Within([height, width]),
            _ => return Err(said("vit.preprocess.resize").wrong()),
        }),
    };
    let resize = match to {
        Some(to) => Some(Resize { to, filter: said("vit.preprocess.filter").word(&Filter::ALL)? }),
        None => None,
    };
    let crop = match both("vit.preprocess.crop_height", "vit.preprocess.crop_width")? {
        Some(size) => Some(Crop {
            size,
            cuts: said("vit.preprocess.crop_cuts").word(&ROUNDINGS)?,
            pads: said("vit.preprocess.crop_pads").word(&ROUNDINGS)?,
            fill: floats("vit.preprocess.crop_fill")?.iter().map(|level| *level as u8).collect(),
        }),
        None => None,
    };
    let preprocessing = Preprocessing {
        resize,
        crop,
        crop_pct: said("vit.preprocess.crop_pct").double_if_there()?,
        rescale,
        mean: floats("vit.preprocess.mean")?,
        std: floats("vit.preprocess.std")?,
        pad: both("vit.preprocess.pad_height", "vit.preprocess.pad_width")?,
        arithmetic: said("vit.preprocess.arithmetic").word(&ARITHMETICS)?,
    };
    if preprocessing.is_valid() { Ok(Some(preprocessing)) } else { Err(said("vit.preprocess.rescale").wrong()) }
}

/// The levels that a crop is filled with, as a packed file has them.
#[cfg(feature = "checkpoints")]
pub(crate) fn fill(preprocessing: &Preprocessing) -> Vec<f32> {
    preprocessing.crop.iter().flat_map(|crop| &crop.fill).map(|level| f32::from(*level)).collect()
}

/// The same keys, written; `fill` is [`fill`]'s.
#[cfg(feature = "checkpoints")]
pub(crate) fn write<'a>(preprocessing: &'a Preprocessing, fill: &'a [f32], extras: &mut Vec<Extra<'a>>) {
    let Preprocessing { resize, crop, crop_pct, rescale, mean, std, pad, arithmetic } = preprocessing;
    extras.extend([
        Extra::Value("vit.preprocess.rescale", Value::F64(*rescale)),
        Extra::Floats("vit.preprocess.mean", mean),
        Extra::Floats("vit.preprocess.std", std),
        Extra::Value("vit.preprocess.arithmetic", word(*arithmetic, &ARITHMETICS)),
    ]);
    if let Some(Resize { to, filter }) = resize {
        let [height, width] = to.size();
        extras.extend([
            Extra::Value("vit.preprocess.resize", Value::String(to.name().as_bytes())),
            Extra::Value("vit.preprocess.resize_height", size(height)),
            Extra::Value("vit.preprocess.resize_width", size(width)),
            Extra::Value("vit.preprocess.filter", word(*filter, &Filter::ALL)),
        ]);
        if let Target::Shortest { limit: Some(limit), .. } = *to {
            extras.push(Extra::Value("vit.preprocess.resize_limit", size(limit)));
        }
    }
    if let Some(Crop { size: [height, width], cuts, pads, .. }) = crop {
        extras.extend([
            Extra::Value("vit.preprocess.crop_height", size(*height)),
            Extra::Value("vit.preprocess.crop_width", size(*width)),
            Extra::Value("vit.preprocess.crop_cuts", word(*cuts, &ROUNDINGS)),
            Extra::Value("vit.preprocess.crop_pads", word(*pads, &ROUNDINGS)),
            Extra::Floats("vit.preprocess.crop_fill", fill),
        ]);
    }
    if let Some(share) = crop_pct {
        extras.push(Extra::Value("vit.preprocess.crop_pct", Value::F64(*share)));
    }
    if let Some([height, width]) = pad {
        extras.push(Extra::Value("vit.preprocess.pad_height", size(*height)));
        extras.push(Extra::Value("vit.preprocess.pad_width", size(*width)));
    }
}
