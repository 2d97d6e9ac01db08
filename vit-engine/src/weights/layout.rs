//! The offset of every parameter in a model's block of memory.
//!
//! It depends only on the config and the formats. So the size is known before anything is loaded, and no index of
//! tensors is allocated.
use vit_kernels::{Format, Packed};

use super::{Formats, Linear, Norm, floats, lines};
use crate::arena::ALIGN;
use crate::config::{Config, ConfigError};
use crate::parameters::{self, AFTER, BEFORE, Entry, LAYER, LayerSite, Site, TABLES};

/// The offsets of a model's parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WeightLayout {
    pub(crate) formats: Formats,
    before: [Option<Slot>; BEFORE],
    /// The parameters of every layer.
    layer: [Option<LayerPart>; LAYER],
    layers_start: usize,
    /// The bytes of a layer that keeps no matrix in f32.
    layer_len: usize,
    after: [Option<Slot>; AFTER],
    /// The tables, which depend on the image size, with offsets from `tables_start`.
    tables: [Option<Slot>; TABLES],
    /// Where the tables begin. Everything before is the same for every image size.
    pub(crate) tables_start: usize,
    /// The size of the tables in bytes.
    pub(crate) table_bytes: usize,
}

/// One entry of the parameters and its offsets, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Slot {
    pub(crate) entry: Entry<Site>,
    /// The storage format of its matrix, if it has one.
    pub(crate) format: Format,
    /// The start of its weight.
    pub(crate) offset: usize,
    /// The start of its bias, behind the weight. Valid even if there is no bias.
    pub(crate) bias: usize,
}

/// A parameter of every layer, with its sizes in bytes, padded.
#[derive(Debug, Clone, Copy, PartialEq)]
struct LayerPart {
    entry: Entry<LayerSite>,
    /// The weight in the format of the precision.
    weight: usize,
    /// The weight in the layers that keep it in f32.
    kept: usize,
    bias: usize,
}

/// Reserves aligned ranges one after the other. `None` after an overflow.
struct Cursor {
    formats: Formats,
    at: Option<usize>,
}

impl Cursor {
    fn reserve(&mut self, bytes: Option<usize>) -> usize {
        let start = self.at.unwrap_or(0);
        self.at = self.at.zip(bytes).and_then(|(at, bytes)| at.checked_add(bytes)?.checked_next_multiple_of(ALIGN));
        start
    }

    fn slots<const N: usize>(&mut self, entries: [Option<Entry<Site>>; N]) -> [Option<Slot>; N] {
        entries.map(|entry| {
            let entry = entry?;
            let format = self.formats.format(entry.site());
            let offset = self.reserve(entry.weight_bytes(format));
            let bias = self.reserve(row_bytes(1, entry.bias_len().unwrap_or(0)));
            Some(Slot { entry, format, offset, bias })
        })
    }
}

/// The parameters of every layer, in the order of memory; `None` on overflow.
fn layer_parts(config: &Config, formats: Formats) -> Option<[Option<LayerPart>; LAYER]> {
    let mut parts = [None; LAYER];
    for (part, entry) in parts.iter_mut().zip(parameters::layer(config)) {
        let Some(entry) = entry else { continue };
        let in_layer = entry.of_layer(0);
        let padded = |format| in_layer.weight_bytes(format)?.checked_next_multiple_of(ALIGN);
        let weight = padded(formats.precision().format(in_layer.site()))?;
        let bias = row_bytes(1, in_layer.bias_len().unwrap_or(0))?;
        let kept = if formats.keep_f32().is_empty() { weight } else { padded(Format::F32)? };
        *part = Some(LayerPart { entry, weight, kept, bias });
    }
    Some(parts)
}

/// The bytes of the first `count` layers, each `layer_len` long except for the matrices that are kept in f32.
fn layers_len(parts: &[Option<LayerPart>; LAYER], layer_len: usize, count: usize, formats: Formats) -> Option<usize> {
    let keep = formats.keep_f32();
    parts.iter().flatten().try_fold(layer_len.checked_mul(count)?, |len, part| {
        let kept = keep.count_before(count, part.entry.site());
        len.checked_add(kept.checked_mul(part.kept)?).map(|len| len - kept * part.weight)
    })
}

/// Bytes of rows of f32, rounded up so that the next range is aligned.
fn row_bytes(rows: usize, cols: usize) -> Option<usize> {
    rows.checked_mul(cols)?.checked_mul(size_of::<f32>())?.checked_next_multiple_of(ALIGN)
}

impl Entry<Site> {
    fn weight_bytes(&self, format: Format) -> Option<usize> {
        match *self {
            Self::Rows { rows, cols, .. } => row_bytes(rows, cols),
            Self::Norm { len, .. } => row_bytes(1, len),
            Self::Linear { n, k, .. } => format.bytes(n, k),
            Self::KeysValues { n, k, .. } => format.bytes(n.checked_mul(2)?, k),
        }
    }

    pub(crate) fn bias_len(&self) -> Option<usize> {
        match *self {
            Self::Norm { len, .. } => Some(len),
            Self::Linear { n, bias: true, .. } => Some(n),
            Self::KeysValues { n, bias, .. } if bias != [false; 2] => Some(2 * n),
            _ => None,
        }
    }
}

