//! The description of how pictures become a model's input, whatever library it comes from.

/// From a decoded picture to a model's input.
///
/// The steps, in this order: [resize](Self::resize), [crop](Self::crop), [rescale](Self::rescale), normalise by
/// [mean](Self::mean) and [std](Self::std), [pad](Self::pad). [`Arithmetic::Floats`] moves rescaling to the front.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "config", derive(serde::Serialize))]
pub struct Preprocessing {
    /// How the picture is resized, if at all.
    pub resize: Option<Resize>,
    /// What is cut out of its centre, if anything is.
    pub crop: Option<Crop>,
    /// The crop's share of the resized side, where the source gives that instead of a size to resize to. [`Self::at`]
    /// computes other sizes from it.
    pub crop_pct: Option<f64>,
    /// What samples, 0 to 255, are multiplied by.
    pub rescale: f64,
    /// Then subtracted: a number for each channel, or one for all.
    pub mean: Vec<f32>,
    /// Then divided by: a number for each channel, or one for all.
    pub std: Vec<f32>,
    /// Height and width to which zeros are added below and to the right, at last.
    pub pad: Option<[usize; 2]>,
    /// What is resized: bytes, or numbers that are already rescaled.
    pub arithmetic: Arithmetic,
}

/// What is resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "config", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Arithmetic {
    /// 8-bit samples, rounded to 8 bits after each of two passes, in Pillow's order: the width first, except where the height
    /// shrinks by more than twice as many pixels.
    Bytes,
    /// Samples that were rescaled before, in f32. As torchvision does it with floating-point tensors.
    Floats,
}

/// How a picture is resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "config", derive(serde::Serialize))]
pub struct Resize {
    /// To which size.
    pub to: Target,
    /// With which filter.
    pub filter: Filter,
}

/// The size that a picture is resized to. Sizes are `[height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "config", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Target {
    /// This size, whatever the aspect ratio was.
    Exact([usize; 2]),
    /// The shorter side gets this length, and the other what keeps the aspect ratio, rounded down: torchvision's `Resize(n)`
    /// and transformers' `shortest_edge`.
    Shortest {
        /// Length of the shorter side.
        edge: usize,
        /// The longest that the other side may get: transformers' `longest_edge`.
        limit: Option<usize>,
    },
    /// The smallest of the same aspect ratio that covers this, rounded to even: timm's `ResizeKeepRatio`.
    Cover([usize; 2]),
    /// The largest of the same aspect ratio within this, rounded to even: timm's `ResizeKeepRatio(longest=1)`.
    Contain([usize; 2]),
    /// The same, rounded down: transformers' `max_height` and `max_width`.
    Within([usize; 2]),
}

impl Target {
    /// The variant's name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact(_) => "exact",
            Self::Shortest { .. } => "shortest",
            Self::Cover(_) => "cover",
            Self::Contain(_) => "contain",
            Self::Within(_) => "within",
        }
    }

    /// Height and width of what a square picture is resized to at most.
    pub const fn size(self) -> [usize; 2] {
        match self {
            Self::Shortest { edge, .. } => [edge, edge],
            Self::Exact(size) | Self::Cover(size) | Self::Contain(size) | Self::Within(size) => size,
        }
    }
}

/// A resampling filter, Pillow's of the same name. All but [`Nearest`](Self::Nearest) are widened when a picture gets
/// smaller (antialiasing).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "config", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// The mean of what a pixel covers.
    Box,
    /// Triangle.
    Bilinear,
    /// A Hamming window over one lobe of a sinc.
    Hamming,
    /// Cubic with a = −0.5.
    Bicubic,
    /// Three lobes.
    Lanczos,
}

impl Filter {
    /// Every filter, with the name that Pillow and timm have for it.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Nearest, "nearest"),
        (Self::Box, "box"),
        (Self::Bilinear, "bilinear"),
        (Self::Hamming, "hamming"),
        (Self::Bicubic, "bicubic"),
        (Self::Lanczos, "lanczos"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(filter, _)| *filter == self).map_or("", |(_, name)| name)
    }

    /// The filter of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(filter, _)| filter)
    }
}

