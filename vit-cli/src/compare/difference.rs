//! Differences between the outputs of two models, accumulated over pictures.
use anyhow::Result;
use serde::Serialize;
use vit_engine::logits::Logits;

/// The sums of squares of the first model's numbers and of the differences.
#[derive(Clone, Copy, Default)]
pub(super) struct Noise {
    signal: f64,
    noise: f64,
}

impl Noise {
    pub(super) fn add(&mut self, want: &[f32], got: &[f32]) {
        for (want, got) in want.iter().zip(got) {
            let (want, difference) = (f64::from(*want), f64::from(*got) - f64::from(*want));
            self.signal += want * want;
            self.noise += difference * difference;
        }
    }

    /// 10·log₁₀(Σ want² / Σ (got − want)²), in dB; infinite if nothing differs.
    pub(super) fn decibels(&self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() }
    }
}

/// The cosine between two vectors: 1 if both are zero, 0 if one is.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let (aa, bb) = (dot(a, a), dot(b, b));
    match (aa == 0.0, bb == 0.0) {
        (true, true) => 1.0,
        (false, false) => dot(a, b) / (aa * bb).sqrt(),
        _ => 0.0,
    }
}

/// The cosine between the models' vectors, for each picture.
#[derive(Default)]
pub(super) struct Cosines {
    count: usize,
    sum: f64,
    /// The smallest cosine and its picture.
    worst: Option<(f64, usize)>,
}

impl Cosines {
    pub(super) fn add(&mut self, picture: usize, want: &[f32], got: &[f32]) {
        let cosine = cosine(want, got);
        (self.count, self.sum) = (self.count + 1, self.sum + cosine);
        self.worst = self.worst.filter(|worst| worst.0 <= cosine).or(Some((cosine, picture)));
    }

    /// `None` without pictures.
    pub(super) fn report(&self, name: impl Fn(usize) -> String) -> Option<Cosine> {
        let (worst, picture) = self.worst?;
        Some(Cosine { mean: self.sum / self.count as f64, worst, worst_picture: name(picture) })
    }
}

#[derive(Serialize)]
pub(super) struct Cosine {
    pub(super) mean: f64,
    pub(super) worst: f64,
    pub(super) worst_picture: String,
}

/// How often the models name the same class, and how often the right one.
#[derive(Default)]
pub(super) struct Classes {
    pictures: usize,
    top1: usize,
    top5: usize,
    labelled: usize,
    /// For each model: how often the right class is first, and how often it is among the first five.
    right: [[usize; 2]; 2],
}

impl Classes {
    /// # Errors
    /// If logits are not finite.
    pub(super) fn add(&mut self, logits: [&[f32]; 2], label: Option<usize>) -> Result<()> {
        let [want, got] = [Logits::new(logits[0])?, Logits::new(logits[1])?];
        let rank = got.rank(want.best());
        self.pictures += 1;
        self.top1 += usize::from(rank == 0);
        self.top5 += usize::from(rank < 5);
        if let Some(label) = label {
            self.labelled += 1;
            for (right, logits) in self.right.iter_mut().zip([want, got]) {
                let rank = logits.rank(label);
                right[0] += usize::from(rank == 0);
                right[1] += usize::from(rank < 5);
            }
        }
        Ok(())
    }

    pub(super) fn agreement(&self) -> Agreement {
        let share = |count: usize| count as f64 / self.pictures.max(1) as f64;
        Agreement { top1: share(self.top1), top5: share(self.top5) }
    }

    /// The accuracy of model 0 or 1; `None` without labels.
    pub(super) fn accuracy(&self, model: usize) -> Option<Agreement> {
        let share = |count: usize| count as f64 / self.labelled as f64;
        let [top1, top5] = self.right[model];
        (self.labelled > 0).then(|| Agreement { top1: share(top1), top5: share(top5) })
    }
}

/// Fractions of the pictures.
#[derive(Serialize, Clone, Copy)]
pub(super) struct Agreement {
    pub(super) top1: f64,
    pub(super) top5: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_in_decibels() {
        let mut noise = Noise::default();
        noise.add(&[3.0, 4.0], &[3.0, 4.0]);
        assert_eq!(noise.decibels(), f64::INFINITY);
        noise.add(&[5.0, 0.0], &[5.0, 0.5]);
        assert!((noise.decibels() - 10.0 * (50.0f64 / 0.25).log10()).abs() < 1e-12);
    }

    #[test]
    fn cosines_and_their_worst() {
        let mut cosines = Cosines::default();
        assert!(cosines.report(|_| String::new()).is_none());
        cosines.add(0, &[1.0, 0.0], &[2.0, 0.0]);
        cosines.add(1, &[1.0, 0.0], &[0.0, 3.0]);
        cosines.add(2, &[0.0, 0.0], &[0.0, 0.0]);
        cosines.add(3, &[0.0, 0.0], &[1.0, 0.0]);
        let Cosine { mean, worst, worst_picture } = cosines.report(|index| index.to_string()).unwrap();
        assert_eq!((mean, worst, &*worst_picture), (0.5, 0.0, "1"), "the first of equals");
    }

    #[test]
    fn agreement_and_accuracy() {
        let mut classes = Classes::default();
        let six = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0];
        let back = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        classes.add([&six, &six], Some(0)).unwrap();
        classes.add([&six, &back], Some(5)).unwrap();
        assert!(classes.accuracy(0).is_some_and(|right| (right.top1, right.top5) == (0.5, 0.5)));
        assert!(classes.accuracy(1).is_some_and(|right| (right.top1, right.top5) == (1.0, 1.0)));
        let Agreement { top1, top5 } = classes.agreement();
        assert_eq!((top1, top5), (0.5, 0.5));
        assert!(classes.add([&[f32::NAN], &[0.0]], None).is_err());
    }
}
