//! Patch features as colours by principal components, and the foreground among them, as DINOv2's paper shows it (Oquab
//! et al. 2023, <https://arxiv.org/abs/2304.07193>).
//!
//! 1. The first component of all patches tells foreground and background apart: a threshold on it chooses the
//!    foreground.
//! 2. The first three components of the foreground are its red, green and blue.
use nalgebra::{DMatrix, SymmetricEigen};

use crate::Error;

/// The share of the foreground's patches that are darker than black, and as many lighter than white, in each channel.
const CLIPPED: f64 = 0.01;

/// Principal components of rows of features.
pub struct Components {
    mean: Vec<f64>,
    /// Each \[dim\], of length 1, the largest variance first.
    directions: Vec<Vec<f64>>,
    /// The share of the variance that each has.
    pub shares: Vec<f64>,
}

impl Components {
    /// The first `count` principal components of `rows`, each of the same length. The sign is a convention: the element
    /// of the largest magnitude is positive, the first of several.
    ///
    /// # Errors
    /// If there are no rows, or they are not finite.
    pub fn of(rows: &[&[f32]], count: usize) -> Result<Self, Error> {
        let dim = rows.first().map_or(0, |row| row.len());
        if dim == 0 {
            return Err(Error::NoPatches);
        }
        if !rows.iter().all(|row| row.iter().all(|x| x.is_finite())) {
            return Err(Error::NotFinite);
        }
        let mut mean = vec![0.0; dim];
        for row in rows {
            mean.iter_mut().zip(*row).for_each(|(mean, x)| *mean += f64::from(*x) / rows.len() as f64);
        }
        let mut covariance = DMatrix::<f64>::zeros(dim, dim);
        // In groups, so that the centred rows take little memory.
        for group in rows.chunks(512) {
            let centred = DMatrix::from_fn(group.len(), dim, |i, j| f64::from(group[i][j]) - mean[j]);
            covariance.gemm(1.0 / rows.len() as f64, &centred.transpose(), &centred, 1.0);
        }
        let trace = covariance.trace();
        let eigen = SymmetricEigen::try_new(covariance, f64::EPSILON, 10_000).ok_or(Error::NoComponents)?;
        let mut order: Vec<usize> = (0..dim).collect();
        order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
        order.truncate(count);
        let directions = order.iter().map(|i| {
            let direction: Vec<f64> = eigen.eigenvectors.column(*i).iter().copied().collect();
            let largest = direction.iter().fold(0.0f64, |best, x| if x.abs() > best.abs() { *x } else { best });
            direction.into_iter().map(|x| x * largest.signum()).collect()
        });
        let share = |i: &usize| if trace > 0.0 { (eigen.eigenvalues[*i] / trace).max(0.0) } else { 0.0 };
        Ok(Self { directions: directions.collect(), shares: order.iter().map(share).collect(), mean })
    }

    /// The projection of a row on a component; 0 if there are fewer components.
    pub fn project(&self, row: &[f32], component: usize) -> f64 {
        let Some(direction) = self.directions.get(component) else { return 0.0 };
        let centred = row.iter().zip(&self.mean).map(|(x, mean)| f64::from(*x) - mean);
        centred.zip(direction).map(|(x, d)| x * d).sum()
    }
}

/// How the foreground is chosen.
#[derive(Clone, Copy)]
pub struct Foreground {
    /// Patches whose first component is above this many standard deviations are foreground.
    pub threshold: f64,
    /// Exchanges foreground and background.
    pub invert: bool,
    /// All patches are foreground.
    pub everything: bool,
}

/// A patch: its features, and whether it is at the border of its picture.
pub struct Patch<'a> {
    /// \[dim\]
    pub features: &'a [f32],
    /// Whether it is at the border.
    pub border: bool,
}

/// The colours of patches of several pictures.
pub struct Colours {
    /// Red, green and blue from 0 to 1; `None` for the background.
    pub of_patches: Vec<Option<[f64; 3]>>,
    /// The share of the foreground's variance that each of the three components has.
    pub shares: Vec<f64>,
}

