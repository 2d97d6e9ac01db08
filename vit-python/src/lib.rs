//! The native part of the Python package `vit_engine`. Its documentation is that of the Python classes; the types are in
//! `python/vit_engine/_native.pyi`.
#![deny(unsafe_code)]
// Documentation is also Python's; [B, C, H, W] in it is a shape, not a link.
#![allow(rustdoc::broken_intra_doc_links)]

mod arrays;
mod config;
mod embed;
mod errors;
mod interrupt;
mod load;
mod model;
mod pictures;
mod save;
mod workers;

use pyo3::prelude::*;

/// Vision Transformers on the CPU: the native part of `vit_engine`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::config::{Config, Plan};
    #[pymodule_export]
    use crate::errors::{LoadError, PictureError, VitError};
    #[pymodule_export]
    use crate::load::load;
    #[pymodule_export]
    use crate::model::Model;

    use super::{Bound, PyModule, PyModuleMethods, PyResult};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
