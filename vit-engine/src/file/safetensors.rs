//! Reads parameters from safetensors files (<https://github.com/huggingface/safetensors>) and decodes them in place.
use std::collections::{BTreeMap, HashMap, HashSet};

use safetensors::tensor::{Dtype, TensorInfo};
use serde::Deserialize;
use serde::de::IgnoredAny;
use vit_kernels::half::{bf16, f16};

use super::error::Problem;
use crate::parameters::{Param, Part, Site, for_each_param};
use crate::weights::{Source, Values};
use crate::zoo::{Catalog, Place, Recipe, View, rotary};

/// The tensors of a checkpoint by name, in one or several files.
pub(super) struct Tensors<'a> {
    tensors: HashMap<String, Tensor<'a>>,
}

/// A tensor and its bytes.
struct Tensor<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    data: &'a [u8],
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    _metadata: Option<IgnoredAny>,
    #[serde(flatten)]
    tensors: HashMap<String, TensorInfo>,
}

/// Parses the header of a file. Checks that every tensor has the size of its shape, and that the tensors fill the file
/// without gaps.
fn parse(bytes: &[u8]) -> Result<HashMap<String, Tensor<'_>>, Problem> {
    let parts = bytes.split_first_chunk().and_then(|(len, rest)| {
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        rest.split_at_checked(len)
    });
    let (header, data) = parts
        .ok_or_else(|| Problem::Safetensors(format!("the file has {} bytes, too few for its header", bytes.len())))?;
    let Header { tensors, .. } =
        serde_json::from_slice(header).map_err(|error| Problem::Safetensors(format!("the header: {error}")))?;
    let mut sorted: Vec<_> = tensors.into_iter().collect();
    sorted.sort_by_key(|(_, info)| info.data_offsets);
    let (mut end, len) = (0, data.len());
    let mut found = HashMap::new();
    for (name, TensorInfo { dtype, shape, data_offsets: (start, stop) }) in sorted {
        let bits = shape.iter().try_fold(dtype.bitsize(), |bits, size| bits.checked_mul(*size));
        let expected = bits.and_then(|bits| bits.div_ceil(8).checked_add(end));
        if start != end || Some(stop) != expected || stop > len {
            return Err(Problem::Safetensors(format!(
                "'{name}', {dtype:?} of {shape:?}: expected to start at {end} and end within {len} bytes, found {start}..{stop}"
            )));
        }
        found.insert(name, Tensor { dtype, shape, data: &data[start..stop] });
        end = stop;
    }
    if end != len {
        return Err(Problem::Safetensors(format!("expected {end} bytes of tensors, found {len}")));
    }
    Ok(found)
}

impl<'a> Tensors<'a> {
    /// One file.
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, Problem> {
        Ok(Self { tensors: parse(bytes)? })
    }

    /// Several files by name, and the file of each tensor.
    pub(super) fn sharded(
        files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        map: &BTreeMap<String, String>,
    ) -> Result<Self, Problem> {
        let mut shards = HashMap::new();
        for (name, bytes) in files {
            let tensors = parse(bytes).map_err(|problem| match problem {
                Problem::Safetensors(error) => Problem::Safetensors(format!("{name}: {error}")),
                problem => problem,
            })?;
            shards.insert(name, tensors);
        }
        let mut tensors = HashMap::new();
        for (tensor, file) in map {
            let found = shards.get_mut(file.as_str()).and_then(|shard| shard.remove(tensor));
            let found = found.ok_or_else(|| Problem::Index(format!("'{tensor}' is not in {file}")))?;
            tensors.insert(tensor.clone(), found);
        }
        Ok(Self { tensors })
    }
}

impl Tensors<'_> {
    /// The value of a tensor with one element of a supported dtype, if it exists.
    pub(super) fn scalar(&self, name: &str) -> Option<f32> {
        let tensor = self.tensors.get(name).filter(|tensor| tensor.shape.iter().all(|size| *size == 1))?;
        let mut value = [0.0];
        decoder(tensor.dtype)?(tensor.data, &mut value);
        Some(value[0])
    }
}

