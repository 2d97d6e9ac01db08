//! Parameters out of a safetensors file (<https://github.com/huggingface/safetensors>), decoded where they stand.
use std::collections::HashMap;

use safetensors::tensor::{Dtype, TensorInfo};
use serde::Deserialize;
use serde::de::IgnoredAny;
use vit_kernels::half::f16;

use super::error::Problem;
use crate::config::Config;
use crate::weights::{Param, Source, Values, for_each_param};
use crate::zoo::Names;

/// A file's tensors by their own names.
pub(super) struct File<'a> {
    tensors: HashMap<String, TensorInfo>,
    data: &'a [u8],
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    _metadata: Option<IgnoredAny>,
    #[serde(flatten)]
    tensors: HashMap<String, TensorInfo>,
}

impl<'a> File<'a> {
    /// Reads the header and checks that the tensors, as large as their shapes say, follow each other to the file's end.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Problem> {
        let parts = bytes.split_first_chunk().and_then(|(len, rest)| {
            let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
            rest.split_at_checked(len)
        });
        let (header, data) =
            parts.ok_or_else(|| Problem::Safetensors(format!("{} bytes do not hold its header", bytes.len())))?;
        let Header { tensors, .. } =
            serde_json::from_slice(header).map_err(|error| Problem::Safetensors(format!("the header: {error}")))?;
        let mut sorted: Vec<_> = tensors.iter().collect();
        sorted.sort_by_key(|(_, info)| info.data_offsets);
        let (mut end, len) = (0, data.len());
        for (name, TensorInfo { dtype, shape, data_offsets: (start, stop) }) in sorted {
            let bits = shape.iter().try_fold(dtype.bitsize(), |bits, size| bits.checked_mul(*size));
            let expected = bits.and_then(|bits| bits.div_ceil(8).checked_add(end));
            if *start != end || Some(*stop) != expected || *stop > len {
                return Err(Problem::Safetensors(format!(
                    "'{name}', {dtype:?} of {shape:?}: expected from {end} on in {len} bytes, found {start}..{stop}"
                )));
            }
            end = *stop;
        }
        if end != len {
            return Err(Problem::Safetensors(format!("expected {end} bytes of tensors, found {len}")));
        }
        Ok(Self { tensors, data })
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|info| &*info.shape)
    }
}

/// A file's tensors under a family's names.
pub(super) struct Tensors<'a> {
    pub(super) file: &'a File<'a>,
    pub(super) names: &'a dyn Names,
}

/// Missing tensors that an error names before it only counts on.
const NAMED: usize = 8;

impl Tensors<'_> {
    /// Opens every parameter once.
    pub(super) fn check(&self, config: &Config) -> Result<(), Problem> {
        let mut missing = Vec::new();
        for_each_param(config, |param, shape| match self.open(param, shape) {
            // Queries, keys and values may stand in one tensor.
            Err(Problem::Missing { tensors, .. }) if missing.contains(&tensors[0]) => Ok(()),
            Err(Problem::Missing { tensors, .. }) if missing.len() < NAMED => {
                missing.extend(tensors);
                Ok(())
            }
            // A config of a million layers is not followed to its end.
            Err(Problem::Missing { .. }) => Err(Problem::Missing { tensors: std::mem::take(&mut missing), more: true }),
            Err(problem) => Err(problem),
            Ok(_) => Ok(()),
        })?;
        if missing.is_empty() { Ok(()) } else { Err(Problem::Missing { tensors: missing, more: false }) }
    }
}

impl Source for Tensors<'_> {
    type Error = Problem;

    fn open(&self, param: Param, [rows, columns]: [usize; 2]) -> Result<impl Values, Problem> {
        let place = self.names.place(param);
        let Some(tensor) = self.file.tensors.get(&place.tensor) else {
            return Err(Problem::Missing { tensors: vec![place.tensor], more: false });
        };
        if without_ones(&tensor.shape) != without_ones(&place.shape) {
            let found = tensor.shape.clone();
            return Err(Problem::Shape { tensor: place.tensor, expected: place.shape, found });
        }
        let decode = decoder(tensor.dtype)
            .ok_or_else(|| Problem::Dtype { tensor: place.tensor.clone(), found: format!("{:?}", tensor.dtype) })?;
        let size = tensor.dtype.bitsize() / 8;
        let row_len: usize = place.shape.iter().skip(1).product();
        let data = &self.file.data[tensor.data_offsets.0..tensor.data_offsets.1];
        let bytes = data.get(place.first_row * row_len * size..);
        let Some(bytes) = bytes.filter(|bytes| bytes.len() >= rows * columns * size) else {
            let found = tensor.shape.clone();
            return Err(Problem::Shape { tensor: place.tensor, expected: place.shape, found });
        };
        Ok(move |row: usize, start: usize, into: &mut [f32]| {
            let bytes = &bytes[(row * columns + start) * size..][..into.len() * size];
            decode(bytes, into);
        })
    }
}

/// A shape without the dimensions of 1 in front.
fn without_ones(shape: &[usize]) -> &[usize] {
    let ones = shape.iter().take_while(|size| **size == 1).count();
    &shape[ones.min(shape.len().saturating_sub(1))..]
}

/// Turns little-endian bytes, at any address, into f32.
type Decode = fn(&[u8], &mut [f32]);

/// The decoder for a dtype, if weights can have it.
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
        // bf16 is the upper half of an f32.
        Dtype::BF16 => Some(|bytes, into| {
            let (bytes, _) = bytes.as_chunks();
            into.iter_mut()
                .zip(bytes)
                .for_each(|(x, bytes)| *x = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16));
        }),
        _ => None,
    }
}
