//! Multiply–adds alone: the peak rate of a core, to compare kernels with.
use core::hint::black_box;

use ::half::bf16;

use crate::isa::Isa;
use crate::simd::{Kernel, LANES, MAX_INT8_ROWS, Simd};

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
        const { assert!(matches!(S::TILE_ROWS * S::TILE_PANELS, 24 | 6 | 5 | 2 | 1)) }
        // As many accumulators as the matmul's tile has, or one more where those do not divide CHAINS.
        let size = match S::TILE_ROWS * S::TILE_PANELS {
            5 => 6,
            size => size,
        };
        let mut total = 0.0;
        for group in 0..CHAINS / size {
            total += match size {
                24 => s.call(ChainGroup::<24>(self.steps, group)),
                6 => s.call(ChainGroup::<6>(self.steps, group)),
                2 => s.call(ChainGroup::<2>(self.steps, group)),
                _ => s.call(ChainGroup::<1>(self.steps, group)),
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
        let (factor, step) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
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

/// Groups of inputs that the chains below go through, again and again: their operands stay in L1.
const GROUPS: usize = 8;

/// Runs the bf16 register tile's multiply–adds alone, `steps` times over operands in L1. Returns the operations done (two
/// per multiply–add of bf16 numbers) and a value that depends on all of them.
///
/// That is the peak of levels with an instruction for it; the others multiply bf16 in f32, as [`multiply_adds`] does.
pub fn bf16_multiply_adds(isa: Isa, steps: usize) -> (u64, f32) {
    isa.call_bf16(Bf16Chains { steps }).unwrap_or_else(|| multiply_adds(isa, steps))
}

struct Bf16Chains {
    steps: usize,
}

impl Kernel for Bf16Chains {
    type Output = Option<(u64, f32)>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        S::BF16_DOT.then(|| s.call(Bf16Tile(self.steps)))
    }
}

/// [`CHAINS`] chains over `.0` steps.
struct Bf16Tile(usize);

impl Kernel for Bf16Tile {
    type Output = (u64, f32);
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    fn run<S: Simd>(self, s: S) -> (u64, f32) {
        let mut b = [[[bf16::ONE; 2]; LANES]; GROUPS];
        for g in 0..GROUPS {
            b[g] = [[bf16::from_f32_const(1.0 + g as f32); 2]; LANES];
        }
        let mut acc = [s.splat(0.0); CHAINS];
        for (i, acc) in acc.iter_mut().enumerate() {
            *acc = s.splat(i as f32);
        }
        for _ in 0..self.0 {
            // The compiler must not see that the products are the same in every step.
            let b = black_box(&b);
            for g in 0..GROUPS {
                for acc in &mut acc {
                    *acc = s.dot_bf16(*acc, &b[g][0], &b[g]);
                }
            }
        }
        let total = acc.into_iter().map(|acc| s.sum(acc)).sum();
        ((4 * GROUPS * CHAINS * LANES) as u64 * self.0 as u64, total)
    }
}

/// Runs the int8 register tile's multiply–adds alone, `steps` times over operands in L1 that need no preparation.
/// Returns the operations done (two per multiply–add of 8-bit numbers) and a value that depends on all of them.
pub fn int8_multiply_adds(isa: Isa, steps: usize) -> (u64, f32) {
    isa.call_int8(Int8Chains { steps })
}

struct Int8Chains {
    steps: usize,
}

impl Kernel for Int8Chains {
    type Output = (u64, f32);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (u64, f32) {
        match S::INT8_PANELS {
            3 => s.call(Int8Tile::<3>(self.steps)),
            2 => s.call(Int8Tile::<2>(self.steps)),
            _ => s.call(Int8Tile::<1>(self.steps)),
        }
    }
}

/// `P` panels over `.0` steps.
struct Int8Tile<const P: usize>(usize);

impl<const P: usize> Kernel for Int8Tile<P> {
    type Output = (u64, f32);
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    fn run<S: Simd>(self, s: S) -> (u64, f32) {
        let mut a = [[s.splat_activations([1; 4]); MAX_INT8_ROWS]; GROUPS];
        let mut w = [[s.load_weights(&[[1; 4]; LANES]); P]; GROUPS];
        for g in 0..GROUPS {
            for m in 0..S::INT8_ROWS {
                a[g][m] = s.splat_activations([(g + m) as i8; 4]);
            }
            for p in 0..P {
                w[g][p] = s.load_weights(&[[1 - 2 * (g % 2) as i8; 4]; LANES]);
            }
        }
        let mut acc = [[s.start(&[0; LANES]); P]; MAX_INT8_ROWS];
        for _ in 0..self.0 {
            // The compiler must not see that the products are the same in every step.
            let (a, w) = black_box((&a, &w));
            for g in 0..GROUPS {
                for m in 0..S::INT8_ROWS {
                    for p in 0..P {
                        acc[m][p] = s.peak(acc[m][p], a[g][m], w[g][p]);
                    }
                }
            }
        }
        let mut total = 0.0;
        for m in 0..S::INT8_ROWS {
            for p in 0..P {
                total += s.sum(s.to_f32(acc[m][p]));
            }
        }
        let ops = 2 * S::PEAK_INPUTS as u64 * (GROUPS * S::INT8_ROWS * P * LANES) as u64 * self.0 as u64;
        (ops, total)
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

    #[test]
    fn every_bf16_product_is_added() {
        for isa in levels().into_iter().filter(|isa| isa.has_bf16_dot()) {
            // 16 lanes; 24 chains begin with 0 to 23; a step adds 2·Σ (1 + g)² = 408.
            for steps in [1, 3] {
                let (flops, sum) = bf16_multiply_adds(isa, steps);
                assert_eq!(flops, 24 * 16 * 8 * 4 * steps as u64);
                assert_eq!(sum, 16.0 * (276.0 + 24.0 * 408.0 * steps as f32), "{isa}");
            }
        }
    }

    #[test]
    fn every_int8_product_is_added() {
        for isa in levels() {
            let ((once, first), (all, sum)) = (int8_multiply_adds(isa, 1), int8_multiply_adds(isa, 3));
            // Activations are g + m, weights 1 or −1, one group in turn with the next: the sums grow by the same in every step.
            assert!(once > 0 && all == 3 * once && first != 0.0 && sum == 3.0 * first, "{isa}: {first} {sum}");
        }
    }
}
