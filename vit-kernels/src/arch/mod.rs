//! One file per instruction set: the operations of [`Simd`](crate::simd::Simd) and, for levels chosen at run time, the
//! CPU features they need.
#![allow(unsafe_code)]

#[cfg(arm_neon)]
pub(crate) mod aarch64;
#[cfg(not(no_vectors))]
pub(crate) mod portable;
#[cfg(any(no_vectors, test))]
pub(crate) mod small;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

/// The level of every target.
#[cfg(not(no_vectors))]
pub(crate) use portable::Portable;
/// The level of every target.
#[cfg(no_vectors)]
pub(crate) use small::Small as Portable;