impl WeightLayout {
    pub(crate) fn new(config: &Config, formats: impl Into<Formats>) -> Result<Self, ConfigError> {
        config.validate()?;
        let formats = formats.into();
        formats.keep_f32().check(config)?;
        let layer = layer_parts(config, formats).ok_or(ConfigError::TooLarge)?;
        let add = |sum: usize, part: &LayerPart| sum.checked_add(part.weight)?.checked_add(part.bias);
        let layer_len = layer.iter().flatten().try_fold(0, add).ok_or(ConfigError::TooLarge)?;

        let start = || Cursor { formats, at: Some(0) };
        let mut at = start();
        let before = at.slots(parameters::before_layers(config));
        let layers_start = at.reserve(layers_len(&layer, layer_len, config.depth, formats));
        let after = at.slots(parameters::after_layers(config));
        let tables_start = at.at.ok_or(ConfigError::TooLarge)?;

        let mut at = start();
        let tables = at.slots(parameters::tables(config));
        let table_bytes = at.at.ok_or(ConfigError::TooLarge)?;
        tables_start.checked_add(table_bytes).ok_or(ConfigError::TooLarge)?;
        Ok(Self { formats, before, layer, layers_start, layer_len, after, tables, tables_start, table_bytes })
    }

    /// Bytes of a model, including its tables.
    pub(crate) fn bytes(&self) -> usize {
        self.tables_start + self.table_bytes
    }

    /// The slot that holds exactly these sites. Offsets count from the start of the model, those of tables from the
    /// start of the tables.
    fn find(&self, sites: &[Site]) -> Option<Slot> {
        let holds = |slot: &Slot| slot.entry.holds(sites);
        match *sites.first()? {
            Site::Layer(index, _) => self.layer(index).find(holds),
            Site::Positions | Site::Rope => self.tables.iter().flatten().copied().find(holds),
            _ => self.before.iter().chain(&self.after).flatten().copied().find(holds),
        }
    }

    /// The slots of layer `index`, with offsets from the start of the model.
    pub(crate) fn layer(&self, index: usize) -> impl Iterator<Item = Slot> {
        let before = layers_len(&self.layer, self.layer_len, index, self.formats);
        let mut at = self.layers_start + before.expect("all layers fit");
        let formats = self.formats;
        self.layer.into_iter().flatten().map(move |part| {
            let entry = part.entry.of_layer(index);
            let format = formats.format(entry.site());
            let kept = format == Format::F32;
            let (offset, bias) = (at, at + if kept { part.kept } else { part.weight });
            at = bias + part.bias;
            Slot { entry, format, offset, bias }
        })
    }

    /// The slots before the layers, and those after them.
    pub(crate) fn before_and_after(&self) -> [impl Iterator<Item = Slot>; 2] {
        [self.before.as_slice(), &self.after].map(|slots| slots.iter().copied().flatten())
    }

    /// The slots of the tables, with offsets from the start of the tables.
    pub(crate) fn tables(&self) -> impl Iterator<Item = Slot> {
        self.tables.into_iter().flatten()
    }

    /// The rows of a site that is not a matrix: a token, positions, a scale.
    pub(crate) fn rows<'a>(&self, data: &'a [u8], site: Site) -> Option<&'a [f32]> {
        match self.find(&[site])? {
            Slot { entry: Entry::Rows { rows, cols, .. }, offset, .. } => Some(floats(data, offset, rows * cols)),
            _ => None,
        }
    }

    pub(crate) fn norm<'a>(&self, data: &'a [u8], site: Site) -> Option<Norm<'a>> {
        let Slot { entry: Entry::Norm { len, .. }, offset, bias, .. } = self.find(&[site])? else { return None };
        Some(Norm { gamma: floats(data, offset, len), beta: floats(data, bias, len) })
    }

    pub(crate) fn linear<'a>(&self, data: &'a [u8], site: Site) -> Option<Linear<'a>> {
        let slot = self.find(&[site])?;
        let Entry::Linear { n, k, .. } = slot.entry else { return None };
        Some(slot.matrix(data, n, k))
    }

    /// The matrix of keys and values, \[2·n, k\].
    pub(crate) fn keys_values<'a>(&self, data: &'a [u8], sites: [Site; 2]) -> Option<Linear<'a>> {
        let slot = self.find(&sites)?;
        let Entry::KeysValues { n, k, .. } = slot.entry else { return None };
        Some(slot.matrix(data, 2 * n, k))
    }
}

impl Slot {
    /// The matrix of this slot, \[n, k\], and its bias.
    fn matrix<'a>(&self, data: &'a [u8], n: usize, k: usize) -> Linear<'a> {
        // The slice includes what follows the matrix, because a forward pass reads that next and prefetches it.
        let weight = Packed::before_others(self.format, n, k, lines(data, self.offset));
        let weight = weight.expect("the layout reserved enough lines");
        Linear { weight, bias: self.entry.bias_len().map(|len| floats(data, self.bias, len)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AttentionPool;
    use crate::parameters::{LayerSite, PoolSite};
    use crate::testing::tiny;
    use crate::weights::Precision;

    /// Keys and values are one matrix. It is found with both of their sites, and not with one of them.
    #[test]
    fn keys_and_values_are_found_together() {
        let attention_pool = Some(AttentionPool { heads: 3, mlp_dim: 5, all_tokens: true });
        let layout = WeightLayout::new(&Config { attention_pool, ..tiny() }, Precision::F32).unwrap();
        for [key, value] in [
            [LayerSite::Key, LayerSite::Value].map(|site| Site::Layer(1, site)),
            [PoolSite::Key, PoolSite::Value].map(Site::Pool),
        ] {
            assert!(layout.find(&[key, value]).is_some());
            for sites in [&[value, key][..], &[key], &[value], &[key, key], &[key, value, value], &[]] {
                assert!(layout.find(sites).is_none(), "{sites:?}");
            }
        }
        // An entry of another kind is not returned.
        let data = [];
        assert!(layout.linear(&data, Site::FinalNorm).is_none() && layout.norm(&data, Site::Patch).is_none());
        assert!(layout.rows(&data, Site::FinalNorm).is_none() && layout.rows(&data, Site::Rope).is_none());
    }
}
