//! Executors: what runs the tasks of the kernels.
use core::cell::Cell;

use vit_kernels::Job;

/// The part of the model that a job belongs to, for profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// Patches to tokens.
    Embed,
    /// Every LayerNorm.
    Norm,
    /// Activations, keys and values to bf16 or int8, if no other stage does it on the way.
    Quantise,
    /// Projection to keys and values.
    KeysValues,
    /// Projection to queries.
    Queries,
    /// Rotary positions: queries and keys are rotated.
    Rope,
    /// softmax(q·kᵀ·scale)·v.
    Attention,
    /// Output projection of attention, added to the residual.
    Output,
    /// The first matrix of the feed-forward, and its activation.
    Up,
    /// The second matrix of the feed-forward, added to the residual.
    Down,
    /// The attention pool, the embedding's projection, the head.
    Head,
}

impl Stage {
    /// Every stage, in the order of the model.
    pub const ALL: [Self; 11] = [
        Self::Embed,
        Self::Norm,
        Self::Quantise,
        Self::KeysValues,
        Self::Queries,
        Self::Rope,
        Self::Attention,
        Self::Output,
        Self::Up,
        Self::Down,
        Self::Head,
    ];
}

/// Provides the threads for forward passes, one or several. The results do not depend on the executor.
pub trait Executor: Sync {
    /// Calls `pass` once, on any thread, with a team that runs its jobs.
    fn enter(&self, pass: &mut (dyn FnMut(&dyn Team) + Send));
}

/// Runs the jobs of one forward pass.
pub trait Team {
    /// Runs every task of the job exactly once, and returns when all are done.
    fn run(&self, stage: Stage, job: &mut (dyn Job + '_));

    /// Whether this team has left out a job because the pass is to end early, as [`Stoppable`] does. From then on the
    /// team leaves out every job. The forward pass asks after each layer, and returns
    /// [`ForwardError::Stopped`](crate::ForwardError::Stopped).
    fn stopped(&self) -> bool {
        false
    }
}

/// Runs every task on the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Executor for Serial {
    fn enter(&self, pass: &mut (dyn FnMut(&dyn Team) + Send)) {
        pass(self);
    }
}

impl Team for Serial {
    fn run(&self, _: Stage, job: &mut (dyn Job + '_)) {
        job.run();
    }
}

/// Runs passes on another executor, and ends them early when `stop` says so.
///
/// `stop` is asked before each job, on the thread of the pass, so a pass ends after the job that is running: a part of a
/// layer on one block of rows. A stopped pass returns [`ForwardError::Stopped`](crate::ForwardError::Stopped). Its output
/// is partly written; the arena and the threads can be used again at once. A pass whose jobs have all run is complete,
/// even if `stop` becomes true after the last one.
///
/// ```
/// use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
/// use vit_engine::{Executor, ForwardError, Serial, Stoppable};
/// # use vit_engine::{Output, Precision, SessionError, file};
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/timm-token");
/// # let loaded = file::Checkpoint::open(folder, file::Access::Map)?.load(Precision::F32)?;
/// # let mut session = vit_engine::Session::new(loaded, Default::default())?;
/// # let (pixels, mut out) = (vec![0.5; session.image_len()], vec![0.0; session.output_len(1)]);
///
/// static STOP: AtomicBool = AtomicBool::new(false); // set by another thread, or a signal handler
/// let executor = Stoppable { executor: &Serial, stop: &|| STOP.load(Relaxed) };
/// session.forward_on(&executor, &pixels, &mut out)?;
///
/// STOP.store(true, Relaxed);
/// let error = session.forward_on(&executor, &pixels, &mut out).unwrap_err();
/// assert_eq!(error, SessionError::Forward(ForwardError::Stopped));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct Stoppable<'a> {
    /// What runs the passes.
    pub executor: &'a dyn Executor,
    /// Whether to stop.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl Executor for Stoppable<'_> {
    fn enter(&self, pass: &mut (dyn FnMut(&dyn Team) + Send)) {
        let stop = self.stop;
        self.executor.enter(&mut |team| pass(&StoppableTeam { team, stop, stopped: Cell::new(false) }));
    }
}

struct StoppableTeam<'a> {
    team: &'a dyn Team,
    stop: &'a (dyn Fn() -> bool + Sync),
    /// Whether a job was left out. Then what follows would compute with its missing results, so all are left out, even
    /// if `stop` no longer says so.
    stopped: Cell<bool>,
}

impl Team for StoppableTeam<'_> {
    fn run(&self, stage: Stage, job: &mut (dyn Job + '_)) {
        if self.stopped() || (self.stop)() {
            self.stopped.set(true);
        } else {
            self.team.run(stage, job);
            // The team may be of another `Stoppable`.
            self.stopped.set(self.team.stopped());
        }
    }

    fn stopped(&self) -> bool {
        self.stopped.get()
    }
}
