//! Instances of the module in other threads, with the same memory, that help with forward passes.
//!
//! The first instance holds the model. It says with [`vit_threads`] how many there will be, and makes the memory of each
//! helper with [`vit_helper`]. A helper is told there where its stack and its thread-local memory are, and calls
//! [`vit_help`], which does not return.
use std::sync::OnceLock;

use vit_engine::{AlignedBox, Executor, Serial, ThreadPool};

use crate::{call, status};

static POOL: OnceLock<ThreadPool> = OnceLock::new();

/// What runs forward passes.
pub(crate) fn executor() -> &'static dyn Executor {
    match POOL.get() {
        Some(pool) => pool,
        None => &Serial,
    }
}

/// Passes run on so many threads from now on, the caller's and those of helpers. To be called once.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub(crate) extern "C" fn vit_threads(threads: usize) -> u32 {
    status(|_| Ok(POOL.set(ThreadPool::without_threads(threads)).map_err(|_| "the threads are known already")?))
}

/// Memory for the stack of a helper and what is local to its thread, for as long as the module's memory exists, aligned
/// to 64 bytes: 0 if it is refused.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub(crate) extern "C" fn vit_helper(len: usize) -> usize {
    call(|_| Ok(Box::leak(Box::new(AlignedBox::new(len)?)).as_ptr().addr()))
}

/// Helps with forward passes, for ever.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub(crate) extern "C" fn vit_help() {
    if let Some(pool) = POOL.get() {
        pool.helper()();
    }
}

/// Says that a helper has stopped, by a trap: the pass that it was in stops, too. It needs no stack, which may have been
/// the reason.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub(crate) extern "C" fn vit_lost() {
    ThreadPool::report_lost_helper();
}
