//! bfloat16, the upper half of an f32: panels are \[k/2\]\[16\]\[2\], the pairs that VDPBF16PS multiplies.
use ::half::bf16;

use super::super::Activations;
use super::Weights;
use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Bf16;

impl Weights for Bf16 {
    const NAME: &'static str = "bf16";
    const GROUP: usize = 2;
    const GGML_TYPE: u32 = 30;
    const COARSE: bool = true;
    type Element = bf16;
    type Group = [[bf16; 2]; LANES];
    type Inputs = [bf16; 2];
    type Quad = [bf16; 4];

    fn rows<'a>(a: &Activations<'a>) -> Option<&'a [[bf16; 2]]> {
        match a {
            Activations::Bf16(rows) => Some(rows.as_chunks().0),
            _ => None,
        }
    }

    fn has_dot<S: Simd>() -> bool {
        S::BF16_DOT
    }

    fn enter<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.call_bf16(kernel)
    }

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

    #[inline(always)]
    fn splat<S: Simd>(s: S, pair: &[bf16; 2], i: usize) -> S::V {
        s.splat_bf16(pair, i)
    }

    #[inline(always)]
    fn widen<S: Simd>(s: S, inputs: &[bf16; 4]) -> [f32; 4] {
        s.widen_bf16(inputs)
    }

    #[inline(always)]
    fn widen_column<S: Simd>(s: S, pairs: &[[bf16; 2]; 4], i: usize) -> [f32; 4] {
        s.widen_bf16_of_pairs(pairs, i)
    }

    #[inline(always)]
    fn add_elements<S: Simd, const M: usize, const P: usize, const I: i32, const J: i32>(
        s: S,
        acc: &mut [[S::V; P]; M],
        p: usize,
        a: &[[f32; 4]; M],
        group: &Self::Group,
    ) {
        s.add_pair_elements::<M, P, I, J>(acc, p, a, group);
    }

    #[inline(always)]
    fn dot<S: Simd>(s: S, sum: S::V, pair: &[bf16; 2], group: &Self::Group) -> S::V {
        s.dot_bf16(sum, pair, group)
    }
}
