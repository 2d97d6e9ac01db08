//! Ctrl-C and other signals while the engine computes.
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::errors::Failure;

/// How often Python is asked for signals: seldom enough to cost nothing, often enough for an answer within 200 ms.
pub(crate) const PERIOD: Duration = Duration::from_millis(50);

/// Handles Python's signals while a thread that has released the GIL computes.
pub(crate) struct Interrupt {
    /// The thread that asks Python.
    thread: ThreadId,
    start: Instant,
    /// When Python was asked last, in nanoseconds since the start.
    asked: AtomicU64,
    /// What a handler has raised.
    raised: OnceLock<PyErr>,
}

impl Interrupt {
    pub(crate) fn new() -> Self {
        Self {
            thread: thread::current().id(),
            start: Instant::now(),
            asked: AtomicU64::new(0),
            raised: OnceLock::new(),
        }
    }

    /// Whether a handler has raised an exception. The thread that this was made on asks Python, with the GIL, if it was
    /// not asked for a [`PERIOD`]. Python's main thread handles signals; for others the answer is always no.
    pub(crate) fn stop(&self) -> bool {
        if self.raised.get().is_some() || thread::current().id() != self.thread {
            return self.raised.get().is_some();
        }
        let now = self.start.elapsed().as_nanos() as u64;
        if now - self.asked.load(Relaxed).min(now) < PERIOD.as_nanos() as u64 {
            return false;
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

    /// What a handler has raised.
    pub(crate) fn raised(self) -> Option<PyErr> {
        self.raised.into_inner()
    }

    /// The exception of a failure: what a handler has raised, if there is something.
    pub(crate) fn raise(self, failure: Failure) -> PyErr {
        self.raised().unwrap_or_else(|| failure.into())
    }
}
