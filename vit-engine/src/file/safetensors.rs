//! Parameters out of a safetensors file (<https://github.com/huggingface/safetensors>), decoded where they stand.
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use vit_kernels::half::f16;

use super::error::Problem;
use crate::config::Config;
use crate::weights::{Param, Source, Values, for_each_param};
use crate::zoo::Names;

/// A file's tensors under a family's names.
pub(super) struct Tensors<'a> {
    pub(super) file: &'a SafeTensors<'a>,
    pub(super) names: &'a dyn Names,
}

/// Missing tensors that an error names before it only counts on.
const NAMED: usize = 8;

impl Tensors<'_> {
    /// Opens every parameter once.
    pub(super) fn check(&self, config: &Config) -> Result<(), Problem> {
        let mut missing = Vec::new();
        for_each_param(config, |param, shape| match self.open(param, shape) {
            Err(Problem::Missing { tensors, .. }) if missing.len() < NAMED => {
                missing.extend(tensors);
                Ok(())
            }
            // A config of a million layers is not followed to its end.
            Err(Problem::Missing { .. }) => Err(Problem::Missing { tensors: std::mem::take(&mut missing), more: true }),
            Err(problem) => Err(problem),
            Ok(_) => Ok(()),
        })?;
        missing.dedup();
        if missing.is_empty() { Ok(()) } else { Err(Problem::Missing { tensors: missing, more: false }) }
    }
}

impl Source for Tensors<'_> {
    type Error = Problem;

    fn open(&self, param: Param, [rows, columns]: [usize; 2]) -> Result<impl Values, Problem> {
        let place = self.names.place(param);
        let Ok(tensor) = self.file.tensor(&place.tensor) else {
            return Err(Problem::Missing { tensors: vec![place.tensor], more: false });
        };
        if without_ones(tensor.shape()) != without_ones(&place.shape) {
            let found = tensor.shape().to_vec();
            return Err(Problem::Shape { tensor: place.tensor, expected: place.shape, found });
        }
        let decode = decoder(&tensor)
            .ok_or_else(|| Problem::Dtype { tensor: place.tensor.clone(), found: format!("{:?}", tensor.dtype()) })?;
        let size = tensor.dtype().bitsize() / 8;
        let row_len: usize = place.shape.iter().skip(1).product();
        let bytes = tensor.data().get(place.first_row * row_len * size..);
        let Some(bytes) = bytes.filter(|bytes| bytes.len() >= rows * columns * size) else {
            let found = tensor.shape().to_vec();
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

/// The decoder for a tensor's dtype, if weights can have it.
fn decoder(tensor: &TensorView<'_>) -> Option<Decode> {
    match tensor.dtype() {
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
