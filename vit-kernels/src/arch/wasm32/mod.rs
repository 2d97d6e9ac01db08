//! WebAssembly with SIMD. A module has one level, fixed when it is compiled: an engine refuses a module with an instruction
//! that it does not know, so there is nothing to detect at run time.
//!
//! The levels differ in how they multiply: `relaxed.rs` and `strict.rs` have the same items.
mod register;
#[cfg(target_feature = "relaxed-simd")]
mod relaxed;
mod simd128;
#[cfg(not(target_feature = "relaxed-simd"))]
mod strict;
mod widened;

#[cfg(target_feature = "relaxed-simd")]
use relaxed as products;
#[cfg(not(target_feature = "relaxed-simd"))]
use strict as products;

/// The level's name.
pub(crate) use products::NAME;
pub(crate) use simd128::Simd128;
