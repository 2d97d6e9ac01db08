//! A picture with its patches painted over it, at their places in the picture.
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use vit_image::{Picture, View};

use crate::{Error, inferno};

/// The most pixels of a canvas.
const MOST_PIXELS: f64 = 67e6;

/// The longest side of a canvas by default: pictures in between keep their size.
const LONGEST: std::ops::RangeInclusive<f64> = 448.0..=1024.0;

/// A picture, at some scale, with room for the padding that the model was given around it.
pub struct Canvas {
    view: View,
    picture: RgbImage,
    /// Pixels of the canvas for a pixel of the picture, along height and width.
    scale: [f64; 2],
    /// The canvas's first pixel, in the picture's pixels: at most 0.
    origin: [f64; 2],
    /// Height and width of the canvas.
    size: [u32; 2],
}

/// How values of patches are placed on a canvas, and painted.
#[derive(Debug, Clone, Copy)]
pub struct Patches {
    /// Height and width of a patch in the model's input.
    pub patch: [usize; 2],
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// Interpolate between patches, or show each as a rectangle.
    pub smooth: bool,
    /// The colours' share, from 0 to 1; the rest is the picture, in grey.
    pub alpha: f64,
}

/// How patches are painted.
struct Paint<'a> {
    /// Height and width of a patch in the model's input.
    patch: [usize; 2],
    /// Rows and columns of patches.
    grid: [usize; 2],
    /// The brightness of the grey picture under the colours, from 0 to 1.
    brightness: f64,
    /// The colour at a position `[y, x]` in the grid, in patches, and its share; the rest is the picture, in grey.
    colour: &'a dyn Fn([f64; 2]) -> ([f64; 3], f64),
    /// A patch to mark, `[row, column]`.
    mark: Option<[usize; 2]>,
}

impl Canvas {
    /// With the longest side as given, or chosen.
    ///
    /// # Errors
    /// If the canvas would be too large, or there is no memory for it.
    pub fn new(picture: &Picture, view: &View, longest: Option<usize>) -> Result<Self, Error> {
        let covered = view.covered(view.input());
        let lengths = view.picture().map(|side| side as f64);
        let origin = [0, 1].map(|axis| covered[axis].start.min(0.0));
        let extent = [0, 1].map(|axis| covered[axis].end.max(lengths[axis]) - origin[axis]);
        let most = extent[0].max(extent[1]);
        let wanted = longest.map_or(most.clamp(*LONGEST.start(), *LONGEST.end()), |longest| longest as f64);
        let size = lengths.map(|length| (length * wanted / most).round().max(1.0));
        let scale = [0, 1].map(|axis| size[axis] / lengths[axis]);
        let canvas = [0, 1].map(|axis| (extent[axis] * scale[axis]).round().max(size[axis]));
        if canvas[0] * canvas[1] > MOST_PIXELS {
            return Err(Error::TooLarge { size: canvas.map(|side| side as u64) });
        }
        let filter = if wanted >= most { FilterType::Nearest } else { FilterType::Triangle };
        let picture = imageops::resize(&rgb(picture)?, size[1] as u32, size[0] as u32, filter);
        Ok(Self { view: *view, picture, scale, origin, size: canvas.map(|side| side as u32) })
    }

    /// The picture without patches: what the model does not see is dimmed.
    pub fn plain(&self) -> RgbImage {
        let input = self.view.input();
        let mut image = self.draw(|base, at| {
            let at = self.view.to_input(at);
            let seen = (0..2).all(|axis| (0.0..input[axis] as f64).contains(&at[axis]));
            if seen { base } else { dimmed(base) }
        });
        self.outline(&mut image, &self.view.covered(input));
        image
    }

