//! The Vision Transformer over a preallocated, caller-owned arena.
//!
//! One forward pass, written once, over blocks of rows (tokens) whose size a [`Plan`] picks within a memory budget: a
//! server lets it pick the fastest sizes, a microcontroller limits it to a few hundred KB. Both run the same code and
//! model, and get the same bits. The forward pass allocates nothing.
//!
//! # With the default features: load a checkpoint and classify
//! ```no_run
//! use vit_engine::{AlignedBox, Images, Isa, Output, Plan, Precision, Serial, file};
//!
//! let checkpoint = file::Checkpoint::open("vit-base", file::Access::Map)?;
//! let loaded = checkpoint.load(Precision::F32)?;
//! let model = loaded.model(Isa::best());
//! let plan = model.plan(Output::Logits, 1, None)?;
//! let mut arena = AlignedBox::new(plan.arena_bytes())?;
//! let pixels = vec![0.0; 3 * 224 * 224]; // normalised, [batch, channels, height, width]
//! let mut logits = vec![0.0; plan.output_len()];
//! let mut images = Images::new(&pixels, [3, 224, 224])?;
//! model.forward(&plan, &mut images, &mut arena, &Serial, &mut logits)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`zoo`] lists the model families whose checkpoints load unchanged, and what each [`Output`] means for them.
//! [`Loaded::model_at`](file::Loaded::model_at) runs a model on images of another size.
//!
//! # Cargo features
//! All are on by default (`checkpoints` implies those above it).
//!
//! | Feature | What it gives | Needs |
//! |---|---|---|
//! | `f32` | [`Precision::F32`], attention pools | |
//! | `f16`, `bf16` | those precisions, and `f32` | |
//! | `int4` | [`Precision::Int4`] | |
//! | `maps` | attention maps: [`Output::Attention`], [`Output::AttentionOfLayer`], [`Output::PoolAttention`] | |
//! | `alloc` | [`AlignedBox`] | an allocator |
//! | `std` | links the standard library; [`logits`] | |
//! | `metadata` | [`packed::Header`]: class names and preprocessing of packed files | vit-image |
//! | `checkpoints` | [`mod@file`], [`zoo`], [`Session`] | serde, safetensors |
//! | `mmap` | maps weight files, allocates huge pages; in WebAssembly, nothing | memmap2 |
//! | `threads` | [`ThreadPool`], [`pipeline`] | threads, of the system or the program |
//!
//! WebAssembly in a browser can neither map files nor start threads: `default-features = false, features =
//! ["checkpoints"]` reads checkpoints from memory ([`Checkpoint::from_bytes`](file::Checkpoint::from_bytes)). With the
//! target feature `atomics` and the feature `threads` the page's workers can be the threads
//! ([`ThreadPool::without_threads`]).
//!
//! # Without Cargo features: `no_std`, no `alloc`
//! `default-features = false` leaves [`Model`], [`Plan`] and the forward pass, in [`Precision::Int8`]; what a program
//! uses beside int8 it asks for by feature, and what it does not ask for takes no flash. A model, or an output, that
//! needs a feature which is left out is refused with an error that names it. The caller owns the memory of the
//! weights: [`Model::fill`] fills it from any [`Source`], or it holds a [packed file](packed). Pixels come from a slice
//! ([`Images`]) or a callback ([`Pixels`]). Besides the arena, a forward pass needs some stack, of which attention
//! takes 21.6 KB, on AVX-512 64.9 KB.
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]

#[cfg(all(test, not(feature = "std")))]
extern crate std;

mod arena;
mod attention;
mod buffers;
mod config;
mod embed;
mod executor;
mod feed_forward;
#[cfg(feature = "checkpoints")]
pub mod file;
mod forward;
mod head;
#[cfg(feature = "std")]
pub mod logits;
#[cfg(feature = "alloc")]
mod memory;
mod model;
mod output;
pub mod packed;
mod parameters;
#[cfg(feature = "threads")]
pub mod pipeline;
mod pixels;
mod plan;
#[cfg(feature = "checkpoints")]
mod session;
#[cfg(test)]
mod testing;
#[cfg(feature = "threads")]
mod threads;
mod weights;
#[cfg(feature = "checkpoints")]
pub mod zoo;

pub use arena::{ALIGN, Aligned, MemoryError};
pub use buffers::{Phase, arena_bytes};
pub use config::{AttentionPool, Biases, Config, ConfigError, PatchOrder, Pool, Positions, Readout};
pub use executor::{Executor, Serial, Stage, Stoppable, Team};
pub use forward::ForwardError;
#[cfg(feature = "alloc")]
pub use memory::{AlignedBox, OutOfMemory};
pub use model::{Model, ModelError};
pub use output::{Output, UnknownOutput};
pub use packed::PackedError;
pub use parameters::{LayerSite, Param, Part, PoolSite, Site, for_each_param};
pub use pixels::{Images, ImagesError, Pixels};
pub use plan::{Plan, PlanError};
#[cfg(feature = "checkpoints")]
pub use session::{Session, SessionError, SessionOptions};
#[cfg(feature = "threads")]
pub use threads::ThreadPool;
pub use vit_kernels::{Activation, Isa, IsaError, Job};
pub use weights::{
    FillError, Formats, KeepF32, LayerMatrix, Precision, Source, TooManyLayers, UnknownMatrix, UnknownPrecision, Values,
};
