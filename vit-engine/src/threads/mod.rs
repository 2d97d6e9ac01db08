//! Threads for forward passes.
//!
//! The engine has its own pool because a pass must not run foreign tasks while it waits. A thread that waits in a
//! general-purpose pool runs other tasks of that pool, and such a task may need a lock that the caller of the pass
//! holds: a deadlock.
#![allow(unsafe_code)] // The pool's state has pointers to crews.

mod crew;
mod sync;
mod wait;

use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::{Acquire, Release};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use vit_kernels::Job;

use crate::executor::{Executor, Serial, Stage, Team};
use crew::Crew;
use wait::Patience;

/// Threads that help with forward passes, for any number of callers.
///
/// A pass runs on the thread that calls [`Model::forward`](crate::Model::forward), and idle threads of the pool help.
/// So a pass never waits for a free thread, only for tasks that a helper has begun. Callers never wait for each other,
/// and [`Pixels`](crate::Pixels) may do anything, even run another pass on this pool, without a deadlock. At most
/// [`threads`](Self::threads) threads compute at a time, including callers. If there are more callers than that, each
/// pass runs on its caller's thread alone. A pass allocates nothing.
///
/// # A server
/// Make one pool, and one arena for each pass that may run at the same time. Any number of threads can serve requests.
///
/// ```
/// use std::sync::Mutex;
/// use vit_engine::{AlignedBox, Images, Model, Plan, ThreadPool};
///
/// struct Server<'m> {
///     model: Model<'m>,
///     plan: Plan,
///     pool: ThreadPool,
///     arenas: Vec<Mutex<AlignedBox>>, // one for each worker of the server
/// }
///
/// impl Server<'_> {
///     /// Worker `worker` calls this; other workers may call it at the same time.
///     fn answer(&self, worker: usize, pixels: &[f32], logits: &mut [f32]) -> Result<(), Box<dyn std::error::Error>> {
///         let mut arena = self.arenas[worker].lock().map_err(|_| "a worker panicked")?;
///         let mut images = Images::new(pixels, [3, 224, 224])?;
///         self.model.forward(&self.plan, &mut images, &mut arena, &self.pool, logits)?;
///         Ok(())
///     }
/// }
/// ```
pub struct ThreadPool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

/// State shared by the threads of the pool and its callers.
struct Shared {
    /// The most threads that compute at the same time, including callers.
    threads: usize,
    state: Mutex<State>,
    /// Wakes sleeping helpers.
    work: Condvar,
    /// Incremented whenever there may be work for a helper. Helpers poll it for a while before they sleep.
    changes: AtomicUsize,
}

struct State {
    /// Passes that helpers may join. The capacity is the most passes that can have helpers, so that adding one does not
    /// allocate.
    open: Vec<Open>,
    /// Number of threads that compute: callers of passes, and helpers.
    busy: usize,
    /// Number of helpers that sleep.
    asleep: usize,
    stop: bool,
}

/// A pass that helpers may join.
#[derive(Clone, Copy, PartialEq)]
struct Open(*const Crew);

// SAFETY: crews are `Sync`, and a crew is neither moved nor dropped while its pointer is in `State::open` or a helper
// is in it.
unsafe impl Send for Open {}

impl ThreadPool {
    /// The number of cores that this process may use, by affinity mask and cgroup quota; 1 if unknown. The usual number
    /// of threads.
    pub fn cores() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// The most threads that make sense on a number of [cores](Self::cores), with room for tests and sweeps. Many more
    /// threads than cores only wait for each other, and starting them takes minutes.
    pub fn most_threads(cores: usize) -> usize {
        cores.saturating_mul(16).max(64)
    }

    /// A pool for `threads` threads. It starts one less, because the callers compute too. 0 counts as 1.
    ///
    /// # Errors
    /// If the system cannot start the threads.
    pub fn new(threads: usize) -> io::Result<Self> {
        Self::with_start(threads, |_| ())
    }

    /// Same as [`new`](Self::new), but every thread of the pool first calls `start` with its number, from 1 on, for
    /// instance to pin itself to a core.
    ///
    /// # Errors
    /// Same as [`new`](Self::new).
    pub fn with_start(threads: usize, start: impl Fn(usize) + Clone + Send + 'static) -> io::Result<Self> {
        // On an error, dropping the pool stops the threads that have started.
        let mut pool = Self::without_threads(threads);
        for number in 1..pool.threads() {
            let (help, start) = (pool.helper(), start.clone());
            let helper = Builder::new().name(format!("vit {number}")).spawn(move || {
                start(number);
                help();
            })?;
            pool.helpers.push(helper);
        }
        Ok(pool)
    }

