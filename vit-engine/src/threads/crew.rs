//! How one forward pass gives its jobs to several threads.
//!
//! A new job starts every few microseconds, too soon for threads to sleep in between. So helper threads stay for the
//! whole pass, spin until the next job, and take its tasks with atomics only.
//!
//! A helper increments `inside` and then reads `epoch`; the owner (the thread of the pass) writes `epoch` and then
//! reads `inside`; both have a `SeqCst` fence in between. So at least one of them sees the other: either the helper
//! sees that the job is closed and does not touch it, or the owner waits for the helper. (`cargo test` with `--cfg
//! loom` tries every order.)
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;

use vit_kernels::Job;

use super::sync::{AtomicBool, AtomicU64, AtomicUsize, UnsafeCell, fence, wait_until};
use crate::executor::{Stage, Team};

/// The most threads that get a share of the tasks. Further threads take tasks from these shares.
const MOST: usize = if cfg!(loom) { 2 } else { 64 };

/// The most bands of rows. Each band reads all weights, so with more bands memory bandwidth is the limit.
const MOST_BANDS: usize = 8;

/// One forward pass that helpers can join until it [ends](Self::end).
pub(super) struct Crew {
    /// Odd while helpers may work on the job.
    epoch: AtomicUsize,
    /// The open job. The owner writes it only while no helper is inside.
    job: UnsafeCell<Option<*const (dyn Job + 'static)>>,
    /// Number of helpers that may access the job.
    inside: AtomicUsize,
    /// Number of helpers that have joined so far.
    helpers: AtomicUsize,
    /// Number of helpers that have joined and not left.
    present: AtomicUsize,
    /// The share of the tasks of each thread. A thread whose share is empty takes tasks from the end of the others.
    shares: [Share; MOST],
    /// Number of shares in use.
    parts: AtomicUsize,
    over: AtomicBool,
    /// The panic of a task on a helper.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: all fields but the job are atomic or behind a lock; `run` and `help` state when a thread may access the job.
unsafe impl Sync for Crew {}
// SAFETY: as above. The pointer to the job is dereferenced only while the job is open, and then the owner waits in
// `run`.
unsafe impl Send for Crew {}

impl Team for Crew {
    fn run(&self, _: Stage, job: &mut (dyn Job + '_)) {
        let [rows, columns] = job.grid();
        if rows.saturating_mul(columns) < 2 || rows.max(columns) > u16::MAX.into() {
            return job.run();
        }
        let threads = (self.helpers.load(Relaxed) + 1).min(MOST);
        // As many bands of rows as possible; columns are split only if there are fewer bands than threads.
        let bands = (1..=rows.min(MOST_BANDS)).rev().find(|bands| threads.is_multiple_of(*bands)).unwrap_or(1);
        let parts = [bands, (threads / bands).min(columns)];
        let part = |i: usize, of: usize, len: usize| i * len / of..(i + 1) * len / of;
        for (i, share) in self.shares[..parts[0] * parts[1]].iter().enumerate() {
            share.set(part(i / parts[1], parts[0], rows), part(i % parts[1], parts[1], columns));
        }
        self.parts.store(parts[0] * parts[1], Relaxed);
        let job: *const (dyn Job + '_) = job;
        // SAFETY: the epoch is even and no helper is inside, so nobody else accesses the cell. The lifetime is erased,
        // but this function returns only after the job is closed and every helper has left it.
        self.job.with_mut(|cell| unsafe {
            *cell = Some(core::mem::transmute::<*const (dyn Job + '_), *const (dyn Job + 'static)>(job));
        });
        let epoch = self.epoch.load(Relaxed);
        self.epoch.store(epoch + 1, Release);
        let close = OnDrop(|| {
            self.epoch.store(epoch + 2, Relaxed);
            fence(SeqCst);
            wait_until(|| self.inside.load(Acquire) == 0);
        });
        // SAFETY: the job is open; share 0 is the owner's.
        unsafe { self.work(&*job, 0) };
        drop(close);
    }
}

impl Crew {
    pub(super) fn new() -> Self {
        Self {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            inside: AtomicUsize::new(0),
            helpers: AtomicUsize::new(0),
            present: AtomicUsize::new(0),
            shares: core::array::from_fn(|_| Share::empty()),
            parts: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            panic: Mutex::new(None),
        }
    }

    /// Registers a helper that will call [`help`](Self::help). From now on [`end`](Self::end) waits for it.
    pub(super) fn join(&self) {
        self.present.fetch_add(1, Relaxed);
    }

    /// Number of helpers in the pass.
    pub(super) fn present(&self) -> usize {
        self.present.load(Relaxed)
    }

    /// Works on one job after the other until the pass is over. Its last access to the crew is to report that it
    /// leaves.
    pub(super) fn help(&self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_part())) {
            *self.panic.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(panic);
        }
        self.present.fetch_sub(1, Release);
    }

    /// Ends the pass: tells the helpers to leave and waits until they have. No helper may join any more.
    pub(super) fn end(&self) {
        self.over.store(true, Release);
        wait_until(|| self.present.load(Acquire) == 0);
    }

    /// Resumes the panic of a helper, if there was one.
    pub(super) fn resume_panic(&self) {
        let panic = self.panic.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn take_part(&self) {
        let me = self.helpers.fetch_add(1, Relaxed) + 1;
        let mut last = 0;
        loop {
            let mut epoch = 0;
            wait_until(|| {
                epoch = self.epoch.load(Acquire);
                epoch % 2 == 1 && epoch != last || self.over.load(Acquire)
            });
            if self.over.load(Acquire) {
                return;
            }
            self.inside.fetch_add(1, Relaxed);
            fence(SeqCst);
            let _leave = OnDrop(|| {
                self.inside.fetch_sub(1, Release);
            });
            if self.epoch.load(Relaxed) == epoch {
                last = epoch;
                // SAFETY: this helper is inside and has seen the job open, so the owner waits in `run`.
                unsafe {
                    if let Some(job) = self.job.with(|cell| *cell) {
                        self.work(&*job, me);
                    }
                }
            }
        }
    }

    /// Runs tasks until none is left, first from this thread's share, then from the others.
    ///
    /// # Safety
    /// `job` is the open job.
    unsafe fn work(&self, job: &(dyn Job + '_), me: usize) {
        let parts = self.parts.load(Relaxed);
        let own = self.shares[..parts].get(me);
        while let Some((row, column)) = own.and_then(Share::first) {
            // SAFETY: a share returns each of its tasks once, shares are disjoint, and all tasks are within the grid.
            unsafe { job.task(row, column) };
        }
        for other in (1..=parts).map(|i| &self.shares[(me + i) % parts]) {
            while let Some((row, column)) = other.last() {
                // SAFETY: as above.
                unsafe { job.task(row, column) };
            }
        }
    }
}

/// The share of one thread, a part of the grid. It has its own cache line.
#[repr(align(64))]
struct Share {
    /// First row, number of rows, first column: 16 bits each.
    place: AtomicU64,
    /// The remaining tasks, numbered down the rows and then column by column: first and last, 32 bits each.
    left: AtomicU64,
}

impl Share {
    fn empty() -> Self {
        Self { place: AtomicU64::new(0), left: AtomicU64::new(0) }
    }

    fn set(&self, rows: Range<usize>, columns: Range<usize>) {
        let place = (rows.start as u64) << 32 | (rows.len() as u64) << 16 | columns.start as u64;
        self.place.store(place, Relaxed);
        self.left.store((rows.len() * columns.len()) as u64, Relaxed);
    }

    fn first(&self) -> Option<(usize, usize)> {
        self.take(|start, end| (start, start + 1, end))
    }

    fn last(&self) -> Option<(usize, usize)> {
        self.take(|start, end| (end - 1, start, end - 1))
    }

    /// Takes a task: `pick` chooses it and returns it with the remaining range.
    fn take(&self, pick: impl Fn(u64, u64) -> (u64, u64, u64)) -> Option<(usize, usize)> {
        let mut taken = 0;
        let next = |left: u64| {
            let (start, end) = (left >> 32, left & u64::from(u32::MAX));
            (start < end).then(|| {
                let (index, start, end) = pick(start, end);
                taken = index;
                start << 32 | end
            })
        };
        self.left.fetch_update(Relaxed, Relaxed, next).ok()?;
        let place = self.place.load(Relaxed);
        let (row, rows, column) = (place >> 32, place >> 16 & 0xffff, place & 0xffff);
        Some(((row + taken % rows) as usize, (column + taken / rows) as usize))
    }
}

/// Calls a function at the end of a scope, also after a panic.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Writes to plain memory, so that loom detects two threads at one task, or a task after `run` has returned.
    struct Once(Vec<UnsafeCell<usize>>);

    // SAFETY: task i accesses only cell i.
    unsafe impl Sync for Once {}
    // SAFETY: as above.
    unsafe impl Job for Once {
        fn grid(&self) -> [usize; 2] {
            [self.0.len(), 1]
        }
        unsafe fn task(&self, row: usize, _: usize) {
            // SAFETY: the crew runs each task once; this test checks that.
            self.0[row].with_mut(|cell| unsafe { *cell += 1 });
        }
    }

    /// Two jobs, one after the other in the same memory, with a helper that joins at any time.
    #[test]
    fn every_task_runs_once_and_none_after_its_job() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let crew = Arc::new(Crew::new());
            crew.join();
            let helper = {
                let crew = crew.clone();
                thread::spawn(move || crew.help())
            };
            for _ in 0..2 {
                let mut job = Once((0..2).map(|_| UnsafeCell::new(0)).collect());
                crew.run(Stage::Head, &mut job);
                assert!(job.0.iter().all(|cell| cell.with(|cell| unsafe { *cell == 1 })));
            }
            crew.end();
            crew.resume_panic();
            helper.join().unwrap();
        });
    }
}
