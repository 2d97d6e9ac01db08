//! Preprocessing: from picture files to a model's input, as the model's files and the command's options say.
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use vit_engine::Config;
use vit_engine::file::Loaded;
use vit_image::config::ConfigError;
use vit_image::{Arithmetic, Crop, DecodeError, Picture, Preprocessing, Resize, Rounding, Target, View};

use crate::options::{PictureOptions, ResizeTo};
use crate::{inputs, memory};

/// Turns pictures into a model's input.
pub(crate) struct Preparer {
    channels: usize,
    preprocessing: Preprocessing,
    /// Height and width of the outputs.
    size: [usize; 2],
    max_pixels: u64,
}

impl Preparer {
    /// For a model, by what its files say and the options change.
    pub(crate) fn new(loaded: &Loaded, options: &PictureOptions) -> Result<Self> {
        let config = loaded.config();
        ensure!(
            matches!(config.channels, 1 | 3),
            "the model takes {} channels, and pictures have 1 or 3: give pixels to 'vit run'",
            config.channels
        );
        let preprocessing = described(&loaded.preprocessing, config, options)?;
        ensure!(
            preprocessing.is_valid(),
            "the preprocessing has a number that it cannot have: look at --mean, --std, --resize"
        );
        ensure!(
            preprocessing.fits(config.channels),
            "mean and std have {} channels, but the model has {}: give --mean and --std",
            preprocessing.mean.len(),
            config.channels
        );
        // Where the size depends on the picture, only those of the model's own size can be taken.
        let size = preprocessing.fixed_size().unwrap_or(config.image);
        Ok(Self { channels: config.channels, preprocessing, size, max_pixels: options.max_pixels })
    }

    /// How pictures are prepared, as JSON.
    pub(crate) fn description(&self) -> Result<serde_json::Value> {
        // By way of text, so that numbers are those that a file has.
        Ok(serde_json::from_str(&serde_json::to_string(&self.preprocessing)?)?)
    }

    /// The number of elements of one image: channels × height × width.
    pub(crate) fn len(&self) -> usize {
        self.channels * self.size[0] * self.size[1]
    }

    /// Height and width of the outputs.
    pub(crate) fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The size of the outputs, if it is not the model's own.
    pub(crate) fn other_size(&self, config: &Config) -> Option<[usize; 2]> {
        (self.size != config.image).then_some(self.size)
    }

    /// Reads a picture file into `out`, \[channels, height, width\].
    pub(crate) fn read(&self, path: &Path, out: &mut [f32]) -> Result<()> {
        self.prepare(&self.decode(path)?, out)
    }

    /// Decodes a picture file.
    pub(crate) fn decode(&self, path: &Path) -> Result<Picture> {
        decode(path, self.channels, self.max_pixels)
    }

    /// Resizes, crops and normalises a picture into `out`, \[channels, height, width\].
    pub(crate) fn prepare(&self, picture: &Picture, out: &mut [f32]) -> Result<()> {
        let size = self.output_size(picture)?;
        ensure!(
            size == self.size,
            "this picture becomes {}×{} pixels, and the model takes {}×{}: give --crop, or --resize HxW",
            size[1],
            size[0],
            self.size[1],
            self.size[0]
        );
        Ok(self.preprocessing.apply(picture, self.max_pixels, out)?)
    }

    /// Height and width of what becomes of a picture.
    pub(crate) fn output_size(&self, picture: &Picture) -> Result<[usize; 2]> {
        Ok(self.preprocessing.output_size(picture.size())?)
    }

    /// Which part of a picture the model sees, and where.
    pub(crate) fn view(&self, picture: &Picture) -> Result<View> {
        Ok(self.preprocessing.view(picture.size())?)
    }

    /// A picture as \[channels, height, width\] of whatever size it becomes.
    pub(crate) fn prepared(&self, picture: &Picture) -> Result<([usize; 2], Vec<f32>)> {
        let size = self.output_size(picture)?;
        let mut out = memory::zeros("a picture", &[self.channels, size[0], size[1]])?;
        self.preprocessing.apply(picture, self.max_pixels, &mut out)?;
        Ok((size, out))
    }

