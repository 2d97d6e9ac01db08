//! The class `Model`.
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use vit_engine::file::Loaded;
use vit_engine::logits::Logits;
use vit_engine::{Output, Precision, ThreadPool};

use crate::arrays::{Floats, empty};
use crate::config::{Config, Plan};
use crate::embed::{self, Progress};
use crate::errors::vit_error;
use crate::interrupt::Interrupt;
use crate::pictures::{Preparer, Source, picture_error};
use crate::save;
use crate::workers::Workers;

/// What a model was loaded with, and is loaded with again when it is pickled.
pub(crate) struct Origin {
    pub(crate) path: PathBuf,
    pub(crate) precision: Option<Precision>,
    pub(crate) threads: Option<usize>,
    pub(crate) mmap: bool,
}

/// A model, its threads and its memory. 'load' makes it.
///
/// model(x, features=None, out=None) runs it on pixels.
///
/// Parameters
/// ----------
/// x
///     Normalised pixels, [batch, channels, height, width], as 'preprocess' makes them. float32 in C order is used
///     where it is; other strides, float16 and float64 are copied; tensors of other libraries come by DLPack. Another
///     height and width than the model's own are possible where the checkpoint's own code allows them.
/// features
///     What to compute: 'logits' (None), 'class', 'patches', 'registers', 'embedding', 'layer:N', 'layers',
///     'attention', 'attention:N' or 'pool-attention'.
/// out
///     An array of float32 in C order to write the result into. Calls at the same time must not share it.
///
/// Returns
/// -------
/// numpy.ndarray
///     float32, [batch, ...]; or `out`. Pixels that are NaN give NaN.
///
/// Raises
/// ------
/// VitError
///     If the model does not have these features, for instance logits without a head.
/// TypeError, ValueError
///     If an array has the wrong dtype or shape.
///
/// Notes
/// -----
/// Calls release the GIL, and any number of threads can call at the same time: as many calls as there are threads
/// compute, each with an arena (working memory) of its own from a pool, and further ones wait. The results have the same
/// bits whatever the threads, the batch and what runs beside them.
///
/// It can be pickled: what is pickled is where it was loaded from. After a fork the child makes its own threads at first
/// use, and shares the weights' memory.
#[pyclass(module = "vit_engine", frozen)]
pub(crate) struct Model {
    origin: Origin,
    pub(crate) loaded: Arc<Loaded>,
    preparer: Result<Preparer, String>,
    labels: Option<Vec<String>>,
    /// Made at first use, in each process. The lock is held only by a thread that has the GIL and does not release it
    /// meanwhile: so no other thread has it at a fork, and it is free in the child.
    workers: Mutex<Option<Arc<Workers>>>,
}

impl Model {
    pub(crate) fn new(
        origin: Origin,
        loaded: Arc<Loaded>,
        preparer: Result<Preparer, String>,
        labels: Option<Vec<String>>,
    ) -> Self {
        Self { origin, loaded, preparer, labels, workers: Mutex::new(None) }
    }

    /// The threads and arenas of this process.
    pub(crate) fn workers(&self, _py: Python<'_>) -> PyResult<Arc<Workers>> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(workers) = workers.as_ref().filter(|workers| workers.are_here()) {
            return Ok(Arc::clone(workers));
        }
        let threads = self.origin.threads.unwrap_or_else(ThreadPool::cores);
        let made = Arc::new(Workers::new(&self.loaded, threads)?);
        *workers = Some(Arc::clone(&made));
        Ok(made)
    }

    pub(crate) fn preparer(&self) -> PyResult<&Preparer> {
        self.preparer.as_ref().map_err(vit_error)
    }

    /// The output that these features are. Without any it is the logits, which a model without a head does not have.
    pub(crate) fn output(&self, features: Option<&str>) -> PyResult<Output> {
        let Some(features) = features else {
            if self.loaded.config().classes > 0 {
                return Ok(Output::Logits);
            }
            let c = self.loaded.config();
            let has = |output: &Output| output.len(c).is_some();
            let names = [Output::Embedding, Output::Class, Output::Patches, Output::Layer(c.depth)];
            let names: Vec<String> = names.iter().filter(|output| has(output)).map(|o| format!("'{o}'")).collect();
            return Err(vit_error(format_args!(
                "the model has no head, and so no logits: pass features=, for example {}",
                names.join(", ")
            )));
        };
        features.parse().map_err(|error: vit_engine::UnknownOutput| PyValueError::new_err(error.to_string()))
    }
}

