//! Pillow's own arithmetic of a resizing pass over bytes (`Resample.c`): weights as integers with 22 fractional bits.
//!
//! The resizing library computes a pass in f32. Where that lies too near to the middle between two bytes to be sure of
//! Pillow's rounding, the sample is computed again as Pillow does it. So all samples have Pillow's bits.
use std::f64::consts::PI;

use crate::description::Filter;

const BITS: u32 = 22;

/// The weights of a pass along one side.
pub(crate) struct Weights {
    /// For each pixel of the output: the first pixel of the input, and where its weights begin and end.
    pixels: Vec<(usize, std::ops::Range<usize>)>,
    weights: Vec<i64>,
    /// How near to the middle between two bytes an f32 may be wrong.
    margin: f32,
}

impl Weights {
    /// For `after` pixels of the part of a side of `before` pixels that starts at `start` and is `len` long.
    pub(crate) fn new(filter: Filter, before: usize, (start, len): (f64, f64), after: usize) -> Self {
        let scale = len / after as f64;
        let widened = scale.max(1.0);
        let support = support(filter) * widened;
        let (mut pixels, mut weights, mut longest) = (Vec::with_capacity(after), Vec::new(), 0);
        for pixel in 0..after {
            let centre = start + (pixel as f64 + 0.5) * scale;
            // Casts to integers cut, and end at 0.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(before).max(first);
            let weight = |x: usize| value(filter, (x as f64 - centre + 0.5) * (1.0 / widened));
            let sum: f64 = (first..end).map(weight).sum();
            let begin = weights.len();
            weights.extend((first..end).map(|x| {
                let weight = if sum == 0.0 { weight(x) } else { weight(x) / sum };
                (weight * f64::from(1 << BITS) + if weight < 0.0 { -0.5 } else { 0.5 }) as i64
            }));
            longest = longest.max(end - first);
            pixels.push((first, begin..weights.len()));
        }
        // Half a unit of rounding for each weight here, and as much for each term of a sum in f32. The box filter's weights
        // jump, and the library's may do so elsewhere.
        let margin = if filter == Filter::Box { 1.0 } else { 1e-3 + longest as f32 * 255.0 / (1 << BITS) as f32 };
        Self { pixels, weights, margin }
    }

    /// A sample, of what f32 makes of it. `input` gives the samples along the side.
    pub(crate) fn sample(&self, pixel: usize, x: f32, input: impl Fn(usize) -> u8) -> u8 {
        if (x - x.floor() - 0.5).abs() > self.margin {
            return (x + 0.5) as u8;
        }
        let (first, range) = &self.pixels[pixel];
        let weights = &self.weights[range.clone()];
        let half = 1i64 << (BITS - 1);
        let sum = weights.iter().enumerate().fold(half, |sum, (i, weight)| sum + weight * i64::from(input(first + i)));
        (sum >> BITS).clamp(0, 255) as u8
    }
}

/// Half of what a filter covers, in pixels of the smaller picture.
fn support(filter: Filter) -> f64 {
    match filter {
        Filter::Nearest | Filter::Box => 0.5,
        Filter::Bilinear | Filter::Hamming => 1.0,
        Filter::Bicubic => 2.0,
        Filter::Lanczos => 3.0,
    }
}

fn value(filter: Filter, x: f64) -> f64 {
    const A: f64 = -0.5;
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
    let distance = x.abs();
    match filter {
        Filter::Nearest | Filter::Box => f64::from(x > -0.5 && x <= 0.5),
        Filter::Bilinear => (1.0 - distance).max(0.0),
        Filter::Hamming if distance == 0.0 => 1.0,
        Filter::Hamming if distance >= 1.0 => 0.0,
        Filter::Hamming => sinc(distance) * (0.54 + 0.46 * (distance * PI).cos()),
        Filter::Bicubic if distance < 1.0 => ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0,
        Filter::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A,
        Filter::Bicubic => 0.0,
        Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
        Filter::Lanczos => 0.0,
    }
}
