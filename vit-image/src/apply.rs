//! Resizing, cropping, padding and normalising.
use std::ops::Range;

use bytemuck::{Pod, must_cast_slice, must_cast_slice_mut};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{F32, F32x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use crate::description::{Arithmetic, Filter, Preprocessing};
use crate::error::Error;
use crate::geometry::Window;
use crate::picture::Picture;
use crate::pillow::Weights;

impl Preprocessing {
    /// Makes a model's input of a picture: `out` is \[channels, height, width\] with height and width those of
    /// [`output_size`](Self::output_size).
    ///
    /// Resizing never makes more than `max_pixels` pixels, or 64 times those of the output, whichever is more: a very long
    /// picture is resized only where the crop needs it, whose f64 then differ in the last bits.
    ///
    /// # Errors
    /// When the description is invalid or for another number of channels, `out` has another length, or a size is too large
    /// or 0.
    pub fn apply(&self, picture: &Picture, max_pixels: u64, out: &mut [f32]) -> Result<(), Error> {
        let channels = picture.channels();
        let size = self.output_size(picture.size())?;
        if !self.fits(channels) {
            return Err(Error::Channels { mean: self.mean.len(), channels });
        }
        let expected = size[0].checked_mul(size[1]).and_then(|pixels| pixels.checked_mul(channels));
        if expected != Some(out.len()) {
            return Err(Error::Length { expected: expected.unwrap_or(usize::MAX), found: out.len() });
        }
        let resized = self.resized(picture.size())?;
        let windows = self.windows(resized);
        let sides = sides(picture.size(), resized, windows, max_pixels)?;
        let to = Placement { sides, windows, channels, width: size[1], plane: size[0] * size[1] };
        out.fill(0.0);
        match (self.arithmetic, channels) {
            (Arithmetic::Bytes, 1) => self.bytes::<F32>(picture, &to, out),
            (Arithmetic::Bytes, _) => self.bytes::<F32x3>(picture, &to, out),
            (Arithmetic::Floats, 1) => self.floats::<F32>(picture, &to, out),
            (Arithmetic::Floats, _) => self.floats::<F32x3>(picture, &to, out),
        }
    }

    /// The channel's mean and standard deviation, and what it is filled with.
    fn statistics(&self, channel: usize) -> (f32, f32, u8) {
        let of = |numbers: &[f32]| numbers.get(channel).or(numbers.first()).copied().unwrap_or(0.0);
        let fill = self.crop.as_ref().and_then(|crop| crop.fill.get(channel).or(crop.fill.first()));
        (of(&self.mean), of(&self.std), fill.copied().unwrap_or(0))
    }

    /// An 8-bit level, rescaled: in f64 and then rounded, as transformers does it.
    fn rescaled(&self, level: u8) -> f32 {
        (f64::from(level) * self.rescale) as f32
    }

    fn bytes<P: PixelTrait>(&self, picture: &Picture, to: &Placement, out: &mut [f32]) -> Result<(), Error> {
        let samples = self.resized_samples::<P, u8>(picture.samples(), to)?;
        let samples = samples.as_deref().unwrap_or(picture.samples());
        for channel in 0..to.channels {
            let (mean, std, fill) = self.statistics(channel);
            let levels: [f32; 256] = std::array::from_fn(|level| (self.rescaled(level as u8) - mean) / std);
            let level = |sample: u8| levels[usize::from(sample)];
            to.place(samples, channel, out, level(fill), level);
        }
        Ok(())
    }

    fn floats<P: PixelTrait>(&self, picture: &Picture, to: &Placement, out: &mut [f32]) -> Result<(), Error> {
        let mut rescaled: Vec<f32> = zeros(picture.samples().len())?;
        let levels: [f32; 256] = std::array::from_fn(|level| self.rescaled(level as u8));
        rescaled.iter_mut().zip(picture.samples()).for_each(|(x, sample)| *x = levels[usize::from(*sample)]);
        let samples = self.resized_samples::<P, f32>(&rescaled, to)?;
        let samples = samples.as_deref().unwrap_or(&rescaled);
        for channel in 0..to.channels {
            let (mean, std, fill) = self.statistics(channel);
            let normalised = |x: f32| (x - mean) / std;
            to.place(samples, channel, out, normalised(self.rescaled(fill)), normalised);
        }
        Ok(())
    }

    /// Resizes interleaved samples in two passes, each rounded to the samples' type. `None`: they stay as they are.
    fn resized_samples<P: PixelTrait, T: Sample>(
        &self,
        samples: &[T],
        to: &Placement,
    ) -> Result<Option<Vec<T>>, Error> {
        let Some(resize) = self.resize.filter(|_| to.sides.iter().any(|side| side.changes())) else { return Ok(None) };
        let [y, x] = to.sides;
        let Some(options) = options(resize.filter) else {
            return nearest(samples, [y, x], to.channels).map(Some);
        };
        let (first, second, axes) = match height_first([y, x]) {
            true => (y, x, [Axis::Height, Axis::Width]),
            false => (x, y, [Axis::Width, Axis::Height]),
        };
        let weights = |side: Side, source, before| Weights::new(resize.filter, before, source, side.len as usize);
        // The second pass needs a part of the other side only.
        let needed = second.needed();
        let lines = needed.end - needed.start;
        let channels = to.channels;
        let row = x.before as usize * channels;
        let mut between: Vec<T> = zeros(first.len as usize * lines as usize * channels)?;
        let source = first.source();
        let of_first = weights(first, source, first.before as usize);
        for strip in (needed.start..needed.end).step_by(STRIP as usize) {
            let count = STRIP.min(needed.end - strip);
            let place = (strip - needed.start) as usize * channels;
            let pass =
                |size| Pass { axis: axes[0], size, source, after: first.len, options: &options, weights: &of_first };
            if axes[0] == Axis::Width {
                let samples = &samples[strip as usize * row..][..count as usize * row];
                let resized = pass([x.before, count]).run::<P, T>(samples)?;
                between[place * x.len as usize..][..resized.len()].copy_from_slice(&resized);
            } else {
                let columns = strip as usize * channels..(strip + count) as usize * channels;
                let samples: Vec<T> =
                    samples.chunks_exact(row).flat_map(|row| &row[columns.clone()]).copied().collect();
                let resized = pass([count, y.before]).run::<P, T>(&samples)?;
                let rows = between.chunks_exact_mut(lines as usize * channels);
                let strips = resized.chunks_exact(columns.len());
                rows.zip(strips).for_each(|(row, strip)| row[place..][..strip.len()].copy_from_slice(strip));
            }
        }
        let (start, len) = second.source();
        let source = (start - f64::from(needed.start), len);
        let size = if axes[0] == Axis::Width { [x.len, lines] } else { [lines, y.len] };
        let weights = weights(second, source, lines as usize);
        let pass = Pass { axis: axes[1], size, source, after: second.len, options: &options, weights: &weights };
        pass.run::<P, T>(&between).map(Some)
    }
}

/// Rows or columns that the first pass takes at a time: few enough that they stay in a cache.
const STRIP: u32 = 32;

/// What samples are kept as between the passes, which are computed in f32.
trait Sample: Pod {
    /// As f32.
    fn to_f32(self) -> f32;

    /// What `pixel` of a pass is kept as; `x` is f32's result, `input` gives the samples along the side.
    fn kept(x: f32, weights: &Weights, pixel: usize, input: impl Fn(usize) -> Self) -> Self;
}

impl Sample for u8 {
    fn to_f32(self) -> f32 {
        self.into()
    }
    fn kept(x: f32, weights: &Weights, pixel: usize, input: impl Fn(usize) -> Self) -> Self {
        weights.sample(pixel, x, input)
    }
}

impl Sample for f32 {
    fn to_f32(self) -> f32 {
        self
    }
    fn kept(x: f32, _: &Weights, _: usize, _: impl Fn(usize) -> Self) -> Self {
        x
    }
}

/// One pass over a picture of `size`, \[width, height\]: `len` from `start` on of its width, or height, becomes `after`
/// pixels.
struct Pass<'a> {
    axis: Axis,
    size: [u32; 2],
    source: (f64, f64),
    after: u32,
    options: &'a ResizeOptions,
    weights: &'a Weights,
}