#[pymethods]
impl Model {
    /// See the class: Python shows no documentation of this method.
    #[pyo3(signature = (x, features = None, out = None))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        features: Option<&str>,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let output = self.output(features)?;
        let pixels = Floats::pixels(x)?;
        let channels = self.loaded.config().channels;
        let (batch, image) = match *pixels.shape() {
            [batch, found, height, width] if found == channels => (batch, [height, width]),
            ref shape => {
                return Err(PyValueError::new_err(format!(
                    "expected pixels of shape [batch, {channels}, height, width], found {shape:?}"
                )));
            }
        };
        let config = self.loaded.config_at(image).map_err(|error| PyValueError::new_err(error.to_string()))?;
        if output.len(&config).is_none() {
            // The plan says what is missing.
            vit_engine::Plan::new(&config, self.loaded.precision(), output, 1, None).map_err(vit_error)?;
        }
        let mut shape = vec![batch];
        shape.extend(output.shape(&config));
        let (array, mut result) = match out {
            Some(out) => {
                let result = Floats::result(&out, &shape, &pixels)?;
                (out, result)
            }
            None => {
                let array = empty(py, &shape)?;
                let result = Floats::new(&array)?;
                (array, result)
            }
        };
        if batch > 0 {
            let workers = self.workers(py)?;
            let interrupt = Interrupt::new();
            let stop = || interrupt.stop();
            let computed = py.detach(|| {
                let mut session = workers.session(output, image, batch, &stop)?;
                session.forward(pixels.slice(), result.slice_mut(), &stop)
            });
            computed.map_err(|failure| interrupt.raise(failure))?;
        }
        Ok(array)
    }

    /// Prepare pictures as the model's own files say.
    ///
    /// Parameters
    /// ----------
    /// pictures
    ///     Paths (PNG, JPEG, WebP, GIF, BMP or TIFF, turned upright by EXIF), the bytes of such files, Pillow's images, or
    ///     arrays of uint8, [height, width, 3] or for grey [height, width].
    ///
    /// Returns
    /// -------
    /// numpy.ndarray
    ///     float32, [batch, channels, height, width], for `model(x)`.
    ///
    /// Raises
    /// ------
    /// PictureError
    ///     If a picture cannot be read or prepared; the message begins with its name.
    /// VitError
    ///     If the model's files do not say how pictures are prepared.
    fn preprocess<'py>(&self, py: Python<'py>, pictures: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let preparer = self.preparer()?;
        let sources = Source::list(pictures)?;
        let array = empty(py, &[&[sources.len()], &preparer.shape()[..]].concat())?;
        let mut result = Floats::new(&array)?;
        let workers = self.workers(py)?;
        let interrupt = Interrupt::new();
        let failed = py.detach(|| {
            let images = result.slice_mut().chunks_exact_mut(preparer.len()).zip(&sources);
            let mut images: Vec<_> = images.map(|(out, source)| (out, source, Ok(()))).collect();
            workers.pool().for_each(&mut images, |_, (out, source, result)| {
                *result = if interrupt.stop() { Err("interrupted".into()) } else { preparer.prepare(source, out) };
            });
            images.into_iter().enumerate().find_map(|(index, (_, _, result))| Some((index, result.err()?)))
        });
        match failed {
            Some((index, message)) => {
                Err(interrupt.raised().unwrap_or_else(|| picture_error(&sources[index], index, &message)))
            }
            None => Ok(array),
        }
    }

    /// Compute a vector for each of many pictures.
    ///
    /// The next pictures are decoded while a batch is computed. Ctrl-C ends it within 200 ms.
    ///
    /// Parameters
    /// ----------
    /// pictures
    ///     Pictures of any kind that 'preprocess' takes.
    /// batch
    ///     Pictures that are computed at a time.
    /// errors
    ///     'skip' leaves out pictures that cannot be read, and those whose vector is NaN or infinite; 'raise' raises.
    /// progress
    ///     Show on stderr how far it is, if that is a terminal; or a function that is called with the pictures done and
    ///     all.
    /// features
    ///     'embedding', 'class' or 'logits'.
    ///
    /// Returns
    /// -------
    /// Embeddings
    ///     (embeddings, kept, errors): float32 [kept, dim]; int64 [kept], which picture a row is of; and the messages of
    ///     the others by their index.
    ///
    /// Raises
    /// ------
    /// PictureError
    ///     With errors='raise', for the first picture that failed.
    #[pyo3(
        signature = (pictures, batch = 32, errors = "skip", progress = Progress::Bar(true), features = "embedding"),
        text_signature = "($self, pictures, batch=32, errors='skip', progress=True, features='embedding')"
    )]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        pictures: &Bound<'py, PyAny>,
        batch: usize,
        errors: &str,
        progress: Progress<'py>,
        features: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        embed::run(self, py, pictures, &embed::Options::new(batch, errors, progress, features)?)
    }

    /// The likeliest classes of a picture.
    ///
    /// Parameters
    /// ----------
    /// picture
    ///     One picture of any kind that 'preprocess' takes.
    /// top
    ///     How many classes.
    ///
    /// Returns
    /// -------
    /// list of Prediction
    ///     (class_id, label, probability), likeliest first. Probabilities are the softmax of the logits.
    ///
    /// Raises
    /// ------
    /// VitError
    ///     If the model has no head, or its logits are NaN or infinite.
    /// PictureError
    ///     If the picture cannot be read or prepared.
    #[pyo3(signature = (picture, top = 5))]
    fn classify<'py>(
        &self,
        py: Python<'py>,
        picture: &Bound<'py, PyAny>,
        top: usize,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let output = self.output(None)?;
        let preparer = self.preparer()?;
        let source = Source::of(picture)?;
        let workers = self.workers(py)?;
        let interrupt = Interrupt::new();
        let stop = || interrupt.stop();
        let mut pixels = vec![0.0; preparer.len()];
        let mut logits = vec![0.0; self.loaded.config().classes];
        py.detach(|| preparer.prepare(&source, &mut pixels)).map_err(|error| picture_error(&source, 0, &error))?;
        let computed = py.detach(|| {
            let mut session = workers.session(output, preparer.size, 1, &stop)?;
            session.forward(&pixels, &mut logits, &stop)
        });
        computed.map_err(|failure| interrupt.raise(failure))?;
        static PREDICTION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let prediction = PREDICTION.import(py, "vit_engine._results", "Prediction")?;
        let labels = self.labels.as_deref().unwrap_or_default();
        let of = |(class, probability): (usize, f32)| {
            let label = labels.get(class).filter(|label| !label.is_empty());
            prediction.call1((class, label.cloned().unwrap_or_else(|| format!("class {class}")), probability))
        };
        Logits::new(&logits).map_err(vit_error)?.probabilities().take(top).map(of).collect()
    }

    /// What a forward pass needs, before it runs.
    ///
    /// Parameters
    /// ----------
    /// batch
    ///     Images in the batch.
    /// features
    ///     As in `model(x, features)`; None is 'logits', or what a model without a head has.
    /// image_size
    ///     Height and width; None for the model's own.
    #[pyo3(signature = (batch = 1, features = None, image_size = None))]
    fn plan(
        &self,
        py: Python<'_>,
        batch: usize,
        features: Option<&str>,
        image_size: Option<[usize; 2]>,
    ) -> PyResult<Plan> {
        let image = image_size.unwrap_or(self.loaded.config().image);
        let config = self.loaded.config_at(image).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let output = match (features, config.classes, config.embedding_len()) {
            (None, 0, Some(_)) => Output::Embedding,
            (None, 0, None) => Output::Patches,
            _ => self.output(features)?,
        };
        let plan = vit_engine::Plan::new(&config, self.loaded.precision(), output, batch, None);
        Plan::of(py, &plan.map_err(vit_error)?, &self.loaded)
    }

    /// Save the model as a packed file, which loads at once, without computing or copying anything.
    ///
    /// It is the file that 'vit convert' writes: GGUF, with the weights in the model's precision, the names of the
    /// classes and how pictures are prepared. It gets its name only when it is complete, and replaces an existing file.
    ///
    /// Parameters
    /// ----------
    /// path
    ///     The file, by custom with the ending '.gguf'.
    ///
    /// Raises
    /// ------
    /// OSError
    ///     If it cannot be written: FileNotFoundError without the folder, PermissionError, and so on.
    ///
    /// Examples
    /// --------
    /// >>> vit.load("google/vit-base-patch16-224", precision="int8").save("vit-int8.gguf")
    /// >>> model = vit.load("vit-int8.gguf")
    #[allow(clippy::needless_pass_by_value, reason = "pyo3 converts into paths that are owned")]
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        save::save(py, &self.loaded, &path)
    }

    /// The hyper-parameters.
    #[getter]
    fn config(&self) -> Config {
        Config::of(&self.loaded)
    }

    /// The names of the classes; None for a model without a head.
    #[getter]
    fn labels(&self) -> Option<Vec<String>> {
        self.labels.clone()
    }

    /// The number of threads that compute, including the caller's.
    #[getter]
    fn threads(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.workers(py)?.pool().threads())
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, LoadArguments)> {
        let Origin { path, precision, threads, mmap } = &self.origin;
        let load = py.import("vit_engine")?.getattr("load")?;
        Ok((load, (path.clone().into_os_string(), precision.map(Precision::name), *threads, *mmap)))
    }

    fn __repr__(&self) -> String {
        format!("Model('{}', precision='{}')", self.origin.path.display(), self.loaded.precision().name())
    }
}

/// What `load` is called with.
type LoadArguments = (std::ffi::OsString, Option<&'static str>, Option<usize>, bool);
