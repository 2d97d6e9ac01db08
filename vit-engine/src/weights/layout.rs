//! The offset of every parameter in a model's block of memory.
//!
//! It depends only on the config and the formats. So the size is known before anything is loaded, and no index of
//! tensors is kept: offsets are added up when they are needed.
use vit_kernels::{Format, Packed};

use super::{Formats, Linear, Norm, floats, lines};
use crate::arena::ALIGN;
use crate::config::{Config, ConfigError};
use crate::parameters::{self, Entry, Site};

/// Where the parts of a model's memory begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WeightLayout {
    pub(crate) formats: Formats,
    layers_start: usize,
    /// The bytes of a layer that keeps no matrix in f32.
    layer_len: usize,
    /// Where the parameters after the layers begin.
    after_start: usize,
    /// Where the tables, which depend on the image size, begin. Everything before is the same for every image size.
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

/// The slots of entries that follow each other in memory from `at` on.
fn slots(formats: &Formats, mut at: usize, entries: impl Iterator<Item = Entry<Site>>) -> impl Iterator<Item = Slot> {
    entries.map(move |entry| {
        let format = formats.format(entry.site());
        let [weight, bias] = entry.part_bytes(format).unwrap_or_default();
        let (offset, start) = (at, at.wrapping_add(weight));
        // `WeightLayout::new` has found that nothing overflows.
        at = start.wrapping_add(bias);
        Slot { entry, format, offset, bias: start }
    })
}

/// The end of entries that follow each other from `start` on; `None` on overflow.
fn end(formats: &Formats, start: usize, mut entries: impl Iterator<Item = Entry<Site>>) -> Option<usize> {
    entries.try_fold(start, |at, entry| {
        let [weight, bias] = entry.part_bytes(formats.format(entry.site()))?;
        at.checked_add(weight)?.checked_add(bias)
    })
}

/// The entries of a layer.
fn layer_entries(config: &Config, index: usize) -> impl Iterator<Item = Entry<Site>> {
    parameters::layer(config).map(move |entry| entry.of_layer(index))
}