    /// A pool for `threads` threads that starts none: the program starts them itself, with a priority, a stack or an
    /// interface of its own, and each calls a [`helper`](Self::helper). 0 counts as 1.
    ///
    /// Threads can come at any time, also in the middle of a pass. As long as there are fewer than `threads` − 1 of
    /// them, passes take longer; if there are more, some of them sleep. The results are the same.
    ///
    /// ```
    /// use vit_engine::ThreadPool;
    ///
    /// let pool = ThreadPool::without_threads(2);
    /// let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn(pool.helper())?;
    ///
    /// let mut numbers = [1, 2, 3]; // or Model::forward
    /// pool.for_each(&mut numbers, |_, number| *number *= 10);
    /// assert_eq!(numbers, [10, 20, 30]);
    ///
    /// drop(pool); // ends what the thread does
    /// thread.join().expect("a helper catches panics, and the pass repeats them");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// In WebAssembly without an operating system, where Rust cannot start threads, these are instances of one module
    /// that share its memory (target feature `atomics`). A trap ends one of them alone:
    /// `ThreadPool::report_lost_helper`, which exists there, says so to the others.
    pub fn without_threads(threads: usize) -> Self {
        let threads = threads.max(1);
        let state = State { open: Vec::with_capacity(threads), busy: 0, asleep: 0, stop: false };
        let (work, changes) = (Condvar::new(), AtomicUsize::new(0));
        let shared = Arc::new(Shared { threads, state: Mutex::new(state), work, changes });
        Self { shared, helpers: Vec::new() }
    }

    /// What a thread of the program runs to help with the passes of this pool. It returns when the pool is dropped.
    pub fn helper(&self) -> impl FnOnce() + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.help()
    }

    /// Says that a helper will never go on, as its instance of the module has trapped. Whoever waits for it then panics
    /// instead of waiting forever, in every pool of the program.
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    pub fn report_lost_helper() {
        wait::LOST.store(true, Release);
    }

    /// The number of threads that the pool was made for, including the caller's.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Calls `f` with every item and its index, on this thread and on the idle threads of the pool.
    ///
    /// For work around a forward pass, such as decoding the next pictures.
    pub fn for_each<T: Send>(&self, items: &mut [T], f: impl Fn(usize, &mut T) + Sync) {
        /// The items behind a pointer; each task takes one.
        struct Each<T, F> {
            items: *mut T,
            len: usize,
            f: F,
        }
        // SAFETY: each task has its own item, which is `Send`, and `f` is `Sync`.
        unsafe impl<T: Send, F: Sync> Sync for Each<T, F> {}
        // SAFETY: a task accesses only the item with its own index.
        unsafe impl<T: Send, F: Fn(usize, &mut T) + Sync> Job for Each<T, F> {
            fn grid(&self) -> [usize; 2] {
                [self.len, 1]
            }
            unsafe fn task(&self, row: usize, column: usize) {
                if row < self.len && column == 0 {
                    // SAFETY: the index is in bounds, and calls for the same task do not overlap.
                    (self.f)(row, unsafe { &mut *self.items.add(row) });
                }
            }
        }
        let mut job = Each { items: items.as_mut_ptr(), len: items.len(), f };
        self.lead(|team| team.run(Stage::Head, &mut job));
    }

    /// Runs a pass on this thread, with helpers.
    fn lead(&self, mut pass: impl FnMut(&dyn Team)) {
        if self.threads() == 1 {
            return pass(&Serial);
        }
        let crew = Crew::new();
        let opened = Opened::new(&self.shared, &crew);
        pass(&crew);
        drop(opened);
        crew.resume_panic();
    }
}

impl Executor for ThreadPool {
    fn enter(&self, pass: &mut (dyn FnMut(&dyn Team) + Send)) {
        self.lead(pass);
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changes.fetch_add(1, Release);
        self.shared.work.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper catches the panics of its tasks. There is nobody to report another one to.
            let _ = helper.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the helpers that there may be work for `count` of them.
    fn wake(&self, state: &State, count: usize) {
        self.changes.fetch_add(1, Release);
        for _ in 0..count.min(state.asleep) {
            self.work.notify_one();
        }
    }

    /// The main loop of a thread of the pool.
    fn help(&self) {
        let mut state = self.lock();
        while !state.stop {
            let Some(Open(crew)) = self.join(&mut state) else {
                state = self.idle(state);
                continue;
            };
            drop(state);
            // SAFETY: the crew was open, under the lock, when this helper joined it, so its pass waits until this
            // helper has left.
            unsafe { (*crew).help() };
            state = self.lock();
            state.busy -= 1;
        }
    }

    /// Joins the open pass that has the fewest helpers, if this thread may compute.
    fn join(&self, state: &mut State) -> Option<Open> {
        if state.busy >= self.threads {
            return None;
        }
        // SAFETY: crews in `open` are alive: a crew is removed, under this lock, before it is dropped.
        let open = state.open.iter().copied().min_by_key(|open| unsafe { (*open.0).present() })?;
        // SAFETY: as above.
        unsafe { (*open.0).join() };
        state.busy += 1;
        Some(open)
    }

    /// Waits until `changes` has changed: polls for a while, then sleeps.
    fn idle<'s>(&'s self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let seen = self.changes.load(Acquire);
        drop(state);
        let mut patience = Patience::new();
        while patience.lasts() {
            if self.changes.load(Acquire) != seen {
                return self.lock();
            }
        }
        let mut state = self.lock();
        // `changes` is incremented under the lock, so no change is missed between this check and the sleep.
        if self.changes.load(Acquire) == seen {
            state.asleep += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep -= 1;
        }
        state
    }
}

