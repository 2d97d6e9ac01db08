//! Sources of pixels. The forward pass reads one row of patches at a time, so that a whole image need not be in memory.
use core::fmt;

/// A source of normalised pixels.
///
/// Closures are sources. This one stands for a camera that has one line of 8-bit grey pixels at a time:
/// ```
/// use vit_engine::{AlignedBox, Isa, Output, Serial, file};
/// # use vit_engine::Precision;
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../vit-cli/models/fashion-vit");
/// # let loaded = file::Checkpoint::open(folder, file::Access::Map)?.load(Precision::F32)?;
/// # let model = loaded.model(Isa::best());
/// # let line = |y: usize| (0..28).map(move |x| (x * y % 256) as u8);
///
/// let mut camera = |_image: usize, top: usize, strip: &mut [f32]| {
///     for (y, row) in strip.chunks_mut(28).enumerate() {
///         for (normalised, byte) in row.iter_mut().zip(line(top + y)) {
///             *normalised = (f32::from(byte) / 255.0 - 0.286) / 0.353;
///         }
///     }
///     Ok::<(), std::convert::Infallible>(())
/// };
/// let plan = model.plan(Output::Logits, 1, None)?;
/// let mut arena = AlignedBox::new(plan.arena_bytes())?;
/// let mut logits = [0.0; 10];
/// model.forward(&plan, &mut camera, &mut arena, &Serial, &mut logits)?;
/// # assert!(logits.iter().all(|x| x.is_finite()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Pixels {
    /// Why pixels cannot be read.
    type Error;

    /// Checks whether this source has `batch` images of shape \[channels, height, width\]. The forward pass calls it
    /// once at its start. The default, for sources that do not know their size, always succeeds.
    ///
    /// # Errors
    /// If the source does not have them. The forward pass returns the error.
    fn check(&self, _batch: usize, _shape: [usize; 3]) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Writes the rows `top..top + height` of one image of the batch to `strip`, \[channels, height, width\]. The
    /// height is that of a patch.
    ///
    /// A forward pass reads every strip once, in order: image by image, from top to bottom.
    ///
    /// # Errors
    /// If the source fails. The forward pass returns the error.
    fn read(&mut self, image: usize, top: usize, strip: &mut [f32]) -> Result<(), Self::Error>;
}

impl<E, F: FnMut(usize, usize, &mut [f32]) -> Result<(), E>> Pixels for F {
    type Error = E;
    fn read(&mut self, image: usize, top: usize, strip: &mut [f32]) -> Result<(), E> {
        self(image, top, strip)
    }
}

/// Whole images in memory, \[batch, channels, height, width\].
///
/// ```
/// use vit_engine::{Images, ImagesError};
///
/// let pixels = [0.0; 2 * 3 * 8 * 8];
/// assert_eq!(Images::new(&pixels, [3, 8, 8])?.len(), 2);
/// assert!(matches!(Images::new(&pixels, [3, 8, 9]), Err(ImagesError::NotWhole { .. })));
/// # Ok::<(), ImagesError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    data: &'a [f32],
    channels: usize,
    height: usize,
    width: usize,
}

impl<'a> Images<'a> {
    /// A view of `data`, \[batch, channels, height, width\], as images of `shape`, \[channels, height, width\].
    ///
    /// # Errors
    /// If `data` is not a whole number of such images, or the shape has no pixels.
    pub fn new(data: &'a [f32], shape: [usize; 3]) -> Result<Self, ImagesError> {
        let [channels, height, width] = shape;
        let image = channels.checked_mul(height).and_then(|len| len.checked_mul(width));
        match image {
            Some(image) if image > 0 && data.len().is_multiple_of(image) => Ok(Self { data, channels, height, width }),
            _ => Err(ImagesError::NotWhole { len: data.len(), shape }),
        }
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.data.len() / (self.channels * self.height * self.width)
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

impl Pixels for Images<'_> {
    type Error = ImagesError;

    fn check(&self, batch: usize, shape: [usize; 3]) -> Result<(), ImagesError> {
        let expected = [batch, shape[0], shape[1], shape[2]];
        let found = [self.len(), self.channels, self.height, self.width];
        if found[0] >= batch && found[1..] == expected[1..] {
            Ok(())
        } else {
            Err(ImagesError::Other { expected, found })
        }
    }

    fn read(&mut self, image: usize, top: usize, strip: &mut [f32]) -> Result<(), ImagesError> {
        let rows = strip.len() / (self.channels * self.width);
        let whole = rows * self.channels * self.width == strip.len();
        if image >= self.len() || top.saturating_add(rows) > self.height || !whole {
            let expected = [image.saturating_add(1), self.channels, top.saturating_add(rows), self.width];
            return Err(ImagesError::Other { expected, found: [self.len(), self.channels, self.height, self.width] });
        }
        let plane = self.height * self.width;
        let planes = self.data.chunks_exact(plane).skip(image * self.channels);
        for (plane, strip) in planes.zip(strip.chunks_exact_mut(strip.len() / self.channels)) {
            strip.copy_from_slice(&plane[top * self.width..][..strip.len()]);
        }
        Ok(())
    }
}

/// Why a slice is not the images that a forward pass needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImagesError {
    /// The slice is not a whole number of images, or the images have no pixels.
    NotWhole {
        /// The length of the slice.
        len: usize,
        /// The shape of an image, \[channels, height, width\].
        shape: [usize; 3],
    },
    /// There are fewer images than the forward pass needs, or they have another shape.
    Other {
        /// The images needed, \[batch, channels, height, width\].
        expected: [usize; 4],
        /// The images in the slice, \[batch, channels, height, width\].
        found: [usize; 4],
    },
}

impl fmt::Display for ImagesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWhole { len, shape } => write!(f, "{len} elements are not a whole number of images of {shape:?}"),
            Self::Other { expected, found } => write!(f, "expected images of shape {expected:?}, found {found:?}"),
        }
    }
}

impl core::error::Error for ImagesError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_that_are_not_there() {
        let data = [1.0; 2 * 3 * 4 * 5];
        let mut images = Images::new(&data, [3, 4, 5]).unwrap();
        assert_eq!((images.len(), images.is_empty()), (2, false));
        let mut read = |image, top, len| images.read(image, top, &mut [0.0; 64][..len]).is_ok();
        assert!(read(1, 2, 30) && read(0, 0, 60));
        assert!(!read(2, 0, 30) && !read(0, 3, 30) && !read(0, 0, 31) && !read(usize::MAX, usize::MAX, 30));
        for shape in [[3, 4, 7], [0, 4, 5], [usize::MAX, 2, 1]] {
            assert_eq!(Images::new(&data, shape).err(), Some(ImagesError::NotWhole { len: data.len(), shape }));
        }
    }
}