#[derive(Clone, Copy, PartialEq)]
enum Axis {
    Width,
    Height,
}

impl Pass<'_> {
    fn run<P: PixelTrait, T: Sample>(&self, samples: &[T]) -> Result<Vec<T>, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Resize(error.to_string());
        let channels = P::count_of_components();
        let [width, height] = self.size;
        let (start, len) = self.source;
        let (after, options) = match self.axis {
            Axis::Width => ([self.after, height], self.options.crop(start, 0.0, len, height.into())),
            Axis::Height => ([width, self.after], self.options.crop(0.0, start, width.into(), len)),
        };
        let mut from: Vec<f32> = zeros(samples.len())?;
        from.iter_mut().zip(samples).for_each(|(x, sample)| *x = sample.to_f32());
        let mut to: Vec<f32> = zeros(after[0] as usize * after[1] as usize * channels)?;
        let view = TypedImageRef::<P>::from_buffer(width, height, must_cast_slice(&from)).map_err(|e| failed(&e))?;
        let mut resized = TypedImage::<P>::from_buffer(after[0], after[1], must_cast_slice_mut(&mut to));
        let resized = resized.as_mut().map_err(|e| failed(e))?;
        Resizer::new().resize_typed(&view, resized, &options).map_err(|e| failed(&e))?;

        let row = width as usize * channels;
        let lines = to.chunks_exact(after[0] as usize * channels).enumerate();
        let mut kept = zeros(to.len())?;
        let out = kept.chunks_exact_mut(after[0] as usize * channels);
        for ((y, line), out) in lines.zip(out) {
            for (column, (x, kept)) in line.iter().zip(out).enumerate() {
                *kept = match self.axis {
                    Axis::Width => {
                        let first = y * row + column % channels;
                        T::kept(*x, self.weights, column / channels, |i| samples[first + i * channels])
                    }
                    Axis::Height => T::kept(*x, self.weights, y, |i| samples[i * row + column]),
                };
            }
        }
        Ok(kept)
    }
}

