//! Why there are no logits.
use core::fmt;

use vit_engine::{ForwardError, ModelError, PackedError};

/// `P` is the error of the source of the pixels.
pub enum Failure<P> {
    Model(ModelError),
    /// Of a model that is opened at run time.
    #[allow(dead_code)] // Not every program does that.
    Packed(PackedError),
    Forward(ForwardError<P>),
    /// The stack reached the statics, which may be damaged.
    StackOverflow,
    /// The console does not take text.
    Console,
}

impl<P: fmt::Display> fmt::Display for Failure<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(error) => write!(f, "the model: {error}"),
            Self::Packed(error) => write!(f, "the model: {error}"),
            Self::Forward(error) => error.fmt(f),
            Self::StackOverflow => write!(f, "the stack overflowed"),
            Self::Console => write!(f, "the console does not take text"),
        }
    }
}

impl<P> From<ModelError> for Failure<P> {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

impl<P> From<ForwardError<P>> for Failure<P> {
    fn from(error: ForwardError<P>) -> Self {
        Self::Forward(error)
    }
}

impl<P> From<fmt::Error> for Failure<P> {
    fn from(_: fmt::Error) -> Self {
        Self::Console
    }
}
