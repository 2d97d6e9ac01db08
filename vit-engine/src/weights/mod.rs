//! A model's weights in one block of memory: their formats, their offsets, and how the block is filled.
mod fill;
mod formats;
mod layout;
mod precision;

use vit_kernels::{Line, Packed};

pub(crate) use fill::Fill;
pub use fill::{FillError, Source, Values};
pub use formats::{Formats, KeepF32, LayerMatrix, TooManyLayers, UnknownMatrix};
pub(crate) use layout::{Slot, Stored, WeightLayout};
pub use precision::{Precision, UnknownPrecision};

fn floats(data: &[u8], offset: usize, len: usize) -> &[f32] {
    bytemuck::cast_slice(&data[offset..][..len * size_of::<f32>()])
}

fn floats_mut(data: &mut [u8], offset: usize, len: usize) -> &mut [f32] {
    bytemuck::cast_slice_mut(&mut data[offset..][..len * size_of::<f32>()])
}

/// The gamma and beta of a norm, \[dim\].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub(crate) gamma: &'a [f32],
    pub(crate) beta: &'a [f32],
}

/// The packed weight of a linear layer, \[n, k\], and its bias, \[n\].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear<'a> {
    pub(crate) weight: Packed<'a>,
    pub(crate) bias: Option<&'a [f32]>,
}

/// The lines from `offset` to the end.
fn lines(data: &[u8], offset: usize) -> &[Line] {
    bytemuck::cast_slice(&data[offset..])
}

fn lines_mut(data: &mut [u8], offset: usize, count: usize) -> &mut [Line] {
    bytemuck::cast_slice_mut(&mut data[offset..][..count * size_of::<Line>()])
}
