//! Multiply–adds alone: the peak rate of a core, to compare kernels with.
use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd};

/// Independent chains of 16 lanes.
const CHAINS: usize = 24;

/// Runs 24 independent chains of `steps` dependent multiply–adds on 16 lanes each, as many at a time as the level's
/// registers hold. Returns the floating-point operations done (two per multiply–add) and a value that depends on all of
/// them, so that the compiler cannot drop any.
pub fn multiply_adds(isa: Isa, steps: usize) -> (u64, f32) {
    let flops = 2 * (CHAINS * LANES) as u64 * steps as u64;
    (flops, isa.call(Chains { steps }))
}

struct Chains {
    steps: usize,
}

impl Kernel for Chains {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        // As many accumulators as the matmul's tile has: 24, 6 or 2.
        const { assert!(matches!(S::TILE_ROWS * S::TILE_PANELS, 24 | 6 | 2)) }
        let mut total = 0.0;
        for group in 0..CHAINS.div_ceil(S::TILE_ROWS * S::TILE_PANELS) {
            total += match S::TILE_ROWS * S::TILE_PANELS {
                24 => s.call(ChainGroup::<24>(self.steps, group)),
                6 => s.call(ChainGroup::<6>(self.steps, group)),
                _ => s.call(ChainGroup::<2>(self.steps, group)),
            };
        }
        total
    }
}

/// `N` chains over `.0` steps; `.1` makes the groups differ.
struct ChainGroup<const N: usize>(usize, usize);

impl<const N: usize> Kernel for ChainGroup<N> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (factor, step) = (s.splat(core::hint::black_box(0.999)), s.splat(core::hint::black_box(0.001)));
        let mut chains = [s.splat(self.1 as f32); N];
        for (i, chain) in chains.iter_mut().enumerate() {
            *chain = s.splat((i + self.1) as f32);
        }
        for _ in 0..self.0 {
            for chain in &mut chains {
                *chain = s.mul_add(*chain, factor, step);
            }
        }
        chains.into_iter().map(|chain| s.sum(chain)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::levels;

    #[test]
    fn every_step_of_every_chain_is_done() {
        for isa in levels() {
            let (flops, sum) = multiply_adds(isa, 5000);
            assert_eq!(flops, 24 * 16 * 2 * 5000);
            // x·0.999 + 0.001 tends to 1 in each of the 24 · 16 lanes.
            assert!((sum - 384.0).abs() < 60.0, "{isa}: {sum}");
        }
    }
}
