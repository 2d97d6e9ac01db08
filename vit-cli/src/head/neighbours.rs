//! k nearest neighbours, weighted as in DINO (Caron et al. 2021, <https://arxiv.org/abs/2104.14294>): of the k pictures
//! with the largest cosine each gives exp(cosine / 0.07) to its class, and a class's probability is its share.
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result};

use crate::data::slug;
use crate::embeddings::{Description, Index};
use crate::{inputs, output};

/// DINO's temperature.
const TEMPERATURE: f64 = 0.07;

pub(super) struct Neighbours {
    index: Index,
    k: usize,
    /// The class of each row.
    classes: Vec<usize>,
    names: Vec<String>,
}

impl Neighbours {
    /// Reads the rows of a file. Their classes are the names of their folders: those of the model's labels if all are
    /// among them, else in sorted order.
    pub(super) fn read(file: &Path, own: &Description, k: usize, labels: &[String]) -> Result<Self> {
        Self::new(Index::read(file, own)?, k, labels).with_context(|| inputs::shown(file))
    }

    fn new(index: Index, k: usize, labels: &[String]) -> Result<Self> {
        let folder = |path: &String| {
            let name = Path::new(path).parent().and_then(Path::file_name);
            let name = name.with_context(|| format!("{} is in no folder that names its class", output::name(path)))?;
            Ok(name.to_string_lossy().into_owned())
        };
        let folders: Vec<String> = index.paths.iter().map(folder).collect::<Result<_>>()?;
        let of_labels: HashMap<String, usize> =
            labels.iter().enumerate().rev().map(|(class, label)| (slug(label), class)).collect();
        let matched: Option<Vec<usize>> = folders.iter().map(|name| of_labels.get(&slug(name)).copied()).collect();
        let (classes, names) = match matched {
            Some(classes) => (classes, labels.to_vec()),
            None => {
                let names: BTreeSet<&String> = folders.iter().collect();
                let numbers: HashMap<&String, usize> =
                    names.iter().enumerate().map(|(class, name)| (*name, class)).collect();
                (folders.iter().map(|name| numbers[name]).collect(), names.into_iter().cloned().collect())
            }
        };
        Ok(Self { index, k, classes, names })
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The logarithm of the sum of each class's weights; −∞ for a class without neighbours. Its softmax is the shares.
    pub(super) fn logits(&self, row: &[f32]) -> Vec<f32> {
        let hits = self.index.nearest(row, self.k);
        let largest = hits.first().map_or(0.0, |hit| hit.similarity);
        let mut sums = vec![0.0; self.names.len()];
        for hit in &hits {
            sums[self.classes[hit.row]] += ((hit.similarity - largest) / TEMPERATURE).exp();
        }
        sums.iter().map(|sum| (sum.ln() + largest / TEMPERATURE) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embeddings::Rows;
    use vit_engine::logits::{Logits, Probability};

    fn neighbours(paths: &[&str], k: usize, labels: &[&str]) -> Result<Neighbours> {
        let embeddings = (0..paths.len()).flat_map(|i| [(i as f32).cos(), (i as f32).sin()]).collect();
        let rows = Rows { paths: paths.iter().map(ToString::to_string).collect(), embeddings };
        let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
        Neighbours::new(Index::new(rows, 2)?, k, &labels)
    }

    #[test]
    fn weights_by_the_formula() {
        let near = neighbours(&["x/b/0", "x/a/1", "x/b/2", "x/c/3"], 3, &[]).unwrap();
        assert_eq!(near.names(), ["a", "b", "c"]);
        let logits = near.logits(&[2.0, 0.0]);
        let weight = |angle: f64| (angle.cos() / 0.07).exp();
        for (found, want) in logits.iter().zip([weight(1.0), weight(0.0) + weight(2.0), 0.0]) {
            assert!((f64::from(*found) - want.ln()).abs() < 1e-5 || *found == f32::NEG_INFINITY && want == 0.0);
        }
    }

    /// DINO's evaluation in PyTorch: tests/goldens/make.py.
    #[test]
    fn shares_are_those_of_pytorch() {
        let golden: serde_json::Value = serde_json::from_str(include_str!("../../tests/goldens/heads.json")).unwrap();
        let golden = &golden["neighbours"];
        let rows = |key: &str| -> Vec<Vec<f32>> { serde_json::from_value(golden[key].clone()).unwrap() };
        let folders: Vec<String> = serde_json::from_value(golden["folders"].clone()).unwrap();
        let paths = folders.iter().enumerate().map(|(i, folder)| format!("train/{folder}/{i}.png")).collect();
        let embeddings = rows("rows");
        let dim = embeddings[0].len();
        let index = Index::new(Rows { paths, embeddings: embeddings.concat() }, dim).unwrap();
        let near = Neighbours::new(index, golden["k"].as_u64().unwrap() as usize, &[]).unwrap();
        for (query, want) in rows("queries").iter().zip(rows("probabilities")) {
            let logits = near.logits(query);
            let found = Logits::unchecked(&logits, Probability::Softmax).probabilities();
            let mut classes = 0;
            for (class, probability) in found {
                assert!((probability - want[class]).abs() < 2e-6, "{probability} {}", want[class]);
                classes += 1;
            }
            assert_eq!(classes, want.len());
        }
    }

    #[test]
    fn classes_of_folders() {
        let near = neighbours(&["t-shirt-top/0", "Bag/1"], 3, &["Trouser", "Bag", "T-shirt/top"]).unwrap();
        assert_eq!((near.names().len(), &*near.classes), (3, &[2, 1][..]));
        let near = neighbours(&["t-shirt-top/0", "Cup/1"], 3, &["Trouser", "Bag", "T-shirt/top"]).unwrap();
        assert_eq!((near.names(), &*near.classes), (&["Cup".to_owned(), "t-shirt-top".to_owned()][..], &[1, 0][..]));
        assert!(neighbours(&["0.png"], 1, &[]).err().unwrap().to_string().contains("in no folder"));
    }
}
