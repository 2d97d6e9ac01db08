//! One file per instruction set: the operations of [`Simd`](crate::simd::Simd) and, for levels chosen at run time, the
//! CPU features they need.
#![allow(unsafe_code)]

pub(crate) mod portable;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;
