//! A decoded picture.
use std::fmt;

use crate::Error;

/// A picture of 8-bit samples: RGB, or grey.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    size: [usize; 2],
    channels: usize,
    /// \[height, width, channels\]
    samples: Vec<u8>,
}

impl Picture {
    /// A picture of `[height, width]` with 3 channels (RGB) or 1 (grey). `samples` are \[height, width, channels\].
    ///
    /// # Errors
    /// When there are no pixels, another number of channels, or another number of samples.
    pub fn new(size: [usize; 2], channels: usize, samples: Vec<u8>) -> Result<Self, Error> {
        if size.contains(&0) {
            return Err(Error::Empty);
        }
        if !matches!(channels, 1 | 3) {
            return Err(Error::PictureChannels(channels));
        }
        let expected = size[0].checked_mul(size[1]).and_then(|pixels| pixels.checked_mul(channels));
        // Sides are u32 in every format, and in the resizer.
        if expected != Some(samples.len()) || size.iter().any(|side| u32::try_from(*side).is_err()) {
            return Err(Error::Length { expected: expected.unwrap_or(usize::MAX), found: samples.len() });
        }
        Ok(Self { size, channels, samples })
    }

    /// A picture of samples with alpha, as a browser's `ImageData` has them: `rgba` is \[height, width, 4\]. Alpha is
    /// dropped, as it is when a file is decoded.
    ///
    /// # Errors
    /// As [`new`](Self::new), with 4 samples for a pixel; when the system does not give the memory.
    pub fn from_rgba(size: [usize; 2], channels: usize, rgba: &[u8]) -> Result<Self, Error> {
        let pixels = size[0].checked_mul(size[1]).filter(|pixels| pixels.checked_mul(4) == Some(rgba.len()));
        let Some(pixels) = pixels else {
            let expected = size[0].saturating_mul(size[1]).saturating_mul(4);
            return Err(Error::Length { expected, found: rgba.len() });
        };
        let bytes = 3 * pixels;
        let mut samples = Vec::new();
        samples.try_reserve_exact(bytes).map_err(|_| Error::OutOfMemory { bytes })?;
        rgba.as_chunks().0.iter().for_each(|[r, g, b, _]: &[u8; 4]| samples.extend([r, g, b]));
        Self::new(size, 3, samples)?.with_channels(channels)
    }

    /// The same picture with 3 channels, or as grey with 1. Grey is that of Pillow's `convert("L")`, the integer Rec. 601:
    /// (19595·R + 38470·G + 7471·B + 32768) / 65536.
    ///
    /// # Errors
    /// When it is another number of channels.
    pub fn with_channels(self, channels: usize) -> Result<Self, Error> {
        let samples = match (self.channels, channels) {
            (1, 3) => self.samples.iter().flat_map(|grey| [*grey; 3]).collect(),
            (3, 1) => self.samples.chunks_exact(3).map(|rgb| grey([rgb[0], rgb[1], rgb[2]])).collect(),
            _ => self.samples,
        };
        Self::new(self.size, channels, samples)
    }

    /// Height and width in pixels.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// 3, red, green and blue; or 1, grey.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// \[height, width, channels\]
    pub fn samples(&self) -> &[u8] {
        &self.samples
    }
}

/// Pillow's `convert("L")`.
fn grey([r, g, b]: [u8; 3]) -> u8 {
    ((19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b) + 0x8000) >> 16) as u8
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size: [height, width], channels, .. } = self;
        write!(f, "Picture({width}×{height}, {channels} channels)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_and_rgb() {
        let rgb = Picture::new([1, 2], 3, vec![255, 255, 255, 10, 200, 30]).unwrap();
        let grey = rgb.clone().with_channels(1).unwrap();
        assert_eq!(grey, Picture::new([1, 2], 1, vec![255, 124]).unwrap());
        assert_eq!(grey.with_channels(3).unwrap().samples(), [255, 255, 255, 124, 124, 124]);
        assert_eq!(rgb.clone().with_channels(3), Ok(rgb.clone()));
        assert_eq!(rgb.with_channels(2), Err(Error::PictureChannels(2)));
    }

    #[test]
    fn alpha_is_dropped() {
        let rgba = [255, 255, 255, 0, 10, 200, 30, 255];
        let rgb = Picture::new([1, 2], 3, vec![255, 255, 255, 10, 200, 30]).unwrap();
        assert_eq!(Picture::from_rgba([1, 2], 3, &rgba), Ok(rgb.clone()));
        assert_eq!(Picture::from_rgba([2, 1], 1, &rgba), Picture::new([2, 1], 1, vec![255, 124]));
        assert_eq!(Picture::from_rgba([1, 1], 3, &rgba), Err(Error::Length { expected: 4, found: 8 }));
        assert_eq!(Picture::from_rgba([0, 2], 3, &[]), Err(Error::Empty));
        assert_eq!(
            Picture::from_rgba([usize::MAX, 2], 3, &rgba).map(|_| ()),
            Err(Error::Length { expected: usize::MAX, found: 8 })
        );
    }
}
