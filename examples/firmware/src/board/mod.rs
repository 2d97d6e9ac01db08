//! All that depends on the machine: where the program begins, what counts instructions, where text goes.
//!
//! A board's module has `start_counter` and `instructions`, and its entry point calls [`crate::firmware`].
#[cfg(all(target_os = "none", target_arch = "arm"))]
#[path = "cortex_m.rs"]
mod machine;
#[cfg(all(target_os = "none", target_arch = "riscv32"))]
#[path = "riscv.rs"]
mod machine;
#[cfg(not(target_os = "none"))]
#[path = "host.rs"]
mod machine;

#[cfg(target_os = "none")]
mod bare;

#[cfg(target_os = "none")]
#[allow(unused_imports)] // Not every program measures its stack.
pub use bare::{Painted, console};
#[allow(unused_imports)] // Not every program uses it.
pub use machine::*;
