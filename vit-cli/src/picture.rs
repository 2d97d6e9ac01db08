//! Pictures to pixels: decode, resize, crop, normalise.
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageReader};
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
        ensure!(
            preprocessing.crop_mode != CropMode::Border,
            "pictures with borders (crop_mode 'border') are not supported: give pixels to 'vit run'"
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
        let before = (picture.width(), picture.height());
        let [height, width] = self.config.image.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
        let fitted = self.fitted_size(before, width, height);
        let samples = match self.config.channels {
            1 => self.resize::<U8>(picture.into_luma8().into_raw(), before, fitted)?,
            _ => self.resize::<U8x3>(picture.into_rgb8().into_raw(), before, fitted)?,
        };

        // The crop's corner, in a picture of `fitted` size.
        let centre = |fitted: u32, side: u32| (f64::from(fitted - side) / 2.0).round_ties_even() as usize;
        let (left, top) = (centre(fitted.0, width), centre(fitted.1, height));
        let Preprocessing { mean, std, .. } = self.preprocessing;
        let (channels, [height, width]) = (self.config.channels, self.config.image);
        for (channel, plane) in out.chunks_exact_mut(height * width).enumerate() {
            for (y, row) in plane.chunks_exact_mut(width).enumerate() {
                let start = ((top + y) * fitted.0 as usize + left) * channels + channel;
                for (x, sample) in row.iter_mut().zip(samples[start..].iter().step_by(channels)) {
                    *x = (f32::from(*sample) / 255.0 - mean[channel]) / std[channel];
                }
            }
        }
        Ok(())
    }

    /// The size to resize to before the crop; never smaller than the crop.
    fn fitted_size(&self, before: (u32, u32), width: u32, height: u32) -> (u32, u32) {
        let full = |side: u32| (f64::from(side) / f64::from(self.preprocessing.crop_pct)).floor().max(side.into());
        let (full_width, full_height) = (full(width), full(height));
        if self.preprocessing.crop_mode == CropMode::Squash {
            return (full_width as u32, full_height as u32);
        }
        let (w, h) = (f64::from(before.0), f64::from(before.1));
        let scale = (full_width / w).max(full_height / h);
        (((w * scale) as u32).max(full_width as u32), ((h * scale) as u32).max(full_height as u32))
    }

    /// Width first and then height, each rounded to 8 bits, as Pillow does it.
    fn resize<P: PixelTrait>(&self, samples: Vec<u8>, before: (u32, u32), after: (u32, u32)) -> Result<Vec<u8>> {
        let largest = u64::from(before.0.max(after.0)) * u64::from(before.1.max(after.1));
        ensure!(
            largest <= self.max_pixels.saturating_mul(16),
            "{}×{} would have to be resized to {}×{}, far above the limit on pixels",
            before.0,
            before.1,
            after.0,
            after.1
        );
        let algorithm = match self.preprocessing.interpolation {
            Interpolation::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
            Interpolation::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
            Interpolation::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
            Interpolation::Nearest => ResizeAlg::Nearest,
        };
        let options = ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
        let (mut samples, mut size) = (samples, before);
        for next in [(after.0, before.1), after] {
            if next != size {
                let mut resized = vec![0; next.0 as usize * next.1 as usize * self.config.channels];
                let from = TypedImageRef::<P>::from_buffer(size.0, size.1, &samples)?;
                let mut to = TypedImage::<P>::from_buffer(next.0, next.1, &mut resized)?;
                Resizer::new().resize_typed(&from, &mut to, &options)?;
                (samples, size) = (resized, next);
            }
        }
        Ok(samples)
    }
}
