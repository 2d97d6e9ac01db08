//! A loaded model over images of other sizes: positions resampled and rotations computed once a size, and kept.
use core::fmt;

use elsa::sync::FrozenMap;
use vit_kernels::Isa;

use super::Loaded;
use crate::arena::AlignedBox;
use crate::config::{Config, ConfigError, Positions};
use crate::model::{Model, ModelError};
use crate::parameters::{Param, Site};
use crate::weights::{FillError, Source, Values};
use crate::zoo::{OtherSizes, Rotary, resample};

/// What depends on the image's size, by size.
pub(super) type Cache = FrozenMap<[usize; 2], Box<AlignedBox>>;

impl Loaded {
    /// The model over images of another size, \[height, width\], to run on `isa`.
    ///
    /// Positions are resampled as the checkpoint's own code does it, the first time that a size is asked for; they stay in
    /// memory from then on, 4·dim bytes a patch.
    ///
    /// # Errors
    /// When the checkpoint's own code refuses the size, or it is not supported.
    pub fn model_at(&self, isa: Isa, image: [usize; 2]) -> Result<Model<'_>, SizeError> {
        let own = self.model(isa);
        if image == self.config.image {
            return Ok(own);
        }
        let other = self.config.with_image(image);
        other.validate().map_err(SizeError::Config)?;
        let [height, width] = [image[0] % other.patch[0], image[1] % other.patch[1]];
        if self.other_sizes.whole_patches && [height, width] != [0, 0] {
            return Err(SizeError::NotWholePatches { image, patch: other.patch });
        }
        let tables = match self.cache.get(&image) {
            Some(tables) => tables,
            None => self.cache.insert(image, Box::new(self.tables(&own, &other)?)),
        };
        own.at(image, tables).map_err(SizeError::Model)
    }

    fn tables(&self, own: &Model<'_>, other: &Config) -> Result<AlignedBox, SizeError> {
        let OtherSizes { filter, by_count, from_square, rounded, .. } = self.other_sizes;
        let same_grid = other.grid() == self.config.grid() || by_count && other.patches() == self.config.patches();
        let learned = self.config.positions != Positions::Absent || self.config.relative_bias;
        let [rows, columns] = self.config.grid();
        let from_other = from_square && rows != columns && self.config.positions != Positions::Absent;
        if learned && !same_grid && (filter.is_none() || from_other) {
            return Err(SizeError::Unsupported { own: self.config.image });
        }
        let bytes = Model::table_bytes(other).map_err(SizeError::Config)?;
        let out_of_memory = || SizeError::OutOfMemory { bytes };
        let mut memory = AlignedBox::new(bytes).ok_or_else(out_of_memory)?;
        let positions = own.positions().map(|table| match filter {
            Some(filter) if !same_grid => {
                let mut positions = resample::positions(filter, table, &self.config, other);
                if rounded {
                    positions.iter_mut().for_each(|x| *x = self.rounding.round(*x));
                }
                positions
            }
            _ => table.to_vec(),
        });
        let tables = Tables { positions, rotary: self.rotary, config: other };
        Model::fill_tables(other, &tables, &mut memory).map_err(|error| match error {
            FillError::Config(error) => SizeError::Config(error),
            _ => out_of_memory(),
        })?;
        Ok(memory)
    }
}

/// What a size needs, computed.
struct Tables<'a> {
    positions: Option<Vec<f32>>,
    rotary: Option<Rotary>,
    config: &'a Config,
}

impl Source for Tables<'_> {
    type Error = ();

    fn open(&self, param: Param, [_, columns]: [usize; 2]) -> Result<impl Values, ()> {
        let values = match param.site {
            Site::Rope => self.rotary.map(|rotary| rotary.table(self.config.grid(), self.config.head_dim)),
            _ => self.positions.clone(),
        };
        let values = values.ok_or(())?;
        Ok(move |row: usize, start: usize, into: &mut [f32]| {
            into.copy_from_slice(&values[row * columns + start..][..into.len()]);
        })
    }
}

/// Why a model cannot run over images of some size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeError {
    /// Such images make no model.
    Config(ConfigError),
    /// The checkpoint's own code takes whole patches alone.
    NotWholePatches {
        /// Height and width of the image.
        image: [usize; 2],
        /// Height and width of a patch.
        patch: [usize; 2],
    },
    /// Positions of this family are for the checkpoint's own size.
    Unsupported {
        /// That size.
        own: [usize; 2],
    },
    /// The tables do not fit the model.
    Model(ModelError),
    /// The system does not give the memory.
    OutOfMemory {
        /// The bytes asked for.
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
                    "images of {h}×{w} are not whole patches of {ph}×{pw}, and this checkpoint's own code refuses them"
                )
            }
            Self::Unsupported { own: [h, w] } => {
                write!(f, "unsupported: this checkpoint's positions are for images of {h}×{w} alone")
            }
            Self::Model(error) => error.fmt(f),
            Self::OutOfMemory { bytes } => write!(f, "the system does not give {bytes} bytes for the positions"),
        }
    }
}

impl core::error::Error for SizeError {}