/// A pass in `State::open`, which helpers may join.
struct Opened<'a> {
    shared: &'a Shared,
    crew: &'a Crew,
}

impl<'a> Opened<'a> {
    fn new(shared: &'a Shared, crew: &'a Crew) -> Self {
        let mut state = shared.lock();
        state.busy += 1;
        // With more passes than threads no thread is free to help.
        if state.open.len() < shared.threads {
            state.open.push(Open(crew));
            shared.wake(&state, shared.threads.saturating_sub(state.busy));
        }
        Self { shared, crew }
    }
}

impl Drop for Opened<'_> {
    /// Closes the pass, also after a panic, and waits until its helpers have left.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.busy -= 1;
        let open = Open(self.crew);
        state.open.retain(|other| *other != open);
        if !state.open.is_empty() {
            self.shared.wake(&state, 1);
        }
        drop(state);
        self.crew.end();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;
    use std::vec::Vec;

    use super::*;

    /// Counts how often each task of a grid has run.
    struct Counts([usize; 2], Vec<AtomicU32>);

    // SAFETY: tasks write only atomics.
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
        // Miri is about a thousand times slower.
        let counts: &[usize] = if cfg!(miri) { &[1, 2, 3] } else { &[0, 1, 2, 3, 5, 8, 9, 70] };
        let most_rows = if cfg!(miri) { 3 } else { 20 };
        let columns: &[usize] = if cfg!(miri) { &[0, 1, 5] } else { &[0, 1, 2, 3, 17, 500] };
        for &threads in counts {
            let pool = ThreadPool::new(threads).unwrap();
            let caller = || {
                pool.enter(&mut |team| {
                    for grid in (0..most_rows).flat_map(|rows| columns.iter().map(move |columns| [rows, *columns])) {
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

    /// Threads that the program started, none, fewer than the pool is for, or more, which come during the pass.
    #[test]
    fn own_threads_help_until_the_pool_is_dropped() {
        for own in [0, 1, 2, 5] {
            let pool = ThreadPool::without_threads(3);
            assert_eq!(pool.threads(), 3);
            let mut threads = Vec::new();
            pool.enter(&mut |team| {
                for rows in 0..if cfg!(miri) { 3 } else { 50 } {
                    if threads.len() < own {
                        threads.push(std::thread::spawn(pool.helper()));
                    }
                    let mut job = Counts([rows, 7], (0..rows * 7).map(|_| AtomicU32::new(0)).collect());
                    team.run(Stage::Head, &mut job);
                    assert!(job.1.iter_mut().all(|count| *count.get_mut() == 1));
                }
            });
            drop(pool);
            // They end; and one that comes too late returns at once.
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
        let late = ThreadPool::without_threads(2).helper();
        late();
    }

    /// The caller does not finish without the thread, so it does take part.
    #[test]
    fn an_own_thread_takes_tasks() {
        let pool = ThreadPool::without_threads(2);
        let thread = std::thread::spawn(pool.helper());
        let barrier = std::sync::Barrier::new(2);
        let mut names = vec![None; 2];
        pool.for_each(&mut names, |_, name| {
            barrier.wait();
            *name = Some(std::thread::current().id());
        });
        assert!(names.contains(&Some(std::thread::current().id())));
        assert!(names.contains(&Some(thread.thread().id())));
        drop(pool);
        thread.join().unwrap();
    }

    #[test]
    fn for_each_visits_every_item_once_wherever_helpers_are() {
        for threads in [1, 2, 5] {
            let pool = ThreadPool::new(threads).unwrap();
            for len in [0, 1, 2, 100, if cfg!(miri) { 200 } else { 70_000 }] {
                let mut items = vec![0; len];
                pool.for_each(&mut items, |index, item| *item += index + 1);
                assert!(items.iter().enumerate().all(|(index, item)| *item == index + 1));
            }
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
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = ThreadPool::new(3).unwrap();
        for _ in 0..20 {
            let pass = || pool.enter(&mut |team| team.run(Stage::Head, &mut Broken));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(pass)).is_err());
        }
        let mut result = 0;
        pool.enter(&mut |_| result = 3);
        assert_eq!(result, 3);
    }

    /// A pass that waits for another pass of the same pool, which waits for a third one, makes progress.
    #[test]
    fn passes_that_wait_for_each_other_go_on() {
        for threads in [1, 2, 3, 8] {
            let pool = ThreadPool::new(threads).unwrap();
            for _ in 0..20 {
                let mut sum = 0;
                pool.enter(&mut |outer| {
                    let mut first = vec![1; 50];
                    pool.for_each(&mut first, |_, x| {
                        // A pass within a task of another pass.
                        let mut second = vec![1; 3];
                        pool.for_each(&mut second, |_, y| *y += 1);
                        *x = second.iter().sum();
                    });
                    outer.run(Stage::Head, &mut Counts([2, 2], (0..4).map(|_| AtomicU32::new(0)).collect()));
                    sum = first.iter().sum();
                });
                assert_eq!(sum, 300);
            }
        }
    }
}
