//! Position embeddings for other image sizes, resampled as in the checkpoint's original code.
//!
//! Both filters are separable. They agree with `torch.nn.functional.interpolate` up to rounding.
use core::ops::Range;

use crate::config::Config;
use crate::memory::OutOfMemory;
use crate::weights::Values;

/// How positions change with the image size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherSizes {
    /// How learned positions are resampled; `None` if other sizes are not supported.
    pub filter: Option<Filter>,
    /// Whether the image size must be a multiple of the patch. If not, the remaining pixels are ignored.
    pub whole_patches: bool,
    /// Whether a grid with the same number of patches keeps its positions, whatever its shape.
    pub by_count: bool,
    /// Whether the grid of the checkpoint must be square.
    pub from_square: bool,
    /// Whether resampled positions are rounded to the dtype in which the checkpoint stores positions.
    pub rounded: bool,
}

impl OtherSizes {
    /// Only the size of the checkpoint.
    pub(super) const NONE: Self =
        Self { filter: None, whole_patches: true, by_count: false, from_square: false, rounded: false };
    /// Hugging Face: bicubic without antialiasing, from a square grid; remaining pixels are ignored.
    pub(super) const HF: Self =
        Self { filter: Some(Filter::Bicubic), whole_patches: false, from_square: true, ..Self::NONE };
    /// timm: bicubic with antialiasing, rounded to the dtype of the file; only whole patches.
    pub(super) const TIMM: Self = Self { filter: Some(Filter::BicubicAntialiased), rounded: true, ..Self::NONE };
}

/// A resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filter {
    /// `mode="bicubic", align_corners=False`: a = −0.75, four taps, indices clamped at the border.
    Bicubic,
    /// `mode="bicubic", antialias=True`: a = −0.5. When shrinking, the filter is as wide as the step. Weights are
    /// renormalised at the border.
    BicubicAntialiased,
}

/// Resamples the positions `table`, \[position_prefix + patches, dim\], from the grid of `own` to the grid of `other`.
/// Positions of tokens in front of the patches are unchanged.
///
/// # Errors
/// If the allocation fails. It needs 8 bytes × rows of the grid of `own` × columns of the grid of `other` × dim.
pub fn positions<'a>(
    filter: Filter,
    table: &'a [f32],
    own: &Config,
    other: &Config,
) -> Result<Resampled<'a>, OutOfMemory> {
    let dim = own.dim;
    let (prefix, patches) = table.split_at(own.position_prefix() * dim);
    let ([height, width], [new_height, new_width]) = (own.grid(), other.grid());
    let mut rows = zeros(height, new_width, dim)?;
    for (row, out) in patches.chunks_exact(width * dim).zip(rows.chunks_exact_mut(new_width * dim)) {
        for (x, out) in out.chunks_exact_mut(dim).enumerate() {
            for (from, weight) in Taps::new(filter, width, new_width, x) {
                out.iter_mut().zip(&row[from * dim..]).for_each(|(out, p)| *out += weight * f64::from(*p));
            }
        }
    }
    Ok(Resampled { filter, prefix, rows, dim, width: new_width, heights: [height, new_height] })
}

/// `height` × `width` × `dim` zeros.
fn zeros(height: usize, width: usize, dim: usize) -> Result<Vec<f64>, OutOfMemory> {
    let len = height.saturating_mul(width).saturating_mul(dim);
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(len).map_err(|_| OutOfMemory { bytes: len.saturating_mul(size_of::<f64>()) })?;
    zeros.resize(len, 0.0);
    Ok(zeros)
}

/// Positions for another grid. They are resampled along x at first, and along y while they are read; see [`positions`].
#[derive(Debug)]
pub struct Resampled<'a> {
    filter: Filter,
    prefix: &'a [f32], // [position_prefix, dim]
    rows: Vec<f64>,    // [own height, width, dim]
    dim: usize,
    width: usize,
    heights: [usize; 2],
}

impl Values for Resampled<'_> {
    fn read(&self, row: usize, start: usize, into: &mut [f32]) {
        let Self { dim, width, heights: [own, new], .. } = *self;
        let prefix = self.prefix.len() / dim;
        let Some(patch) = row.checked_sub(prefix) else {
            into.copy_from_slice(&self.prefix[row * dim + start..][..into.len()]);
            return;
        };
        let (y, x) = (patch / width, patch % width);
        // The sums are in f64, for a few columns at a time.
        let mut sums = [0.0f64; 256];
        for (index, into) in into.chunks_mut(sums.len()).enumerate() {
            let (start, sums) = (start + index * sums.len(), &mut sums[..into.len()]);
            sums.fill(0.0);
            for (from, weight) in Taps::new(self.filter, own, new, y) {
                let row = &self.rows[(from * width + x) * dim + start..];
                sums.iter_mut().zip(row).for_each(|(sum, p)| *sum += weight * p);
            }
            into.iter_mut().zip(sums).for_each(|(out, sum)| *out = *sum as f32);
        }
    }
}

/// The weights with which one of `to` samples is made of `from` samples.
struct Taps {
    filter: Filter,
    from: usize,
    centre: f64,
    /// The factor by which the filter is wider because of shrinking.
    stretch: f64,
    /// The sum of the weights, which each weight is divided by.
    sum: f64,
    next: Range<i64>,
}

