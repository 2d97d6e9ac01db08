//! The C interface of [`vit_engine`]. `include/vit.h` is its header; README.md shows its use.
//!
//! Functions take raw pointers, check what can be checked about them, and call the engine. No panic crosses the
//! boundary: with `std` it is caught, and without it the program stops.
//!
//! Without the feature `std` the library needs no allocator and no operating system, and has the functions for packed
//! models in memory alone.
//!
//! # Safety
//! All functions have one contract, which the header states: a pointer is null or points to what it is for, in the
//! stated size; what a call writes, nothing else uses meanwhile; a model comes from this library and was not closed.
#![cfg_attr(not(feature = "std"), no_std)]
#![allow(non_camel_case_types, reason = "these are C's names")]
#![allow(clippy::missing_safety_doc, reason = "the crate's documentation states the one contract of all functions")]

// The header has this order.
mod error;

mod model;

#[cfg(feature = "std")]
mod open;

mod plan;

mod forward;

#[cfg(feature = "std")]
mod picture;

#[cfg(all(not(feature = "std"), target_os = "none"))]
mod bare;
mod memory;

pub use error::{VIT_ARGUMENT, VIT_BUG, VIT_FILE, VIT_MEMORY, VIT_MODEL, VIT_OK, VIT_PIXELS, vit_error, vit_status};
pub use forward::{vit_model_forward, vit_model_forward_rows, vit_read_rows};
pub use model::{VIT_ALIGN, VIT_MODEL_BYTES, vit_info, vit_model, vit_model_info, vit_model_place};
#[cfg(feature = "std")]
pub use open::{vit_model_close, vit_model_label, vit_model_open, vit_model_open_bytes, vit_options};
#[cfg(feature = "std")]
pub use picture::{vit_model_preprocess, vit_model_preprocess_samples};
pub use plan::{vit_model_plan, vit_plan};

/// The version of this interface that the header is for. It changes when a program has to be compiled again.
pub const VIT_ABI_VERSION: u32 = 1;

/// The version of this interface that the library has. A program compares it with VIT_ABI_VERSION.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub extern "C" fn vit_abi_version() -> u32 {
    VIT_ABI_VERSION
}
