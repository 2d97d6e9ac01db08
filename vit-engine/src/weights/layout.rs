//! The offset of every parameter in a model's block of memory.
//!
//! It depends only on the config and the precision. So the size is known before anything is loaded, and no index of
//! tensors is allocated.
use vit_kernels::{Format, Packed};

use super::{Linear, Norm, Precision, floats, lines};
use crate::arena::ALIGN;
use crate::config::{Config, ConfigError};
use crate::parameters::{self, AFTER, BEFORE, Entry, LAYER, Site, TABLES};

/// The offsets of a model's parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WeightLayout {
    pub(crate) precision: Precision,
    before: [Option<Slot>; BEFORE],
    /// The parameters of one layer, with offsets from the start of the layer. Layers follow each other every
    /// `layer_len` bytes.
    layer: [Option<Slot>; LAYER],
    layers_start: usize,
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

/// Reserves aligned ranges one after the other. `None` after an overflow.
struct Cursor {
    precision: Precision,
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
            let format = self.precision.format(entry.site());
            let offset = self.reserve(entry.weight_bytes(format));
            let bias = self.reserve(row_bytes(1, entry.bias_len().unwrap_or(0)));
            Some(Slot { entry, format, offset, bias })
        })
    }
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
    pub(crate) fn new(config: &Config, precision: Precision) -> Result<Self, ConfigError> {
        config.validate()?;
        let start = || Cursor { precision, at: Some(0) };
        let mut at = start();
        let layer = at.slots(parameters::layer(config).map(|entry| entry.map(|entry| entry.of_layer(0))));
        let layer_len = at.at.ok_or(ConfigError::TooLarge)?;

        let mut at = start();
        let before = at.slots(parameters::before_layers(config));
        let layers_start = at.reserve(layer_len.checked_mul(config.depth));
        let after = at.slots(parameters::after_layers(config));
        let tables_start = at.at.ok_or(ConfigError::TooLarge)?;

        let mut at = start();
        let tables = at.slots(parameters::tables(config));
        let table_bytes = at.at.ok_or(ConfigError::TooLarge)?;
        tables_start.checked_add(table_bytes).ok_or(ConfigError::TooLarge)?;
        Ok(Self { precision, before, layer, layers_start, layer_len, after, tables, tables_start, table_bytes })
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
        let start = self.layers_start + index * self.layer_len;
        self.layer.into_iter().flatten().map(move |slot| Slot {
            entry: slot.entry.at_layer(index),
            offset: start + slot.offset,
            bias: start + slot.bias,
            ..slot
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
