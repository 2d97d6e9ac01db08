//! Writes packed files.
use std::io::{self, Write};
use std::string::{String, ToString};
use std::vec::Vec;

use super::gguf::{MAGIC, VERSION, Value, kind};
use super::{keys, tensors};
use crate::arena::{ALIGN, MemoryError};
use crate::config::{Config, ConfigError};
use crate::weights::{Formats, WeightLayout};

/// Metadata besides the hyper-parameters.
pub(crate) enum Extra<'a> {
    Value(&'static str, Value<'a>),
    Floats(&'static str, &'a [f32]),
    Strings(&'static str, &'a [String]),
}

/// Writes a packed file with `weights`, a model's block of weights in memory, and with `extras` in the metadata.
///
/// # Errors
/// The errors of `out`.
pub(crate) fn write(
    config: &Config,
    formats: Formats,
    weights: &[u8],
    extras: &[Extra<'_>],
    mut out: impl Write,
) -> io::Result<()> {
    let layout = WeightLayout::new(config, formats).map_err(io::Error::other)?;
    assert_eq!(weights.len(), layout.bytes(), "the weights are for this config and formats");
    out.write_all(&header(config, formats, &layout, extras))?;
    out.write_all(weights)?;
    out.flush()
}

/// Writes a packed file with `weights`, the memory that [`Model::fill`](crate::Model::fill) has filled for this config and
/// these formats. It has neither class names nor preprocessing.
///
/// # Errors
/// When the config makes no model, or `weights` is not as long as its memory; the errors of `out`.
pub fn write_model(config: &Config, formats: impl Into<Formats>, weights: &[u8], out: impl Write) -> io::Result<()> {
    let formats = formats.into();
    let expected = WeightLayout::new(config, formats).map_err(io::Error::other)?.bytes();
    if weights.len() != expected {
        let error = MemoryError::OtherModel { needed: expected, found: weights.len() };
        return Err(io::Error::other(error));
    }
    write(config, formats, weights, &[], out)
}

/// Bytes of a packed file without class names, preprocessing and what else a checkpoint has besides hyper-parameters and
/// weights.
///
/// # Errors
/// When the config makes no model, or does not have the matrices that are kept in f32.
pub fn file_len(config: &Config, formats: impl Into<Formats>) -> Result<usize, ConfigError> {
    let formats = formats.into();
    let layout = WeightLayout::new(config, formats)?;
    Ok(header(config, formats, &layout, &[]).len() + layout.bytes())
}

/// All that is in front of the weights.
fn header(config: &Config, formats: Formats, layout: &WeightLayout, extras: &[Extra<'_>]) -> Vec<u8> {
    let mut metadata = Table::default();
    let word = |text: &'static str| Value::String(text.as_bytes());
    metadata.value(keys::ARCHITECTURE.0, word(keys::ARCHITECTURE.1));
    metadata.value(keys::ALIGNMENT, Value::U32(ALIGN as u32));
    metadata.value(keys::VERSION, Value::U32(keys::LAYOUT_VERSION));
    metadata.value(keys::PRECISION, word(formats.precision().name()));
    let kept: Vec<String> = formats.keep_f32().matrices(config).map(|matrix| matrix.to_string()).collect();
    if !kept.is_empty() {
        metadata.strings(keys::KEEP_F32, &kept);
    }
    keys::put_config(config, &mut |key, value| metadata.value(key, value));
    for extra in extras {
        match extra {
            Extra::Value(key, value) => metadata.value(key, *value),
            Extra::Floats(key, values) => {
                metadata.array(key, kind::F32, values.len());
                values.iter().for_each(|value| metadata.bytes.extend(value.to_le_bytes()));
            }
            Extra::Strings(key, texts) => metadata.strings(key, texts),
        }
    }
    let mut table = Table::default();
    let walked: Result<(), core::convert::Infallible> = tensors::for_each(layout, config, |tensor| {
        table.tensor(tensor);
        Ok(())
    });
    let Ok(()) = walked;

    let header = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &table.count.to_le_bytes(), &metadata.count.to_le_bytes()];
    let mut header = header.concat();
    header.extend(metadata.bytes);
    header.extend(table.bytes);
    header.resize(header.len().next_multiple_of(ALIGN), 0);
    header
}

/// Rows of the metadata, or of the table of tensors.
#[derive(Default)]
struct Table {
    bytes: Vec<u8>,
    count: u64,
}

impl Table {
    fn text(&mut self, text: &[u8]) {
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text);
    }

    /// The key and the type of a row.
    fn key(&mut self, key: &str, kind: u32) {
        self.count += 1;
        self.text(key.as_bytes());
        self.bytes.extend(kind.to_le_bytes());
    }

    fn array(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, kind::ARRAY);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }

    fn strings(&mut self, key: &str, texts: &[String]) {
        self.array(key, kind::STRING, texts.len());
        texts.iter().for_each(|text| self.text(text.as_bytes()));
    }

    fn value(&mut self, key: &str, value: Value<'_>) {
        match value {
            Value::U32(value) => {
                self.key(key, kind::U32);
                self.bytes.extend(value.to_le_bytes());
            }
            Value::F32(value) => {
                self.key(key, kind::F32);
                self.bytes.extend(value.to_le_bytes());
            }
            Value::F64(value) => {
                self.key(key, kind::F64);
                self.bytes.extend(value.to_le_bytes());
            }
            Value::Bool(value) => {
                self.key(key, kind::BOOL);
                self.bytes.push(value.into());
            }
            Value::String(text) => {
                self.key(key, kind::STRING);
                self.text(text);
            }
            // Such values only occur while reading. Arrays are written by `array`.
            Value::Array { .. } | Value::Other => {}
        }
    }

    fn tensor(&mut self, tensor: &tensors::Tensor) {
        self.count += 1;
        self.text(tensor.to_string().as_bytes());
        let rank = tensor.dims.iter().rposition(|size| *size != 1).map_or(1, |last| last + 1);
        self.bytes.extend((rank as u32).to_le_bytes());
        tensor.dims[..rank].iter().for_each(|size| self.bytes.extend((*size as u64).to_le_bytes()));
        self.bytes.extend(tensor.kind.to_le_bytes());
        self.bytes.extend((tensor.offset as u64).to_le_bytes());
    }
}
