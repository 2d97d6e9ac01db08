//! Who runs a kernel's tasks.
use vit_kernels::Job;

/// Runs the tasks of jobs, on one thread or several. Results do not depend on it.
pub trait Executor: Sync {
    /// Runs every task of a job, once, before it returns.
    fn run(&self, job: &mut (dyn Job + '_));

    /// Runs a whole forward pass: where to enter a thread pool, once.
    fn enter<R: Send>(&self, pass: impl FnOnce() -> R + Send) -> R {
        pass()
    }
}

/// Everything on the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Executor for Serial {
    fn run(&self, job: &mut (dyn Job + '_)) {
        job.run();
    }
}
