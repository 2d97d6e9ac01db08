//! How a file of embeddings was made.
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use vit_engine::Output;
use vit_engine::file::Loaded;

use crate::model;
use crate::picture::Preparer;

/// How a file of embeddings was made: everything that its numbers depend on, beside the pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Description {
    /// The program that made the file, with its version.
    pub(crate) program: String,
    /// What was given as --model.
    pub(crate) model: String,
    /// SHA-256 of the model as a packed file, as 'vit convert' writes it with the same options.
    pub(crate) model_sha256: String,
    pub(crate) precision: String,
    /// The matrices that were kept in f32.
    pub(crate) keep_f32: Vec<String>,
    /// The output of the model, as in --features.
    pub(crate) features: String,
    /// Whether each row was divided by its Euclidean norm.
    pub(crate) normalized: bool,
    /// The numbers of a row.
    pub(crate) dim: usize,
    /// Height and width of the model's input.
    pub(crate) image_size: [usize; 2],
    /// How pictures were prepared: `Preprocessing` of the crate vit-image.
    pub(crate) preprocessing: Value,
}

/// The longest row that is read: larger than any model's.
const LONGEST_ROW: usize = 1 << 24;

impl Description {
    /// The description of what a model computes, one row for each picture. `model` is its name.
    pub(crate) fn of(loaded: &Loaded, output: Output, preparer: &Preparer, model: String) -> Result<Self> {
        let dim = match output {
            Output::Logits | Output::Class | Output::Embedding => output.len(loaded.config()),
            _ => bail!("{output} are not one row for each picture"),
        };
        let dim = dim.with_context(|| format!("the model has no output '{output}'"))?;
        Ok(Self {
            program: concat!("vit ", env!("CARGO_PKG_VERSION")).into(),
            model,
            model_sha256: sha256(loaded)?,
            precision: loaded.precision().name().into(),
            keep_f32: model::kept(loaded),
            features: output.to_string(),
            normalized: false,
            dim,
            image_size: preparer.size(),
            preprocessing: preparer.description()?,
        })
    }

    pub(crate) fn validate(&self) -> Result<()> {
        ensure!((1..=LONGEST_ROW).contains(&self.dim), "the description has rows of {} numbers", self.dim);
        Ok(())
    }

    /// The output of the model that the file holds.
    pub(crate) fn output(&self) -> Result<Output> {
        Ok(self.features.parse()?)
    }

    /// Checks that rows of a session with the description `own` can stand beside those of a file with this one.
    ///
    /// # Errors
    /// What differs, and which option changes it.
    pub(crate) fn check(&self, own: &Self) -> Result<()> {
        self.check_comparable(own)?;
        ensure!(
            self.normalized == own.normalized,
            "the file's rows are {}normalised, these would {}be (--normalize)",
            if self.normalized { "" } else { "not " },
            if own.normalized { "" } else { "not " },
        );
        Ok(())
    }

    /// The same for a comparison by cosine, where it does not matter whether rows are normalised.
    pub(crate) fn check_comparable(&self, own: &Self) -> Result<()> {
        let words = [
            ("precision", "--precision", &self.precision, &own.precision),
            ("features", "--features", &self.features, &own.features),
        ];
        for (what, option, there, here) in words {
            ensure!(there == here, "the file was made with {what} {there}, and this is {here} ({option})");
        }
        ensure!(
            self.keep_f32 == own.keep_f32,
            "the file was made with {} matrices kept in f32, and this is with {} (--keep-f32)",
            self.keep_f32.len(),
            own.keep_f32.len()
        );
        ensure!(
            self.model_sha256 == own.model_sha256 && self.dim == own.dim,
            "the file was made with another model: {} (sha256 {}…), and this is {} (sha256 {}…)",
            crate::output::name(&self.model),
            self.model_sha256.get(..12).unwrap_or_default(),
            crate::output::name(&own.model),
            &own.model_sha256[..12]
        );
        ensure!(
            self.image_size == own.image_size && self.preprocessing == own.preprocessing,
            "the file was made with other preprocessing: {} at {:?}, and this is {} at {:?} (--image-size, --mean, \
             --std, --resize, --crop, --filter)",
            crate::output::name(&self.preprocessing),
            self.image_size,
            own.preprocessing,
            own.image_size
        );
        Ok(())
    }
}

/// SHA-256 of the packed file that the model would be.
fn sha256(loaded: &Loaded) -> Result<String> {
    struct Hasher(Sha256);
    impl std::io::Write for Hasher {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.update(data);
            Ok(data.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut hasher = Hasher(Sha256::new());
    loaded.write_packed(&mut hasher)?;
    Ok(hasher.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
impl Description {
    pub(crate) fn example(dim: usize) -> Self {
        Self {
            program: "vit 0.0.0".into(),
            model: "some".into(),
            model_sha256: "0123456789abcdef".into(),
            precision: "f32".into(),
            keep_f32: Vec::new(),
            features: "embedding".into(),
            normalized: false,
            dim,
            image_size: [28, 30],
            preprocessing: serde_json::json!({"rescale": 1.0 / 255.0, "mean": [0.485]}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_named() {
        let own = Description::example(4);
        own.check(&own).unwrap();
        let renamed = Description { model: "elsewhere".into(), program: "vit 9".into(), ..own.clone() };
        renamed.check(&own).unwrap();
        let others = [
            (Description { precision: "int8".into(), ..own.clone() }, "--precision"),
            (Description { keep_f32: vec!["blk.0.ffn_up".into()], ..own.clone() }, "--keep-f32"),
            (Description { features: "class".into(), ..own.clone() }, "--features"),
            (Description { model_sha256: "fedc".into(), ..own.clone() }, "another model"),
            (Description { dim: 5, ..own.clone() }, "another model"),
            (Description { image_size: [1, 2], ..own.clone() }, "--image-size"),
            (Description { preprocessing: Value::Null, ..own.clone() }, "--mean"),
        ];
        for (other, message) in others {
            let error = other.check_comparable(&own).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let normalised = Description { normalized: true, ..own.clone() };
        normalised.check_comparable(&own).unwrap();
        assert!(normalised.check(&own).unwrap_err().to_string().contains("--normalize"));
    }
}
