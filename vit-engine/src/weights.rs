//! Where every parameter of a model stands in one block of memory, and how it gets there.
//!
//! The layout follows from the config and the precision alone: its size is known before anything is loaded, and no
//! index of tensors has to be allocated. Matrices are in panels, the same for every instruction set.
use core::fmt;

use vit_kernels::half::f16;
use vit_kernels::{PackError, Packed, Panels, ShapeError, pack, packed_len};

use crate::arena::{ALIGN, MemoryError, aligned_mut};
use crate::config::{Config, ConfigError};
use crate::parameters::{self, AFTER, BEFORE, Entry, LAYER, LayerSite, Param, Part, Site, TABLES};

/// How weight matrices are stored; everything else (norms, biases, positions, activations, sums) is f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight, rounded to nearest even.
    F16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Self; 2] = [Self::F32, Self::F16];

    /// 'f32', 'f16'.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<f16>(),
        }
    }
}

/// Where parameters come from: a checkpoint, a generator, arrays in flash.
pub trait Source {
    /// Why a parameter cannot be had.
    type Error;

    /// Opens a parameter of that shape for reading. Two may be open at a time, and a parameter may be opened again.
    ///
    /// # Errors
    /// When there is no such parameter or its shape differs.
    fn open(&self, param: Param, shape: [usize; 2]) -> Result<impl Values, Self::Error>;
}

/// A parameter's values, row by row.
pub trait Values {
    /// Writes `into.len()` values of `row`, from column `start` on; in whatever order packing goes.
    fn read(&self, row: usize, start: usize, into: &mut [f32]);
}

impl<F: Fn(usize, usize, &mut [f32])> Values for F {
    fn read(&self, row: usize, start: usize, into: &mut [f32]) {
        self(row, start, into);
    }
}

/// Why a model could not be filled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FillError<E> {
    /// The hyper-parameters make no model.
    Config(ConfigError),
    /// The memory does not do.
    Memory(MemoryError),
    /// The source does not have what the model needs.
    Source(E),
    /// A value is NaN or infinite, or too large for the precision.
    NotFinite {
        /// The parameter.
        param: Param,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The value.
        value: f32,
    },
}

impl<E: fmt::Display> fmt::Display for FillError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Source(error) => error.fmt(f),
            Self::NotFinite { param, row, column, value } if value.is_finite() => {
                write!(f, "{param:?} at [{row}, {column}] is {value}: too large for f16; use f32")
            }
            Self::NotFinite { param, row, column, value } => write!(f, "{param:?} at [{row}, {column}] is {value}"),
        }
    }
}

impl<E: core::error::Error> core::error::Error for FillError<E> {}

/// Where the parameters of a model stand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Layout {
    pub(crate) precision: Precision,
    before: [Option<Slot<Site>>; BEFORE],
    /// Places of the first layer; they are alike and `layer_len` apart.
    layer: [Option<Slot<LayerSite>>; LAYER],
    layers_start: usize,
    layer_len: usize,
    after: [Option<Slot<Site>>; AFTER],
    /// What depends on the image's size, relative to where that begins.
    tables: [Option<Slot<Site>>; TABLES],
    /// Where that begins: everything before is the same for every size.
    pub(crate) tables_start: usize,
    /// The bytes of it.
    pub(crate) table_bytes: usize,
}

/// What stands where: a byte offset within its block.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Slot<S> {
    entry: Entry<S>,
    offset: usize,
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

    fn slots<S, const N: usize>(&mut self, entries: [Option<Entry<S>>; N]) -> [Option<Slot<S>>; N] {
        entries.map(|entry| {
            let entry = entry?;
            let bytes = entry.weight_bytes(self.precision).zip(entry.bias_bytes());
            let offset = self.reserve(bytes.and_then(|(weight, bias)| weight.checked_add(bias)));
            Some(Slot { entry, offset })
        })
    }
}

/// Bytes of rows of f32, padded so that what follows is aligned.
fn row_bytes(rows: usize, cols: usize) -> Option<usize> {
    rows.checked_mul(cols)?.checked_mul(size_of::<f32>())?.checked_next_multiple_of(ALIGN)
}

impl<S> Entry<S> {
    /// Bytes of the weight: where the bias begins.
    fn weight_bytes(&self, precision: Precision) -> Option<usize> {
        let matrix = |n, k| packed_len(n, k)?.checked_mul(precision.bytes())?.checked_next_multiple_of(ALIGN);
        match *self {
            Self::Rows { rows, cols, .. } => row_bytes(rows, cols),
            Self::Norm { len, .. } => row_bytes(1, len),
            Self::Linear { n, k, .. } => matrix(n, k),
            Self::KeysValues { n, k, .. } => matrix(n.checked_mul(2)?, k),
        }
    }

    fn bias_bytes(&self) -> Option<usize> {
        row_bytes(1, self.bias_len().unwrap_or(0))
    }

