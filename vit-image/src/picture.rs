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

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size: [height, width], channels, .. } = self;
        write!(f, "Picture({width}×{height}, {channels} channels)")
    }
}
