//! Picture files to 8-bit RGB or grey, as Pillow's `convert("RGB")` and `convert("L")` give them, after EXIF orientation.
//!
//! Alpha is dropped, a palette looked up (also under transparency), CMYK converted without a profile; ICC profiles are
//! ignored, as Pillow ignores them. Samples of 16 bits lose their lower 8. Of an animation it is the first frame.
mod gif;
mod jpeg;
mod orientation;
mod png;
mod tiff;

use std::fmt;
use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, Limits};

use crate::picture::Picture;

impl Picture {
    /// Decodes a PNG, JPEG, WebP, GIF, BMP or TIFF file into a picture of 3 channels, RGB, or 1, grey. Its first bytes
    /// decide the format. Grey is Pillow's, the integer Rec. 601: (19595·R + 38470·G + 7471·B + 32768) / 65536.
    ///
    /// The file's size in pixels is checked before anything is decoded.
    ///
    /// # Errors
    /// When it is no such file, is damaged or truncated, has more pixels than `max_pixels`, or something in it is not
    /// supported.
    pub fn decode(file: &[u8], channels: usize, max_pixels: u64) -> Result<Self, DecodeError> {
        if !matches!(channels, 1 | 3) {
            return Err(DecodeError::Channels(channels));
        }
        let limit = Limit { max_pixels };
        let (decoded, orientation) = match image::guess_format(file).map_err(|_| DecodeError::UnknownFormat)? {
            ImageFormat::Png => generic(PngDecoder::new, file, limit, png::exif_in_text)?,
            ImageFormat::WebP => generic(WebPDecoder::new, file, limit, |_| None)?,
            ImageFormat::Bmp => generic(BmpDecoder::new, file, limit, |_| None)?,
            ImageFormat::Jpeg => jpeg::decode(file, limit)?,
            ImageFormat::Gif => gif::decode(file, limit)?,
            ImageFormat::Tiff => tiff::decode(file, limit)?,
            _ => return Err(DecodeError::UnknownFormat),
        };
        decoded.upright(orientation).picture(channels)
    }
}

/// A limit on pixels.
#[derive(Debug, Clone, Copy)]
struct Limit {
    max_pixels: u64,
}

impl Limit {
    /// Refuses too large a picture, and memory that the system does not give: `bytes` for a pixel.
    fn check(self, [width, height]: [u32; 2], bytes: usize) -> Result<(), DecodeError> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.max_pixels {
            return Err(DecodeError::TooLarge { size: [width, height], limit: self.max_pixels });
        }
        if pixels == 0 {
            return Err(DecodeError::Damaged("the picture has no pixels".into()));
        }
        // What is given back at once is not counted; what the libraries ask for without asking whether it is there is.
        let bytes = usize::try_from(pixels).ok().and_then(|pixels| pixels.checked_mul(bytes)).unwrap_or(usize::MAX);
        Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| DecodeError::OutOfMemory { bytes })
    }

    /// Bytes that a decoder may use for itself.
    fn bytes(self) -> usize {
        /// For tables, rows and headers.
        const LEAST: usize = 64 << 20;
        usize::try_from(self.max_pixels.saturating_mul(16)).unwrap_or(usize::MAX).max(LEAST)
    }
}