    fn bias_len(&self) -> Option<usize> {
        match *self {
            Self::Norm { len, .. } => Some(len),
            Self::Linear { n, bias: true, .. } => Some(n),
            Self::KeysValues { n, bias, .. } if bias != [false; 2] => Some(2 * n),
            _ => None,
        }
    }
}

impl Layout {
    pub(crate) fn new(config: &Config, precision: Precision) -> Result<Self, ConfigError> {
        config.validate()?;
        let start = || Cursor { precision, at: Some(0) };
        let mut at = start();
        let layer = at.slots(parameters::layer(config));
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
    fn find(&self, sites: &[Site]) -> Option<Slot<Site>> {
        let holds = |slot: &Slot<Site>| slot.entry.holds(sites);
        match *sites.first()? {
            Site::Layer(index, _) => self.layer.iter().flatten().map(|slot| self.of_layer(index, *slot)).find(holds),
            Site::Positions | Site::Rope => self.tables.iter().flatten().copied().find(holds),
            _ => self.before.iter().chain(&self.after).flatten().copied().find(holds),
        }
    }

    /// What layer `index` has where the first one has `slot`, and where in the model.
    fn of_layer(&self, index: usize, Slot { entry, offset }: Slot<LayerSite>) -> Slot<Site> {
        Slot { entry: entry.of_layer(index), offset: self.layers_start + index * self.layer_len + offset }
    }

    /// A token, positions, a scale.
    pub(crate) fn rows<'a>(&self, data: &'a [u8], site: Site) -> Option<&'a [f32]> {
        match self.find(&[site])? {
            Slot { entry: Entry::Rows { rows, cols, .. }, offset } => Some(floats(data, offset, rows * cols)),
            _ => None,
        }
    }

    pub(crate) fn norm<'a>(&self, data: &'a [u8], site: Site) -> Option<Norm<'a>> {
        let Slot { entry, offset } = self.find(&[site])?;
        let Entry::Norm { len, .. } = entry else { return None };
        let weight = entry.weight_bytes(self.precision)?;
        Some(Norm { gamma: floats(data, offset, len), beta: floats(data, offset + weight, len) })
    }

    pub(crate) fn linear<'a>(&self, data: &'a [u8], site: Site) -> Option<Linear<'a>> {
        let slot = self.find(&[site])?;
        let Entry::Linear { n, k, .. } = slot.entry else { return None };
        Some(self.matrix(data, slot, n, k))
    }

    /// Keys and values in one matrix, \[2·n, k\].
    pub(crate) fn keys_values<'a>(&self, data: &'a [u8], sites: [Site; 2]) -> Option<Linear<'a>> {
        let slot = self.find(&sites)?;
        let Entry::KeysValues { n, k, .. } = slot.entry else { return None };
        Some(self.matrix(data, slot, 2 * n, k))
    }

    /// The matrix of a slot, \[n, k\], and its bias.
    fn matrix<'a>(&self, data: &'a [u8], Slot { entry, offset }: Slot<Site>, n: usize, k: usize) -> Linear<'a> {
        // With all that follows: it is what a forward pass reads next. Lengths are multiples of ALIGN.
        let bytes = &data[offset..];
        let panels = match self.precision {
            Precision::F32 => Panels::F32(bytemuck::cast_slice(bytes)),
            Precision::F16 => Panels::F16(bytemuck::cast_slice(bytes)),
        };
        let weight = Packed::before_others(n, k, panels).expect("the layout reserved packed_len(n, k)");
        let bias = entry.bias_len().zip(entry.weight_bytes(self.precision));
        Linear { weight, bias: bias.map(|(len, weight)| floats(data, offset + weight, len)) }
    }
}

fn floats(data: &[u8], offset: usize, len: usize) -> &[f32] {
    bytemuck::cast_slice(&data[offset..][..len * size_of::<f32>()])
}

fn floats_mut(data: &mut [u8], offset: usize, len: usize) -> &mut [f32] {
    bytemuck::cast_slice_mut(&mut data[offset..][..len * size_of::<f32>()])
}

/// A norm's gamma and beta, \[dim\].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub(crate) gamma: &'a [f32],
    pub(crate) beta: &'a [f32],
}

/// A linear layer's weight, \[n, k\] packed, and bias, \[n\].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear<'a> {
    pub(crate) weight: Packed<'a>,
    pub(crate) bias: Option<&'a [f32]>,
}

/// Fills a model's memory, or its tables', from a source.
pub(crate) struct Fill<'a, S> {
    pub(crate) layout: &'a Layout,
    pub(crate) source: &'a S,
    pub(crate) memory: &'a mut [u8],
}

