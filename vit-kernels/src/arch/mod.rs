//! One file per instruction set, each nothing but the operations of [`Simd`](crate::simd::Simd) and, where the level is
//! chosen at run time, the CPU features it stands for.
#![allow(unsafe_code)]

pub(crate) mod portable;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;
