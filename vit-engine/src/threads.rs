//! Tasks over a rayon pool.
#![allow(unsafe_code)] // One call: each index runs once.

use core::ops::Range;

use rayon::ThreadPool;
use vit_kernels::Job;

use crate::executor::{Executor, Stage};

/// Runs tasks on the threads of a rayon pool, the caller's own if it likes.
///
/// A forward pass enters the pool once; inside, tasks are shared by `join`, which costs about a microsecond and does not
/// allocate. A caller that already runs in the pool pays nothing for entering.
#[derive(Debug, Clone, Copy)]
pub struct Threads<'a>(pub &'a ThreadPool);

impl Executor for Threads<'_> {
    fn run(&self, _: Stage, job: &mut (dyn Job + '_)) {
        let job: &(dyn Job + '_) = job;
        split(job, 0..job.tasks());
    }

    fn enter<R: Send>(&self, pass: impl FnOnce() -> R + Send) -> R {
        self.0.install(pass)
    }
}

/// Halves the range until a task is left.
fn split(job: &(dyn Job + '_), tasks: Range<usize>) {
    match tasks.len() {
        0 => {}
        // SAFETY: the ranges of a split are disjoint and `run` has the job to itself, so each index runs once.
        1 => unsafe { job.task(tasks.start) },
        len => {
            let middle = tasks.start + len / 2;
            rayon::join(|| split(job, tasks.start..middle), || split(job, middle..tasks.end));
        }
    }
}
