//! Where pixels come from: pulled one row of patches at a time, so that no whole image need be in memory.
use core::convert::Infallible;

/// A source of normalised pixels.
pub trait Pixels {
    /// Why pixels cannot be had.
    type Error;

    /// Writes rows `top..top + height` of an image of the batch into `strip`, \[channels, height, width\]; the height
    /// is the patch's.
    ///
    /// A forward pass asks for every strip once, in order: images ascending, rows from top to bottom.
    ///
    /// # Errors
    /// Whatever stops the source; the forward pass hands it on.
    fn read(&mut self, image: usize, top: usize, strip: &mut [f32]) -> Result<(), Self::Error>;
}

impl<E, F: FnMut(usize, usize, &mut [f32]) -> Result<(), E>> Pixels for F {
    type Error = E;
    fn read(&mut self, image: usize, top: usize, strip: &mut [f32]) -> Result<(), E> {
        self(image, top, strip)
    }
}

/// Whole images in memory, \[batch, channels, height, width\].
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    data: &'a [f32],
    channels: usize,
    height: usize,
    width: usize,
}

impl<'a> Images<'a> {
    /// A view of `data`; `None` if it is not a whole number of images of that shape.
    pub fn new(data: &'a [f32], [channels, height, width]: [usize; 3]) -> Option<Self> {
        let image = channels.checked_mul(height)?.checked_mul(width)?;
        (image > 0 && data.len().is_multiple_of(image)).then_some(Self { data, channels, height, width })
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.data.len() / (self.channels * self.height * self.width)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

impl Pixels for Images<'_> {
    /// A strip that lies outside is left as it is: the forward pass checks shapes before it asks.
    type Error = Infallible;

    fn read(&mut self, image: usize, top: usize, strip: &mut [f32]) -> Result<(), Infallible> {
        let plane = self.height * self.width;
        let images = self.data.chunks_exact(plane).skip(image * self.channels);
        for (channel, strip) in images.zip(strip.chunks_exact_mut(strip.len() / self.channels)) {
            if let Some(rows) = channel.get(top * self.width..).and_then(|rows| rows.get(..strip.len())) {
                strip.copy_from_slice(rows);
            }
        }
        Ok(())
    }
}