    pub(crate) fn channels(&self) -> usize {
        self.channels
    }
}

/// Decodes a picture file to grey (1 channel) or RGB (3).
pub(crate) fn decode(path: &Path, channels: usize, max_pixels: u64) -> Result<Picture> {
    let file = inputs::open_file(path)?;
    // A file without compression, and as much again for what else may be in it.
    let most = max_pixels.saturating_mul(16).saturating_add(1 << 26);
    let length = file.metadata()?.len();
    ensure!(length <= most, "{length} bytes are too many for a picture of at most {max_pixels} pixels");
    let mut bytes = Vec::new();
    memory::grow("a picture file", &mut bytes, usize::try_from(length)?, usize::MAX)?;
    file.take(most).read_to_end(&mut bytes)?;
    Picture::decode(&bytes, channels, max_pixels).map_err(|error| match error {
        error @ DecodeError::TooLarge { .. } => anyhow::Error::new(error).context("--max-pixels"),
        error => error.into(),
    })
}

/// What the model's files say, changed by the options.
fn described(
    found: &Result<Preprocessing, ConfigError>,
    config: &Config,
    options: &PictureOptions,
) -> Result<Preprocessing> {
    let PictureOptions { mean, std, resize, crop, filter, image_size, .. } = options;
    let mut how = match (found, mean, std, resize, filter) {
        (Ok(how), ..) => how.clone(),
        (Err(_), Some(_), Some(_), Some(_), Some(_)) => Preprocessing {
            resize: None,
            crop: None,
            crop_pct: None,
            rescale: 1.0 / 255.0,
            mean: Vec::new(),
            std: Vec::new(),
            pad: None,
            arithmetic: Arithmetic::Bytes,
        },
        (Err(error), ..) => bail!(
            "{error}. Say it with --mean, --std, --resize, --crop and --filter, for example \
             --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --resize 256 --crop 224 --filter bicubic"
        ),
    };
    if let Some(mean) = mean {
        how.mean.clone_from(mean);
    }
    if let Some(std) = std {
        how.std.clone_from(std);
    }
    if let Some(resize) = resize {
        let filter = filter.or(how.resize.map(|resize| resize.filter));
        let filter = filter.context("--resize needs a --filter, for the model's files have none")?;
        let to = match *resize {
            ResizeTo::Shortest(edge) => Target::Shortest { edge, limit: None },
            ResizeTo::Exact(size) => Target::Exact(size),
        };
        (how.resize, how.crop_pct) = (Some(Resize { to, filter }), None);
        // What is resized to one size keeps it, unless a crop is asked for, too.
        if found.is_err() && crop.is_none() && matches!(to, Target::Shortest { .. }) {
            how.crop = Some(centre(config.image));
        }
    }
    if let (Some(filter), Some(resize)) = (filter, &mut how.resize) {
        resize.filter = *filter;
    }
    if let Some(size) = crop {
        how.crop = Some(match how.crop.take() {
            Some(crop) => Crop { size: *size, ..crop },
            None => centre(*size),
        });
        how.crop_pct = None;
    }
    Ok(if let Some(size) = image_size { how.at(*size) } else { how })
}

/// A crop as torchvision makes it.
fn centre(size: [usize; 2]) -> Crop {
    Crop { size, cuts: Rounding::Even, pads: Rounding::Down, fill: vec![0] }
}

/// Refuses pictures above a limit on pixels.
pub(crate) fn check_size(width: u64, height: u64, max_pixels: u64) -> Result<()> {
    let pixels = u128::from(width) * u128::from(height);
    if pixels > max_pixels.into() {
        bail!("{width}×{height} is {pixels} pixels, above the limit of {max_pixels} (--max-pixels)");
    }
    Ok(())
}
