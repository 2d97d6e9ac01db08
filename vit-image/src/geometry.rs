//! Sizes and positions: which part of the resized picture goes where in the output.
use crate::description::{Preprocessing, Target};
use crate::error::Error;

impl Preprocessing {
    /// The most pixels of an output. More come only of a description without a crop.
    pub const LARGEST_OUTPUT: usize = 1 << 26;

    /// Height and width of what [`apply`](Self::apply) makes of a picture of that height and width.
    ///
    /// # Errors
    /// When the description is invalid, a side would have no pixels, the output would have more than
    /// [`LARGEST_OUTPUT`](Self::LARGEST_OUTPUT) pixels, or the picture is too large for its padding.
    pub fn output_size(&self, picture: [usize; 2]) -> Result<[usize; 2], Error> {
        let resized = self.resized(picture)?;
        let size = self.crop.as_ref().map_or(resized, |crop| crop.size);
        let output = match self.pad {
            Some(pad) if pad[0] < size[0] || pad[1] < size[1] => return Err(Error::Pad { from: size, to: pad }),
            Some(pad) => pad,
            None => size,
        };
        let limit = Self::LARGEST_OUTPUT as u64;
        match output[0].checked_mul(output[1]) {
            Some(pixels) if pixels <= Self::LARGEST_OUTPUT => Ok(output),
            _ => Err(Error::TooLarge { from: picture, to: output, limit }),
        }
    }

    /// Height and width of every output, if they do not depend on the picture.
    pub fn fixed_size(&self) -> Option<[usize; 2]> {
        let exact = self.resize.and_then(|resize| if let Target::Exact(size) = resize.to { Some(size) } else { None });
        self.pad.or(self.crop.as_ref().map(|crop| crop.size)).or(exact)
    }

    /// Height and width that a picture of `picture` is resized to, before the crop.
    pub(crate) fn resized(&self, picture: [usize; 2]) -> Result<[usize; 2], Error> {
        self.check()?;
        if picture.contains(&0) {
            return Err(Error::Empty);
        }
        let size = self.resize.map_or(picture, |resize| resize.to.of(picture));
        if size.contains(&0) { Err(Error::NoPixels { from: picture, to: size }) } else { Ok(size) }
    }

    /// What the crop takes of a resized picture, along height and width.
    pub(crate) fn windows(&self, resized: [usize; 2]) -> [Window; 2] {
        [0, 1].map(|axis| {
            let len = resized[axis];
            match &self.crop {
                Some(crop) if crop.size[axis] > len => {
                    let before = crop.pads.half(crop.size[axis] - len);
                    Window { start: 0, len, before, out: crop.size[axis] }
                }
                Some(crop) => {
                    let out = crop.size[axis];
                    Window { start: crop.cuts.half(len - out), len: out, before: 0, out }
                }
                None => Window { start: 0, len, before: 0, out: len },
            }
        })
    }
}

/// What a crop takes along an axis, and where it puts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// The first pixel that is taken.
    pub(crate) start: usize,
    /// How many are.
    pub(crate) len: usize,
    /// Pixels that are filled before them.
    pub(crate) before: usize,
    /// Pixels in all.
    pub(crate) out: usize,
}

impl Target {
    /// Height and width for a picture of that height and width, which are not 0. The operations and their order are those of
    /// the sources, whose f64 they have to agree with.
    fn of(self, [height, width]: [usize; 2]) -> [usize; 2] {
        let [h, w] = [height as f64, width as f64];
        match self {
            Self::Exact(size) => size,
            Self::Shortest { edge, limit: None } => {
                // Exact up to 2⁵³: an edge has at most 17 bits, a side 32.
                let other = |long: usize, short: usize| ((edge * long) as f64 / short as f64) as usize;
                if width <= height { [other(height, width), edge] } else { [edge, other(width, height)] }
            }
            Self::Shortest { edge, limit: Some(limit) } => {
                let (short, long) = (h.min(w), h.max(w));
                let limited = long / short * edge as f64 > limit as f64;
                let raw = if limited { limit as f64 * short / long } else { edge as f64 };
                let edge = if limited { raw.round_ties_even() as usize } else { edge };
                if height.min(width) == edge {
                    [height, width]
                } else if width < height {
                    [(raw * h / w) as usize, edge]
                } else {
                    [edge, (raw * w / h) as usize]
                }
            }
            Self::Cover([to_h, to_w]) => {
                let ratio = (h / to_h as f64).min(w / to_w as f64);
                [h, w].map(|side| (side / ratio).round_ties_even() as usize)
            }
            Self::Contain([to_h, to_w]) => {
                let ratio = (h / to_h as f64).max(w / to_w as f64);
                [h, w].map(|side| (side / ratio).round_ties_even() as usize)
            }
            Self::Within([to_h, to_w]) => {
                let scale = (to_h as f64 / h).min(to_w as f64 / w);
                [h, w].map(|side| (side * scale) as usize)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with the functions of torchvision 0.29, timm 1.0 and transformers 5.24 that the targets are named after.
    #[test]
    fn sizes_are_those_of_the_sources() {
        let shortest = |edge, limit| Target::Shortest { edge, limit };
        for (target, picture, size) in [
            (shortest(256, None), [300, 451], [256, 384]),
            (shortest(256, None), [451, 300], [384, 256]),
            (shortest(224, None), [427, 640], [224, 335]),
            (shortest(256, None), [1, 10_000], [256, 2_560_000]),
            (shortest(800, Some(1333)), [480, 640], [800, 1066]),
            (shortest(800, Some(1333)), [300, 1000], [400, 1333]),
            (shortest(800, Some(1333)), [1000, 300], [1333, 400]),
            (Target::Cover([248, 300]), [427, 640], [248, 372]),
            (Target::Cover([248, 300]), [640, 427], [450, 300]),
            (Target::Contain([224, 224]), [427, 640], [149, 224]),
            (Target::Contain([224, 224]), [1, 10_000], [0, 224]),
            (Target::Within([200, 500]), [100, 200], [200, 400]),
            (Target::Within([50, 50]), [100, 200], [25, 50]),
            (Target::Exact([24, 40]), [7, 9], [24, 40]),
        ] {
            assert_eq!(target.of(picture), size, "{target:?} of {picture:?}");
        }
    }
}
