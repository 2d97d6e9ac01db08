//! Fills a model's memory: reads parameters from a source, row by row, and packs them.
use core::fmt;

use vit_kernels::{Format, PackError};

use super::layout::{Slot, WeightLayout};
use super::{floats_mut, lines_mut};
use crate::arena::{MemoryError, aligned_mut};
use crate::config::{Config, ConfigError};
use crate::parameters::{Entry, Param, Part, Site};

/// A source of parameters: a checkpoint, a generator, arrays in flash.
pub trait Source {
    /// Why a parameter cannot be read.
    type Error;

    /// Opens a parameter of this shape for reading. Two parameters may be open at a time, and the same one may be
    /// opened again.
    ///
    /// # Errors
    /// If there is no such parameter or it has another shape.
    fn open(&self, param: Param, shape: [usize; 2]) -> Result<impl Values, Self::Error>;
}

/// The values of one parameter.
pub trait Values {
    /// Writes `into.len()` values of `row`, from column `start` on, to `into`. Rows and columns are read in the order
    /// that packing needs.
    fn read(&self, row: usize, start: usize, into: &mut [f32]);
}

impl<F: Fn(usize, usize, &mut [f32])> Values for F {
    fn read(&self, row: usize, start: usize, into: &mut [f32]) {
        self(row, start, into);
    }
}

/// Why a model's memory could not be filled.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum FillError<E> {
    /// The hyper-parameters are invalid.
    Config(ConfigError),
    /// The memory is too small or misaligned.
    Memory(MemoryError),
    /// The source cannot provide a parameter.
    Source(E),
    /// A value is NaN or infinite, or too large for its storage format.
    OutOfRange {
        /// The parameter.
        param: Param,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The value.
        value: f32,
        /// The format's name.
        format: &'static str,
    },
}

impl<E: fmt::Display> fmt::Display for FillError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Source(error) => error.fmt(f),
            Self::OutOfRange { param, row, column, value, format } if value.is_finite() => {
                write!(f, "{param:?} at [{row}, {column}] is {value}, which is too large for {format}; use f32")
            }
            Self::OutOfRange { param, row, column, value, .. } => {
                write!(f, "{param:?} at [{row}, {column}] is {value}")
            }
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for FillError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Memory(error) => Some(error),
            Self::Source(error) => Some(error),
            Self::OutOfRange { .. } => None,
        }
    }
}

/// Fills the memory of a model, or of its tables, from a source.
pub(crate) struct Fill<'a, S> {
    pub(crate) layout: &'a WeightLayout,
    pub(crate) source: &'a S,
    pub(crate) memory: &'a mut [u8],
}

impl<S: Source> Fill<'_, S> {
    /// Fills a whole model.
    pub(crate) fn model(mut self, config: &Config) -> Result<(), FillError<S::Error>> {
        self.memory = aligned_mut(self.memory, self.layout.bytes()).map_err(FillError::Memory)?;
        let layout = self.layout;
        layout.before(config).try_for_each(|slot| self.slot(0, slot))?;
        for index in 0..config.depth {
            layout.layer(config, index).try_for_each(|slot| self.slot(0, slot))?;
        }
        layout.after(config).try_for_each(|slot| self.slot(0, slot))?;
        self.tables_at(config, layout.tables_start)
    }

    /// Fills the tables, which depend on the image size.
    pub(crate) fn tables(mut self, config: &Config) -> Result<(), FillError<S::Error>> {
        self.memory = aligned_mut(self.memory, self.layout.table_bytes).map_err(FillError::Memory)?;
        self.tables_at(config, 0)
    }

    fn tables_at(&mut self, config: &Config, base: usize) -> Result<(), FillError<S::Error>> {
        self.layout.tables(config).try_for_each(|slot| self.slot(base, slot))
    }

    fn slot(&mut self, base: usize, slot: Slot) -> Result<(), FillError<S::Error>> {
        let (start, bias) = (base + slot.offset, base + slot.bias);
        match slot.entry {
            Entry::Rows { site, rows, cols } => self.rows(start, Param { site, part: Part::Weight }, [rows, cols]),
            Entry::Norm { site, len } => {
                self.rows(start, Param { site, part: Part::Weight }, [1, len])?;
                self.rows(bias, Param { site, part: Part::Bias }, [1, len])
            }
            Entry::Linear { site, n, k, bias: has_bias } => {
                self.matrix(start, slot.format, &[site], [n, k])?;
                self.bias(bias, site, n, has_bias)
            }
            Entry::KeysValues { sites, n, k, bias: has_bias } => {
                self.matrix(start, slot.format, &sites, [n, k])?;
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
                return Err(FillError::OutOfRange {
                    param,
                    row,
                    column,
                    value: out[column],
                    format: Format::F32.name(),
                });
            }
        }
        Ok(())
    }

    /// Packs one matrix from the rows of all `sites`, \[rows, k\] each, one site after the other.
    fn matrix(
        &mut self,
        start: usize,
        format: Format,
        sites: &[Site],
        [rows, k]: [usize; 2],
    ) -> Result<(), FillError<S::Error>> {
        let n = rows * sites.len();
        let open = |&site| self.source.open(Param { site, part: Part::Weight }, [rows, k]).map_err(FillError::Source);
        let first = open(&sites[0])?;
        let second = sites.get(1).map(open).transpose()?;
        let read = |row: usize, start: usize, into: &mut [f32]| match &second {
            Some(second) if row >= rows => second.read(row - rows, start, into),
            _ => first.read(row, start, into),
        };
        let out = lines_mut(self.memory, start, format.lines(n, k).unwrap_or(0));
        format.pack(n, k, read, out).map_err(|error| match error {
            PackError::OutOfRange { row, column, value, format } => {
                let param = Param { site: sites[row / rows], part: Part::Weight };
                FillError::OutOfRange { param, row: row % rows, column, value, format }
            }
            _ => FillError::Memory(MemoryError::TooSmall { needed: self.layout.bytes(), found: self.memory.len() }),
        })
    }
}
