//! `Model.embed`: vectors of many pictures.
//!
//! The work is done on a thread beside the caller's, which meanwhile shows progress and handles signals: Ctrl-C sets a
//! flag that stops the pass that is running, and what is left to decode.
use std::borrow::Cow;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use vit_engine::Output;
use vit_engine::pipeline::{self, Batch};

use crate::arrays::{Floats, empty, numpy};
use crate::errors::Failure;
use crate::interrupt::PERIOD;
use crate::model::Model;
use crate::pictures::{Preparer, Source, picture_error};
use crate::workers::Workers;

/// What is said of a vector that is not finite.
const NOT_FINITE: &str = "the embedding has NaN or infinite numbers: what the model computes is too large for f32";

pub(crate) struct Options<'py> {
    batch: usize,
    /// Whether pictures that fail are left out.
    skip: bool,
    progress: Progress<'py>,
    output: Output,
}

/// How progress is shown: on stderr or not, or by a function.
#[derive(FromPyObject)]
pub(crate) enum Progress<'py> {
    Bar(bool),
    Function(Bound<'py, PyAny>),
}

impl<'py> Options<'py> {
    pub(crate) fn new(batch: usize, errors: &str, progress: Progress<'py>, features: &str) -> PyResult<Self> {
        if batch == 0 {
            return Err(PyValueError::new_err("batch must be at least 1"));
        }
        let skip = match errors {
            "skip" => true,
            "raise" => false,
            _ => return Err(PyValueError::new_err(format!("errors must be 'skip' or 'raise', not '{errors}'"))),
        };
        let output = match features.parse() {
            Ok(output @ (Output::Embedding | Output::Class | Output::Logits)) => output,
            _ => {
                let message = "features must be embedding, class or logits, which have one row for each picture";
                return Err(PyValueError::new_err(message));
            }
        };
        if let Progress::Function(function) = &progress
            && !function.is_callable()
        {
            return Err(PyTypeError::new_err("progress must be True, False or a function"));
        }
        Ok(Self { batch, skip, progress, output })
    }
}

pub(crate) fn run<'py>(
    model: &Model,
    py: Python<'py>,
    pictures: &Bound<'py, PyAny>,
    options: &Options<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let preparer = model.preparer()?;
    let sources = Source::list(pictures)?;
    let size = options.batch.min(sources.len().max(1));
    // Also the error of a model that does not have this output.
    let config = model.loaded.config_at(preparer.size);
    let config = config.map_err(|error| PyValueError::new_err(error.to_string()))?;
    let plan = vit_engine::Plan::new(&config, model.loaded.precision(), options.output, size, None);
    let dim = plan.map_err(crate::errors::vit_error)?.output_len() / size;
    let array = empty(py, &[sources.len(), dim])?;
    let mut rows = Floats::new(&array)?;
    let workers = model.workers(py)?;
    let progress = match &options.progress {
        Progress::Bar(false) => None,
        Progress::Bar(true) => Some(py.import("vit_engine._progress")?.getattr("Bar")?.call0()?),
        Progress::Function(function) => Some(function.clone()),
    };

    let stop = AtomicBool::new(false);
    let (sender, mut receiver) = channel();
    let job = Job { workers: &workers, preparer, sources: &sources, stop: &stop, dim, size, options: options.into() };
    let out = rows.slice_mut();
    let (result, raised) = thread::scope(|scope| {
        let started =
            thread::Builder::new().name("vit embed".into()).spawn_scoped(scope, move || job.run(out, &sender));
        let thread = match started {
            Ok(thread) => thread,
            Err(error) => return (Err(Failure::Threads(error)), Ok(())),
        };
        let mut raised = Ok(());
        loop {
            let inbox = &mut receiver;
            let done = py.detach(move || inbox.recv_timeout(PERIOD));
            if raised.is_ok() {
                raised = py.check_signals();
                if let (Ok(Event::Done(done)), Some(progress), Ok(())) = (&done, &progress, &raised) {
                    raised = progress.call1((*done, sources.len())).map(drop);
                }
                stop.store(raised.is_err(), Relaxed);
            }
            if matches!(done, Ok(Event::End) | Err(RecvTimeoutError::Disconnected)) {
                break;
            }
        }
        let result = py.detach(|| thread.join());
        (result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), raised)
    });
    if let (Progress::Bar(_), Some(bar)) = (&options.progress, &progress) {
        bar.call_method0("close")?;
    }
    raised?;
    let Found { kept, errors } = result?;
    if let (false, Some((index, message))) = (options.skip, errors.first()) {
        return Err(picture_error(&sources[*index], *index, message));
    }
    let array = match kept.len() {
        all if all == sources.len() => array,
        // A copy, so that the rows of those left out do not stay in memory.
        some => array.get_item(pyo3::types::PySlice::new(py, 0, some as isize, 1))?.call_method0("copy")?,
    };
    let kept = numpy(py, "array")?.call1((kept, "int64"))?;
    let messages = PyDict::new(py);
    for (index, message) in errors {
        messages.set_item(index, message)?;
    }
    static EMBEDDINGS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    EMBEDDINGS.import(py, "vit_engine._results", "Embeddings")?.call1((array, kept, messages))
}