/// What is cut out of the centre of a resized picture. Where the picture is smaller, it is padded on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "config", derive(serde::Serialize))]
pub struct Crop {
    /// Height and width.
    pub size: [usize; 2],
    /// How half of what is cut off is rounded: the pixels above, or to the left.
    pub cuts: Rounding,
    /// How half of what is added is rounded: the pixels above, or to the left.
    pub pads: Rounding,
    /// What is added: 8-bit levels, one for each channel or one for all.
    pub fill: Vec<u8>,
}

/// How a number that ends in ½ becomes a whole one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "config", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Rounding {
    /// To the lower.
    Down,
    /// To the higher.
    Up,
    /// To the even one.
    Even,
}

impl Rounding {
    /// Half of a length.
    pub fn half(self, length: usize) -> usize {
        match self {
            Self::Down => length / 2,
            Self::Up => length.div_ceil(2),
            Self::Even => length / 2 + usize::from(length % 4 == 3),
        }
    }
}

impl Preprocessing {
    /// The longest side that a description may ask for.
    pub const LONGEST_SIDE: usize = 1 << 16;

    /// Whether every number is one that pictures can be prepared with.
    pub fn is_valid(&self) -> bool {
        self.check().is_ok()
    }

    /// The first field with a number that it cannot have.
    pub(crate) fn check(&self) -> Result<(), crate::Error> {
        let Self { resize, crop, crop_pct, rescale, mean, std, pad, arithmetic: _ } = self;
        let sides = |sizes: &[usize]| sizes.iter().all(|side| (1..=Self::LONGEST_SIDE).contains(side));
        let resizes = resize.is_none_or(|resize| match resize.to {
            Target::Exact(size) | Target::Cover(size) | Target::Contain(size) | Target::Within(size) => sides(&size),
            Target::Shortest { edge, limit } => sides(&[edge, limit.unwrap_or(edge)]),
        });
        let crops = crop.as_ref().is_none_or(|crop| sides(&crop.size) && !crop.fill.is_empty());
        let normalises = !mean.is_empty()
            && (mean.len() == std.len() || mean.len() == 1 || std.len() == 1)
            && !std.is_empty()
            && mean.iter().chain(std).all(|x| x.is_finite())
            && std.iter().all(|x| *x > 0.0);
        for (valid, field) in [
            (resizes, "size"),
            (crops, "crop"),
            (crop_pct.is_none_or(|share| (0.01..=100.0).contains(&share)), "crop_pct"),
            (rescale.is_finite() && *rescale > 0.0 && *rescale <= 1e6, "rescale factor"),
            (normalises, "mean or std"),
            (pad.is_none_or(|pad| sides(&pad)), "pad size"),
        ] {
            if !valid {
                return Err(crate::Error::Description(field));
            }
        }
        Ok(())
    }

    /// Whether it is for pictures with that many channels.
    pub fn fits(&self, channels: usize) -> bool {
        let fill = self.crop.as_ref().map_or(1, |crop| crop.fill.len());
        [self.mean.len(), self.std.len(), fill].iter().all(|len| *len == 1 || *len == channels)
    }