    /// An attention map over the picture, \[rows, columns\] of patches, in [`inferno`]'s colours from its least to its
    /// largest value. A patch `[row, column]` may be marked.
    pub fn heat(&self, map: &[f64], patches: &Patches, mark: Option<[usize; 2]>) -> RgbImage {
        let Patches { patch, grid, smooth, alpha } = *patches;
        let [least, most] = range(map);
        let share = |x: f64| if most > least { (x - least) / (most - least) } else { 0.0 };
        let colour = |at: [f64; 2]| (inferno(share(sample(map, grid, at, smooth))), alpha);
        self.painted(&Paint { patch, grid, brightness: 1.0, colour: &colour, mark })
    }

    /// Colours of patches over the picture, \[rows, columns\] of red, green and blue from 0 to 1; without a colour it is
    /// background.
    pub fn colours(&self, colours: &[Option<[f64; 3]>], patches: &Patches) -> RgbImage {
        let Patches { patch, grid, smooth, alpha } = *patches;
        // Weighted by the mask, so that the background's colour is in no mixture.
        let mask: Vec<f64> = colours.iter().map(|colour| f64::from(u8::from(colour.is_some()))).collect();
        let channels = [0, 1, 2].map(|i| -> Vec<f64> {
            colours.iter().map(|colour| colour.map_or(0.0, |colour| 30.0 + 225.0 * colour[i])).collect()
        });
        let colour = |at: [f64; 2]| {
            let share = sample(&mask, grid, at, smooth);
            let colour = [0, 1, 2].map(|i| sample(&channels[i], grid, at, smooth) / share.max(1e-9));
            (colour, alpha * share)
        };
        self.painted(&Paint { patch, grid, brightness: 0.3, colour: &colour, mark: None })
    }

    /// The picture under its patches. What the model does not see is dimmed and outlined, what was padded is hatched.
    fn painted(&self, paint: &Paint<'_>) -> RgbImage {
        let Paint { patch, grid, brightness, .. } = *paint;
        let of_input = [0, 1].map(|axis| patch[axis] * grid[axis]);
        let mut image = self.draw(|base, at| {
            let input = self.view.to_input(at);
            let inside = (0..2).all(|axis| (0.0..of_input[axis] as f64).contains(&input[axis]));
            if !inside {
                return dimmed(base);
            }
            let (colour, alpha) = (paint.colour)([0, 1].map(|axis| input[axis] / patch[axis] as f64));
            let grey = luma(base) * brightness;
            colour.map(|colour| alpha * colour + (1.0 - alpha) * grey)
        });
        self.outline(&mut image, &self.view.covered(of_input));
        if let Some(cell) = paint.mark {
            let corner =
                |plus: usize| self.view.to_picture([0, 1].map(|axis| ((cell[axis] + plus) * patch[axis]) as f64));
            let (first, last) = (corner(0), corner(1));
            self.frame(&mut image, &[first[0]..last[0], first[1]..last[1]], true);
        }
        image
    }

    /// Every pixel from the picture's colour, or hatching, and the position in the picture.
    fn draw(&self, colour: impl Fn([f64; 3], [f64; 2]) -> [f64; 3]) -> RgbImage {
        RgbImage::from_fn(self.size[1], self.size[0], |x, y| {
            let scaled = [y, x].map(|i| f64::from(i) + 0.5);
            let at = [0, 1].map(|axis| scaled[axis] / self.scale[axis] + self.origin[axis]);
            let pixel = [0, 1].map(|axis| (at[axis] * self.scale[axis]).floor());
            let inside = pixel[0] >= 0.0
                && pixel[1] >= 0.0
                && pixel[0] < f64::from(self.picture.height())
                && pixel[1] < f64::from(self.picture.width());
            let base = if inside {
                self.picture.get_pixel(pixel[1] as u32, pixel[0] as u32).0.map(f64::from)
            } else {
                [if (x + y) / 4 % 2 == 0 { 50.0 } else { 80.0 }; 3]
            };
            Rgb(colour(base, at).map(|x| x.round().clamp(0.0, 255.0) as u8))
        })
    }

