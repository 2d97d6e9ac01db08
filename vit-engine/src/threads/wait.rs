//! How long a thread waits, and in which way.
use core::hint::spin_loop;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// Whether this is WebAssembly without an operating system: std has no clock there and does not yield, and a thread can
/// stop by a trap while the others go on.
const BARE: bool = cfg!(all(target_family = "wasm", target_os = "unknown"));

/// How often a waiting thread spins before it yields. loom needs a yield in every iteration. WebAssembly has no hint
/// that makes a spin last, and what stands for a yield takes as long as a task: on two threads of Node, ViT-Ti takes a
/// tenth (f32) and a fifth (int8) longer with 10,000 than with 40,000, and no less with 300,000 (least times, with
/// std's sleep as the yield, AMD EPYC, 2026-11-29).
pub(super) const SPINS: usize = if cfg!(loom) {
    1
} else if BARE {
    40_000
} else {
    200
};

/// Whether a helper has stopped in the middle of a pass, so that it is waited for in vain.
pub(super) static LOST: AtomicBool = AtomicBool::new(false);

/// Lets other threads run.
pub(super) fn yield_now() {
    if BARE {
        assert!(!LOST.load(Relaxed), "a helper has stopped");
        // A wait that only its timeout ends: the processor is free for as long as the system takes to notice. std's sleep
        // is a loop, which V8 11 (Chrome 113, Node 20) compiles so that it never ends.
        let (nobody, never) = (Mutex::new(()), Condvar::new());
        let locked = nobody.lock().unwrap_or_else(PoisonError::into_inner);
        drop(never.wait_timeout(locked, Duration::from_micros(1)));
    } else {
        thread::yield_now();
    }
}

/// How long a helper polls for the next pass before it sleeps: about 100 microseconds. Passes often follow each other
/// at once, and waking a thread takes tens of microseconds.
pub(super) enum Patience {
    Since(Instant),
    /// Without a clock: how many looks are left.
    Looks(u32),
}

impl Patience {
    pub(super) fn new() -> Self {
        if BARE { Self::Looks(50_000) } else { Self::Since(Instant::now()) }
    }

    /// Whether to look once more; other threads may run in between.
    pub(super) fn lasts(&mut self) -> bool {
        match self {
            Self::Since(start) => {
                yield_now();
                start.elapsed() < Duration::from_micros(100)
            }
            Self::Looks(left) => {
                spin_loop();
                *left -= 1;
                *left > 0
            }
        }
    }
}