/// Chooses the foreground and colours it, with the same components for all patches.
///
/// The side of the first component that is foreground is that which the border has less of: the mean of the border's
/// patches is background.
///
/// # Errors
/// If there are no patches, they are not finite, or none is foreground.
pub fn colours(patches: &[Patch<'_>], how: Foreground) -> Result<Colours, Error> {
    let rows: Vec<&[f32]> = patches.iter().map(|patch| patch.features).collect();
    let foreground = if how.everything {
        vec![true; patches.len()]
    } else {
        let all = Components::of(&rows, 1)?;
        let scores: Vec<f64> = rows.iter().map(|row| all.project(row, 0)).collect();
        let border: f64 = scores.iter().zip(patches).filter(|(_, patch)| patch.border).map(|(score, _)| score).sum();
        let sign = if (border > 0.0) == how.invert { 1.0 } else { -1.0 };
        let deviation = (scores.iter().map(|score| score * score).sum::<f64>() / scores.len() as f64).sqrt();
        scores.iter().map(|score| sign * score > how.threshold * deviation).collect()
    };
    let chosen: Vec<&[f32]> =
        rows.iter().zip(&foreground).filter(|(_, foreground)| **foreground).map(|(row, _)| *row).collect();
    if chosen.is_empty() {
        return Err(Error::NoForeground);
    }
    let components = Components::of(&chosen, 3)?;
    let ranges = [0, 1, 2].map(|i| range(chosen.iter().map(|row| components.project(row, i)).collect()));
    let colour = |row: &[f32]| {
        [0, 1, 2].map(|i| {
            let [low, high] = ranges[i];
            if high > low { ((components.project(row, i) - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 }
        })
    };
    let of_patches = rows.iter().zip(&foreground).map(|(row, foreground)| foreground.then(|| colour(row))).collect();
    Ok(Colours { of_patches, shares: components.shares })
}

/// The range of numbers without the [`CLIPPED`] at both ends.
fn range(mut numbers: Vec<f64>) -> [f64; 2] {
    numbers.sort_by(f64::total_cmp);
    let last = numbers.len() - 1;
    let cut = (last as f64 * CLIPPED).round() as usize;
    [numbers[cut], numbers[last - cut]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points on an ellipsoid of known axes.
    #[test]
    fn components_are_the_axes() {
        let axes = [[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, 1.0]];
        let points: Vec<Vec<f32>> = (0..60)
            .map(|i| {
                let t = f64::from(i) * std::f64::consts::TAU / 60.0;
                let along = [5.0 * t.cos(), 2.0 * t.sin(), (2.0 * t).cos()];
                (0..3).map(|j| (10.0 + (0..3).map(|a| along[a] * axes[a][j]).sum::<f64>()) as f32).collect()
            })
            .collect();
        let rows: Vec<&[f32]> = points.iter().map(Vec::as_slice).collect();
        let found = Components::of(&rows, 2).unwrap();
        for (direction, axis) in found.directions.iter().zip([[0.6, 0.8, 0.0], [0.8, -0.6, 0.0]]) {
            assert!(direction.iter().zip(axis).all(|(x, want)| (x - want).abs() < 1e-6), "{direction:?}");
        }
        // Variances 25/2, 4/2, 1/2.
        assert!((found.shares[0] - 25.0 / 30.0).abs() < 1e-6 && (found.shares[1] - 4.0 / 30.0).abs() < 1e-6);
        assert!((found.project(&[10.6, 10.8, 10.0], 0) - 1.0).abs() < 1e-5);
        assert!(Components::of(&[], 1).is_err() && Components::of(&[&[f32::NAN]], 1).is_err());
    }

    #[test]
    fn the_border_is_background() {
        for sign in [1.0, -1.0] {
            let features: Vec<[f32; 4]> = (0..25)
                .map(|i| {
                    let inside = (6..=8).contains(&i) || (11..=13).contains(&i) || (16..=18).contains(&i);
                    let x = i as f32;
                    [if inside { sign * 9.0 } else { 0.0 }, (x * 1.3).sin(), (x * 2.1).cos(), 0.1 * (x * 0.7).sin()]
                })
                .collect();
            let border = |i: usize| !(5..20).contains(&i) || [0, 4].contains(&(i % 5));
            let patches: Vec<Patch<'_>> =
                (0..25).map(|i| Patch { features: &features[i], border: border(i) }).collect();
            let how = Foreground { threshold: 0.0, invert: false, everything: false };
            let found = colours(&patches, how).unwrap();
            assert!((0..25).all(|i| found.of_patches[i].is_some() != border(i)));
            let inverted = colours(&patches, Foreground { invert: true, ..how }).unwrap();
            assert!((0..25).all(|i| inverted.of_patches[i].is_some() == border(i)));
            assert!(colours(&patches, Foreground { threshold: 9.0, ..how }).is_err());
            let all = colours(&patches, Foreground { everything: true, ..how }).unwrap();
            assert!(all.of_patches.iter().all(Option::is_some));
        }
    }

    #[test]
    fn a_single_patch_is_grey() {
        let how = Foreground { threshold: 0.0, invert: false, everything: true };
        let found = colours(&[Patch { features: &[1.0, 2.0], border: true }], how).unwrap();
        assert_eq!(found.of_patches, [Some([0.5; 3])]);
    }
}
