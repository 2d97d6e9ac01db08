//! Reads logits: the predicted class, probabilities, the rank of a label.
use core::fmt;

/// The logits of one picture, one for each class, none of them NaN.
///
/// Comparisons with NaN are false, so among logits with NaN every label would rank first.
///
/// ```
/// use vit_engine::logits::Logits;
///
/// let logits = Logits::new(&[0.0, 3.0, 1.0])?;
/// assert_eq!(logits.best(), 1);
/// assert_eq!(logits.rank(2), 1); // one class is ahead of class 2
/// let (class, probability) = logits.probabilities().next().unwrap();
/// assert!(class == 1 && (probability - 0.8438).abs() < 1e-4);
///
/// assert!(Logits::new(&[0.0, f32::NAN]).is_err());
/// # Ok::<(), vit_engine::logits::NotFinite>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a>(&'a [f32], Probability);

/// How probabilities follow from logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Probability {
    /// One of the classes: they sum to 1.
    Softmax,
    /// Each class for itself.
    Sigmoid,
}

impl<'a> Logits<'a> {
    /// What a model's own head computed.
    ///
    /// # Errors
    /// If a logit is NaN or infinite.
    pub fn new(logits: &'a [f32]) -> Result<Self, NotFinite> {
        match logits.iter().position(|x| !x.is_finite()) {
            None => Ok(Self(logits, Probability::Softmax)),
            Some(class) => Err(NotFinite { class, value: logits[class], nan: logits.iter().any(|x| x.is_nan()) }),
        }
    }

    /// Logits none of which is NaN or ∞, and not all are −∞.
    pub fn unchecked(logits: &'a [f32], probability: Probability) -> Self {
        Self(logits, probability)
    }

    /// The class with the largest logit; of equal ones the first, as in PyTorch's argmax.
    pub fn best(self) -> usize {
        (1..self.0.len()).fold(0, |best, class| if self.0[class] > self.0[best] { class } else { best })
    }

    /// How many classes rank before `label`. Of equal ones the lower class ranks first.
    pub fn rank(self, label: usize) -> usize {
        let x = self.0[label];
        let better = |(class, other): (usize, &f32)| *other > x || *other == x && class < label;
        self.0.iter().enumerate().filter(|item| better(*item)).count()
    }

    /// Classes and their probabilities, most probable first.
    pub fn probabilities(self) -> impl Iterator<Item = (usize, f32)> {
        let Self(logits, probability) = self;
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.iter().map(|x| (x - max).exp()).sum();
        let of = move |x: f32| match probability {
            Probability::Softmax => (x - max).exp() / sum,
            Probability::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        };
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order.into_iter().map(move |class| (class, of(logits[class])))
    }
}

/// A logit is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NotFinite {
    /// The first such class.
    pub class: usize,
    /// Its logit.
    pub value: f32,
    /// Whether any logit is NaN.
    pub nan: bool,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, value, nan } = self;
        let what = if *nan { "NaN" } else { "infinite" };
        write!(
            f,
            "the logits are {what}: class {class} has {value}. What the model computes is too large for f32, so that it \
             says nothing about this picture"
        )
    }
}

impl core::error::Error for NotFinite {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_probabilities() {
        let logits = Logits::new(&[1.0, 3.0, 3.0, -f32::MAX]).unwrap();
        assert_eq!(logits.best(), 1);
        assert_eq!([0, 1, 2, 3].map(|label| logits.rank(label)), [2, 0, 1, 3]);
        let (classes, probabilities): (Vec<_>, Vec<_>) = logits.probabilities().unzip();
        assert_eq!(classes, [1, 2, 0, 3]);
        assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6 && probabilities[3] == 0.0);
        let each = Logits::unchecked(&[0.0, 2.0, -f32::MAX, f32::NEG_INFINITY], Probability::Sigmoid);
        let want = [(1, 1.0 / (1.0 + (-2.0f32).exp())), (0, 0.5), (2, 0.0), (3, 0.0)];
        assert_eq!(each.probabilities().collect::<Vec<_>>(), want);
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        for (logits, what) in [
            ([f32::NAN; 3], "the logits are NaN: class 0"),
            ([0.0, f32::INFINITY, 1.0], "the logits are infinite: class 1 has inf"),
            ([0.0, f32::NEG_INFINITY, f32::NAN], "the logits are NaN: class 1 has -inf"),
        ] {
            let error = Logits::new(&logits).err().unwrap().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
