//! The input of both models: pictures to prepare, or pixels.
use anyhow::{Context, Result, bail, ensure};

use super::Args;
use crate::data::Data;
use crate::inputs;
use crate::picture::Preparer;
use crate::run;

pub(super) enum Pictures {
    Prepared(Data, Preparer),
    /// \[B,C,H,W\].
    Pixels {
        file: String,
        shape: [usize; 4],
        pixels: Vec<f32>,
    },
}

impl Pictures {
    pub(super) fn open(args: &Args, loaded: &vit_engine::file::Loaded) -> Result<Self> {
        let (config, max_pixels) = (loaded.config(), args.picture.max_pixels);
        let prepared = |data| Ok(Self::Prepared(data, Preparer::new(loaded, &args.picture)?));
        if let Some(path) = &args.pixels {
            let file = inputs::shown(path);
            let (shape, pixels) = run::read(path, config.channels).with_context(|| file.clone())?;
            return Ok(Self::Pixels { file, shape, pixels });
        }
        if let Some(folder) = &args.folder {
            return prepared(Data::folder(folder, &loaded.labels, config.classes)?.0);
        }
        let Some(images) = &args.images else { bail!("give --images, --folder or --pixels") };
        if images.is_dir() {
            ensure!(
                args.labels.is_none(),
                "--labels is for an IDX file of pictures; for a folder of classes use --folder"
            );
            return prepared(Data::pictures(images)?);
        }
        prepared(Data::idx(images, args.labels.as_deref(), config.classes, max_pixels)?)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Prepared(data, _) => data.len(),
            Self::Pixels { shape, .. } => shape[0],
        }
    }

    /// Elements of an image: channels × height × width.
    pub(super) fn image_len(&self) -> usize {
        match self {
            Self::Prepared(_, preparer) => preparer.len(),
            Self::Pixels { shape: [_, image @ ..], .. } => image.iter().product(),
        }
    }

    /// Height and width of the images, if they may differ from the model's.
    pub(super) fn size(&self) -> Option<[usize; 2]> {
        match self {
            Self::Prepared(_, preparer) => Some(preparer.size()),
            Self::Pixels { shape: [.., height, width], .. } => Some([*height, *width]),
        }
    }

    pub(super) fn read(&self, index: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Prepared(data, preparer) => data.read(index, preparer, out),
            Self::Pixels { pixels, .. } => {
                out.copy_from_slice(&pixels[index * out.len()..][..out.len()]);
                Ok(())
            }
        }
    }

    /// The name of a picture in messages.
    pub(super) fn name(&self, index: usize) -> String {
        match self {
            Self::Prepared(data, _) => data.name(index),
            Self::Pixels { file, .. } => format!("{file}, image {index}"),
        }
    }

    pub(super) fn label(&self, index: usize) -> Result<Option<usize>> {
        match self {
            Self::Prepared(data, _) => data.label(index),
            Self::Pixels { .. } => Ok(None),
        }
    }

    /// Whether all pictures are in one file, so that an error in it ends the run.
    pub(super) fn is_one_file(&self) -> bool {
        !matches!(self, Self::Prepared(Data::Files(_), _))
    }
}