/// Whether the height is resized before the width: Pillow 13's rule, as its results show it; older ones always begin with the
/// width.
fn height_first([y, x]: [Side; 2]) -> bool {
    let less = |side: Side| (side.before as usize).saturating_sub(side.fitted);
    less(y) > 2 * less(x)
}

/// The library's filters. It has another nearest pixel.
fn options(filter: Filter) -> Option<ResizeOptions> {
    let filter = match filter {
        Filter::Nearest => return None,
        Filter::Box => FilterType::Box,
        Filter::Bilinear => FilterType::Bilinear,
        Filter::Hamming => FilterType::Hamming,
        Filter::Bicubic => FilterType::CatmullRom,
        Filter::Lanczos => FilterType::Lanczos3,
    };
    Some(ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false))
}

/// The nearest pixels. As in Pillow, positions are summed up, and what rounding makes of the sums decides between two pixels
/// that are equally near.
fn nearest<T: Pod>(samples: &[T], [y, x]: [Side; 2], channels: usize) -> Result<Vec<T>, Error> {
    let positions = |side: Side| {
        let scale = f64::from(side.before) / side.fitted as f64;
        let mut position = scale * 0.5;
        let positions = std::iter::repeat_with(move || {
            let pixel = (position as usize).min(side.before as usize - 1);
            position += scale;
            pixel
        });
        positions.skip(side.first).take(side.len as usize)
    };
    let columns: Vec<usize> = positions(x).collect();
    let mut resized = zeros(columns.len() * y.len as usize * channels)?;
    let lines = resized.chunks_exact_mut(columns.len() * channels);
    for (line, row) in lines.zip(positions(y)) {
        let row = &samples[row * x.before as usize * channels..][..x.before as usize * channels];
        for (pixel, column) in line.chunks_exact_mut(channels).zip(&columns) {
            pixel.copy_from_slice(&row[column * channels..][..channels]);
        }
    }
    Ok(resized)
}

