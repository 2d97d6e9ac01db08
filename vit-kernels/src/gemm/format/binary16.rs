//! IEEE binary16: panels are \[k\]\[16\].
use ::half::f16;

use super::super::Activations;
use super::Weights;
use crate::simd::{LANES, Simd};

#[derive(Debug, Clone, Copy)]
pub(crate) struct F16;

impl Weights for F16 {
    const NAME: &'static str = "f16";
    const GROUP: usize = 1;
    const GGML_TYPE: u32 = 1;
    const IS_F16: bool = true;
    type Element = f16;
    type Group = [f16; LANES];

    type Inputs = f32;
    type Quad = [f32; 4];

    fn rows<'a>(a: &Activations<'a>) -> Option<&'a [f32]> {
        a.binary32()
    }

    fn encode(x: f32) -> f16 {
        f16::from_f32_const(x)
    }

    fn decode(x: f16) -> f32 {
        x.to_f32_const()
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, group: &Self::Group, _: usize) -> S::V {
        s.load_f16(group)
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