    /// The same for outputs of another size, `[height, width]`: the crop gets that size, and what is resized to keeps its
    /// ratio to the crop, rounded down. Without a crop, the picture is resized to that size.
    #[must_use]
    pub fn at(&self, size: [usize; 2]) -> Self {
        let mut other = self.clone();
        let before =
            self.pad.or(self.crop.as_ref().map(|crop| crop.size)).or(self.resize.map(|resize| resize.to.size()));
        let Some(before) = before else {
            other.resize = Some(Resize { to: Target::Exact(size), filter: Filter::Bicubic });
            return other;
        };
        // ⌊length · size / before⌋ along an axis.
        let scaled = |axis: usize, length: usize| (length * size[axis]).checked_div(before[axis]).unwrap_or(0).max(1);
        let crops_all = self.pad.is_none() && self.crop.is_some();
        let resized = |axis: usize, length: usize| match self.crop_pct.filter(|_| crops_all) {
            Some(share) => (size[axis] as f64 / share).floor() as usize,
            None => scaled(axis, length),
        };
        if let Some(Resize { to, .. }) = &mut other.resize {
            let both = |[height, width]: [usize; 2]| [resized(0, height), resized(1, width)];
            *to = match *to {
                Target::Exact(size) => Target::Exact(both(size)),
                Target::Cover(size) => Target::Cover(both(size)),
                Target::Contain(size) => Target::Contain(both(size)),
                Target::Within(size) => Target::Within(both(size)),
                Target::Shortest { edge, limit } => {
                    let [height, width] = both([edge, edge]);
                    // One length says nothing about a rectangle.
                    if size[0] != size[1] {
                        Target::Cover([height, width])
                    } else {
                        Target::Shortest { edge: height, limit: limit.map(|limit| scaled(0, limit)) }
                    }
                }
            };
        }
        if let Some(crop) = &mut other.crop {
            crop.size = [scaled(0, crop.size[0]), scaled(1, crop.size[1])];
        }
        if let Some(pad) = &mut other.pad {
            *pad = size;
        }
        other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves() {
        let halves = |rounding: Rounding| [0, 1, 2, 3, 4, 5, 6, 7, 8].map(|length| rounding.half(length));
        assert_eq!(halves(Rounding::Down), [0, 0, 1, 1, 2, 2, 3, 3, 4]);
        assert_eq!(halves(Rounding::Up), [0, 1, 1, 2, 2, 3, 3, 4, 4]);
        // Python's round(): 0.5 → 0, 1.5 → 2, 2.5 → 2, 3.5 → 4.
        assert_eq!(halves(Rounding::Even), [0, 0, 1, 2, 2, 2, 3, 4, 4]);
    }

    fn square(resize: Target, crop: Option<usize>, crop_pct: Option<f64>) -> Preprocessing {
        let (cuts, pads) = (Rounding::Down, Rounding::Up);
        Preprocessing {
            resize: Some(Resize { to: resize, filter: Filter::Bicubic }),
            crop: crop.map(|side| Crop { size: [side, side], cuts, pads, fill: vec![0] }),
            crop_pct,
            rescale: 1.0 / 255.0,
            mean: vec![0.5],
            std: vec![0.5],
            pad: None,
            arithmetic: Arithmetic::Bytes,
        }
    }

    /// 256 : 224, at 384: 438.86 rounded down.
    #[test]
    fn other_sizes_keep_the_ratio() {
        let shortest = Target::Shortest { edge: 256, limit: None };
        let at = square(shortest, Some(224), None).at([384, 384]);
        assert_eq!(at.resize.unwrap().to, Target::Shortest { edge: 438, limit: None });
        assert_eq!(at.crop.unwrap().size, [384, 384]);
        let at = square(shortest, Some(224), None).at([224, 448]);
        assert_eq!((at.resize.unwrap().to, at.crop.unwrap().size), (Target::Cover([256, 512]), [224, 448]));
        // ⌊384 / 0.9⌋, where ⌊224 / 0.9⌋ : 224 would give 425.
        let at = square(Target::Shortest { edge: 248, limit: None }, Some(224), Some(0.9)).at([384, 384]);
        assert_eq!(at.resize.unwrap().to, Target::Shortest { edge: 426, limit: None });
        let at = square(Target::Exact([224, 224]), None, None).at([96, 192]);
        assert_eq!((at.resize.unwrap().to, at.crop), (Target::Exact([96, 192]), None));
    }

    #[test]
    fn what_no_description_may_say() {
        let good = square(Target::Exact([224, 224]), Some(224), None);
        assert!(good.is_valid() && good.fits(1) && good.fits(3));
        let changed = |change: &dyn Fn(&mut Preprocessing)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad.is_valid()
        };
        assert!(!changed(&|p| p.std = vec![0.0]));
        assert!(!changed(&|p| p.mean = vec![f32::NAN]));
        assert!(!changed(&|p| p.mean = vec![]));
        assert!(!changed(&|p| (p.mean, p.std) = (vec![0.5; 3], vec![0.5; 2])));
        assert!(changed(&|p| p.mean = vec![0.5; 3]));
        assert!(!changed(&|p| p.rescale = f64::INFINITY));
        assert!(!changed(&|p| p.crop.as_mut().unwrap().size = [0, 224]));
        assert!(!changed(&|p| p.pad = Some([1 << 30, 1])));
        assert!(!changed(&|p| p.resize.as_mut().unwrap().to = Target::Shortest { edge: 0, limit: None }));
    }
}
