//! Metadata of a packed file that is not part of the model itself: reading it, and what stands in front of the weights.
use vit_image::Preprocessing;

use super::gguf::{Gguf, Value, kind};
use super::{PackedError, keys, preprocessing, tensors};
use crate::config::Config;
use crate::weights::{Formats, WeightLayout};

/// The key of the names of the classes.
pub(crate) const LABELS: &str = "vit.labels";

/// All of a packed file that stands in front of its weights. So a program knows what a model is, and how much memory it
/// needs, before the weights are there.
#[derive(Debug, Clone)]
pub struct Header {
    /// The hyper-parameters, valid.
    pub config: Config,
    /// The precision, and which matrices are kept in f32.
    pub formats: Formats,
    /// How pictures are preprocessed; `None` if the file does not say it.
    pub preprocessing: Option<Preprocessing>,
    /// The names of the classes; empty if the file has none.
    pub labels: Vec<String>,
    len: usize,
    weights: usize,
}

impl Header {
    /// Reads the header from the first bytes of a file, and checks that its table of tensors is the one that the
    /// hyper-parameters imply. The bytes need no alignment.
    ///
    /// # Errors
    /// [`PackedError::Truncated`] if the header goes on behind `start`, or is damaged; if the file is no packed model,
    /// inconsistent or of another version.
    pub fn read(start: &[u8]) -> Result<Self, PackedError> {
        let file = Gguf::open(start)?;
        keys::check(&file)?;
        let (config, formats) = (keys::config(&file)?, keys::formats(&file)?);
        let layout = WeightLayout::new(&config, formats).map_err(PackedError::Config)?;
        tensors::check(&file, &layout, &config)?;
        let said = |key: &'static str| Said { file: &file, key };
        let labels = labels(&said)?;
        if !labels.is_empty() && labels.len() != config.classes {
            return Err(PackedError::Metadata(LABELS));
        }
        let (len, weights) = (start.len() - file.data.len(), layout.bytes());
        Ok(Self { config, formats, preprocessing: preprocessing::read(&said)?, labels, len, weights })
    }

    /// Bytes of the whole file: of the header and of the weights.
    pub fn file_len(&self) -> usize {
        self.len + self.weights
    }

    /// Bytes of the weights, which are the last of the file.
    pub fn weight_bytes(&self) -> usize {
        self.weights
    }
}

/// The names of the classes; none if the file has no such key.
pub(crate) fn labels<'f, 'a: 'f>(said: &dyn Fn(&'static str) -> Said<'f, 'a>) -> Result<Vec<String>, PackedError> {
    said(LABELS).texts()
}

/// The value of a key, if the file has it.
pub(crate) struct Said<'f, 'a> {
    pub(super) file: &'f Gguf<'a>,
    pub(super) key: &'static str,
}

impl<'a> Said<'_, 'a> {
    fn value(&self) -> Option<Value<'a>> {
        self.file.get(self.key).ok().flatten()
    }

    pub(crate) fn wrong(&self) -> PackedError {
        PackedError::Metadata(self.key)
    }

    pub(crate) fn text(&self) -> Result<Option<&'a str>, PackedError> {
        match self.value() {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(core::str::from_utf8(text).map_err(|_| self.wrong())?)),
            Some(_) => Err(self.wrong()),
        }
    }

    pub(crate) fn word<T: Copy>(&self, words: &[(T, &str)]) -> Result<T, PackedError> {
        let found = self.text()?;
        words.iter().find(|(_, word)| found == Some(word)).map(|(value, _)| *value).ok_or_else(|| self.wrong())
    }

    #[cfg(feature = "checkpoints")]
    pub(crate) fn flag(&self) -> Result<bool, PackedError> {
        if let Some(Value::Bool(value)) = self.value() { Ok(value) } else { Err(self.wrong()) }
    }

    pub(crate) fn double_if_there(&self) -> Result<Option<f64>, PackedError> {
        if self.value().is_none() { Ok(None) } else { self.double().map(Some) }
    }

    pub(crate) fn double(&self) -> Result<f64, PackedError> {
        if let Some(Value::F64(value)) = self.value() { Ok(value) } else { Err(self.wrong()) }
    }

    pub(crate) fn size(&self) -> Result<Option<usize>, PackedError> {
        match self.value() {
            None => Ok(None),
            Some(Value::U32(value)) => Ok(Some(value as usize)),
            Some(_) => Err(self.wrong()),
        }
    }

    pub(crate) fn floats(&self) -> Result<Option<Vec<f32>>, PackedError> {
        match self.value() {
            None => Ok(None),
            Some(Value::Array { kind: kind::F32, count, mut elements }) => {
                let floats: Result<_, _> = (0..count).map(|_| elements.f32()).collect();
                floats.map(Some)
            }
            Some(_) => Err(self.wrong()),
        }
    }

    pub(crate) fn texts(&self) -> Result<Vec<String>, PackedError> {
        match self.value() {
            None => Ok(Vec::new()),
            Some(Value::Array { kind: kind::STRING, count, mut elements }) => {
                let text = |_| Ok(String::from_utf8_lossy(elements.string()?).into_owned());
                (0..count).map(text).collect()
            }
            Some(_) => Err(self.wrong()),
        }
    }
}

/// A size as u32, to be written.
#[cfg(feature = "checkpoints")]
pub(crate) fn size(value: usize) -> Value<'static> {
    Value::U32(u32::try_from(value).unwrap_or(u32::MAX))
}

/// The word for a value, to be written.
#[cfg(feature = "checkpoints")]
pub(crate) fn word<T: PartialEq + Copy>(value: T, words: &[(T, &'static str)]) -> Value<'static> {
    let found = words.iter().find(|(known, _)| *known == value);
    Value::String(found.expect("the table has a word for every value").1.as_bytes())
}

#[cfg(all(test, feature = "checkpoints"))]
mod tests {
    use super::*;
    use crate::testing::tiny;
    use crate::{AlignedBox, Model, Precision};

    /// The header of a file is read from a part of it as soon as it is complete, and knows the length of the whole.
    #[test]
    fn the_header_is_all_that_is_needed() {
        let weights = AlignedBox::new(Model::bytes(&tiny(), Precision::Int8).unwrap()).unwrap();
        let mut file = Vec::new();
        super::super::write_model(&tiny(), Precision::Int8, &weights, &mut file).unwrap();
        let complete = file.len() - weights.len();
        for len in 4..complete {
            assert_eq!(Header::read(&file[..len]).map(|_| ()), Err(PackedError::Truncated), "{len}");
        }
        for len in [complete, complete + 1, file.len()] {
            let header = Header::read(&file[..len]).unwrap();
            assert_eq!((header.config, header.formats), (tiny(), Precision::Int8.into()));
            assert_eq!((header.file_len(), header.weight_bytes()), (file.len(), weights.len()));
            assert!(header.labels.is_empty() && header.preprocessing.is_none());
        }
        assert_eq!(Header::read(b"PK\x03\x04").map(|_| ()), Err(PackedError::NotGguf));
    }
}
