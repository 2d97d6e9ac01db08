//! Typed fields of JSON objects. A field that is null counts as not there.
use std::fmt;

use serde_json::Value;

use super::ConfigError;

/// Characters of a quotation that are shown.
const LONGEST_QUOTE: usize = 100;

/// Writes text from a file in quotation marks: cut where it is too long, control characters escaped.
pub(super) fn quote(f: &mut impl fmt::Write, text: &str) -> fmt::Result {
    f.write_char('\'')?;
    text.chars()
        .take(LONGEST_QUOTE)
        .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { f.write_char(c) })?;
    f.write_str(if text.chars().nth(LONGEST_QUOTE).is_some() { "…'" } else { "'" })
}

/// The same as text.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    // Writing to a string cannot fail.
    let _ = quote(&mut quoted, text);
    quoted
}

/// The fields of an object.
pub(super) struct Fields<'a> {
    object: &'a Value,
    /// What the object is called in messages.
    name: &'static str,
}

impl<'a> Fields<'a> {
    /// Of an object; null has no fields.
    pub(super) fn of(object: &'a Value, name: &'static str) -> Result<Self, ConfigError> {
        if object.is_object() || object.is_null() {
            return Ok(Self { object, name });
        }
        Err(ConfigError::Field(format!("{name} is not an object")))
    }

    pub(super) fn wrong(&self, field: &str, wanted: &str) -> ConfigError {
        ConfigError::Field(format!("{}: {field} has to be {wanted}", self.name))
    }

    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>, ConfigError> {
        self.typed(field, "true or false", Value::as_bool)
    }

    pub(super) fn text(&self, field: &str) -> Result<Option<&'a str>, ConfigError> {
        self.typed(field, "text", Value::as_str)
    }

    pub(super) fn number(&self, field: &str) -> Result<Option<f64>, ConfigError> {
        self.typed(field, "a number", Value::as_f64)
    }

    /// A number for each channel, or one for all.
    pub(super) fn numbers(&self, field: &str) -> Result<Option<Vec<f64>>, ConfigError> {
        self.typed(field, "a number for each channel", |value| match value {
            Value::Array(numbers) => {
                numbers.iter().map(Value::as_f64).collect::<Option<Vec<_>>>().filter(|numbers| !numbers.is_empty())
            }
            value => Some(vec![value.as_f64()?]),
        })
    }

    fn typed<T>(
        &self,
        field: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        self.get(field).map(|value| read(value).ok_or_else(|| self.wrong(field, wanted))).transpose()
    }
}

/// A length in pixels.
pub(super) fn length(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

/// `[height, width]`, one number for both, or a list of one.
pub(super) fn height_width(value: &Value) -> Option<[usize; 2]> {
    match value {
        Value::Array(sides) => match &**sides {
            [side] => length(side).map(|side| [side, side]),
            [height, width] => Some([length(height)?, length(width)?]),
            _ => None,
        },
        side => length(side).map(|side| [side, side]),
    }
}

/// f32 as the sources keep means and standard deviations.
pub(super) fn single(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|x| *x as f32).collect()
}

/// ImageNet's mean and standard deviation.
pub(super) const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
/// Those of OpenAI's CLIP.
pub(super) const OPENAI: ([f64; 3], [f64; 3]) =
    ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]);
/// 'Inception': −1 to 1.
pub(super) const HALF: ([f64; 3], [f64; 3]) = ([0.5; 3], [0.5; 3]);
