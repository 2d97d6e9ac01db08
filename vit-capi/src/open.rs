//! Opening models: from files or bytes, with threads.
use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::string::String;

use vit_engine::file::{Access, Checkpoint, LoadError, Loaded, Problem};
use vit_engine::{Isa, IsaError, Precision, ThreadPool};

use crate::error::{Failed, Report, VIT_ARGUMENT, VIT_FILE, VIT_MEMORY, VIT_MODEL, call, vit_error, vit_status};
use crate::memory;
use crate::model::{Kind, vit_model};

/// A model that the library owns, and its threads.
pub(crate) struct Opened {
    pub(crate) loaded: Loaded,
    pub(crate) isa: Isa,
    pub(crate) pool: ThreadPool,
    labels: Vec<CString>,
}

/// How a model is opened. All zero is a good choice.
#[repr(C)]
pub struct vit_options {
    /// "f32", "f16", "bf16", "int8" or "int4"; NULL for that of a packed file, and f32 for other files.
    pub precision: *const c_char,
    /// An instruction-set level such as "avx2"; NULL for the best of this CPU.
    pub level: *const c_char,
    /// The family of the checkpoint, where its files do not tell; else NULL.
    pub family: *const c_char,
    /// Threads that share a forward pass, with the caller's; 0 for as many as this process may use.
    pub threads: usize,
    /// Read the weights instead of mapping their file. A mapped file must not be shortened while the model is open.
    pub no_mmap: bool,
}

/// Opens a model: a folder from a model hub, a safetensors file beside its config.json, a packed file, or "org/name" in
/// the local cache of the Hugging Face hub. `options` may be NULL. vit_model_close frees it.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub unsafe extern "C" fn vit_model_open(
    path: *const c_char,
    options: *const vit_options,
    model: *mut *mut vit_model,
    error: *mut vit_error,
) -> vit_status {
    let body = |report: &mut Report<'_>| {
        // SAFETY: as the caller promises.
        let (path, how) = unsafe { (memory::text(path, "path", report)?, How::of(options, report)?) };
        let access = if how.no_mmap { Access::Read } else { Access::Map };
        let checkpoint = Checkpoint::open(Path::new(path), access).map_err(|error| of_load(report, &error))?;
        // SAFETY: as the caller promises.
        unsafe { memory::put(model, how.open(checkpoint, report)?, "model", report) }
    };
    // SAFETY: as the caller promises.
    unsafe { call(error, body) }
}

/// Opens a packed file in memory. The bytes are copied, and need no alignment; vit_model_place uses them in place.
/// `options` may be NULL. vit_model_close frees the model.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub unsafe extern "C" fn vit_model_open_bytes(
    packed: *const c_void,
    packed_len: usize,
    options: *const vit_options,
    model: *mut *mut vit_model,
    error: *mut vit_error,
) -> vit_status {
    let body = |report: &mut Report<'_>| {
        // SAFETY: as the caller promises.
        let (packed, how) =
            unsafe { (memory::slice(packed.cast::<u8>(), packed_len, "packed", report)?, How::of(options, report)?) };
        if !packed.starts_with(b"GGUF") {
            return Err(report.fail(VIT_MODEL, "the bytes are not a packed model, which 'vit convert' writes"));
        }
        let checkpoint = Checkpoint::from_bytes(b"null", packed).map_err(|error| of_load(report, &error))?;
        // SAFETY: as the caller promises.
        unsafe { memory::put(model, how.open(checkpoint, report)?, "model", report) }
    };
    // SAFETY: as the caller promises.
    unsafe { call(error, body) }
}

/// Frees a model that was opened. NULL, and a model of vit_model_place, are left alone.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub unsafe extern "C" fn vit_model_close(model: *mut vit_model) {
    let close = |_: &mut Report<'_>| {
        // SAFETY: as the caller promises.
        if let Some(vit_model(Kind::Opened(_))) = unsafe { model.as_ref() } {
            // SAFETY: an opened model was made by `Box::into_raw`, in `How::open`.
            drop(unsafe { Box::from_raw(model) });
        }
        Ok(())
    };
    // SAFETY: there is no error to write to.
    unsafe { call(std::ptr::null_mut(), close) };
}

