//! The atomics that the crew uses: those of `core`, or with `--cfg loom` those of loom, which explores every order of
//! access.
#[cfg(not(loom))]
pub(super) use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};

#[cfg(loom)]
use loom::thread::yield_now;
#[cfg(loom)]
pub(super) use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence},
};

use super::wait::SPINS;
#[cfg(not(loom))]
use super::wait::yield_now;

/// `core::cell::UnsafeCell` with the interface of loom's.
#[cfg(not(loom))]
pub(super) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(super) fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Waits for a condition that should be true within microseconds: first spins, then yields to other threads.
pub(super) fn wait_until(mut done: impl FnMut() -> bool) {
    let mut looks = 0;
    while !done() {
        looks += 1;
        if looks < SPINS {
            core::hint::spin_loop();
        } else {
            yield_now();
        }
    }
}
