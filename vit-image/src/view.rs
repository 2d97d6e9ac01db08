//! Which part of a picture a model sees, and where a pixel of its input comes from.
//!
//! Resizing maps the whole picture onto the whole resized picture, in all filters; crop and padding move it by whole
//! pixels. So along each axis a position in the input and one in the picture are linear in each other:
//!
//! ```text
//! picture = (input + start − before) · picture's length / resized length
//! ```
//! Positions are continuous: the first pixel reaches from 0 to 1, its centre is at 0.5.
use crate::description::Preprocessing;
use crate::error::Error;
use crate::geometry::Window;

/// How a picture was placed in a model's input. All pairs are along height and width, in this order.
///
/// ```
/// use vit_image::{Arithmetic, Crop, Filter, Preprocessing, Resize, Rounding, Target};
///
/// let preprocessing = Preprocessing {
///     resize: Some(Resize { to: Target::Shortest { edge: 32, limit: None }, filter: Filter::Bicubic }),
///     crop: Some(Crop { size: [28, 28], cuts: Rounding::Down, pads: Rounding::Down, fill: vec![0] }),
///     crop_pct: None,
///     rescale: 1.0 / 255.0,
///     mean: vec![0.5],
///     std: vec![0.5],
///     pad: None,
///     arithmetic: Arithmetic::Bytes,
/// };
/// // 64 × 128 is resized to 32 × 64. The crop begins 2 pixels from the top and 18 from the left.
/// let view = preprocessing.view([64, 128])?;
/// assert_eq!(view.to_picture([0.0, 0.0]), [4.0, 36.0]);
/// assert_eq!(view.to_input([4.0, 36.0]), [0.0, 0.0]);
/// assert_eq!(view.seen(), [4.0..60.0, 36.0..92.0]);
/// # Ok::<(), vit_image::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    picture: [usize; 2],
    resized: [usize; 2],
    windows: [Window; 2],
    input: [usize; 2],
}

impl Preprocessing {
    /// How [`apply`](Self::apply) places a picture of that height and width.
    ///
    /// # Errors
    /// As [`output_size`](Self::output_size).
    pub fn view(&self, picture: [usize; 2]) -> Result<View, Error> {
        let (input, resized) = (self.output_size(picture)?, self.resized(picture)?);
        Ok(View { picture, resized, windows: self.windows(resized), input })
    }
}

impl View {
    /// Height and width of the picture.
    pub fn picture(&self) -> [usize; 2] {
        self.picture
    }

    /// Height and width of the whole picture after resizing, before the crop.
    pub fn resized(&self) -> [usize; 2] {
        self.resized
    }

    /// Height and width of the model's input.
    pub fn input(&self) -> [usize; 2] {
        self.input
    }

