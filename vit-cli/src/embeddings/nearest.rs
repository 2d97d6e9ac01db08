//! The nearest rows of a file of embeddings, by cosine, exactly: every row is compared.
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Description, Rows};
use crate::{inputs, output};

/// The rows of a file in memory.
pub(crate) struct Index {
    pub(crate) paths: Vec<String>,
    /// \[pictures, dim\].
    embeddings: Vec<f32>,
    /// The Euclidean norm of each row.
    norms: Vec<f64>,
    dim: usize,
}

/// A row that is near.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Hit {
    pub(crate) row: usize,
    /// The cosine of the angle to the query, −1 to 1.
    pub(crate) similarity: f64,
}

impl Index {
    /// Reads a file whose rows can be compared with those that `own` describes.
    pub(crate) fn read(path: &Path, own: &Description) -> Result<Self> {
        let read = || {
            super::describe(path)?.0.check_comparable(own)?;
            Self::new(super::read(path)?, own.dim)
        };
        read().with_context(|| inputs::shown(path))
    }

    pub(crate) fn new(rows: Rows, dim: usize) -> Result<Self> {
        let Rows { paths, embeddings } = rows;
        ensure!(!paths.is_empty(), "the file has no pictures");
        let norms: Vec<f64> = embeddings.chunks_exact(dim).map(norm).collect();
        let broken = norms.iter().position(|norm| !norm.is_finite());
        if let Some(row) = broken {
            anyhow::bail!("{}: the embedding has NaN or infinite numbers", output::name(&paths[row]));
        }
        Ok(Self { paths, embeddings, norms, dim })
    }

    /// The `count` rows that are nearest to a query, nearest first; of equal ones the earlier row.
    pub(crate) fn nearest(&self, query: &[f32], count: usize) -> Vec<Hit> {
        let of_query = norm(query);
        let similarity = |(row, embedding): (usize, &[f32])| {
            // A row of zeros is similar to nothing.
            let similarity = dot(query, embedding) / (of_query * self.norms[row]).max(f64::MIN_POSITIVE);
            Hit { row, similarity }
        };
        let mut hits: Vec<Hit> = self.embeddings.chunks_exact(self.dim).enumerate().map(similarity).collect();
        let order = |a: &Hit, b: &Hit| b.similarity.total_cmp(&a.similarity).then(a.row.cmp(&b.row));
        if count < hits.len() {
            hits.select_nth_unstable_by(count, order);
            hits.truncate(count);
        }
        hits.sort_unstable_by(order);
        hits
    }
}

/// A row divided by its Euclidean norm; one of zeros stays so.
pub(crate) fn unit(row: &[f32]) -> Vec<f64> {
    let norm = norm(row).max(1e-12);
    row.iter().map(|x| f64::from(*x) / norm).collect()
}

fn norm(row: &[f32]) -> f64 {
    dot(row, row).sqrt()
}

/// The inner product, in f64: products of f32 are exact in it.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    // Eight sums, so that the compiler uses vectors.
    let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.0.iter().zip(b.0) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    let rest: f64 = a.1.iter().zip(b.1).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_of_many() {
        let (dim, count) = (19, 300);
        let mut random = fastrand::Rng::with_seed(5);
        let mut row = || (0..dim).map(|_| random.f32() - 0.5).collect::<Vec<_>>();
        let mut embeddings: Vec<f32> = (0..count).flat_map(|_| row()).collect();
        // Longer rows of the same direction are as similar; a row of zeros is similar to nothing.
        let copy: Vec<f32> = embeddings[..dim].iter().map(|x| 4.0 * x).collect();
        embeddings[7 * dim..8 * dim].copy_from_slice(&copy);
        embeddings[8 * dim..9 * dim].fill(0.0);
        let rows = Rows { paths: (0..count).map(|i| i.to_string()).collect(), embeddings: embeddings.clone() };
        let index = Index::new(rows, dim).unwrap();
        let all = index.nearest(&embeddings[..dim], count);
        assert_eq!((all[0].row, all[1].row), (0, 7));
        assert!(all[..2].iter().all(|hit| (hit.similarity - 1.0).abs() < 1e-12));
        for (hit, next) in all.iter().zip(&all[1..]) {
            assert!(hit.similarity >= next.similarity);
        }
        let zero = all.iter().find(|hit| hit.row == 8).unwrap();
        assert_eq!(zero.similarity, 0.0);
        for k in [1, 2, 50, count, count + 5] {
            assert_eq!(index.nearest(&embeddings[..dim], k), all[..k.min(count)], "{k}");
        }
        // Against the definition.
        let (a, b) = (&embeddings[..dim], &embeddings[9 * dim..10 * dim]);
        let sum = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        let want = sum(a, b) / (sum(a, a).sqrt() * sum(b, b).sqrt());
        let found = all.iter().find(|hit| hit.row == 9).unwrap().similarity;
        assert!((found - want).abs() < 1e-14, "{found} {want}");
        let broken = Rows { paths: vec!["x".into()], embeddings: vec![f32::NAN; dim] };
        assert!(Index::new(broken, dim).is_err());
    }
}
