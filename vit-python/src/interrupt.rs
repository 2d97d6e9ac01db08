//! Ctrl-C and other signals while the engine computes.
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::errors::Failure;

/// How often Python is asked for signals: seldom enough to cost nothing, often enough for an answer within 200 ms.
pub(crate) const PERIOD: Duration = Duration::from_millis(50);

/// Handles Python's signals while a thread that has released the GIL computes.
pub(crate) struct Interrupt {
    start: Instant,
    /// When Python was asked last, in nanoseconds since the start.
    asked: AtomicU64,
    /// What a handler has raised.
    raised: OnceLock<PyErr>,
}

impl Interrupt {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), asked: AtomicU64::new(0), raised: OnceLock::new() }
    }

    /// Whether a handler has raised an exception. Asks Python, with the GIL, if it was not asked for a [`PERIOD`]. Only
    /// the main thread handles signals; on others the answer is always no.
    pub(crate) fn stop(&self) -> bool {
        let now = self.start.elapsed().as_nanos() as u64;
        if now - self.asked.load(Relaxed).min(now) < PERIOD.as_nanos() as u64 {
            return self.raised.get().is_some();
        }
        self.asked.store(now, Relaxed);
        Python::attach(|py| {
            if let Err(raised) = py.check_signals() {
                // Only the first one is raised.
                let _ = self.raised.set(raised);
            }
        });
        self.raised.get().is_some()
    }

    /// The exception of a failure: what a handler has raised, if there is something.
    pub(crate) fn raise(self, failure: Failure) -> PyErr {
        self.raised.into_inner().unwrap_or_else(|| failure.into())
    }
}