    /// The position in the picture of a position `[y, x]` in the input. It is outside of the picture where the input is
    /// padding.
    pub fn to_picture(&self, input: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|axis| {
            let Window { start, before, .. } = self.windows[axis];
            let resized = input[axis] + start as f64 - before as f64;
            resized * self.picture[axis] as f64 / self.resized[axis] as f64
        })
    }

    /// The position in the input of a position `[y, x]` in the picture. It is outside of the input where the picture
    /// was cropped.
    pub fn to_input(&self, picture: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|axis| {
            let Window { start, before, .. } = self.windows[axis];
            picture[axis] * self.resized[axis] as f64 / self.picture[axis] as f64 - start as f64 + before as f64
        })
    }

    /// The part of the picture that is in the input.
    pub fn seen(&self) -> [core::ops::Range<f64>; 2] {
        [0, 1].map(|axis| {
            let Window { start, len, .. } = self.windows[axis];
            let scale = self.picture[axis] as f64 / self.resized[axis] as f64;
            start as f64 * scale..(start + len) as f64 * scale
        })
    }

    /// The rectangle, in the picture's pixels, that the input's first `size` pixels cover. It reaches beyond the
    /// picture where the input is padding.
    pub fn covered(&self, size: [usize; 2]) -> [core::ops::Range<f64>; 2] {
        let (first, last) = (self.to_picture([0.0; 2]), self.to_picture(size.map(|side| side as f64)));
        [first[0]..last[0], first[1]..last[1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::{Arithmetic, Crop, Filter, Resize, Rounding, Target};

    fn how(to: Target, crop: Option<[usize; 2]>, pad: Option<[usize; 2]>) -> Preprocessing {
        let (cuts, pads) = (Rounding::Even, Rounding::Down);
        Preprocessing {
            resize: Some(Resize { to, filter: Filter::Nearest }),
            crop: crop.map(|size| Crop { size, cuts, pads, fill: vec![0] }),
            crop_pct: None,
            rescale: 1.0,
            mean: vec![0.0],
            std: vec![1.0],
            pad,
            arithmetic: Arithmetic::Bytes,
        }
    }

    #[test]
    fn there_and_back() {
        for (to, crop, pad) in [
            (Target::Shortest { edge: 37, limit: None }, Some([32, 32]), None),
            (Target::Contain([32, 32]), Some([32, 32]), None),
            (Target::Exact([24, 40]), None, None),
            (Target::Within([30, 30]), None, Some([32, 48])),
        ] {
            for picture in [[50, 70], [71, 33], [9, 9]] {
                let view = how(to, crop, pad).view(picture).unwrap();
                for y in 0..40 {
                    let at = [f64::from(y) - 3.0, 1.7 * f64::from(y)];
                    let back = view.to_input(view.to_picture(at));
                    assert!((0..2).all(|axis| (back[axis] - at[axis]).abs() < 1e-9), "{to:?} {picture:?}");
                }
                let seen = view.seen();
                assert!((0..2).all(|axis| seen[axis].start >= 0.0 && seen[axis].end <= picture[axis] as f64));
            }
        }
    }

    /// Each pixel of the input, which `Preprocessing::apply` made by nearest-neighbour resizing, has the value of the
    /// picture's pixel at the place that the view names, or of padding where it names none.
    #[test]
    #[cfg(feature = "resize")]
    fn every_pixel_comes_from_where_the_view_says() {
        for (to, crop, pad) in [
            (Target::Shortest { edge: 37, limit: None }, Some([32, 30]), None),
            (Target::Shortest { edge: 20, limit: None }, Some([32, 32]), None),
            (Target::Contain([32, 32]), Some([32, 32]), None),
            (Target::Cover([40, 40]), Some([31, 40]), None),
            (Target::Exact([24, 40]), None, None),
            (Target::Within([30, 30]), None, Some([32, 48])),
        ] {
            for picture in [[50, 70], [71, 33], [9, 11]] {
                let how = how(to, crop, pad);
                let view = how.view(picture).unwrap();
                let [height, width] = view.input();
                // Rows in one picture, columns in another, from 1 on: 0 is padding.
                for axis in [0, 1] {
                    let at = |i: usize| [i / picture[1], i % picture[1]][axis] as u8 + 1;
                    let samples: Vec<u8> = (0..picture[0] * picture[1]).map(at).collect();
                    let samples = crate::Picture::new(picture, 1, samples).unwrap();
                    let mut input = vec![f32::NAN; height * width];
                    how.apply(&samples, 1 << 20, &mut input).unwrap();
                    for (i, found) in input.iter().enumerate() {
                        let centre = [(i / width) as f64 + 0.5, (i % width) as f64 + 0.5];
                        let from = view.to_picture(centre);
                        let inside = (0..2).all(|axis| (0.0..picture[axis] as f64).contains(&from[axis]));
                        // Where a position is between two pixels, rounding decides.
                        let wanted = [from[axis] - 1e-6, from[axis] + 1e-6].map(|x| (x.floor() + 1.0) as f32);
                        let right = if inside { wanted.contains(found) } else { *found == 0.0 };
                        assert!(right, "{to:?} {picture:?} pixel {i}: {found}, not {wanted:?}");
                    }
                }
            }
        }
    }
}
