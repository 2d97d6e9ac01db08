//! `load`: opens a model.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::exceptions::{PyUserWarning, PyValueError};
use pyo3::prelude::*;
use vit_engine::file::{Access, Checkpoint, Loaded};
use vit_engine::zoo::imagenet_1k;
use vit_engine::{Formats, Precision, ThreadPool};

use crate::errors::{LoadError, with_causes};
use crate::model::{Model, Origin};
use crate::pictures::Preparer;

/// Load a model.
///
/// Parameters
/// ----------
/// name_or_path
///     A folder from a model hub (config.json and model.safetensors, sharded or not; OpenCLIP's two files), a safetensors
///     file beside its config.json, a packed file ('Model.save', 'vit convert'), or 'org/name' in the local Hugging
///     Face cache. Nothing is downloaded.
/// precision
///     How weight matrices are stored and multiplied: 'f32', 'f16', 'bf16', 'int8' or 'int4'. None is that of a packed
///     file, else 'f32'.
/// threads
///     Threads that compute, including the caller's. None is the number of cores that the process may use, by affinity
///     mask and cgroup quota, at the first use.
/// mmap
///     Map weight files instead of reading them. A packed file is then used where it is; it must not be overwritten or
///     truncated meanwhile, which can end the process. Where that can happen, pass False.
///
/// Raises
/// ------
/// LoadError
///     If the model cannot be loaded; the message names the file and what is wrong with it.
/// ValueError
///     If there is no such precision, or the number of threads makes no sense.
#[pyfunction]
#[pyo3(signature = (name_or_path, precision = None, threads = None, mmap = true))]
pub(crate) fn load(
    py: Python<'_>,
    name_or_path: PathBuf,
    precision: Option<&str>,
    threads: Option<usize>,
    mmap: bool,
) -> PyResult<Model> {
    let precision: Option<Precision> = match precision {
        None => None,
        Some(name) => Some(name.parse().map_err(|_| {
            let names = Precision::ALL.map(Precision::name).join(", ");
            PyValueError::new_err(format!("no precision '{name}': there are {names}"))
        })?),
    };
    let cores = ThreadPool::cores();
    let most = ThreadPool::most_threads(cores);
    if threads.is_some_and(|threads| !(1..=most).contains(&threads)) {
        return Err(PyValueError::new_err(format!(
            "threads must be from 1 to {most} on the {cores} cores that this process may use"
        )));
    }
    // Another process, to which the model is pickled, may have another current folder.
    let path = if name_or_path.exists() { std::path::absolute(&name_or_path)? } else { name_or_path };
    let loaded = py.detach(|| open(&path, precision, mmap)).map_err(LoadError::new_err)?;
    if !loaded.unused.is_empty() {
        warn(py, &format!("tensors that the model does not use: {}", loaded.unused.join(", ")))?;
    }
    let labels = labels(py, &loaded)?;
    let preparer = Preparer::new(&loaded);
    let origin = Origin { path, precision, threads, mmap };
    Ok(Model::new(origin, Arc::new(loaded), preparer, labels))
}

fn open(path: &Path, precision: Option<Precision>, mmap: bool) -> Result<Loaded, String> {
    let load = || {
        let checkpoint = Checkpoint::open(path, if mmap { Access::Map } else { Access::Read })?;
        let formats = match (checkpoint.formats()?, precision) {
            // If the precisions differ, loading reports it.
            (Some(own), Some(precision)) => Formats::new(precision, own.keep_f32()),
            (Some(own), None) => own,
            (None, precision) => precision.unwrap_or(Precision::F32).into(),
        };
        checkpoint.load(formats)
    };
    load().map_err(|error| with_causes(&error))
}

/// The names of the classes, '' for one without a name; None for a model without a head.
fn labels(py: Python<'_>, loaded: &Loaded) -> PyResult<Option<Vec<String>>> {
    let classes = loaded.config().classes;
    if classes == 0 {
        return Ok(None);
    }
    if !loaded.labels.is_empty() {
        return Ok(Some(loaded.labels.clone()));
    }
    if classes == 1000 {
        warn(py, "the model names none of its 1000 classes: assumed to be ImageNet-1k's")?;
        return Ok(Some(imagenet_1k().map(str::to_owned).collect()));
    }
    Ok(Some((0..classes).map(|class| format!("class {class}")).collect()))
}

fn warn(py: Python<'_>, message: &str) -> PyResult<()> {
    let message = std::ffi::CString::new(message.replace('\0', "\\0"))?;
    PyErr::warn(py, &py.get_type::<PyUserWarning>(), &message, 1)
}
