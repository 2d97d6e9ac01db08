//! Who runs the kernels' tasks.
use vit_kernels::Job;

/// The part of the model that a job belongs to, for whoever wants to know where the time goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// Patches to tokens.
    Embed,
    /// LayerNorm, wherever it stands.
    Norm,
    /// Activations to int8.
    Quantise,
    /// Projection to keys and values.
    KeysValues,
    /// Projection to queries.
    Queries,
    /// Rotation of queries and keys by their positions.
    Rope,
    /// softmax(q·kᵀ·scale)·v.
    Attention,
    /// Projection of what attention gives, added to the residual.
    Output,
    /// The feed-forward's first matrix, and its activation.
    Up,
    /// The feed-forward's second matrix, added to the residual.
    Down,
    /// The attention pool, the embedding's projection, the head.
    Head,
}

impl Stage {
    /// Every stage, in the model's order.
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

/// Threads for forward passes: one or several. Results do not depend on it.
pub trait Executor: Sync {
    /// Calls `pass` once, on whichever thread, with a team at its service.
    fn enter(&self, pass: &mut (dyn FnMut(&dyn Team) + Send));
}

/// Runs the jobs of one forward pass.
pub trait Team {
    /// Runs every task of a job, once, before it returns.
    fn run(&self, stage: Stage, job: &mut (dyn Job + '_));
}

/// Everything on the calling thread.
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