impl<S: Source> Fill<'_, S> {
    /// A whole model.
    pub(crate) fn model(mut self, config: &Config) -> Result<(), FillError<S::Error>> {
        self.memory = aligned_mut(self.memory, self.layout.bytes()).map_err(FillError::Memory)?;
        let l = *self.layout;
        l.before.into_iter().flatten().try_for_each(|slot| self.slot(0, slot))?;
        for index in 0..config.depth {
            l.layer.into_iter().flatten().try_for_each(|slot| self.slot(0, l.of_layer(index, slot)))?;
        }
        l.after.into_iter().flatten().try_for_each(|slot| self.slot(0, slot))?;
        self.tables_at(l.tables_start)
    }

    /// What depends on the image's size, alone.
    pub(crate) fn tables(mut self) -> Result<(), FillError<S::Error>> {
        self.memory = aligned_mut(self.memory, self.layout.table_bytes).map_err(FillError::Memory)?;
        self.tables_at(0)
    }

    fn tables_at(&mut self, base: usize) -> Result<(), FillError<S::Error>> {
        self.layout.tables.into_iter().flatten().try_for_each(|slot| self.slot(base, slot))
    }

    fn slot(&mut self, base: usize, Slot { entry, offset }: Slot<Site>) -> Result<(), FillError<S::Error>> {
        let start = base + offset;
        let bias = start + entry.weight_bytes(self.layout.precision).unwrap_or(0);
        match entry {
            Entry::Rows { site, rows, cols } => self.rows(start, Param { site, part: Part::Weight }, [rows, cols]),
            Entry::Norm { site, len } => {
                self.rows(start, Param { site, part: Part::Weight }, [1, len])?;
                self.rows(bias, Param { site, part: Part::Bias }, [1, len])
            }
            Entry::Linear { site, n, k, bias: has_bias } => {
                self.matrix(start, &[site], [n, k])?;
                self.bias(bias, site, n, has_bias)
            }
            Entry::KeysValues { sites, n, k, bias: has_bias } => {
                self.matrix(start, &sites, [n, k])?;
                if has_bias != [false; 2] {
                    floats_mut(self.memory, bias, 2 * n).fill(0.0);
                }
                self.bias(bias, sites[0], n, has_bias[0])?;
                self.bias(bias + n * size_of::<f32>(), sites[1], n, has_bias[1])
            }
        }
    }

    fn bias(&mut self, start: usize, site: Site, len: usize, there: bool) -> Result<(), FillError<S::Error>> {
        if there { self.rows(start, Param { site, part: Part::Bias }, [1, len]) } else { Ok(()) }
    }

    fn rows(&mut self, start: usize, param: Param, shape: [usize; 2]) -> Result<(), FillError<S::Error>> {
        let [rows, cols] = shape;
        let values = self.source.open(param, shape).map_err(FillError::Source)?;
        let out = floats_mut(self.memory, start, rows * cols);
        for (row, out) in out.chunks_exact_mut(cols).enumerate() {
            values.read(row, 0, out);
            if let Some(column) = out.iter().position(|x| !x.is_finite()) {
                return Err(FillError::NotFinite { param, row, column, value: out[column] });
            }
        }
        Ok(())
    }

    /// A matrix whose rows are those of `sites`, \[rows, k\] each, one after the other.
    fn matrix(&mut self, start: usize, sites: &[Site], [rows, k]: [usize; 2]) -> Result<(), FillError<S::Error>> {
        let n = rows * sites.len();
        let open = |&site| self.source.open(Param { site, part: Part::Weight }, [rows, k]).map_err(FillError::Source);
        let first = open(&sites[0])?;
        let second = sites.get(1).map(open).transpose()?;
        let read = |row: usize, start: usize, into: &mut [f32]| match &second {
            Some(second) if row >= rows => second.read(row - rows, start, into),
            _ => first.read(row, start, into),
        };
        let bytes = &mut self.memory[start..];
        let len = packed_len(n, k).unwrap_or(0);
        match self.layout.precision {
            Precision::F32 => pack::<f32>(n, k, read, bytemuck::cast_slice_mut(&mut bytes[..len * 4])),
            Precision::F16 => pack::<f16>(n, k, read, bytemuck::cast_slice_mut(&mut bytes[..len * 2])),
        }
        .map_err(|error| match error {
            PackError::NotFinite { row, column, value } => {
                let param = Param { site: sites[row / rows], part: Part::Weight };
                FillError::NotFinite { param, row: row % rows, column, value }
            }
            PackError::Shape(ShapeError { expected, found, .. }) => {
                let bytes = self.layout.precision.bytes();
                FillError::Memory(MemoryError::TooSmall { needed: expected * bytes, found: found * bytes })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AttentionPool;
    use crate::parameters::PoolSite;
    use crate::testing::tiny;

    /// Keys and values are one matrix, which is found under both their sites and under neither alone.
    #[test]
    fn keys_and_values_are_found_together() {
        let attention_pool = Some(AttentionPool { heads: 3, mlp_dim: 5, all_tokens: true });
        let layout = Layout::new(&Config { attention_pool, ..tiny() }, Precision::F32).unwrap();
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
