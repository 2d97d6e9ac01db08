//! Arrays of Python: pixels that go in, and results.
#![allow(unsafe_code)] // Memory of Python's buffers.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

/// A function of NumPy's.
pub(crate) fn numpy<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static NUMPY: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    NUMPY.get_or_try_init(py, || PyResult::Ok(py.import("numpy")?.unbind()))?.bind(py).getattr(name)
}

/// A new NumPy array of float32, not initialised.
pub(crate) fn empty<'py>(py: Python<'py>, shape: &[usize]) -> PyResult<Bound<'py, PyAny>> {
    static EMPTY: PyOnceLock<[Py<PyAny>; 2]> = PyOnceLock::new();
    let [empty, float32] =
        EMPTY.get_or_try_init(py, || PyResult::Ok([numpy(py, "empty")?.unbind(), numpy(py, "float32")?.unbind()]))?;
    empty.bind(py).call1((PyTuple::new(py, shape)?, float32))
}

/// float32 elements in C order, in the memory of a Python object.
///
/// The object cannot free or move its memory while its buffer is held. Python can write to it meanwhile from another
/// thread; as with every library that releases the GIL, whoever does that gets a mixture.
pub(crate) struct Floats(PyBuffer<f32>);

impl Floats {
    /// The buffer of an object that is float32 in C order; `None` if it is not.
    fn of(object: &Bound<'_, PyAny>) -> Option<Self> {
        // pyo3 0.30 takes '>', big-endian, for the order of little-endian machines.
        let is_native =
            |buffer: &PyBuffer<f32>| cfg!(target_endian = "big") || !buffer.format().to_bytes().starts_with(b">");
        PyBuffer::get(object).ok().filter(is_native).filter(|buffer| buffer.is_c_contiguous()).map(Self)
    }

    /// Pixels: float32 in C order without a copy; other strides and orders of bytes, float16 and float64 gathered into a new
    /// array; tensors that have DLPack by way of it.
    pub(crate) fn pixels(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Some(floats) = Self::of(object) {
            return Ok(floats);
        }
        let py = object.py();
        let array = if object.hasattr(intern!(py, "dtype"))? && object.hasattr(intern!(py, "__array_interface__"))? {
            object.clone()
        } else if object.hasattr(intern!(py, "__dlpack__"))? {
            numpy(py, "from_dlpack")?.call1((object,)).map_err(|error| {
                let wrong = PyTypeError::new_err(format!("the tensor cannot be read by DLPack: {}", error.value(py)));
                wrong.set_cause(py, Some(error));
                wrong
            })?
        } else if PyBuffer::<f64>::get(object).is_ok() || PyBuffer::<f32>::get(object).is_ok() {
            numpy(py, "asarray")?.call1((object,))?
        } else {
            let found = object.get_type().qualname()?;
            return Err(PyTypeError::new_err(format!(
                "expected an array of float32, float16 or float64, or a tensor that has DLPack, not '{found}'"
            )));
        };
        let dtype = array.getattr("dtype")?;
        let kind: char = dtype.getattr("kind")?.extract()?;
        if kind != 'f' || !matches!(dtype.getattr("itemsize")?.extract()?, 2 | 4 | 8) {
            return Err(PyTypeError::new_err(format!("expected float32, float16 or float64, found {dtype}")));
        }
        // C order, aligned, in this machine's order of bytes.
        let array = numpy(py, "require")?.call1((array, numpy(py, "float32")?, ["C", "A"]))?;
        Self::of(&array).ok_or_else(|| PyTypeError::new_err("the array has no buffer"))
    }

    /// An array to write results of this shape into, apart from the memory of `input`.
    pub(crate) fn result(object: &Bound<'_, PyAny>, shape: &[usize], input: &Self) -> PyResult<Self> {
        let Some(floats) = Self::of(object).filter(|floats| !floats.0.readonly()) else {
            return Err(PyTypeError::new_err("out has to be a writable array of float32 in C order"));
        };
        if floats.shape() != shape {
            return Err(PyValueError::new_err(format!("out has the shape {:?}, expected {shape:?}", floats.shape())));
        }
        let range = |floats: &Self| floats.0.buf_ptr() as usize..floats.0.buf_ptr() as usize + floats.0.len_bytes();
        let (out, input) = (range(&floats), range(input));
        if out.start < input.end && input.start < out.end {
            return Err(PyValueError::new_err("out shares memory with the pixels"));
        }
        Ok(floats)
    }

    /// A new array's buffer.
    pub(crate) fn new(array: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self(PyBuffer::get(array)?))
    }

    pub(crate) fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    pub(crate) fn slice(&self) -> &[f32] {
        match self.0.as_slice_ptr() {
            // SAFETY: the pointer is of the buffer's elements, which are f32 in C order; the buffer keeps their memory
            // alive as long as `self`. Any bits are a valid f32.
            Some(elements) => unsafe { elements.as_ref() },
            None => &[],
        }
    }

    /// The elements to write. They are those of a [`result`](Self::result) or of a [`new`](Self::new) array.
    pub(crate) fn slice_mut(&mut self) -> &mut [f32] {
        match self.0.as_slice_ptr() {
            // SAFETY: as in `slice`. The memory is writable, and does not overlap with that of the input: a new array's is
            // its own, and `result` has checked both.
            Some(mut elements) if !self.0.readonly() => unsafe { elements.as_mut() },
            _ => &mut [],
        }
    }
}
