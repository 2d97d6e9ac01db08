//! Pixels as a camera has them, handed over one row of patches at a time.
use core::fmt;

use vit_engine::Pixels;

/// A picture of 8-bit grey values. A real camera's driver would wait here for the lines of a strip.
pub struct Camera<'a> {
    pixels: &'a [u8],
}

impl<'a> Camera<'a> {
    pub fn new(pixels: &'a [u8]) -> Self {
        Self { pixels }
    }
}

/// Of Fashion-MNIST, as in the checkpoint's config.json.
const MEAN: f32 = 0.286;
const STD: f32 = 0.353;

impl Pixels for Camera<'_> {
    type Error = WrongSize;

    fn check(&self, batch: usize, [channels, height, width]: [usize; 3]) -> Result<(), WrongSize> {
        let (expected, found) = (batch * channels * height * width, self.pixels.len());
        if found == expected { Ok(()) } else { Err(WrongSize { expected, found }) }
    }

    /// Normalises the strip that starts at pixel row `top`, \[1, patch height, width\]: there is one channel, so its rows
    /// follow each other as in the picture.
    fn read(&mut self, _image: usize, top: usize, strip: &mut [f32]) -> Result<(), WrongSize> {
        const WIDTH: usize = crate::classifier::CONFIG.image[1];
        let start = top * WIDTH;
        let wrong = WrongSize { expected: start + strip.len(), found: self.pixels.len() };
        let bytes = self.pixels.get(start..start + strip.len()).ok_or(wrong)?;
        for (x, byte) in strip.iter_mut().zip(bytes) {
            *x = (f32::from(*byte) / 255.0 - MEAN) / STD;
        }
        Ok(())
    }
}

/// The picture is not the model's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongSize {
    expected: usize,
    found: usize,
}

impl fmt::Display for WrongSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the picture has {} pixels, and the model takes {}", self.found, self.expected)
    }
}