/// `len` zeros, or an error where `vec!` would end the process.
fn zeros<T: Pod>(len: usize) -> Result<Vec<T>, Error> {
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })?;
    zeros.resize(len, T::zeroed());
    Ok(zeros)
}

/// Where the samples of a resized picture, or of the part of it that was computed, go in the output.
struct Placement {
    /// Height and width.
    sides: [Side; 2],
    windows: [Window; 2],
    channels: usize,
    /// The output's row, and its channel.
    width: usize,
    plane: usize,
}

impl Placement {
    /// Fills a channel of the output: the crop with `fill`, and what the picture has of it with `value` of its samples.
    fn place<T: Copy>(&self, samples: &[T], channel: usize, out: &mut [f32], fill: f32, value: impl Fn(T) -> f32) {
        let [y, x] = self.windows;
        let row_len = self.sides[1].len as usize;
        let [top, left] = [0, 1].map(|axis| self.windows[axis].start - self.sides[axis].first);
        let plane = &mut out[channel * self.plane..][..self.plane];
        // Below and to the right of the crop there is padding, which has its zeros.
        for (row, line) in plane.chunks_exact_mut(self.width).take(y.out).enumerate() {
            let line = &mut line[..x.out];
            let Some(from) = row.checked_sub(y.before).filter(|from| *from < y.len) else {
                line.fill(fill);
                continue;
            };
            line[..x.before].fill(fill);
            line[x.before + x.len..].fill(fill);
            let start = ((top + from) * row_len + left) * self.channels + channel;
            let samples = samples[start..].iter().step_by(self.channels);
            line[x.before..][..x.len].iter_mut().zip(samples).for_each(|(x, sample)| *x = value(*sample));
        }
    }
}

/// A picture's width or height, and what of it is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Side {
    /// Pixels of the picture.
    before: u32,
    /// Pixels that all of it is resized to.
    fitted: usize,
    /// The part of them that is computed: its first pixel.
    first: usize,
    /// And how many there are.
    len: u32,
}

/// Along height and width. All of a picture is resized, as the sources do it, unless that were far more than the crop
/// keeps; then only what the crop takes is.
fn sides(before: [usize; 2], resized: [usize; 2], windows: [Window; 2], max_pixels: u64) -> Result<[Side; 2], Error> {
    /// Times the crop's pixels: a picture whose one side is 49 times the other, at the usual crop_pct of 0.875.
    const TIMES: u64 = 64;
    let ordinary = windows.iter().fold(TIMES, |pixels, window| pixels.saturating_mul(window.out as u64));
    let pixels = |size: [usize; 2]| (size[0] as u64).saturating_mul(size[1] as u64);
    let same = before == resized;
    let whole = same || pixels(resized) <= ordinary;
    let side = |axis: usize| {
        let (fitted, Window { start, len, .. }) = (resized[axis], windows[axis]);
        let (first, len) = if whole { (0, fitted) } else { (start, len) };
        // Sides of pictures are u32, as `Picture::new` makes sure.
        Side { before: before[axis] as u32, fitted, first, len: u32::try_from(len).unwrap_or(u32::MAX) }
    };
    let [y, x] = [side(0), side(1)];
    let needed = |side: Side| (side.needed().end - side.needed().start) as usize;
    let between = if height_first([y, x]) { [y.len as usize, needed(x)] } else { [needed(y), x.len as usize] };
    for to in [between, [y.len as usize, x.len as usize]] {
        if pixels(to) > max_pixels.max(ordinary) && !same {
            return Err(Error::TooLarge { from: before, to, limit: max_pixels });
        }
    }
    Ok([y, x])
}

