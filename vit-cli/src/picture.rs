//! Preprocessing of pictures: decode, resize, crop, normalise.
use std::io::BufReader;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageReader};
use vit_engine::Config;
use vit_engine::zoo::{CropMode, Interpolation, Preprocessing};

use crate::{inputs, memory};

/// Turns pictures into a model's input.
pub(crate) struct Preparer<'a> {
    config: &'a Config,
    preprocessing: &'a Preprocessing,
    max_pixels: u64,
}

impl<'a> Preparer<'a> {
    /// The preprocessing of a model's checkpoint.
    pub(crate) fn new(config: &'a Config, how: Option<&'a Preprocessing>, max_pixels: u64) -> Result<Self> {
        let preprocessing = how.context(
            "the model's config.json has no preprocessing: add \"pretrained_cfg\" with \"mean\" and \
             \"std\", or give normalised pixels to 'vit run'",
        )?;
        ensure!(
            matches!(config.channels, 1 | 3),
            "the model takes {} channels, but pictures have 1 or 3: use 'vit run' with pixels",
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
        let mut reader = ImageReader::new(BufReader::new(inputs::open_file(path)?)).with_guessed_format()?;
        // The limit on pixels decides what is too large; the memory limit of `image` follows from it.
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(self.max_pixels.saturating_mul(16));
        reader.limits(limits);
        let decoder = reader.into_decoder().context("not a PNG or JPEG picture")?;
        let (width, height) = decoder.dimensions();
        check_size(width.into(), height.into(), self.max_pixels)?;
        // The decoded picture, and its copy with the model's channels.
        let copy = u64::from(width) * u64::from(height) * self.config.channels as u64;
        memory::probe("a picture", decoder.total_bytes().saturating_add(copy))?;
        self.prepare(DynamicImage::from_decoder(decoder)?, out)
    }

    /// Resizes, crops and normalises a picture into `out`, \[channels, height, width\].
    pub(crate) fn prepare(&self, picture: DynamicImage, out: &mut [f32]) -> Result<()> {
        ensure!(picture.width() > 0 && picture.height() > 0, "the picture has no pixels");
        let sides = self.sides([picture.width(), picture.height()]);
        let samples = match self.config.channels {
            1 => self.resize::<U8>(&picture.into_luma8(), sides)?,
            _ => self.resize::<U8x3>(&picture.into_rgb8(), sides)?,
        };
        let [row_len, left, top] = [sides[0].len as usize, sides[0].margin(), sides[1].margin()];
        let Preprocessing { mean, std, .. } = self.preprocessing;
        let (channels, [height, width]) = (self.config.channels, self.config.image);
        for (channel, plane) in out.chunks_exact_mut(height * width).enumerate() {
            for (y, row) in plane.chunks_exact_mut(width).enumerate() {
                let start = ((top + y) * row_len + left) * channels + channel;
                for (x, sample) in row.iter_mut().zip(samples[start..].iter().step_by(channels)) {
                    *x = (f32::from(*sample) / 255.0 - mean[channel]) / std[channel];
                }
            }
        }
        Ok(())
    }

    /// Pixels of the crop, the input of the model.
    fn crop(&self) -> [u32; 2] {
        let [height, width] = self.config.image;
        [width, height].map(|side| u32::try_from(side).unwrap_or(u32::MAX))
    }

    /// Up to this many pixels after resizing, the whole picture is resized.
    fn ordinary(&self) -> u64 {
        /// The limit as a multiple of the crop. It is reached if one side of the picture is 49 times the other, with
        /// the usual crop_pct of 0.875.
        const TIMES: u64 = 64;
        self.crop().into_iter().fold(TIMES, |pixels, side| pixels.saturating_mul(side.into()))
    }

    /// The axes of a picture of this size: width and height.
    ///
    /// The whole picture is resized, as in Pillow. For very long pictures that would be a thousand times the size of
    /// the crop, so only the crop is resized. The results differ by at most 1 in 255, from rounding in f64.
    fn sides(&self, before: [u32; 2]) -> [Side; 2] {
        let crop = self.crop();
        let fitted = self.fitted_size(before, crop);
        let whole = fitted[0].saturating_mul(fitted[1]) <= self.ordinary();
        [0, 1].map(|i| {
            let corner = ((fitted[i] - u64::from(crop[i])) as f64 / 2.0).round_ties_even() as u64;
            let side = Side { before: before[i], fitted: fitted[i], first: corner, len: crop[i], corner };
            match u32::try_from(fitted[i]) {
                Ok(len) if whole => Side { first: 0, len, ..side },
                _ => side,
            }
        })
    }

    /// The size before the crop; never smaller than the crop.
    fn fitted_size(&self, before: [u32; 2], crop: [u32; 2]) -> [u64; 2] {
        let full = crop.map(|side| (f64::from(side) / f64::from(self.preprocessing.crop_pct)).floor().max(side.into()));
        if self.preprocessing.crop_mode == CropMode::Squash {
            return full.map(|side| side as u64);
        }
        let before = before.map(f64::from);
        let scale = (full[0] / before[0]).max(full[1] / before[1]);
        [0, 1].map(|i| ((before[i] * scale) as u64).max(full[i] as u64))
    }

    /// Resizes the width and then the height, each rounded to 8 bits, as in Pillow.
    fn resize<P: PixelTrait>(&self, samples: &[u8], [x, y]: [Side; 2]) -> Result<Vec<u8>> {
        let rows = y.rows();
        let height = rows.end - rows.start;
        let between = u64::from(x.len) * u64::from(height);
        ensure!(
            between <= self.max_pixels.max(self.ordinary()),
            "resizing {}×{} needs an intermediate picture of {}×{height}, above the limit on pixels (--max-pixels)",
            x.before,
            y.before,
            x.len
        );
        let row_len = x.before as usize * self.config.channels;
        let samples = &samples[rows.start as usize * row_len..rows.end as usize * row_len];
        let (start, len) = x.source();
        let whole_height = (0.0, f64::from(height));
        let samples = self.pass::<P>(samples, [x.before, height], [x.len, height], [(start, len), whole_height])?;
        let (start, len) = y.source();
        let part = [(0.0, f64::from(x.len)), (start - f64::from(rows.start), len)];
        self.pass::<P>(&samples, [x.len, height], [x.len, y.len], part)
    }

    /// Resizes a part of a picture, (start, length) of width and height.
    fn pass<P: PixelTrait>(
        &self,
        samples: &[u8],
        [width, height]: [u32; 2],
        after: [u32; 2],
        [(left, part_width), (top, part_height)]: [(f64, f64); 2],
    ) -> Result<Vec<u8>> {
        let algorithm = match self.preprocessing.interpolation {
            Interpolation::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
            Interpolation::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
            Interpolation::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
            Interpolation::Nearest => ResizeAlg::Nearest,
        };
        let options = ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
        let options = options.crop(left, top, part_width, part_height);
        let mut resized =
            memory::zeros("a resized picture", &[after[0] as usize, after[1] as usize, self.config.channels])?;
        let from = TypedImageRef::<P>::from_buffer(width, height, samples)?;
        let mut to = TypedImage::<P>::from_buffer(after[0], after[1], &mut resized)?;
        Resizer::new().resize_typed(&from, &mut to, &options)?;
        Ok(resized)
    }
}

/// The width or the height of a picture, and how it is resized and cropped.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Side {
    /// Size in the picture, in pixels.
    before: u32,
    /// Size after resizing the whole picture, in pixels.
    fitted: u64,
    /// The first resized pixel that is computed.
    first: u64,
    /// The number of resized pixels that are computed.
    len: u32,
    /// The first resized pixel of the crop.
    corner: u64,
}

