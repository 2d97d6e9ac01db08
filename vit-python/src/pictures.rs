//! Pictures of Python (paths, files in memory, Pillow's images, arrays) to a model's input.
use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyString};
use vit_engine::file::Loaded;
use vit_image::{Picture, Preprocessing};

use crate::arrays::numpy;
use crate::errors::PictureError;

/// The most pixels of a picture, as in the command line: a file of a few kilobytes can ask for gigabytes.
const MOST_PIXELS: u64 = 100_000_000;

/// A picture that was given from Python.
pub(crate) enum Source {
    Path(PathBuf),
    /// The bytes of a file.
    File(PyBackedBytes),
    /// Pillow's image, or an array. It is read when its turn comes.
    Object(Py<PyAny>),
}

impl Source {
    /// # Errors
    /// If the object is no kind of picture: a `TypeError`.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Self::File(bytes.clone().into()));
        }
        if object.is_instance_of::<PyString>() || object.hasattr(intern!(py, "__fspath__"))? {
            return Ok(Self::Path(object.extract()?));
        }
        let is_array = PyBuffer::<u8>::get(object).is_ok() || object.hasattr(intern!(py, "__dlpack__"))?;
        if is_pillow(object)? || is_array {
            return Ok(Self::Object(object.clone().unbind()));
        }
        // An array of another type: its dtype is the news.
        let dtype = object.getattr("dtype").map(|dtype| format!(" of {dtype}")).unwrap_or_default();
        Err(PyTypeError::new_err(format!(
            "a picture has to be a path, the bytes of a file, Pillow's image or an array of uint8, not '{}'{dtype}",
            object.get_type().qualname()?
        )))
    }

    /// Those of an iterable.
    pub(crate) fn list(pictures: &Bound<'_, PyAny>) -> PyResult<Vec<Self>> {
        // These are iterable, and meant as one picture.
        let one = matches!(Self::of(pictures), Ok(Self::Path(_) | Self::File(_))) || is_pillow(pictures)?;
        if one {
            return Err(PyTypeError::new_err("expected a list of pictures, not one picture"));
        }
        let of = |(index, picture): (usize, PyResult<Bound<'_, PyAny>>)| {
            // A long list takes seconds.
            if index % 1024 == 0 {
                pictures.py().check_signals()?;
            }
            Self::of(&picture?)
        };
        pictures.try_iter()?.enumerate().map(of).collect()
    }

    /// Its name in messages.
    pub(crate) fn name(&self, index: usize) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            _ => format!("picture {index}"),
        }
    }

    fn picture(&self, channels: usize) -> Result<Picture, String> {
        let decode = |bytes: &[u8]| Picture::decode(bytes, channels, MOST_PIXELS).map_err(|error| error.to_string());
        match self {
            Self::Path(path) => decode(&read(path)?),
            Self::File(bytes) => decode(bytes),
            Self::Object(object) => Python::attach(|py| {
                let picture = of_object(object.bind(py), channels).map_err(|error| error.value(py).to_string());
                picture?.with_channels(channels).map_err(|error| error.to_string())
            }),
        }
    }
}

/// Whether it is an image of Pillow's, by what it can do.
fn is_pillow(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = object.py();
    Ok(object.hasattr(intern!(py, "convert"))? && object.hasattr(intern!(py, "tobytes"))?)
}

/// The contents of a picture file.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| error.to_string();
    // The type is checked first, because opening a named pipe waits for a writer.
    let metadata = path.metadata().map_err(text)?;
    if !metadata.is_file() {
        return Err(if metadata.is_dir() { "is a folder, not a file" } else { "is not a regular file" }.into());
    }
    // A file without compression, and as much again for what else may be in it.
    let most = MOST_PIXELS * 16 + (1 << 26);
    let length = metadata.len();
    if length > most {
        return Err(format!("{length} bytes are too many for a picture of at most {MOST_PIXELS} pixels"));
    }
    let mut bytes = Vec::new();
    let reserved = usize::try_from(length).ok().filter(|length| bytes.try_reserve_exact(*length).is_ok());
    reserved.ok_or_else(|| format!("cannot allocate {length} bytes for a picture file"))?;
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(text)?;
    Ok(bytes)
}

