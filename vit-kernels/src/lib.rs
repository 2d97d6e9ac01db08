//! SIMD kernels of the Vision Transformer: `no_std`, no allocation, arithmetic on slices.
//!
//! | Module | Computes |
//! |---|---|
//! | [`softmax`](mod@softmax) | softmax over rows |
//! | [`layer_norm`](mod@layer_norm) | LayerNorm over rows |
//! | [`activation`] | GELU: exact (erf), tanh form, sigmoid ('quick') form; SiLU, ReLU |
//! | [`elementwise`] | x += y, x *= factor |
//! | [`gemm`] | `epilogue(A·Wᵀ)` over weights packed once |
//! | [`attention`](mod@attention) | softmax(q·kᵀ·scale + bias)·v with a streaming softmax; attention maps |
//! | [`rope`] | rotary position embedding |
//! | [`math`] | exp and erf of slices |
//! | [`half`] | f16 as a storage type |
//! | [`RoundToBf16`] | rows of f32 to bf16 |
//! | [`Quantise`] | rows of f32 to int8 with a scale per row |
//! | `peak` (feature `peak`) | multiply–adds alone: the peak rate of a core |
//! | `reference` (feature `reference`) | plain f64 versions, to test against |
//!
//! # Levels
//! Every kernel takes an [`Isa`]: the instruction-set level it runs on, detected once and passed by value.
//!
//! ```
//! use vit_kernels::{Isa, softmax};
//! let mut row = [1.0f32, 2.0, 3.0];
//! softmax(Isa::best(), &mut row, 3)?;
//! assert!((row[2] - 0.665_240_96).abs() < 1e-6);
//! # Ok::<(), vit_kernels::ShapeError>(())
//! ```
//!
//! No time was measured on Arm hardware: the levels of 64-bit Arm were tested, and their instructions counted, on
//! emulated CPUs.
//!
//! # Cargo features
//! `f16`, `bf16`, `int4`: weights in that [`Format`]; `f32-attention`: [`Attention`] and [`AttentionMaps`] over keys and
//! values in f32. `std`: on 64-bit Arm, the operating system says which instructions the CPU has; without it, the target
//! that is compiled for does. All are on by default. Without the formats and `f32-attention` their code is not linked, and what needs them is a
//! [`ShapeError`] or [`PackError::LeftOut`]. f32 and int8 weights, and attention in int8, are always there.
//!
//! # Reproducibility
//! All levels work on the same 16 virtual lanes and sum in the same order, so AVX2, AVX-512 and NEON give the same bits.
//! If the target has no fused multiply–add at compile time, the portable level rounds the product and the sum, and
//! differs in the last bits; so does `simd128`, with the portable level's bits. `relaxed-simd` does what the CPU does
//! fastest, and gives one or the other. Kernels under [`Isa::unfused`], and int8 and int4 matmuls always, give the same bits on
//! every level and target.
//!
//! # Error bounds
//! Bounds are given in ULP of the exact result (2⁻²³ of its binade) or relative to a stated scale, and are tested on
//! every level against the f64 `reference`. With f16 storage the result is rounded once more, to f16.
#![no_std]
#![deny(unsafe_code)]

// Only for the detection of CPU features.
#[cfg(any(test, all(feature = "std", arm_neon)))]
extern crate std;

pub mod activation;
mod arch;
pub mod attention;
#[cfg(test)]
mod bits;
pub mod elementwise;
mod error;
pub mod gemm;
pub mod half;
mod isa;
mod job;
pub mod layer_norm;
pub mod math;
#[cfg(any(test, feature = "peak"))]
pub mod peak;
mod quantise;
#[cfg(any(test, feature = "reference"))]
pub mod reference;
pub mod rope;
mod round;
mod simd;
pub mod softmax;
#[cfg(test)]
mod testing;
mod unfused;

pub use activation::{Activation, activate, activate_for_int8};
pub use attention::{
    Attention, AttentionMaps, Bf16Kv, KeysValues, KvLayout, QuantiseKv, QuantisedKv, RelativeBias, RoundKv, Scores,
};
pub use error::ShapeError;
pub use gemm::{Accumulate, Activations, Blocks, Epilogue, Format, Inputs, Line, Matmul, PackError, Packed, matmul};
pub use isa::{Isa, IsaError};
pub use job::Job;
pub use layer_norm::{LayerNorm, NormActivations, layer_norm};
pub use quantise::{Quantise, Quantised, quantised_len};
pub use rope::Rope;
pub use round::{RoundToBf16, bf16_len};
pub use simd::LANES;
pub use softmax::softmax;