/// The name of a class, in UTF-8; NULL if it has none. It lives as long as the model.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub unsafe extern "C" fn vit_model_label(model: *const vit_model, index: usize) -> *const c_char {
    // SAFETY: as the caller promises.
    match unsafe { model.as_ref() } {
        Some(vit_model(Kind::Opened(opened))) => {
            opened.labels.get(index).map_or(std::ptr::null(), |name| name.as_ptr())
        }
        _ => std::ptr::null(),
    }
}

/// The options, read.
struct How<'a> {
    precision: Option<Precision>,
    isa: Isa,
    family: Option<&'a str>,
    threads: usize,
    no_mmap: bool,
}

impl<'a> How<'a> {
    /// # Safety
    /// `options` is null or points to a `vit_options`, whose texts live for `'a`.
    unsafe fn of(options: *const vit_options, report: &mut Report<'_>) -> Result<Self, Failed> {
        let none = std::ptr::null();
        let default = vit_options { precision: none, level: none, family: none, threads: 0, no_mmap: false };
        let options = if options.is_null() {
            &default
        } else {
            // SAFETY: as the caller promises.
            unsafe { memory::reference(options, "options", report) }?
        };
        let mut text = |pointer: *const c_char, name| {
            // SAFETY: as the caller promises.
            if pointer.is_null() { Ok(None) } else { unsafe { memory::text(pointer, name, report) }.map(Some) }
        };
        let (precision, level) = (text(options.precision, "precision")?, text(options.level, "level")?);
        let family = text(options.family, "family")?;
        let precision = precision.map(str::parse::<Precision>).transpose();
        let isa = level.map_or(Ok(Isa::best()), Isa::by_name);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            precision: precision.map_err(|error| report.argument(format_args!("precision: {error}")))?,
            isa: isa.map_err(|error: IsaError| report.argument(format_args!("level: {error}")))?,
            family,
            threads: if options.threads == 0 { cores } else { options.threads },
            no_mmap: options.no_mmap,
        })
    }

    fn open(self, checkpoint: Checkpoint<'_>, report: &mut Report<'_>) -> Result<*mut vit_model, Failed> {
        let checkpoint = checkpoint.assume(self.family);
        let packed = checkpoint.formats().map_err(|error| of_load(report, &error))?;
        let loaded = match (packed, self.precision) {
            // If a packed file has another precision than the one asked for, loading says so.
            (Some(formats), None) => checkpoint.load(formats),
            (_, precision) => checkpoint.load(precision.unwrap_or(Precision::F32)),
        };
        let loaded = loaded.map_err(|error| of_load(report, &error))?;
        let threads = self.threads;
        let pool = ThreadPool::new(threads);
        let pool =
            pool.map_err(|error| report.fail(VIT_MEMORY, format_args!("cannot start {threads} threads: {error}")))?;
        // A name with a NUL in it ends there.
        let label = |name: &String| CString::new(name.split('\0').next().unwrap_or_default()).unwrap_or_default();
        let labels = loaded.labels.iter().map(label).collect();
        let opened = Opened { loaded, isa: self.isa, pool, labels };
        Ok(Box::into_raw(Box::new(vit_model(Kind::Opened(Box::new(opened))))))
    }
}

fn of_load(report: &mut Report<'_>, error: &LoadError) -> Failed {
    let status = match error.problem {
        Problem::Io(_) | Problem::NoConfig(_) | Problem::NoWeights(_) | Problem::NotInHub { .. } => VIT_FILE,
        Problem::OutOfMemory { .. } => VIT_MEMORY,
        Problem::OtherPrecision { .. } => VIT_ARGUMENT,
        _ => VIT_MODEL,
    };
    report.fail(status, error)
}
