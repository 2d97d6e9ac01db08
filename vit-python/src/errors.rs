//! Exceptions. Their messages are those of the engine, which the command line shows too.
use std::error::Error;
use std::fmt::Display;

use pyo3::PyErr;
use pyo3::exceptions::{PyException, PyValueError};
use vit_engine::SessionError;
use vit_engine::pipeline::PipelineError;

pyo3::create_exception!(
    vit_engine,
    VitError,
    PyException,
    "What went wrong in the engine; the base of its exceptions."
);
pyo3::create_exception!(vit_engine, LoadError, VitError, "A model cannot be loaded.");
pyo3::create_exception!(vit_engine, PictureError, VitError, "A picture cannot be read or prepared.");

/// Why a computation ended without a result.
#[derive(Debug)]
pub(crate) enum Failure {
    Session(SessionError),
    Pipeline(PipelineError),
    /// The threads cannot be started.
    Threads(std::io::Error),
    /// Python has a signal to handle.
    Stopped,
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        Self::Pipeline(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Session(error @ (SessionError::Size(_) | SessionError::Images(_))) => {
                PyValueError::new_err(error.to_string())
            }
            Failure::Session(error) => vit_error(error),
            Failure::Pipeline(error) => vit_error(error),
            Failure::Threads(error) => vit_error(format_args!("cannot start the threads: {error}")),
            // What Python raises for the signal takes its place.
            Failure::Stopped => vit_error("interrupted"),
        }
    }
}

/// A `VitError` with this message.
pub(crate) fn vit_error(message: impl Display) -> PyErr {
    VitError::new_err(message.to_string())
}

/// An error with its causes. A cause that the message already contains is not repeated.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    message
}
