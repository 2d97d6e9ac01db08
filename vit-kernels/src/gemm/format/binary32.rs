//! IEEE binary32: panels are \[k\]\[16\].
use super::super::Activations;
use super::Weights;
use crate::simd::{LANES, Simd};

#[derive(Debug, Clone, Copy)]
pub(crate) struct F32;

impl Weights for F32 {
    const NAME: &'static str = "f32";
    const GROUP: usize = 1;
    const GGML_TYPE: u32 = 0;
    type Element = f32;
    type Group = [f32; LANES];

    type Inputs = f32;
    type Quad = [f32; 4];

    fn rows<'a>(a: &Activations<'a>) -> Option<&'a [f32]> {
        a.binary32()
    }

    fn encode(x: f32) -> f32 {
        x
    }

    fn decode(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, group: &Self::Group, _: usize) -> S::V {
        s.load(group)
    }

    #[inline(always)]
    fn splat<S: Simd>(s: S, input: &f32, _: usize) -> S::V {
        s.splat(*input)
    }

    #[inline(always)]
    fn widen<S: Simd>(_: S, inputs: &[f32; 4]) -> [f32; 4] {
        *inputs
    }

    #[inline(always)]
    fn widen_column<S: Simd>(_: S, inputs: &[f32; 4], _: usize) -> [f32; 4] {
        *inputs
    }
}
