//! Where every parameter of a model stands in one block of memory.
//!
//! It follows from the config and the precision alone: its size is known before anything is loaded, and no index of tensors
//! has to be allocated.
use vit_kernels::{Format, Packed};

use super::{Linear, Norm, Precision, floats, lines};
use crate::arena::ALIGN;
use crate::config::{Config, ConfigError};
use crate::parameters::{self, AFTER, BEFORE, Entry, LAYER, Site, TABLES};

/// Where the parameters of a model stand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WeightLayout {
    pub(crate) precision: Precision,
    before: [Option<Slot>; BEFORE],
    /// The first layer's, from its start on; the others are alike and `layer_len` apart.
    layer: [Option<Slot>; LAYER],
    layers_start: usize,
    layer_len: usize,
    after: [Option<Slot>; AFTER],
    /// What depends on the image's size, relative to where that begins.
    tables: [Option<Slot>; TABLES],
    /// Where that begins: everything before is the same for every size.
    pub(crate) tables_start: usize,
    /// The bytes of it.
    pub(crate) table_bytes: usize,
}

/// What stands where; offsets are bytes within the slot's block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Slot {
    pub(crate) entry: Entry<Site>,
    /// How its matrix is stored, if it has one.
    pub(crate) format: Format,
    /// Where its weight begins.
    pub(crate) offset: usize,
    /// Where its bias would begin: behind the weight.
    pub(crate) bias: usize,
}

/// Hands out aligned offsets; remembers an overflow.
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

/// Bytes of rows of f32, padded so that what follows is aligned.
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

    /// Bytes of a model: what is the same for every size of image, and what is not.
    pub(crate) fn bytes(&self) -> usize {
        self.tables_start + self.table_bytes
    }

    /// The entry that holds exactly these sites, and at which byte of the model it stands, or of the tables for those.
    fn find(&self, sites: &[Site]) -> Option<Slot> {
        let holds = |slot: &Slot| slot.entry.holds(sites);
        match *sites.first()? {
            Site::Layer(index, _) => self.layer(index).find(holds),
            Site::Positions | Site::Rope => self.tables.iter().flatten().copied().find(holds),
            _ => self.before.iter().chain(&self.after).flatten().copied().find(holds),
        }
    }

    /// What layer `index` has, and where in the model.
    pub(crate) fn layer(&self, index: usize) -> impl Iterator<Item = Slot> {
        let start = self.layers_start + index * self.layer_len;
        self.layer.into_iter().flatten().map(move |slot| Slot {
            entry: slot.entry.at_layer(index),
            offset: start + slot.offset,
            bias: start + slot.bias,
            ..slot
        })
    }

    /// What comes before the layers, and what after them.
    pub(crate) fn before_and_after(&self) -> [impl Iterator<Item = Slot>; 2] {
        [self.before.as_slice(), &self.after].map(|slots| slots.iter().copied().flatten())
    }

    /// What depends on the image's size, from the start of that on.
    pub(crate) fn tables(&self) -> impl Iterator<Item = Slot> {
        self.tables.into_iter().flatten()
    }

    /// A token, positions, a scale.
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

    /// Keys and values in one matrix, \[2·n, k\].
    pub(crate) fn keys_values<'a>(&self, data: &'a [u8], sites: [Site; 2]) -> Option<Linear<'a>> {
        let slot = self.find(&sites)?;
        let Entry::KeysValues { n, k, .. } = slot.entry else { return None };
        Some(slot.matrix(data, 2 * n, k))
    }
}

impl Slot {
    /// The matrix of a slot, \[n, k\], and its bias.
    fn matrix<'a>(&self, data: &'a [u8], n: usize, k: usize) -> Linear<'a> {
        // With all that follows: it is what a forward pass reads next.
        let weight = Packed::before_others(self.format, n, k, lines(data, self.offset));
        let weight = weight.expect("the layout reserved as many lines");
        Linear { weight, bias: self.entry.bias_len().map(|len| floats(data, self.bias, len)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AttentionPool;
    use crate::parameters::{LayerSite, PoolSite};
    use crate::testing::tiny;

    /// Keys and values are one matrix, which is found under both their sites and under neither alone.
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
        // What stands at a site is not taken for something else.
        let data = [];
        assert!(layout.linear(&data, Site::FinalNorm).is_none() && layout.norm(&data, Site::Patch).is_none());
        assert!(layout.rows(&data, Site::FinalNorm).is_none() && layout.rows(&data, Site::Rope).is_none());
    }
}
