//! Executors: what runs the tasks of the kernels.
use vit_kernels::Job;

/// The part of the model that a job belongs to, for profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// Patches to tokens.
    Embed,
    /// Every LayerNorm.
    Norm,
    /// Quantisation of activations to int8.
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