    /// The outline of what the model sees, if it does not see the whole picture.
    fn outline(&self, image: &mut RgbImage, seen: &[std::ops::Range<f64>; 2]) {
        let whole = self.view.picture();
        let all = (0..2).all(|axis| seen[axis].start < 0.5 && seen[axis].end > whole[axis] as f64 - 0.5);
        if !all {
            self.frame(image, seen, false);
        }
    }

    /// A white frame inside a rectangle, which is in the picture's pixels; with a black one around it if it is a mark.
    fn frame(&self, image: &mut RgbImage, rectangle: &[std::ops::Range<f64>; 2], mark: bool) {
        let limit = [image.height(), image.width()].map(i64::from);
        let edge = |axis: usize, at: f64| ((at - self.origin[axis]) * self.scale[axis]).round() as i64;
        let [top, left] = [0, 1].map(|axis| edge(axis, rectangle[axis].start));
        let [bottom, right] =
            [0, 1].map(|axis| edge(axis, rectangle[axis].end).max(edge(axis, rectangle[axis].start) + 1));
        let mut draw = |out: i64, colour: Rgb<u8>| {
            let (top, left, bottom, right) = (top - out, left - out, bottom + out, right + out);
            let mut put = |y: i64, x: i64| {
                if (0..limit[0]).contains(&y) && (0..limit[1]).contains(&x) {
                    image.put_pixel(x as u32, y as u32, colour);
                }
            };
            for x in left..right {
                put(top, x);
                put(bottom - 1, x);
            }
            for y in top..bottom {
                put(y, left);
                put(y, right - 1);
            }
        };
        let (white, black) = (Rgb([255; 3]), Rgb([0; 3]));
        draw(0, white);
        draw(-1, if mark { white } else { black });
        if mark {
            draw(1, black);
            draw(-2, black);
        }
    }
}

fn rgb(picture: &Picture) -> Result<RgbImage, Error> {
    let [height, width] = [0, 1].map(|axis| picture.size()[axis] as u32);
    let bytes = height as usize * width as usize * 3;
    let mut samples = Vec::new();
    samples.try_reserve_exact(bytes).map_err(|_| Error::OutOfMemory { bytes })?;
    match picture.channels() {
        1 => samples.extend(picture.samples().iter().flat_map(|x| [*x; 3])),
        _ => samples.extend_from_slice(picture.samples()),
    }
    Ok(RgbImage::from_raw(width, height, samples).expect("a picture has height × width × channels samples"))
}

/// The least and the largest value of a map.
pub fn range(map: &[f64]) -> [f64; 2] {
    map.iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[least, most], x| [least.min(*x), most.max(*x)])
}

fn luma([r, g, b]: [f64; 3]) -> f64 {
    0.299 * r + 0.587 * g + 0.114 * b
}

/// Grey and dark: outside of what the model sees.
fn dimmed(base: [f64; 3]) -> [f64; 3] {
    [0.4 * luma(base); 3]
}

/// The value at a position `[y, x]` in a grid of values, \[rows, columns\], each of which stands at the centre of its
/// patch: bilinear in between, or that of the patch.
fn sample(values: &[f64], grid: [usize; 2], at: [f64; 2], smooth: bool) -> f64 {
    let last = grid.map(|side| side.saturating_sub(1) as f64);
    if !smooth {
        let [row, column] = [0, 1].map(|axis| at[axis].floor().clamp(0.0, last[axis]) as usize);
        return values[row * grid[1] + column];
    }
    let at = [0, 1].map(|axis| (at[axis] - 0.5).clamp(0.0, last[axis]));
    let first = at.map(|x| x.floor() as usize);
    let share = [0, 1].map(|axis| at[axis] - first[axis] as f64);
    let second = [0, 1].map(|axis| (first[axis] + 1).min(grid[axis] - 1));
    let value = |row: usize, column: usize| values[row * grid[1] + column];
    let row = |row: usize| value(row, first[1]) * (1.0 - share[1]) + value(row, second[1]) * share[1];
    row(first[0]) * (1.0 - share[0]) + row(second[0]) * share[0]
}

