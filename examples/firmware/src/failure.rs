//! Why there are no logits.
use core::fmt;

use vit_engine::{ForwardError, PackedError, PlanError};

use crate::camera::WrongSize;

pub enum Failure {
    Model(PackedError),
    Plan(PlanError),
    Forward(ForwardError<WrongSize>),
    /// The stack reached the statics, which may be damaged.
    StackOverflow,
    /// The console does not take text.
    Console,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(error) => write!(f, "the model: {error}"),
            Self::Plan(error) => error.fmt(f),
            Self::Forward(error) => error.fmt(f),
            Self::StackOverflow => write!(f, "the stack overflowed"),
            Self::Console => write!(f, "the console does not take text"),
        }
    }
}

impl From<PackedError> for Failure {
    fn from(error: PackedError) -> Self {
        Self::Model(error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

impl From<ForwardError<WrongSize>> for Failure {
    fn from(error: ForwardError<WrongSize>) -> Self {
        Self::Forward(error)
    }
}

impl From<fmt::Error> for Failure {
    fn from(_: fmt::Error) -> Self {
        Self::Console
    }
}
