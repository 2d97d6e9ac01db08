//! Tasks over a rayon pool.
//!
//! A forward pass enters the pool once and calls for helpers by `join`, which allocates nothing: whichever workers are
//! idle take part from then on, and the pass goes on alone if none is. Within the pass jobs follow each other every few
//! microseconds, far too soon for threads to go to sleep in between, so helpers look out for the next job and are handed
//! tasks through memory alone.
#![allow(unsafe_code)] // The job behind a pointer, and each index once.

use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use rayon::ThreadPool;
use vit_kernels::Job;

use crate::executor::{Executor, Stage, Team};

/// Runs tasks on the threads of a rayon pool, the caller's own if it likes.
///
/// A caller that already runs in the pool pays nothing for entering it, and nothing is then allocated. Helpers are busy
/// for as long as the pass lasts; they never keep it waiting but for tasks that they have begun.
#[derive(Debug, Clone, Copy)]
pub struct Threads<'a>(pub &'a ThreadPool);

/// Threads that share a pass at most.
const MOST: usize = 64;

/// Bands of rows that have threads of their own at most: with more of them, each reading all weights, memory is what is
/// short.
const MOST_BANDS: usize = 8;

impl Executor for Threads<'_> {
    fn enter<R: Send>(&self, pass: impl FnOnce(&dyn Team) -> R + Send) -> R {
        self.0.install(|| {
            let crew = Crew::new();
            let helpers = (self.0.current_num_threads() - 1).min(MOST - 1);
            with_helpers(&crew, helpers, || {
                let _end = OnDrop(|| crew.over.store(true, Release));
                pass(&crew)
            })
        })
    }
}

/// Runs `pass` while up to `count` idle workers help.
fn with_helpers<R: Send>(crew: &Crew, count: usize, pass: impl FnOnce() -> R + Send) -> R {
    fn next<R: Send>(crew: &Crew, count: usize, pass: &mut (dyn FnMut() -> R + Send)) -> R {
        match count {
            0 => pass(),
            _ => rayon::join(|| next(crew, count - 1, pass), || crew.help()).0,
        }
    }
    let mut pass = Some(pass);
    next(crew, count, &mut || pass.take().expect("it is called once")())
}

/// The threads that share one pass, and the job that they are at.
struct Crew {
    /// Odd while a job is open to helpers.
    epoch: AtomicUsize,
    /// The open job. Written by the pass's thread while no helper is inside.
    job: UnsafeCell<Option<*const (dyn Job + 'static)>>,
    /// Helpers that may be looking at the job.
    inside: AtomicUsize,
    /// Helpers that have come so far.
    helpers: AtomicUsize,
    /// Each thread's share of the job's tasks, from which the others take the last ones when they have none left.
    shares: [Share; MOST],
    /// How many of them are in use.
    parts: AtomicUsize,
    over: AtomicBool,
}

// SAFETY: all but the job is atomic, and `run` and `help` say when who may touch the job.
unsafe impl Sync for Crew {}

impl Team for Crew {
    fn run(&self, _: Stage, job: &mut (dyn Job + '_)) {
        let [rows, columns] = job.grid();
        let threads = (self.helpers.load(Relaxed) + 1).min(MOST);
        if threads < 2 || rows.saturating_mul(columns) < 2 || rows.max(columns) > u16::MAX.into() {
            return job.run();
        }
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
        unsafe {
            *self.job.get() = Some(core::mem::transmute::<*const (dyn Job + '_), *const (dyn Job + 'static)>(job))
        };
        let epoch = self.epoch.load(Relaxed);
        self.epoch.store(epoch + 1, SeqCst);
        let close = OnDrop(|| {
            // A helper says that it is inside before it looks at the epoch, and here it is the other way round, all in
            // one order: a helper that is not waited for finds the job closed.
            self.epoch.store(epoch + 2, SeqCst);
            wait_until(|| self.inside.load(SeqCst) == 0);
        });
        // SAFETY: the job is open, and this thread's share is the first.
        unsafe { self.work(&*job, 0) };
        drop(close);
    }
}

impl Crew {
    fn new() -> Self {
        Self {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            inside: AtomicUsize::new(0),
            helpers: AtomicUsize::new(0),
            shares: [const { Share::empty() }; MOST],
            parts: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// Takes part in one job after the other until the pass is over.
    fn help(&self) {
        if self.over.load(Acquire) {
            return;
        }
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
            self.inside.fetch_add(1, SeqCst);
            let _leave = OnDrop(|| {
                self.inside.fetch_sub(1, Release);
            });
            if self.epoch.load(SeqCst) == epoch {
                last = epoch;
                // SAFETY: this helper is inside and the job is open, so its owner waits in `run`.
                unsafe {
                    if let Some(job) = *self.job.get() {
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
    const fn empty() -> Self {
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

/// Looks again and again: at first without giving way, because what is awaited comes within microseconds.
fn wait_until(mut done: impl FnMut() -> bool) {
    let mut looks = 0;
    while !done() {
        looks += 1;
        if looks < 200 {
            core::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// Calls a function at the end of a scope, be it by a panic.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::vec::Vec;

    use super::*;

    /// Counts how often each task of a grid has run.
    struct Counts([usize; 2], Vec<AtomicU32>);

    // SAFETY: tasks write atomics alone.
    unsafe impl Job for Counts {
        fn grid(&self) -> [usize; 2] {
            self.0
        }
        unsafe fn task(&self, row: usize, column: usize) {
            self.1[row * self.0[1] + column].fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 5, 8, 9, 70] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let caller = || {
                Threads(&pool).enter(|team| {
                    for grid in (0..20).flat_map(|rows| [0, 1, 2, 3, 17, 500].map(|columns| [rows, columns])) {
                        let counts = (0..grid[0] * grid[1]).map(|_| AtomicU32::new(0)).collect();
                        let mut job = Counts(grid, counts);
                        team.run(Stage::Head, &mut job);
                        assert!(job.1.iter_mut().all(|count| *count.get_mut() == 1), "{grid:?} tasks");
                    }
                });
            };
            // Two callers share the pool.
            std::thread::scope(|scope| {
                scope.spawn(caller);
                scope.spawn(caller);
            });
        }
    }

    /// Panics at one task.
    struct Broken;

    // SAFETY: tasks write nothing.
    unsafe impl Job for Broken {
        fn grid(&self) -> [usize; 2] {
            [10, 10]
        }
        unsafe fn task(&self, row: usize, column: usize) {
            assert!((row, column) != (7, 0), "on purpose");
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        for _ in 0..5 {
            let pass = || Threads(&pool).enter(|team| team.run(Stage::Head, &mut Broken));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(pass)).is_err());
        }
        assert_eq!(Threads(&pool).enter(|_| 3), 3);
    }
}