#[cfg(test)]
mod tests {
    use vit_image::{Arithmetic, Crop, Filter, Preprocessing, Resize, Rounding, Target};

    use super::*;

    fn view(to: Target, crop: [usize; 2], picture: [usize; 2]) -> View {
        let preprocessing = Preprocessing {
            resize: Some(Resize { to, filter: Filter::Bicubic }),
            crop: Some(Crop { size: crop, cuts: Rounding::Down, pads: Rounding::Down, fill: vec![0] }),
            crop_pct: None,
            rescale: 1.0 / 255.0,
            mean: vec![0.5],
            std: vec![0.5],
            pad: None,
            arithmetic: Arithmetic::Bytes,
        };
        preprocessing.view(picture).unwrap()
    }

    /// One painted patch of four, at full strength: where it begins and ends on the canvas, in a grey picture.
    fn box_of_patch(to: Target, size: [usize; 2], index: usize) -> [std::ops::Range<u32>; 2] {
        let picture = Picture::new(size, 1, vec![100; size[0] * size[1]]).unwrap();
        let canvas = Canvas::new(&picture, &view(to, [32, 32], size), Some(size[0].max(size[1]) * 10)).unwrap();
        let colour = |at: [f64; 2]| {
            let here = at[0] as usize * 2 + at[1] as usize == index;
            ([if here { 255.0 } else { 0.0 }, 0.0, 0.0], 1.0)
        };
        let paint = Paint { patch: [16, 16], grid: [2, 2], brightness: 1.0, colour: &colour, mark: None };
        let image = canvas.painted(&paint);
        let red = image.enumerate_pixels().filter(|(_, _, pixel)| pixel.0 == [255, 0, 0]);
        let none = std::ops::Range { start: u32::MAX, end: 0 };
        let (mut rows, mut columns) = (none.clone(), none);
        for (x, y, _) in red {
            rows = rows.start.min(y)..rows.end.max(y + 1);
            columns = columns.start.min(x)..columns.end.max(x + 1);
        }
        [rows, columns]
    }

    /// 64 × 128 at 10 pixels each, resized to half and cropped to its centre: patches are 32 pixels of the picture, the
    /// crop begins at its column 32. Two pixels along the crop are outline.
    #[test]
    fn patches_of_a_crop_are_where_they_were() {
        let shortest = Target::Shortest { edge: 32, limit: None };
        assert_eq!(box_of_patch(shortest, [64, 128], 0), [2..320, 322..640]);
        assert_eq!(box_of_patch(shortest, [64, 128], 3), [320..638, 640..958]);
    }

    /// 32 × 64 pixels squashed to 32 × 32.
    #[test]
    fn patches_of_a_squashed_picture() {
        assert_eq!(box_of_patch(Target::Exact([32, 32]), [32, 64], 1), [0..160, 320..640]);
    }

    /// 32 × 64 padded: the canvas is 64 × 64, of which the picture is the middle half.
    #[test]
    fn patches_of_a_padded_picture_reach_beyond_it() {
        let [rows, columns] = box_of_patch(Target::Contain([32, 32]), [32, 64], 0);
        assert_eq!([rows, columns], [0..320, 0..320]);
    }

    #[test]
    fn values_between_patches() {
        let values = [0.0, 1.0, 2.0, 3.0];
        assert_eq!(sample(&values, [2, 2], [1.5, 0.5], true), 2.0);
        assert_eq!(sample(&values, [2, 2], [1.0, 1.0], true), 1.5);
        assert_eq!(sample(&values, [2, 2], [0.0, 0.0], true), 0.0);
        assert_eq!(sample(&values, [2, 2], [0.99, 1.0], false), 1.0);
        assert_eq!(sample(&[7.0], [1, 1], [0.9, 0.1], true), 7.0);
    }
}
