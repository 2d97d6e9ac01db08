//! One file per instruction set: the operations of [`Simd`](crate::simd::Simd) and, for levels chosen at run time, the
//! CPU features they need.
#![allow(unsafe_code)]

#[cfg(arm_neon)]
pub(crate) mod aarch64;
#[cfg(not(any(no_vectors, wasm_simd)))]
pub(crate) mod portable;
#[cfg(any(no_vectors, test))]
pub(crate) mod small;
#[cfg(wasm_simd)]
pub(crate) mod wasm32;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

/// The level of every target.
#[cfg(not(any(no_vectors, wasm_simd)))]
pub(crate) use portable::Portable;
/// The level of every target.
#[cfg(no_vectors)]
pub(crate) use small::Small as Portable;
/// The level of every target.
#[cfg(wasm_simd)]
pub(crate) use wasm32::Simd128 as Portable;

/// The name of that level.
#[cfg(not(wasm_simd))]
pub(crate) const PORTABLE: &str = "portable";
/// The name of that level.
#[cfg(wasm_simd)]
pub(crate) use wasm32::NAME as PORTABLE;
