//! The atomics of the crew: those of `core`, or under `--cfg loom` those that loom explores every order of.
#[cfg(not(loom))]
pub(super) use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
#[cfg(not(loom))]
pub(super) use std::thread::yield_now;

#[cfg(loom)]
pub(super) use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence},
    thread::yield_now,
};

/// loom's interface of a cell, over the usual one.
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

/// Waits for what comes within microseconds: at first without giving way to other threads.
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

/// Looks before a waiting thread gives way. loom has to be told of every wait.
const SPINS: usize = if cfg!(loom) { 1 } else { 200 };