/// What the thread tells the caller.
enum Event {
    /// So many pictures are done.
    Done(usize),
    End,
}

/// What a run found: which pictures have a row, and why the others do not.
#[derive(Default)]
struct Found {
    kept: Vec<usize>,
    errors: Vec<(usize, Cow<'static, str>)>,
}

/// The options that the thread needs.
#[derive(Clone, Copy)]
struct What {
    output: Output,
    skip: bool,
}

impl From<&Options<'_>> for What {
    fn from(options: &Options<'_>) -> Self {
        Self { output: options.output, skip: options.skip }
    }
}

struct Job<'a> {
    workers: &'a Workers,
    preparer: &'a Preparer,
    sources: &'a [Source],
    stop: &'a AtomicBool,
    dim: usize,
    size: usize,
    options: What,
}

impl Job<'_> {
    /// Writes the rows of the pictures that have one to the start of `out`, \[pictures, dim\].
    fn run(&self, out: &mut [f32], events: &Sender<Event>) -> Result<Found, Failure> {
        let mut found = Found::default();
        let sizes = (self.sources.len(), self.size, self.preparer.len());
        let prepare = |index: usize, pixels: &mut [f32]| match self.stopped() {
            true => Err("interrupted".into()),
            false => self.preparer.prepare(&self.sources[index], pixels),
        };
        let result = pipeline::run(self.workers.pool(), sizes, prepare, |batch| {
            self.compute(batch, out, &mut found)?;
            let failed = !self.options.skip && !found.errors.is_empty();
            // The caller has gone on only if this thread panicked.
            let _ = events.send(Event::Done(batch.range.end));
            if self.stopped() || failed { Err(Failure::Stopped) } else { Ok(()) }
        });
        let _ = events.send(Event::End);
        match result {
            // The caller knows why.
            Ok(_) | Err(Failure::Stopped) => Ok(found),
            Err(failure) => Err(failure),
        }
    }

    fn compute(&self, batch: &mut Batch<Cow<'static, str>>, out: &mut [f32], found: &mut Found) -> Result<(), Failure> {
        let pixels = batch.readable();
        let out = &mut out[found.kept.len() * self.dim..];
        if !pixels.is_empty() {
            let count = pixels.len() / self.preparer.len();
            let mut session =
                self.workers.session(self.options.output, self.preparer.size, self.size, &|| self.stopped())?;
            session.forward(pixels, &mut out[..count * self.dim], &|| self.stopped())?;
        }
        // Rows that stay move up over those that do not.
        let (mut row, mut good) = (0, 0);
        for (index, result) in batch.range.clone().zip(batch.results.drain(..)) {
            let error = match result {
                Err(error) => error,
                Ok(()) => {
                    let at = row * self.dim;
                    row += 1;
                    if out[at..at + self.dim].iter().all(|x| x.is_finite()) {
                        out.copy_within(at..at + self.dim, good * self.dim);
                        good += 1;
                        found.kept.push(index);
                        continue;
                    }
                    NOT_FINITE.into()
                }
            };
            found.errors.push((index, error));
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }
}