impl Taps {
    /// The weights of sample `i`.
    fn new(filter: Filter, from: usize, to: usize, i: usize) -> Self {
        // torch computes the step in f32.
        let step = f64::from(from as f32 / to as f32);
        let (centre, stretch, next) = match filter {
            Filter::Bicubic => {
                let centre = step * (i as f64 + 0.5) - 0.5;
                let first = centre.floor() as i64;
                (centre, 1.0, first - 1..first + 3)
            }
            Filter::BicubicAntialiased => {
                let (centre, stretch) = (step * (i as f64 + 0.5), step.max(1.0));
                let start = (centre - 2.0 * stretch + 0.5).max(0.0) as i64;
                let end = ((centre + 2.0 * stretch + 0.5) as usize).min(from) as i64;
                (centre, stretch, start..end)
            }
        };
        let taps = Self { filter, from, centre, stretch, sum: 1.0, next };
        let sum = match filter {
            Filter::Bicubic => 1.0,
            Filter::BicubicAntialiased => taps.next.clone().map(|j| taps.weight(j)).sum(),
        };
        Self { sum, ..taps }
    }

    /// The weight of sample `j`, before the division by the sum.
    fn weight(&self, j: i64) -> f64 {
        match self.filter {
            Filter::Bicubic => {
                let first = self.centre.floor();
                cubic(self.centre - first - (j as f64 - first), -0.75)
            }
            Filter::BicubicAntialiased => cubic((j as f64 - self.centre + 0.5) / self.stretch, -0.5),
        }
    }
}

impl Iterator for Taps {
    type Item = (usize, f64);

    fn next(&mut self) -> Option<(usize, f64)> {
        let j = self.next.next()?;
        Some((j.clamp(0, self.from as i64 - 1) as usize, self.weight(j) / self.sum))
    }
}

/// Keys' cubic convolution kernel (1981, <https://doi.org/10.1109/TASSP.1981.1163711>).
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        a * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Positions;

    #[test]
    fn weights_sum_to_1_and_the_same_size_is_the_identity() {
        for filter in [Filter::Bicubic, Filter::BicubicAntialiased] {
            for (from, to) in [(1, 1), (1, 5), (5, 1), (14, 14), (14, 9), (7, 24), (37, 16)] {
                for i in 0..to {
                    let taps: Vec<_> = Taps::new(filter, from, to, i).collect();
                    let sum: f64 = taps.iter().map(|tap| tap.1).sum();
                    assert!((sum - 1.0).abs() < 1e-12 && taps.iter().all(|tap| tap.0 < from));
                    if from == to {
                        // At the border several taps have the same index.
                        assert!(taps.iter().all(|&(j, weight)| weight == 0.0 || i == j));
                    }
                }
            }
        }
    }

    /// A linear function is reproduced away from the border, and each axis is resampled along itself.
    #[test]
    fn a_plane_stays_one() {
        let own = Config { positions: Positions::All, ..Config::plain([40, 60], [5, 5], 1, 1, 1) };
        let other = own.with_image([80, 90]);
        let plane = |c: &Config, y: usize, x: usize| {
            let [height, width] = c.grid().map(|size| size as f32);
            3.0 * (y as f32 + 0.5) / height - 2.0 * (x as f32 + 0.5) / width
        };
        let grid = |c: &Config| -> Vec<f32> {
            let [height, width] = c.grid();
            let patches = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
            [7.0].into_iter().chain(patches.map(|(y, x)| plane(c, y, x))).collect()
        };
        // Keys' kernel reproduces linear functions only with a = −0.5.
        for (filter, bound) in [(Filter::Bicubic, 0.03), (Filter::BicubicAntialiased, 1e-5)] {
            let (table, want) = (grid(&own), grid(&other));
            let values = positions(filter, &table, &own, &other).unwrap();
            let mut got = vec![0.0; want.len()];
            got.iter_mut().enumerate().for_each(|(row, x)| values.read(row, 0, core::slice::from_mut(x)));
            assert_eq!(got[0], 7.0);
            for y in 5..11 {
                for x in 5..13 {
                    let at = 1 + y * 18 + x;
                    assert!((got[at] - want[at]).abs() < bound, "{filter:?} {y} {x}: {} not {}", got[at], want[at]);
                }
            }
        }
    }

    /// More columns than are summed at a time, read in several parts.
    #[test]
    fn any_part_of_a_row() {
        let own = Config { positions: Positions::Patches, ..Config::plain([3, 2], [1, 1], 600, 1, 1) };
        let table: Vec<f32> = (0..own.patches() * own.dim).map(|i| (i as f32 * 0.37).sin()).collect();
        let values = positions(Filter::Bicubic, &table, &own, &own.with_image([5, 4])).unwrap();
        let mut row = vec![0.0; 600];
        values.read(13, 0, &mut row);
        for (start, len) in [(0, 1), (255, 2), (256, 256), (599, 1), (100, 500)] {
            let mut part = vec![0.0; len];
            values.read(13, start, &mut part);
            assert_eq!(part, row[start..start + len]);
        }
    }

    #[test]
    fn memory_that_there_is_not() {
        let own = Config { positions: Positions::Patches, ..Config::plain([1, 1], [1, 1], 4, 1, 1) };
        let other = |width: usize| own.with_image([1, width]);
        let bytes = |width| positions(Filter::Bicubic, &[0.0; 4], &own, &other(width)).unwrap_err().bytes;
        assert_eq!(bytes(1 << 56), 1 << 61);
        assert_eq!(bytes(usize::MAX), usize::MAX);
    }
}
