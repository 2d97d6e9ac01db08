//! The threads that share one forward pass, and how the pass hands them its jobs.
//!
//! Jobs follow each other every few microseconds, far too soon for threads to sleep in between. So helpers stay for the
//! whole pass, look out for the next job, and take its tasks through atomics alone.
//!
//! A helper increments `inside` and then reads `epoch`; the pass's thread writes `epoch` and then reads `inside`, each with
//! a `SeqCst` fence in between. So one of them sees the other: either the helper finds the job closed and leaves it
//! alone, or the pass's thread waits for the helper. (`cargo test` with `--cfg loom` tries every order.)
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;

use vit_kernels::Job;

use super::sync::{AtomicBool, AtomicU64, AtomicUsize, UnsafeCell, fence, wait_until};
use crate::executor::{Stage, Team};

/// Threads that have tasks of their own, at most; more of them take from those.
const MOST: usize = if cfg!(loom) { 2 } else { 64 };

/// Bands of rows that have threads of their own at most: with more of them, each reading all weights, memory is what is
/// short.
const MOST_BANDS: usize = 8;

/// One forward pass, open to helpers until it is [ended](Self::end).
pub(super) struct Crew {
    /// Odd while a job is open to helpers.
    epoch: AtomicUsize,
    /// The open job. The pass's thread writes it while no helper is inside.
    job: UnsafeCell<Option<*const (dyn Job + 'static)>>,
    /// Helpers that may be looking at the job.
    inside: AtomicUsize,
    /// Helpers that have come so far.
    helpers: AtomicUsize,
    /// Helpers that have come and not gone.
    present: AtomicUsize,
    /// Each thread's share of the job's tasks, from which the others take the last ones when they have none left.
    shares: [Share; MOST],
    /// How many of them are in use.
    parts: AtomicUsize,
    over: AtomicBool,
    /// What a task on a helper panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: all but the job is atomic or behind a lock, and `run` and `help` say when who may touch the job.
unsafe impl Sync for Crew {}
// SAFETY: as above. The pointer to the job is only followed while the job is open, when its owner waits in `run`.
unsafe impl Send for Crew {}

impl Team for Crew {
    fn run(&self, _: Stage, job: &mut (dyn Job + '_)) {
        let [rows, columns] = job.grid();
        if rows.saturating_mul(columns) < 2 || rows.max(columns) > u16::MAX.into() {
            return job.run();
        }
        let threads = (self.helpers.load(Relaxed) + 1).min(MOST);
        // As many bands of rows as can be, and columns where those are fewer than threads.
        let bands = (1..=rows.min(MOST_BANDS)).rev().find(|bands| threads.is_multiple_of(*bands)).unwrap_or(1);
        let parts = [bands, (threads / bands).min(columns)];
        let part = |i: usize, of: usize, len: usize| i * len / of..(i + 1) * len / of;
        for (i, share) in self.shares[..parts[0] * parts[1]].iter().enumerate() {
            share.set(part(i / parts[1], parts[0], rows), part(i % parts[1], parts[1], columns));
        }
        self.parts.store(parts[0] * parts[1], Relaxed);
        let job: *const (dyn Job + '_) = job;
        // SAFETY: the epoch is even and nobody inside: nobody else looks at the cell. The lifetime is forgotten, but
        // this function does not return before the job is closed and every helper has left it.
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
        // SAFETY: the job is open, and this thread's share is the first.
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

    /// Announces a helper that will call [`help`](Self::help): from now on [`end`](Self::end) waits for it.
    pub(super) fn join(&self) {
        self.present.fetch_add(1, Relaxed);
    }

    /// Helpers that are there.
    pub(super) fn present(&self) -> usize {
        self.present.load(Relaxed)
    }

    /// Takes part in one job after the other until the pass is over. Its last access to the crew is that it says so.
    pub(super) fn help(&self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_part())) {
            *self.panic.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(panic);
        }
        self.present.fetch_sub(1, Release);
    }

    /// Sends the helpers away and waits until they have gone. None may join any more.
    pub(super) fn end(&self) {
        self.over.store(true, Release);
        wait_until(|| self.present.load(Acquire) == 0);
    }

    /// Goes on with a helper's panic, if there was one.
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
                // SAFETY: this helper is inside and the job is open, so its owner waits in `run`.
                unsafe {
                    if let Some(job) = self.job.with(|cell| *cell) {
                        self.work(&*job, me);
                    }
                }
            }
        }
    }

    /// Runs tasks, first of this thread's share, then of the others', until none is left.
    ///
    /// # Safety
    /// The job is the one that is open.
    unsafe fn work(&self, job: &(dyn Job + '_), me: usize) {
        let parts = self.parts.load(Relaxed);
        let own = self.shares[..parts].get(me);
        while let Some((row, column)) = own.and_then(Share::first) {
            // SAFETY: a share gives each of its tasks once, shares are disjoint, and all are within the grid.
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

/// A thread's part of the grid, in a cache line of its own.
#[repr(align(64))]
struct Share {
    /// First row, number of rows, first column: 16 bits each.
    place: AtomicU64,
    /// What is left of the tasks, counted down the rows and then column by column: first and last, 32 bits each.
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

    /// Takes a task: `pick` says which, and what is left.
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

/// Calls a function at the end of a scope, be it by a panic.
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

    /// Writes to plain memory, so that loom sees two threads at one task, or a task after `run` has returned.
    struct Once(Vec<UnsafeCell<usize>>);

    // SAFETY: task i touches cell i alone.
    unsafe impl Sync for Once {}
    // SAFETY: as above.
    unsafe impl Job for Once {
        fn grid(&self) -> [usize; 2] {
            [self.0.len(), 1]
        }
        unsafe fn task(&self, row: usize, _: usize) {
            // SAFETY: the crew's promise, which this test is for.
            self.0[row].with_mut(|cell| unsafe { *cell += 1 });
        }
    }

    /// Two jobs, one after the other in the same memory, with a helper that comes whenever it comes.
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
