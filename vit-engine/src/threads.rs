//! Tasks over a rayon pool.
//!
//! A forward pass enters the pool once and calls for helpers by `join`, which allocates nothing: whichever workers are
//! idle take part from then on, and the pass goes on alone if none is. Within the pass jobs follow each other every few
//! microseconds, far too soon for threads to go to sleep in between, so helpers look out for the next job and are handed
//! tasks through memory alone.
#![allow(unsafe_code)] // The job behind a pointer, and each index once.

use core::cell::UnsafeCell;
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
        let (tasks, threads) = (job.tasks(), self.helpers.load(Relaxed) + 1);
        let parts = threads.min(tasks).min(MOST);
        if parts < 2 || u32::try_from(tasks).is_err() {
            return job.run();
        }
        for (i, share) in self.shares[..parts].iter().enumerate() {
            share.set(i * tasks / parts, (i + 1) * tasks / parts);
        }
        self.parts.store(parts, Relaxed);
        let job: *const (dyn Job + '_) = job;
        // SAFETY: the epoch is even and nobody inside: nobody else looks at the cell. The lifetime is forgotten, but
        // this function does not return before the job is closed and every helper has left it.
        unsafe { *self.job.get() = Some(core::mem::transmute::<*const (dyn Job + '_), *const (dyn Job + 'static)>(job)) };
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
            shares: [const { Share(AtomicU64::new(0)) }; MOST],
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
        while let Some(index) = own.and_then(Share::first) {
            // SAFETY: a share gives each index once, shares are disjoint, and none reaches beyond the job's tasks.
            unsafe { job.task(index) };
        }
        for other in (1..=parts).map(|i| &self.shares[(me + i) % parts]) {
            while let Some(index) = other.last() {
                // SAFETY: as above.
                unsafe { job.task(index) };
            }
        }
    }
}

/// A range of task indices, in a cache line of its own.
#[repr(align(64))]
struct Share(AtomicU64);

impl Share {
    fn set(&self, start: usize, end: usize) {
        self.0.store((start as u64) << 32 | end as u64, Relaxed);
    }

    fn first(&self) -> Option<usize> {
        self.take(|start, end| (start, start + 1, end))
    }

    fn last(&self) -> Option<usize> {
        self.take(|start, end| (end - 1, start, end - 1))
    }

    /// Takes an index: `pick` says which, and what is left.
    fn take(&self, pick: impl Fn(u64, u64) -> (u64, u64, u64)) -> Option<usize> {
        let mut taken = None;
        let next = |range: u64| {
            let (start, end) = (range >> 32, range & u64::from(u32::MAX));
            (start < end).then(|| {
                let (index, start, end) = pick(start, end);
                taken = Some(index as usize);
                start << 32 | end
            })
        };
        self.0.fetch_update(Relaxed, Relaxed, next).ok().and(taken)
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

    /// Counts how often each task has run.
    struct Counts(Vec<AtomicU32>);

    // SAFETY: tasks write atomics alone.
    unsafe impl Job for Counts {
        fn tasks(&self) -> usize {
            self.0.len()
        }
        unsafe fn task(&self, index: usize) {
            self.0[index].fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 9, 70] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let callers = |_| {
                Threads(&pool).enter(|team| {
                    for tasks in (0..300).chain([5000]) {
                        let mut job = Counts((0..tasks).map(|_| AtomicU32::new(0)).collect());
                        team.run(Stage::Head, &mut job);
                        assert!(job.0.iter_mut().all(|count| *count.get_mut() == 1), "{tasks} tasks");
                    }
                });
            };
            // Two callers share the pool.
            std::thread::scope(|scope| (0..2).for_each(|i| drop(scope.spawn(move || callers(i)))));
        }
    }

    /// Panics at one task.
    struct Broken;

    // SAFETY: tasks write nothing.
    unsafe impl Job for Broken {
        fn tasks(&self) -> usize {
            100
        }
        unsafe fn task(&self, index: usize) {
            assert!(index != 70, "on purpose");
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