impl Catalog for Tensors<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| &*tensor.shape)
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }
}

/// The parameters of a checkpoint: its tensors, found by the names of a family, and computed tables.
pub(super) struct Parameters<'a> {
    pub(super) tensors: &'a Tensors<'a>,
    pub(super) recipe: &'a Recipe,
}

/// The most missing tensors that an error names: more than the largest model has.
const NAMED: usize = 4096;

impl Parameters<'_> {
    /// Opens every parameter once, to check it. Returns the names of the tensors that they use, and of the unknown
    /// ones.
    pub(super) fn check(&self) -> Result<(HashSet<String>, Vec<String>), Problem> {
        let (mut used, mut missing, mut seen) = (HashSet::new(), Vec::new(), HashSet::new());
        let mut other = None;
        let walked = for_each_param(&self.recipe.config, |param, shape| {
            match self.open(param, shape) {
                Err(Problem::Missing { tensors, .. }) => {
                    // Queries, keys and values may be in one tensor.
                    missing.extend(tensors.into_iter().filter(|tensor| seen.insert(tensor.clone())));
                }
                Err(problem) => other = other.take().or(Some(problem)),
                Ok(_) => {
                    let place = self.recipe.names.place(param, shape);
                    used.insert(place.tensor);
                    used.extend(place.plus);
                }
            }
            // A config with a million layers is not checked to its end.
            if missing.len() > NAMED { Err(()) } else { Ok(()) }
        });
        if !missing.is_empty() {
            return Err(Problem::Missing { tensors: missing, more: walked.is_err() });
        }
        if let Some(problem) = other {
            return Err(problem);
        }
        let is_unused = |name: &str, tensor: &Tensor<'_>| {
            !used.contains(name) && !tensor.shape.contains(&0) && !self.recipe.names.ignores(name)
        };
        let all = self.tensors.tensors.iter();
        let mut unused: Vec<String> =
            all.filter(|(name, t)| is_unused(name, t)).map(|(name, _)| name.clone()).collect();
        unused.sort();
        Ok((used, unused))
    }
}

impl Source for Parameters<'_> {
    type Error = Problem;

    fn open(&self, param: Param, shape: [usize; 2]) -> Result<impl Values, Problem> {
        let c = &self.recipe.config;
        let table = || self.recipe.rotary?.table(c.grid(), c.head_dim);
        if let (Site::Rope, Some(table)) = (param.site, table()) {
            return Ok(Reading::Rotary(table));
        }
        let place = self.recipe.names.place(param, shape);
        let first = self.tensor(&place, &place.tensor, shape)?;
        Ok(match &place.plus {
            Some(second) => Reading::Sum(first, self.tensor(&place, second, shape)?),
            None => Reading::Tensor(first),
        })
    }
}

impl<'a> Parameters<'a> {
    /// Opens the tensor of a place, to be read as the place states.
    fn tensor(&self, place: &Place, name: &str, shape: [usize; 2]) -> Result<Rows<'a>, Problem> {
        let [rows, columns] = shape;
        let Some(tensor) = self.tensors.tensors.get(name) else {
            return Err(Problem::Missing { tensors: vec![name.to_owned()], more: false });
        };
        let misfit = || Problem::Shape {
            tensor: name.to_owned(),
            expected: without_ones(&place.shape).to_vec(),
            found: tensor.shape.clone(),
        };
        if without_ones(&tensor.shape) != without_ones(&place.shape) {
            return Err(misfit());
        }
        let decode = decoder(tensor.dtype)
            .ok_or_else(|| Problem::Dtype { tensor: name.to_owned(), found: format!("{:?}", tensor.dtype) })?;
        let size = tensor.dtype.bitsize() / 8;
        let row_len: usize = place.shape.iter().skip(1).product();
        let bytes = tensor.data.get(place.first_row * row_len * size..);
        let bytes = bytes.filter(|bytes| bytes.len() >= rows * columns * size).ok_or_else(misfit)?;
        Ok(Rows { bytes, size, decode, shape, view: place.view })
    }

    /// The dtype in which the position embedding is stored.
    pub(super) fn rounding(&self) -> Rounding {
        let place = self.recipe.names.place(Param { site: Site::Positions, part: Part::Weight }, [1, 1]);
        match self.tensors.tensors.get(&place.tensor).map(|tensor| tensor.dtype) {
            Some(Dtype::F16) => Rounding::F16,
            Some(Dtype::BF16) => Rounding::Bf16,
            _ => Rounding::None,
        }
    }
}