impl Side {
    /// The start of the crop within the computed pixels.
    fn margin(self) -> usize {
        (self.corner - self.first) as usize
    }

    /// The range of the picture that becomes the computed pixels: start and length.
    fn source(self) -> (f64, f64) {
        let before = f64::from(self.before);
        if u64::from(self.len) == self.fitted {
            return (0.0, before);
        }
        let scale = before / self.fitted as f64;
        let start = (self.first as f64 * scale).min(before);
        (start, (f64::from(self.len) * scale).min(before - start))
    }

    /// The pixels of the picture that the filter reads.
    fn rows(self) -> Range<u32> {
        /// The reach of the widest filter, Lanczos, to either side, plus one pixel for rounding.
        const REACH: f64 = 4.0;
        let (start, len) = self.source();
        let reach = REACH * (f64::from(self.before) / self.fitted as f64).max(1.0);
        let first = (start - reach).floor().max(0.0) as u32;
        first..((start + len + reach).ceil() as u32).min(self.before)
    }
}

/// Refuses pictures above the limit on pixels.
pub(crate) fn check_size(width: u64, height: u64, max_pixels: u64) -> Result<()> {
    let pixels = u128::from(width) * u128::from(height);
    if pixels > max_pixels.into() {
        bail!("{width}×{height} is {pixels} pixels, above the limit of {max_pixels} (--max-pixels)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma};

    fn preprocessing(interpolation: Interpolation, crop_mode: CropMode) -> Preprocessing {
        Preprocessing { mean: vec![0.0], std: vec![1.0], interpolation, crop_pct: 0.875, crop_mode }
    }

    fn config() -> Config {
        let mut config = Config::plain([28, 28], [7, 7], 8, 1, 1);
        config.channels = 1;
        config
    }

    fn picture(width: u32, height: u32) -> GrayImage {
        let mut rng = fastrand::Rng::with_seed(5);
        GrayImage::from_fn(width, height, |_, _| Luma([rng.u8(..)]))
    }

    /// Resizing a part gives the same pixels as resizing the whole, up to rounding in f64.
    #[test]
    fn a_part_is_resized_like_the_whole() {
        use Interpolation::{Bicubic, Bilinear, Lanczos, Nearest};
        let config = config();
        let mut different = 0;
        for interpolation in [Bicubic, Bilinear, Lanczos, Nearest] {
            let how = preprocessing(interpolation, CropMode::Center);
            let preparer = Preparer::new(&config, Some(&how), 1 << 20).unwrap();
            for [width, height] in [[300, 20], [20, 300], [500, 40], [41, 505], [900, 70], [32, 50], [97, 33]] {
                let whole = preparer.sides([width, height]);
                assert!(whole.iter().all(|side| u64::from(side.len) == side.fitted));
                let part = whole.map(|side| Side { first: side.corner, len: 28, ..side });
                let samples = picture(width, height);
                let resized = |sides| preparer.resize::<U8>(&samples, sides).unwrap();
                let (all, part) = (resized(whole), resized(part));
                let [left, top] = whole.map(Side::margin);
                for (y, row) in part.chunks_exact(28).enumerate() {
                    let of_all = &all[(top + y) * whole[0].len as usize + left..][..28];
                    assert!(row.iter().zip(of_all).all(|(a, b)| a.abs_diff(*b) <= 1), "{interpolation:?} {width}");
                    different += row.iter().zip(of_all).filter(|(a, b)| a != b).count();
                }
            }
        }
        assert!(different < 100, "{different} of {}", 4 * 7 * 28 * 28);
    }

    /// A picture of 20000 pixels, which resized as a whole would have 20 million.
    #[test]
    fn long_pictures_take_no_more_memory_than_their_crop() {
        let config = config();
        let how = preprocessing(Interpolation::Bicubic, CropMode::Center);
        let preparer = Preparer::new(&config, Some(&how), 1).unwrap();
        for size in [[20_000, 1], [1, 20_000], [30_000, 7], [7, 30_000]] {
            let [x, y] = preparer.sides(size);
            assert_eq!([x.len, y.len], [28, 28]);
            let rows = y.rows();
            assert!(rows.end - rows.start <= 28 + 8, "{rows:?}");
            let mut out = vec![-1.0; 28 * 28];
            preparer.prepare(DynamicImage::ImageLuma8(picture(size[0], size[1])), &mut out).unwrap();
            assert!(out.iter().all(|x| (0.0..=1.0).contains(x)));
        }
        // No side is so long that its size overflows 32 bits.
        let [x, _] = preparer.sides([u32::MAX, 1]);
        assert_eq!((x.fitted, x.len), (32 * u64::from(u32::MAX), 28));
        // A squashed picture keeps its height while its width is resized.
        let how = preprocessing(Interpolation::Bicubic, CropMode::Squash);
        let preparer = Preparer::new(&config, Some(&how), 1000).unwrap();
        let mut out = vec![0.0; 28 * 28];
        let tall = DynamicImage::ImageLuma8(picture(1, 20_000));
        let error = preparer.prepare(tall, &mut out).unwrap_err().to_string();
        assert!(error.contains("32×20000"), "{error}");
    }
}
