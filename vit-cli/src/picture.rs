//! Pictures to pixels: decode, resize, crop, normalise.
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, GenericImageView, ImageDecoder, ImageReader};
use vit_engine::Config;
use vit_engine::zoo::{CropMode, Interpolation, Preprocessing};

/// Turns pictures into a model's input.
pub(crate) struct Preparer<'a> {
    config: &'a Config,
    preprocessing: &'a Preprocessing,
    max_pixels: u64,
}

impl<'a> Preparer<'a> {
    /// For a model whose checkpoint says how.
    pub(crate) fn new(config: &'a Config, how: Option<&'a Preprocessing>, max_pixels: u64) -> Result<Self> {
        let preprocessing = how.context(
            "the model's config.json does not say how pictures become pixels: add \"pretrained_cfg\" with \"mean\" and \
             \"std\", or give normalised pixels to 'vit run'",
        )?;
        ensure!(
            matches!(config.channels, 1 | 3),
            "the model takes {} channels, and pictures have 1 or 3: give pixels to 'vit run'",
            config.channels
        );
        Ok(Self { config, preprocessing, max_pixels })
    }

    /// Elements of one image: channels × height × width.
    pub(crate) fn len(&self) -> usize {
        self.config.channels * self.config.image[0] * self.config.image[1]
    }

    /// Reads a PNG or JPEG file into `out`, \[channels, height, width\].
    pub(crate) fn read(&self, path: &Path, out: &mut [f32]) -> Result<()> {
        ensure!(!path.is_dir(), "is a folder, not a picture");
        let mut reader = ImageReader::open(path)?.with_guessed_format()?;
        // The pixel limit says what is too much; `image`'s own limit on memory follows from it.
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(self.max_pixels.saturating_mul(16));
        reader.limits(limits);
        let decoder = reader.into_decoder().context("not a PNG or JPEG picture")?;
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.max_pixels {
            bail!("{width}×{height} is {pixels} pixels, above the limit of {} (--max-pixels)", self.max_pixels);
        }
        self.prepare(DynamicImage::from_decoder(decoder)?, out)
    }

    /// Resizes, crops and normalises a picture into `out`, \[channels, height, width\].
    pub(crate) fn prepare(&self, picture: DynamicImage, out: &mut [f32]) -> Result<()> {
        ensure!(picture.width() > 0 && picture.height() > 0, "the picture has no pixels");
        let picture = match self.config.channels {
            1 => DynamicImage::ImageLuma8(picture.into_luma8()),
            _ => DynamicImage::ImageRgb8(picture.into_rgb8()),
        };
        let [height, width] = self.config.image.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
        let (fitted_width, fitted_height) = self.fitted_size(&picture, width, height);
        let picture = self.resize(picture, fitted_width, fitted_height)?;
        let centre = |fitted: u32, side: u32| (f64::from(fitted - side) / 2.0).round_ties_even() as u32;
        let (left, top) = (centre(fitted_width, width), centre(fitted_height, height));
        let picture = picture.crop_imm(left, top, width, height);

        let Preprocessing { mean, std, .. } = self.preprocessing;
        let channels = self.config.channels;
        let planes = out.chunks_exact_mut(out.len() / channels).zip(mean).zip(std).enumerate();
        for (channel, ((plane, mean), std)) in planes {
            let samples = picture.as_bytes().iter().skip(channel).step_by(channels);
            for (x, sample) in plane.iter_mut().zip(samples) {
                *x = (f32::from(*sample) / 255.0 - mean) / std;
            }
        }
        Ok(())
    }

    /// The size to resize to before the crop; never smaller than the crop.
    fn fitted_size(&self, picture: &DynamicImage, width: u32, height: u32) -> (u32, u32) {
        let full = |side: u32| (f64::from(side) / f64::from(self.preprocessing.crop_pct)).floor().max(side.into());
        let (full_width, full_height) = (full(width), full(height));
        if self.preprocessing.crop_mode == CropMode::Squash {
            return (full_width as u32, full_height as u32);
        }
        let (w, h) = (f64::from(picture.width()), f64::from(picture.height()));
        let scale = (full_width / w).max(full_height / h);
        (((w * scale) as u32).max(full_width as u32), ((h * scale) as u32).max(full_height as u32))
    }

    /// Width first and then height, each rounded to 8 bits, as Pillow does it.
    fn resize(&self, picture: DynamicImage, width: u32, height: u32) -> Result<DynamicImage> {
        let (before_width, before_height) = picture.dimensions();
        let longest = u64::from(width).max(before_width.into()) * u64::from(height).max(before_height.into());
        ensure!(
            longest <= self.max_pixels.saturating_mul(16),
            "{before_width}×{before_height} would have to be resized to {width}×{height}, above the limit on pixels"
        );
        let algorithm = match self.preprocessing.interpolation {
            Interpolation::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
            Interpolation::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
            Interpolation::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
            Interpolation::Nearest => ResizeAlg::Nearest,
        };
        let options = ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
        let mut picture = picture;
        for (w, h) in [(width, before_height), (width, height)] {
            if picture.dimensions() != (w, h) {
                let mut resized = DynamicImage::new(w, h, picture.color());
                Resizer::new().resize(&picture, &mut resized, &options)?;
                picture = resized;
            }
        }
        Ok(picture)
    }
}
