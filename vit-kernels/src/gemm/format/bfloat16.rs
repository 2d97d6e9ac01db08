//! bfloat16, the upper half of an f32: panels are \[k/2\]\[16\]\[2\], the pairs that VDPBF16PS multiplies.
use ::half::bf16;

use super::Weights;
use crate::simd::{LANES, Simd};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Bf16;

impl Weights for Bf16 {
    const NAME: &'static str = "bf16";
    const GROUP: usize = 2;
    const GGML_TYPE: u32 = 30;
    type Element = bf16;
    type Group = [[bf16; 2]; LANES];

    fn encode(x: f32) -> bf16 {
        bf16::from_f32_const(x)
    }

    fn decode(x: bf16) -> f32 {
        x.to_f32_const()
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, group: &Self::Group, i: usize) -> S::V {
        s.load_bf16(group, i)
    }
}
