//! A loaded model on images of other sizes. Positions are resampled and rotations computed once per size, and kept.
use core::fmt;

use vit_kernels::Isa;

use super::Loaded;
use super::safetensors::Rounding;
use crate::config::{Config, ConfigError, Positions};
use crate::memory::{AlignedBox, OutOfMemory};
use crate::model::{Model, ModelError};
use crate::parameters::{Param, Site};
use crate::weights::{FillError, Source, Values};
use crate::zoo::resample::Resampled;
use crate::zoo::{OtherSizes, Rotary, resample, rotary};

impl Loaded {
    /// The model for images of another size, \[height, width\], to run on `isa`.
    ///
    /// Positions are resampled as in the checkpoint's original code when a size is used first. They stay in memory,
    /// 4·dim bytes per patch.
    ///
    /// # Errors
    /// If the checkpoint's original code refuses the size, or the size is not supported.
    pub fn model_at(&self, isa: Isa, image: [usize; 2]) -> Result<Model<'_>, SizeError> {
        let own = self.model(isa);
        if image == self.config.image {
            return Ok(own);
        }
        let other = self.config_at(image)?;
        let tables = match self.cache.get(image) {
            Some(tables) => tables,
            None => self.cache.insert(image, self.tables(&own, &other)?),
        };
        own.at(image, tables).map_err(SizeError::Model)
    }

    /// The hyper-parameters of the model for images of another size, \[height, width\]. Does not compute positions.
    ///
    /// # Errors
    /// If the checkpoint's original code refuses the size, or the size is not supported.
    pub fn config_at(&self, image: [usize; 2]) -> Result<Config, SizeError> {
        let other = self.config.with_image(image);
        if image == self.config.image {
            return Ok(other);
        }
        other.validate().map_err(SizeError::Config)?;
        let [height, width] = [image[0] % other.patch[0], image[1] % other.patch[1]];
        let OtherSizes { filter, whole_patches, from_square, .. } = self.other_sizes;
        if whole_patches && [height, width] != [0, 0] {
            return Err(SizeError::NotWholePatches { image, patch: other.patch });
        }
        let learned = self.config.positions != Positions::Absent || self.config.relative_bias;
        let [rows, columns] = self.config.grid();
        let from_other = from_square && rows != columns && self.config.positions != Positions::Absent;
        if learned && !self.same_grid(&other) && (filter.is_none() || from_other) {
            return Err(SizeError::Unsupported { own: self.config.image });
        }
        Ok(other)
    }

    /// Whether the other size uses the same positions.
    fn same_grid(&self, other: &Config) -> bool {
        other.grid() == self.config.grid() || self.other_sizes.by_count && other.patches() == self.config.patches()
    }

    fn tables(&self, own: &Model<'_>, other: &Config) -> Result<AlignedBox, SizeError> {
        let OtherSizes { filter, rounded, .. } = self.other_sizes;
        let bytes = Model::table_bytes(other).map_err(SizeError::Config)?;
        let out_of_memory = |OutOfMemory { bytes }| SizeError::OutOfMemory { bytes };
        let mut memory = AlignedBox::new(bytes).map_err(out_of_memory)?;
        let positions = match (own.positions(), filter) {
            (Some(table), Some(filter)) if !self.same_grid(other) => {
                let resampled = resample::positions(filter, table, &self.config, other).map_err(out_of_memory)?;
                Some(Learned::Resampled(resampled, if rounded { self.rounding } else { Rounding::None }))
            }
            (table, _) => table.map(Learned::Own),
        };
        let tables = Tables { positions, rotary: self.rotary, config: other };
        Model::fill_tables(other, &tables, &mut memory).map_err(|error| match error {
            FillError::Config(error) => SizeError::Config(error),
            FillError::Memory(error) => SizeError::Model(ModelError::Memory(error)),
            FillError::Source(()) => SizeError::Unsupported { own: self.config.image },
            FillError::OutOfRange { row, column, .. } => SizeError::NotFinite { row, column },
        })?;
        Ok(memory)
    }
}

/// The tables of one size, computed while they are read.
struct Tables<'a> {
    positions: Option<Learned<'a>>,
    rotary: Option<Rotary>,
    config: &'a Config,
}

/// Learned positions.
enum Learned<'a> {
    /// Those of the model, unchanged.
    Own(&'a [f32]),
    /// Resampled for another grid, and rounded.
    Resampled(Resampled<'a>, Rounding),
}

/// One of the tables.
enum Table<'a> {
    Positions(&'a Learned<'a>, usize),
    Rotary(rotary::Table),
}

impl Source for Tables<'_> {
    type Error = ();

    fn open(&self, param: Param, [_, columns]: [usize; 2]) -> Result<impl Values, ()> {
        let rotary = || Some(Table::Rotary(self.rotary?.table(self.config.grid(), self.config.head_dim)?));
        let positions = || Some(Table::Positions(self.positions.as_ref()?, columns));
        if param.site == Site::Rope { rotary() } else { positions() }.ok_or(())
    }
}

impl Values for Table<'_> {
    fn read(&self, row: usize, start: usize, into: &mut [f32]) {
        match self {
            Self::Rotary(table) => table.read(row, start, into),
            Self::Positions(Learned::Own(table), columns) => {
                into.copy_from_slice(&table[row * columns + start..][..into.len()]);
            }
            Self::Positions(Learned::Resampled(table, rounding), _) => {
                table.read(row, start, into);
                into.iter_mut().for_each(|x| *x = rounding.round(*x));
            }
        }
    }
}

/// Why a model cannot run on images of some size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SizeError {
    /// The hyper-parameters are invalid for this size.
    Config(ConfigError),
    /// The checkpoint's original code accepts only sizes that are multiples of the patch.
    NotWholePatches {
        /// Height and width of the image.
        image: [usize; 2],
        /// Height and width of a patch.
        patch: [usize; 2],
    },
    /// The positions of this model cannot be resampled.
    Unsupported {
        /// The only supported size.
        own: [usize; 2],
    },
    /// A value for this size is NaN or infinite, or too large for the dtype in which the checkpoint stores positions.
    NotFinite {
        /// The row in the table of positions or rotations.
        row: usize,
        /// The column.
        column: usize,
    },
    /// The model refuses the tables.
    Model(ModelError),
    /// The memory for the tables cannot be allocated.
    OutOfMemory {
        /// The size of the allocation in bytes.
        bytes: usize,
    },
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::NotWholePatches { image: [h, w], patch: [ph, pw] } => {
                write!(
                    f,
                    "images of {h}×{w} are not whole patches of {ph}×{pw}, which this checkpoint's original code refuses"
                )
            }
            Self::Unsupported { own: [h, w] } => {
                write!(f, "unsupported: the positions of this checkpoint are only for images of {h}×{w}")
            }
            Self::NotFinite { row, column } => {
                write!(f, "the positions for this size are not finite at [{row}, {column}]")
            }
            Self::Model(error) => error.fmt(f),
            Self::OutOfMemory { bytes } => write!(f, "cannot allocate {bytes} bytes for the positions"),
        }
    }
}

impl core::error::Error for SizeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Model(error) => Some(error),
            _ => None,
        }
    }
}