/// A format that `image` decodes as Pillow does. `other_exif` looks for EXIF where `image` does not.
fn generic<'a, D: ImageDecoder>(
    open: impl Fn(Cursor<&'a [u8]>) -> image::ImageResult<D>,
    file: &'a [u8],
    limit: Limit,
    other_exif: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Result<(Samples, Orientation), DecodeError> {
    let damaged = |error: image::ImageError| DecodeError::of(&error);
    let mut decoder = open(Cursor::new(file)).map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    // The picture, and its copy in 8 bits.
    limit.check([width, height], usize::from(decoder.color_type().bytes_per_pixel()) + 3)?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(limit.bytes() as u64);
    decoder.set_limits(limits).map_err(damaged)?;
    // What is broken in the metadata does not concern the pixels.
    let exif = decoder.exif_metadata().ok().flatten().or_else(|| other_exif(file));
    let xmp = decoder.xmp_metadata().ok().flatten();
    let orientation = orientation::find(exif.as_deref(), xmp.as_deref());
    let picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    Ok((Samples::of(picture)?, orientation))
}

/// 8-bit samples as a file has them: grey, or red, green and blue. Sizes are \[width, height\].
struct Samples {
    size: [u32; 2],
    channels: usize,
    samples: Vec<u8>,
}

impl Samples {
    fn of(picture: DynamicImage) -> Result<Self, DecodeError> {
        let size = [picture.width(), picture.height()];
        let grey = |samples| Self { size, channels: 1, samples };
        let rgb = |samples| Self { size, channels: 3, samples };
        Ok(match picture {
            DynamicImage::ImageLuma8(picture) => grey(picture.into_raw()),
            DynamicImage::ImageRgb8(picture) => rgb(picture.into_raw()),
            DynamicImage::ImageLumaA8(picture) => grey(kept(&picture, 2, 1, |sample| *sample)),
            DynamicImage::ImageRgba8(picture) => rgb(kept(&picture, 4, 3, |sample| *sample)),
            DynamicImage::ImageLuma16(picture) => grey(kept(&picture, 1, 1, high)),
            DynamicImage::ImageLumaA16(picture) => grey(kept(&picture, 2, 1, high)),
            DynamicImage::ImageRgb16(picture) => rgb(kept(&picture, 3, 3, high)),
            DynamicImage::ImageRgba16(picture) => rgb(kept(&picture, 4, 3, high)),
            _ => return Err(DecodeError::Unsupported("floating-point samples".into())),
        })
    }

    fn upright(self, orientation: Orientation) -> Self {
        let Self { size: [width, height], channels, samples } = self;
        let mut picture = if channels == 1 {
            image::GrayImage::from_raw(width, height, samples).map(DynamicImage::ImageLuma8)
        } else {
            image::RgbImage::from_raw(width, height, samples).map(DynamicImage::ImageRgb8)
        }
        .expect("as many samples as the size asks for");
        picture.apply_orientation(orientation);
        Self { size: [picture.width(), picture.height()], channels, samples: picture.into_bytes() }
    }

    fn picture(self, channels: usize) -> Result<Picture, DecodeError> {
        let Self { size: [width, height], channels: has, samples } = self;
        Picture::new([height as usize, width as usize], has, samples)
            .and_then(|picture| picture.with_channels(channels))
            .map_err(|error| DecodeError::Damaged(error.to_string()))
    }
}

/// The first `keep` of every `of` samples.
fn kept<T>(samples: &[T], of: usize, keep: usize, convert: impl Fn(&T) -> u8) -> Vec<u8> {
    samples.chunks_exact(of).flat_map(|pixel| &pixel[..keep]).map(convert).collect()
}

/// The higher 8 of 16 bits.
fn high(sample: &u16) -> u8 {
    (sample >> 8) as u8
}

/// Pillow's `convert("RGB")` of CMYK, 255 being all ink.
fn cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = u32::from(255 - k);
    [c, m, y].map(|ink| {
        // ink · light / 255, rounded.
        let product = u32::from(ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}

/// Why a picture file cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// Pictures can be had with 1 or 3 channels.
    Channels(usize),
    /// It does not begin as a file of any format that is known here.
    UnknownFormat,
    /// It has too many pixels.
    TooLarge {
        /// Width and height.
        size: [u32; 2],
        /// The most pixels that are allowed.
        limit: u64,
    },
    /// The file ends too early.
    Truncated,
    /// Something in it is wrong.
    Damaged(String),
    /// Something in it is not supported.
    Unsupported(String),
    /// The system does not give that many bytes.
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
}

impl DecodeError {
    fn of(error: &image::ImageError) -> Self {
        match error {
            image::ImageError::Unsupported(error) => Self::Unsupported(error.to_string()),
            image::ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Self::Truncated,
            image::ImageError::Limits(_) => Self::Damaged("it asks for more memory than its pixels need".into()),
            error => Self::Damaged(error.to_string()),
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channels(channels) => write!(f, "{channels} channels, where pictures have 1 or 3"),
            Self::UnknownFormat => write!(f, "not a picture in PNG, JPEG, WebP, GIF, BMP or TIFF format"),
            Self::TooLarge { size: [width, height], limit } => {
                let pixels = u64::from(*width) * u64::from(*height);
                write!(f, "{width}×{height} is {pixels} pixels, above the limit of {limit}")
            }
            Self::Truncated => write!(f, "the file is truncated"),
            Self::Damaged(error) => write!(f, "the picture is damaged: {error}"),
            Self::Unsupported(what) => write!(f, "not supported: {what}"),
            Self::OutOfMemory { bytes } => write!(f, "the system does not give {bytes} bytes for a picture"),
        }
    }
}

impl std::error::Error for DecodeError {}
