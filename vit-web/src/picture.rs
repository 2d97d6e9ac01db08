//! Pictures, prepared for a model.
use vit_image::{Picture, View};

use crate::model::{Opened, zeros};
use crate::{Answer, Failed};

/// Larger pictures are refused before they are decoded: with its copies, one of that size takes some 500 MB.
pub(crate) const MAX_PIXELS: u64 = 50_000_000;

/// What a model is given.
pub(crate) struct Prepared {
    /// \[channels, height, width\], normalised.
    pub(crate) pixels: Vec<f32>,
    /// The picture that it was made of, and where it is in the input; `None` for pixels that came as they are.
    pub(crate) picture: Option<(Picture, View)>,
}

impl Opened {
    pub(crate) fn take_rgba(&mut self, size: [usize; 2], samples: Vec<u8>) -> Answer {
        self.forget();
        if size[0] as u64 * size[1] as u64 > MAX_PIXELS {
            let [height, width] = size;
            return Err(Failed(format!("{width}×{height} pixels are more than {MAX_PIXELS}, the limit")));
        }
        let picture = Picture::from_rgba(size, self.channels()?, &samples)?;
        drop(samples);
        self.prepare(picture)
    }

    #[cfg(feature = "decode")]
    pub(crate) fn take_file(&mut self, file: &[u8]) -> Answer {
        self.forget();
        let picture = Picture::decode(file, self.channels()?, MAX_PIXELS)?;
        self.prepare(picture)
    }

    pub(crate) fn take_pixels(&mut self, bytes: &[u8]) -> Answer {
        self.forget();
        let c = self.header.config;
        let [height, width] = c.image;
        let len = c.channels * height * width;
        if bytes.len() != len * size_of::<f32>() {
            return Err(Failed(format!("expected {}×{height}×{width} numbers", c.channels)));
        }
        let mut pixels = zeros(len)?;
        pixels.iter_mut().zip(bytes.as_chunks().0).for_each(|(x, bytes)| *x = f32::from_le_bytes(*bytes));
        self.prepared = Some(Prepared { pixels, picture: None });
        Ok(())
    }

    /// Drops the picture before, and what was computed of it.
    fn forget(&mut self) {
        self.prepared = None;
        self.shown = Default::default();
    }

    fn channels(&self) -> Answer<usize> {
        match self.header.config.channels {
            channels @ (1 | 3) => Ok(channels),
            channels => Err(Failed(format!("the model takes {channels} channels, and pictures have 1 or 3"))),
        }
    }

    fn prepare(&mut self, picture: Picture) -> Answer {
        let c = self.header.config;
        let how = self.header.preprocessing.as_ref();
        let how = how.ok_or("the model's file does not say how pictures are prepared")?;
        let view = how.view(picture.size())?;
        if view.input() != c.image {
            let ([to_height, to_width], [height, width]) = (view.input(), c.image);
            let message =
                format!("this picture becomes {to_width}×{to_height} pixels, and the model takes {width}×{height}");
            return Err(Failed(message));
        }
        let mut pixels = zeros(c.channels * c.image[0] * c.image[1])?;
        how.apply(&picture, MAX_PIXELS, &mut pixels)?;
        self.prepared = Some(Prepared { pixels, picture: Some((picture, view)) });
        Ok(())
    }
}