/// The bytes of the first `count` layers, each `layer_len` long except for the matrices that are kept in f32.
fn layers_len(config: &Config, formats: &Formats, layer_len: usize, count: usize) -> Option<usize> {
    let len = layer_len.checked_mul(count)?;
    let keep = formats.kept();
    if keep.is_empty() {
        return Some(len);
    }
    parameters::layer(config).try_fold(len, |len, entry| {
        let kept = keep.count_before(count, entry.site());
        let entry = entry.of_layer(0);
        let [more, _] = entry.part_bytes(Format::F32)?;
        let [less, _] = entry.part_bytes(formats.precision().format(entry.site()))?;
        len.checked_add(kept.checked_mul(more)?).map(|len| len - kept * less)
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

    /// Bytes of the weight and of the bias, each rounded up so that the next range is aligned.
    fn part_bytes(&self, format: Format) -> Option<[usize; 2]> {
        let weight = self.weight_bytes(format)?.checked_next_multiple_of(ALIGN)?;
        Some([weight, row_bytes(1, self.bias_len().unwrap_or(0))?])
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
        formats.kept().check(config)?;
        let too_large = ConfigError::TooLarge;
        // As if no matrix of the layer were kept in f32.
        let plain = Formats::from(formats.precision());
        let layer_len = end(&plain, 0, layer_entries(config, 0)).ok_or(too_large)?;
        let layers_start = end(&formats, 0, parameters::before_layers(config)).ok_or(too_large)?;
        let layers = layers_len(config, &formats, layer_len, config.depth).ok_or(too_large)?;
        let after_start = layers_start.checked_add(layers).ok_or(too_large)?;
        let tables_start = end(&formats, after_start, parameters::after_layers(config)).ok_or(too_large)?;
        let tables_end = end(&formats, tables_start, parameters::tables(config)).ok_or(too_large)?;
        let table_bytes = tables_end - tables_start;
        Ok(Self { formats, layers_start, layer_len, after_start, tables_start, table_bytes })
    }

    /// Bytes of a model, including its tables.
    pub(crate) fn bytes(&self) -> usize {
        self.tables_start + self.table_bytes
    }

    /// The slot that holds exactly these sites. Offsets count from the start of the model, those of tables from the
    /// start of the tables.
    fn find(&self, config: &Config, sites: &[Site]) -> Option<Slot> {
        let holds = |slot: &Slot| slot.entry.holds(sites);
        match *sites.first()? {
            Site::Layer(index, _) => self.layer(config, index).find(holds),
            Site::Positions | Site::Rope => self.tables(config).find(holds),
            _ => self.before(config).chain(self.after(config)).find(holds),
        }
    }

    /// The slots before the layers.
    pub(crate) fn before(&self, config: &Config) -> impl Iterator<Item = Slot> {
        slots(&self.formats, 0, parameters::before_layers(config))
    }

    /// The slots of layer `index`, with offsets from the start of the model.
    pub(crate) fn layer(&self, config: &Config, index: usize) -> impl Iterator<Item = Slot> {
        // `new` has found that all layers fit.
        let before = layers_len(config, &self.formats, self.layer_len, index).unwrap_or(0);
        slots(&self.formats, self.layers_start + before, layer_entries(config, index))
    }

    /// The slots after the layers.
    pub(crate) fn after(&self, config: &Config) -> impl Iterator<Item = Slot> {
        slots(&self.formats, self.after_start, parameters::after_layers(config))
    }

    /// The slots of the tables, with offsets from the start of the tables.
    pub(crate) fn tables(&self, config: &Config) -> impl Iterator<Item = Slot> {
        slots(&self.formats, 0, parameters::tables(config))
    }
}

/// A model's layout with what it describes.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'c, 'a> {
    pub(crate) layout: &'c WeightLayout,
    pub(crate) config: &'c Config,
    /// The weights, or the tables.
    pub(crate) data: &'a [u8],
}

impl<'a> Stored<'_, 'a> {
    fn find(&self, sites: &[Site]) -> Option<Slot> {
        self.layout.find(self.config, sites)
    }

    /// The rows of a site that is not a matrix: a token, positions, a scale.
    pub(crate) fn rows(&self, site: Site) -> Option<&'a [f32]> {
        match self.find(&[site])? {
            Slot { entry: Entry::Rows { rows, cols, .. }, offset, .. } => Some(floats(self.data, offset, rows * cols)),
            _ => None,
        }
    }

    pub(crate) fn norm(&self, site: Site) -> Option<Norm<'a>> {
        let Slot { entry: Entry::Norm { len, .. }, offset, bias, .. } = self.find(&[site])? else { return None };
        Some(Norm { gamma: floats(self.data, offset, len), beta: floats(self.data, bias, len) })
    }

    pub(crate) fn linear(&self, site: Site) -> Option<Linear<'a>> {
        let slot = self.find(&[site])?;
        let Entry::Linear { n, k, .. } = slot.entry else { return None };
        Some(slot.matrix(self.data, n, k))
    }

    /// The matrix of keys and values, \[2·n, k\].
    pub(crate) fn keys_values(&self, sites: [Site; 2]) -> Option<Linear<'a>> {
        let slot = self.find(&sites)?;
        let Entry::KeysValues { n, k, .. } = slot.entry else { return None };
        Some(slot.matrix(self.data, 2 * n, k))
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
        let config = Config { attention_pool, ..tiny() };
        let layout = WeightLayout::new(&config, Precision::F32).unwrap();
        for [key, value] in [
            [LayerSite::Key, LayerSite::Value].map(|site| Site::Layer(1, site)),
            [PoolSite::Key, PoolSite::Value].map(Site::Pool),
        ] {
            assert!(layout.find(&config, &[key, value]).is_some());
            for sites in [&[value, key][..], &[key], &[value], &[key, key], &[key, value, value], &[]] {
                assert!(layout.find(&config, sites).is_none(), "{sites:?}");
            }
        }
        // An entry of another kind is not returned.
        let layout = Stored { layout: &layout, config: &config, data: &[] };
        assert!(layout.linear(Site::FinalNorm).is_none() && layout.norm(Site::Patch).is_none());
        assert!(layout.rows(Site::FinalNorm).is_none() && layout.rows(Site::Rope).is_none());
    }
}