/// A parameter that is open for reading.
enum Reading<'a> {
    /// From a tensor.
    Tensor(Rows<'a>),
    /// The sum of two tensors.
    Sum(Rows<'a>, Rows<'a>),
    /// Computed.
    Rotary(rotary::Table),
}

impl Values for Reading<'_> {
    fn read(&self, row: usize, start: usize, into: &mut [f32]) {
        match self {
            Self::Tensor(tensor) => tensor.read(row, start, into),
            Self::Sum(first, second) => {
                first.read(row, start, into);
                for (column, x) in (start..).zip(into) {
                    let mut other = [0.0];
                    second.read(row, column, &mut other);
                    *x += other[0];
                }
            }
            Self::Rotary(table) => table.read(row, start, into),
        }
    }
}

/// The bytes of a tensor, from the first row of the parameter on.
struct Rows<'a> {
    bytes: &'a [u8],
    size: usize,
    decode: Decode,
    shape: [usize; 2],
    view: View,
}

impl Rows<'_> {
    fn read(&self, row: usize, start: usize, into: &mut [f32]) {
        let [rows, columns] = self.shape;
        let at = |element: usize, into: &mut [f32]| {
            (self.decode)(&self.bytes[element * self.size..][..into.len() * self.size], into);
        };
        let one_by_one = |place: &dyn Fn(usize) -> usize, into: &mut [f32]| {
            (start..).zip(into).for_each(|(column, x)| at(place(column), core::slice::from_mut(x)));
        };
        match self.view {
            View::Rows => at(row * columns + start, into),
            View::PairsToHalves { head_dim } if rows > 1 => at(paired(row, head_dim) * columns + start, into),
            View::PairsToHalves { head_dim } => one_by_one(&|column| paired(column, head_dim), into),
            View::Transposed => one_by_one(&|column| column * rows + row, into),
        }
    }
}

/// The precision that numbers are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    None,
    F16,
    Bf16,
}

impl Rounding {
    pub(super) fn round(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }
}

/// The source of row `row` after neighbours within a head have moved half a head apart.
fn paired(row: usize, head_dim: usize) -> usize {
    let (head, j) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + if j < half { 2 * j } else { 2 * (j - half) + 1 }
}

/// A shape without its leading dimensions of 1.
fn without_ones(shape: &[usize]) -> &[usize] {
    let ones = shape.iter().take_while(|size| **size == 1).count();
    &shape[ones.min(shape.len().saturating_sub(1))..]
}

/// Decodes little-endian bytes, at any alignment, to f32.
type Decode = fn(&[u8], &mut [f32]);

/// The decoder of a dtype, if it is supported for weights.
fn decoder(dtype: Dtype) -> Option<Decode> {
    match dtype {
        Dtype::F32 => Some(|bytes, into| {
            let (bytes, _) = bytes.as_chunks();
            into.iter_mut().zip(bytes).for_each(|(x, bytes)| *x = f32::from_le_bytes(*bytes));
        }),
        Dtype::F16 => Some(|bytes, into| {
            let (bytes, _) = bytes.as_chunks();
            into.iter_mut().zip(bytes).for_each(|(x, bytes)| *x = f16::from_le_bytes(*bytes).to_f32());
        }),
        Dtype::BF16 => Some(|bytes, into| {
            let (bytes, _) = bytes.as_chunks();
            into.iter_mut().zip(bytes).for_each(|(x, bytes)| *x = bf16::from_le_bytes(*bytes).to_f32());
        }),
        _ => None,
    }
}
