//! The threads and the arenas of a model. They belong to one process: a forked child makes its own.
use std::ops::Deref;
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vit_engine::file::Loaded;
use vit_engine::{Executor, Output, Session, SessionOptions, Team, ThreadPool};

use crate::errors::Failure;
use crate::interrupt::PERIOD;

/// A pool of threads, and sessions (an arena each) that calls borrow. There are at most as many sessions as threads:
/// more calls at a time would only share the cores, and wait for each other in the middle of a pass.
pub(crate) struct Workers {
    process: u32,
    loaded: Arc<Loaded>,
    pool: Arc<Pool>,
    sessions: Mutex<Sessions>,
    returned: Condvar,
}

#[derive(Default)]
struct Sessions {
    idle: Vec<Session>,
    lent: usize,
}

impl Workers {
    pub(crate) fn new(loaded: &Arc<Loaded>, threads: usize) -> Result<Self, Failure> {
        let pool = ThreadPool::new(threads).map_err(Failure::Threads)?;
        Ok(Self {
            process: process::id(),
            loaded: Arc::clone(loaded),
            pool: Arc::new(Pool { process: process::id(), pool: Some(pool) }),
            sessions: Mutex::default(),
            returned: Condvar::new(),
        })
    }

    /// Whether their threads are threads of this process.
    pub(crate) fn are_here(&self) -> bool {
        self.process == process::id()
    }

    pub(crate) fn pool(&self) -> &ThreadPool {
        self.pool.inner()
    }

    /// Lends a session that computes `output` on images of this size, in batches of up to `batch`. Waits for one if all
    /// are lent, until `stop` says so.
    pub(crate) fn session(
        &self,
        output: Output,
        image: [usize; 2],
        batch: usize,
        stop: &dyn Fn() -> bool,
    ) -> Result<Lent<'_>, Failure> {
        let fits = |session: &Session| session.options().output == output && session.config().image == image;
        let mut sessions = self.lock();
        while sessions.lent >= self.pool().threads() {
            let waited = self.returned.wait_timeout(sessions, PERIOD);
            sessions = waited.unwrap_or_else(PoisonError::into_inner).0;
            if stop() {
                return Err(Failure::Stopped);
            }
        }
        let found = sessions.idle.iter().rposition(fits).map(|index| sessions.idle.remove(index));
        if found.is_none() && sessions.lent + sessions.idle.len() >= self.pool().threads() {
            // The one that was not used for the longest time makes room.
            sessions.idle.remove(0);
        }
        sessions.lent += 1;
        drop(sessions);
        let mut lent = Lent { workers: self, session: found.filter(|session| session.options().batch >= batch) };
        if lent.session.is_none() {
            let executor = Arc::clone(&self.pool) as Arc<dyn Executor + Send + Sync>;
            let options = SessionOptions { output, image: Some(image), batch, executor, ..SessionOptions::default() };
            lent.session = Some(Session::new(Arc::clone(&self.loaded), options).map_err(Failure::Session)?);
        }
        Ok(lent)
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        // No code that can panic runs under the lock.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session on loan.
pub(crate) struct Lent<'w> {
    workers: &'w Workers,
    session: Option<Session>,
}

impl Lent<'_> {
    /// Runs the session on whole images, until `stop` says so.
    pub(crate) fn forward(
        &mut self,
        pixels: &[f32],
        out: &mut [f32],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), Failure> {
        use vit_engine::{ForwardError, SessionError, Stoppable};
        let Some(session) = &mut self.session else { return Err(Failure::Stopped) };
        let executor = Stoppable { executor: &*self.workers.pool, stop };
        session.forward_on(&executor, pixels, out).map_err(|error| match error {
            SessionError::Forward(ForwardError::Stopped) => Failure::Stopped,
            error => Failure::Session(error),
        })
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut sessions = self.workers.lock();
        sessions.lent -= 1;
        sessions.idle.extend(self.session.take());
        drop(sessions);
        self.workers.returned.notify_one();
    }
}

/// A pool of threads that a forked child can drop. The threads are not there in the child, and the pool's lock may have
/// been held at the fork, so that it cannot be shut down; it is left as it is.
struct Pool {
    process: u32,
    pool: Option<ThreadPool>,
}

impl Pool {
    fn inner(&self) -> &ThreadPool {
        self.pool.as_ref().expect("it is taken only when this value is dropped")
    }
}

impl Deref for Pool {
    type Target = ThreadPool;
    fn deref(&self) -> &ThreadPool {
        self.inner()
    }
}

impl Executor for Pool {
    fn enter(&self, pass: &mut (dyn FnMut(&dyn Team) + Send)) {
        self.inner().enter(pass);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.process != process::id() {
            std::mem::forget(self.pool.take());
        }
    }
}
