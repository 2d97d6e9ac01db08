//! Position embeddings at other sizes of image, resampled as the checkpoint's own code does it.
//!
//! Both filters are separable and agree with `torch.nn.functional.interpolate` to rounding.
use crate::config::Config;

/// What happens to positions at other sizes of image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherSizes {
    /// How learned positions are resampled; `None` where other sizes are not supported.
    pub filter: Option<Filter>,
    /// Whether other sizes have to be whole patches. If not, what is left over is dropped.
    pub whole_patches: bool,
    /// Whether a grid of as many patches is taken for the same grid, whatever its shape.
    pub by_count: bool,
    /// Whether the checkpoint's own grid has to be square.
    pub from_square: bool,
    /// Whether what is resampled is rounded to the precision that the checkpoint stores positions in.
    pub rounded: bool,
}

impl OtherSizes {
    /// The checkpoint's own size and no other.
    pub(super) const NONE: Self =
        Self { filter: None, whole_patches: true, by_count: false, from_square: false, rounded: false };
    /// Hugging Face: bicubic without antialiasing, from a square grid; what is left over is dropped.
    pub(super) const HF: Self =
        Self { filter: Some(Filter::Bicubic), whole_patches: false, from_square: true, ..Self::NONE };
    /// timm: antialiased, in the precision of the file; whole patches alone.
    pub(super) const TIMM: Self = Self { filter: Some(Filter::BicubicAntialiased), rounded: true, ..Self::NONE };
}

/// A resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// `mode="bicubic", align_corners=False`: a = −0.75, four taps, indices clamped at the border.
    Bicubic,
    /// `mode="bicubic", antialias=True`: a = −0.5, the filter as wide as the step where that shrinks, renormalised at the
    /// border.
    BicubicAntialiased,
}

/// The positions of `own`'s grid, \[position_prefix + patches, dim\], for `other`'s. Those in front of the patches are left
/// alone.
pub fn positions(filter: Filter, table: &[f32], own: &Config, other: &Config) -> Vec<f32> {
    let dim = own.dim;
    let (prefix, patches) = table.split_at(own.position_prefix() * dim);
    let ([height, width], [new_height, new_width]) = (own.grid(), other.grid());
    if own.grid() == other.grid() {
        return table.to_vec();
    }
    let along_x = taps(filter, width, new_width);
    let along_y = taps(filter, height, new_height);
    // First along x: [height, new_width, dim].
    let mut rows = vec![0.0f64; height * new_width * dim];
    for (row, out) in patches.chunks_exact(width * dim).zip(rows.chunks_exact_mut(new_width * dim)) {
        for (taps, out) in along_x.iter().zip(out.chunks_exact_mut(dim)) {
            for &(x, weight) in taps {
                out.iter_mut().zip(&row[x * dim..]).for_each(|(out, p)| *out += weight * f64::from(*p));
            }
        }
    }
    let mut out = prefix.to_vec();
    out.reserve(new_height * new_width * dim);
    let mut sum = vec![0.0f64; new_width * dim];
    for taps in &along_y {
        sum.fill(0.0);
        for &(y, weight) in taps {
            sum.iter_mut().zip(&rows[y * new_width * dim..]).for_each(|(sum, p)| *sum += weight * p);
        }
        out.extend(sum.iter().map(|sum| *sum as f32));
    }
    out
}

/// For each of `to` places the places among `from` that it is made of, and their weights.
fn taps(filter: Filter, from: usize, to: usize) -> Vec<Vec<(usize, f64)>> {
    // torch computes the step in f32.
    let step = f64::from(from as f32 / to as f32);
    let place = |i: usize| match filter {
        Filter::Bicubic => {
            let centre = step * (i as f64 + 0.5) - 0.5;
            let first = centre.floor();
            let tap = |k: i64| {
                let index = (first as i64 + k).clamp(0, from as i64 - 1) as usize;
                (index, cubic(centre - first - k as f64, -0.75))
            };
            (-1..=2).map(tap).collect()
        }
        Filter::BicubicAntialiased => {
            let stretch = step.max(1.0);
            let centre = step * (i as f64 + 0.5);
            let start = (centre - 2.0 * stretch + 0.5).max(0.0) as usize;
            let end = ((centre + 2.0 * stretch + 0.5) as usize).min(from);
            let mut taps: Vec<_> =
                (start..end).map(|j| (j, cubic((j as f64 - centre + 0.5) / stretch, -0.5))).collect();
            let sum: f64 = taps.iter().map(|tap| tap.1).sum();
            taps.iter_mut().for_each(|tap| tap.1 /= sum);
            taps
        }
    };
    (0..to).map(place).collect()
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
                for (i, taps) in taps(filter, from, to).into_iter().enumerate() {
                    let sum: f64 = taps.iter().map(|tap| tap.1).sum();
                    assert!((sum - 1.0).abs() < 1e-12 && taps.iter().all(|tap| tap.0 < from));
                    if from == to {
                        // At the border taps coincide.
                        assert!(taps.iter().all(|&(j, weight)| weight == 0.0 || i == j));
                    }
                }
            }
        }
    }

    /// A plane is kept where no border is near, and its values grow along the right axis.
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
        // Keys' kernel reproduces lines with a = −0.5 alone.
        for (filter, bound) in [(Filter::Bicubic, 0.03), (Filter::BicubicAntialiased, 1e-5)] {
            let got = positions(filter, &grid(&own), &own, &other);
            let want = grid(&other);
            assert_eq!((got.len(), got[0]), (want.len(), 7.0));
            for y in 5..11 {
                for x in 5..13 {
                    let at = 1 + y * 18 + x;
                    assert!((got[at] - want[at]).abs() < bound, "{filter:?} {y} {x}: {} not {}", got[at], want[at]);
                }
            }
        }
    }
}