impl Side {
    /// Whether there is anything to compute.
    fn changes(self) -> bool {
        self.fitted != self.before as usize
    }

    /// What of the picture becomes the part that is computed: start and length.
    fn source(self) -> (f64, f64) {
        let before = f64::from(self.before);
        if self.len as usize == self.fitted {
            return (0.0, before);
        }
        let scale = before / self.fitted as f64;
        let start = (self.first as f64 * scale).min(before);
        (start, (f64::from(self.len) * scale).min(before - start))
    }

    /// The picture's pixels that the filter looks at.
    fn needed(self) -> Range<u32> {
        /// The widest filter, Lanczos, reaches as far to either side, and one more for what rounding does.
        const REACH: f64 = 4.0;
        let (start, len) = self.source();
        let reach = REACH * (f64::from(self.before) / self.fitted as f64).max(1.0);
        let first = (start - reach).floor().max(0.0) as u32;
        first..((start + len + reach).ceil() as u32).min(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::{Crop, Resize, Rounding, Target};

    fn shortest(edge: usize, crop: usize, filter: Filter) -> Preprocessing {
        let crop = Crop { size: [crop, crop], cuts: Rounding::Even, pads: Rounding::Down, fill: vec![0] };
        Preprocessing {
            resize: Some(Resize { to: Target::Shortest { edge, limit: None }, filter }),
            crop: Some(crop),
            crop_pct: None,
            rescale: 1.0 / 255.0,
            mean: vec![0.0],
            std: vec![1.0],
            pad: None,
            arithmetic: Arithmetic::Bytes,
        }
    }

    /// Noise of a linear congruential generator.
    fn picture(size: [usize; 2], channels: usize) -> Picture {
        let mut state = 5u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        Picture::new(size, channels, noise.take(size[0] * size[1] * channels).collect()).unwrap()
    }

    fn applied(how: &Preprocessing, picture: &Picture, max_pixels: u64) -> Result<Vec<f32>, Error> {
        let [height, width] = how.output_size(picture.size())?;
        let mut out = vec![f32::NAN; picture.channels() * height * width];
        how.apply(picture, max_pixels, &mut out)?;
        Ok(out)
    }

    /// What is computed of a part is what is computed of the whole, but for how f64 rounds.
    #[test]
    fn a_part_is_resized_like_the_whole() {
        let mut different = 0;
        // The box filter's weights jump, and where they do is a matter of the last bit.
        for (filter, _) in Filter::ALL.into_iter().filter(|(filter, _)| *filter != Filter::Box) {
            let how = shortest(32, 28, filter);
            for size in [[300, 20], [20, 300], [500, 40], [41, 505], [900, 70], [33, 50], [97, 33]] {
                let picture = picture(size, 1);
                let resized = how.resized(size).unwrap();
                let windows = how.windows(resized);
                let whole = sides(size, resized, windows, 1 << 20).unwrap();
                assert!(whole.iter().all(|side| side.len as usize == side.fitted));
                let part = [0, 1].map(|axis| Side { first: windows[axis].start, len: 28, ..whole[axis] });
                let [whole, part] = [whole, part].map(|sides| {
                    let to = Placement { sides, windows, channels: 1, width: 28, plane: 28 * 28 };
                    let mut out = vec![f32::NAN; 28 * 28];
                    how.bytes::<F32>(&picture, &to, &mut out).unwrap();
                    out.iter().map(|x| (x * 255.0).round() as u8).collect::<Vec<_>>()
                });
                assert!(whole.iter().zip(&part).all(|(a, b)| a.abs_diff(*b) <= 1), "{filter:?} {size:?}");
                different += whole.iter().zip(&part).filter(|(a, b)| a != b).count();
            }
        }
        assert!(different < 150, "{different} of {}", 5 * 7 * 28 * 28);
    }

    /// A picture of 20,000 pixels, which resized as a whole would be 20 million.
    #[test]
    fn long_pictures_take_no_more_memory_than_their_crop() {
        let how = shortest(32, 28, Filter::Bicubic);
        for size in [[1, 20_000], [20_000, 1], [7, 30_000], [30_000, 7]] {
            let resized = how.resized(size).unwrap();
            let [y, x] = sides(size, resized, how.windows(resized), 1).unwrap();
            assert_eq!([x.len, y.len], [28, 28]);
            let needed = if height_first([y, x]) { x.needed() } else { y.needed() };
            assert!(needed.end - needed.start <= 28 + 8, "{y:?} {x:?}");
            let out = applied(&how, &picture(size, 1), 1).unwrap();
            assert!(out.iter().all(|x| (0.0..=1.0).contains(x)));
        }
        // No side can be so long that its size is cut to 32 bits.
        assert_eq!(how.resized([1, u32::MAX as usize]).unwrap(), [32, 32 * u32::MAX as usize]);
        let mut how = how;
        // Without a crop, everything is kept.
        how.resize = Some(Resize { to: Target::Shortest { edge: 500, limit: None }, filter: Filter::Bicubic });
        how.crop = None;
        let error = applied(&how, &picture([1, 20_000], 3), 1 << 20);
        assert_eq!(error, Err(Error::TooLarge { from: [1, 20_000], to: [500, 10_000_000], limit: 1 << 26 }));
    }

    /// A picture smaller than its crop, and one to be padded below and to the right.
    #[test]
    fn padding() {
        let mut how = shortest(1, 5, Filter::Nearest);
        how.resize = None;
        how.crop.as_mut().unwrap().fill = vec![255];
        let two = Picture::new([2, 2], 1, vec![51, 102, 153, 204]).unwrap();
        // 3 pixels are missing, 1 before and 2 after.
        let (f, rest) = (1.0, [0.2, 0.4, 0.6, 0.8].map(|x: f32| x));
        let [a, b, c, d] = rest;
        let want = [f, f, f, f, f, f, a, b, f, f, f, c, d, f, f, f, f, f, f, f, f, f, f, f, f];
        assert_eq!(applied(&how, &two, 1).unwrap(), want);
        how.crop.as_mut().unwrap().pads = Rounding::Up;
        assert_eq!(applied(&how, &two, 1).unwrap()[12], a);
        how.crop = None;
        how.pad = Some([3, 4]);
        assert_eq!(applied(&how, &two, 1).unwrap(), [a, b, 0.0, 0.0, c, d, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        how.pad = Some([3, 1]);
        assert_eq!(applied(&how, &two, 1), Err(Error::Pad { from: [2, 2], to: [3, 1] }));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut how = shortest(32, 28, Filter::Bicubic);
        let mut out = vec![0.0; 27 * 28];
        let error = how.apply(&picture([40, 40], 1), 1 << 20, &mut out);
        assert_eq!(error, Err(Error::Length { expected: 28 * 28, found: 27 * 28 }));
        (how.mean, how.std) = (vec![0.5; 3], vec![0.5; 3]);
        assert_eq!(applied(&how, &picture([40, 40], 1), 1), Err(Error::Channels { mean: 3, channels: 1 }));
        how.resize = Some(Resize { to: Target::Contain([8, 8]), filter: Filter::Bicubic });
        let error = applied(&how, &picture([1, 100], 3), 1);
        assert_eq!(error, Err(Error::NoPixels { from: [1, 100], to: [0, 8] }));
        how.std = vec![0.0; 3];
        assert_eq!(applied(&how, &picture([40, 40], 3), 1), Err(Error::Description("mean or std")));
    }
}