/// Pillow's image or an array, with the channels that it has.
fn of_object(object: &Bound<'_, PyAny>, channels: usize) -> PyResult<Picture> {
    let py = object.py();
    let wrong = |message: String| PyValueError::new_err(message);
    if is_pillow(object)? {
        // 'RGB' or 'L', by Pillow's own conversion. EXIF orientation is the business of who opened the file.
        let mode = if channels == 1 { "L" } else { "RGB" };
        let image = object.call_method1(intern!(py, "convert"), (mode,))?;
        let [width, height]: [usize; 2] = image.getattr(intern!(py, "size"))?.extract()?;
        let bytes = image.call_method0(intern!(py, "tobytes"))?;
        let samples: Vec<u8> = bytes.cast::<PyBytes>()?.as_bytes().to_vec();
        return Picture::new([height, width], channels, samples).map_err(|error| wrong(error.to_string()));
    }
    let buffer = match PyBuffer::<u8>::get(object) {
        Ok(buffer) => buffer,
        Err(_) => PyBuffer::<u8>::get(&numpy(py, "from_dlpack")?.call1((object,))?)
            .map_err(|_| PyTypeError::new_err("expected an array of uint8"))?,
    };
    let (size, found) = match *buffer.shape() {
        [height, width] => ([height, width], 1),
        [height, width, found @ (1 | 3)] => ([height, width], found),
        ref shape => {
            return Err(wrong(format!(
                "an array of shape {shape:?}, expected [height, width, 3] or, for grey, [height, width]"
            )));
        }
    };
    Picture::new(size, found, buffer.to_vec(py)?).map_err(|error| wrong(error.to_string()))
}

/// Turns pictures into a model's input, as its files say.
pub(crate) struct Preparer {
    channels: usize,
    preprocessing: Preprocessing,
    /// Height and width of the outputs.
    pub(crate) size: [usize; 2],
}

impl Preparer {
    /// # Errors
    /// Why the model cannot take pictures.
    pub(crate) fn new(loaded: &Loaded) -> Result<Self, String> {
        let config = loaded.config();
        let channels = config.channels;
        if !matches!(channels, 1 | 3) {
            return Err(format!("the model takes {channels} channels, and pictures have 1 or 3: give it pixels"));
        }
        let preprocessing = loaded.preprocessing.clone().map_err(|error| error.to_string())?;
        if !preprocessing.is_valid() {
            return Err("the preprocessing has a number that it cannot have".into());
        }
        if !preprocessing.fits(channels) {
            let mean = preprocessing.mean.len();
            return Err(format!("mean and std have {mean} channels, but the model has {channels}"));
        }
        // Where the size depends on the picture, only those of the model's own size can be taken.
        let size = preprocessing.fixed_size().unwrap_or(config.image);
        Ok(Self { channels, preprocessing, size })
    }

    /// The number of elements of one image.
    pub(crate) fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// The shape of one image, \[channels, height, width\].
    pub(crate) fn shape(&self) -> [usize; 3] {
        [self.channels, self.size[0], self.size[1]]
    }

    /// Writes what the model is given of a picture to `out`, \[channels, height, width\].
    ///
    /// # Errors
    /// Why the picture cannot be read or prepared.
    pub(crate) fn prepare(&self, source: &Source, out: &mut [f32]) -> Result<(), Cow<'static, str>> {
        let picture = source.picture(self.channels)?;
        let text = |error: vit_image::Error| error.to_string();
        let [height, width] = self.preprocessing.output_size(picture.size()).map_err(text)?;
        if [height, width] != self.size {
            let [own_height, own_width] = self.size;
            return Err(format!(
                "this picture becomes {width}×{height} pixels, and the model takes {own_width}×{own_height}"
            )
            .into());
        }
        Ok(self.preprocessing.apply(&picture, MOST_PIXELS, out).map_err(text)?)
    }
}

/// What is raised for a picture.
pub(crate) fn picture_error(source: &Source, index: usize, message: &str) -> PyErr {
    PictureError::new_err(format!("{}: {message}", source.name(index)))
}
