//! Models: in the caller's memory, or opened by the library.
use core::ffi::{c_char, c_void};
use core::mem::MaybeUninit;

use vit_engine::{ALIGN, Executor, Isa, Model, PackedError, Serial};

use crate::error::{Failed, Report, VIT_MEMORY, VIT_MODEL, call, copy, vit_error, vit_status};
use crate::memory;

/// The alignment in bytes of an arena, of a packed model in memory, and of the storage of vit_model_place.
pub const VIT_ALIGN: usize = 64;
const _: () = assert!(VIT_ALIGN == ALIGN);

/// The bytes of storage that vit_model_place needs.
pub const VIT_MODEL_BYTES: usize = 512;
const _: () = assert!(size_of::<vit_model>() <= VIT_MODEL_BYTES && align_of::<vit_model>() <= VIT_ALIGN);

/// A model.
pub struct vit_model(pub(crate) Kind);

#[allow(clippy::large_enum_variant, reason = "a placed model must not allocate")]
pub(crate) enum Kind {
    /// In the caller's memory.
    Placed(Model<'static>),
    #[cfg(feature = "std")]
    Opened(Box<crate::open::Opened>),
}

impl vit_model {
    pub(crate) fn model(&self) -> Model<'_> {
        match &self.0 {
            Kind::Placed(model) => *model,
            #[cfg(feature = "std")]
            Kind::Opened(opened) => opened.loaded.model(opened.isa),
        }
    }

    pub(crate) fn executor(&self) -> &dyn Executor {
        match &self.0 {
            Kind::Placed(_) => &Serial,
            #[cfg(feature = "std")]
            Kind::Opened(opened) => &opened.pool,
        }
    }
}

/// Makes a model of a packed file in memory (`vit convert` writes one), without allocating: the weights stay where they
/// are, on a microcontroller in flash. It runs on the calling thread.
///
/// `storage` has VIT_MODEL_BYTES bytes or more and is aligned to VIT_ALIGN, as is `packed`. Both must stay as they are
/// while the model is used; it needs no closing. `*model` points into `storage`.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub unsafe extern "C" fn vit_model_place(
    storage: *mut c_void,
    storage_len: usize,
    packed: *const c_void,
    packed_len: usize,
    model: *mut *const vit_model,
    error: *mut vit_error,
) -> vit_status {
    let body = |report: &mut Report<'_>| {
        let storage: *mut MaybeUninit<u8> = storage.cast();
        let packed: *const u8 = packed.cast();
        let buffers = [("storage", memory::range(storage, storage_len)), ("packed", memory::range(packed, packed_len))];
        memory::disjoint(&buffers, report)?;
        // SAFETY: as the caller promises.
        let (storage, packed) = unsafe {
            (
                memory::slice_mut(storage, storage_len, "storage", report)?,
                memory::slice(packed, packed_len, "packed", report)?,
            )
        };
        if storage.len() < VIT_MODEL_BYTES || !storage.as_ptr().addr().is_multiple_of(VIT_ALIGN) {
            let message = format_args!("storage needs {VIT_MODEL_BYTES} bytes at a multiple of {VIT_ALIGN}");
            return Err(report.fail(VIT_MEMORY, message));
        }
        let placed = Model::from_packed(packed, Isa::best()).map_err(|error| of_packed(report, &error))?;
        let place: *mut vit_model = storage.as_mut_ptr().cast();
        // SAFETY: the storage is large enough for a model and aligned, as checked here and when this was compiled.
        unsafe { place.write(vit_model(Kind::Placed(placed))) };
        // SAFETY: as the caller promises.
        unsafe { memory::put(model, place.cast_const(), "model", report) }
    };
    // SAFETY: as the caller promises.
    unsafe { call(error, body) }
}

fn of_packed(report: &mut Report<'_>, error: &PackedError) -> Failed {
    report.fail(if matches!(error, PackedError::Memory(_)) { VIT_MEMORY } else { VIT_MODEL }, error)
}

/// What a model is.
#[repr(C)]
pub struct vit_info {
    /// Channels of an image.
    pub channels: usize,
    /// Height of an image in pixels.
    pub height: usize,
    /// Width of an image in pixels.
    pub width: usize,
    /// Height of a patch in pixels.
    pub patch_height: usize,
    /// Width of a patch in pixels.
    pub patch_width: usize,
    /// Tokens: class token, distillation token, registers, patches.
    pub tokens: usize,
    /// Width of a token.
    pub dim: usize,
    /// Transformer layers.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Outputs of the head; 0 without a head.
    pub classes: usize,
    /// Elements of the embedding; 0 if the model has none.
    pub embedding_len: usize,
    /// Bytes of the packed weights.
    pub weight_bytes: usize,
    /// The precision of the weights: "f32", "f16", "bf16", "int8", "int4".
    pub precision: [c_char; 16],
    /// The instruction-set level that the model runs on, such as "avx2".
    pub level: [c_char; 24],
}

/// Writes what a model is to `info`.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub unsafe extern "C" fn vit_model_info(
    model: *const vit_model,
    info: *mut vit_info,
    error: *mut vit_error,
) -> vit_status {
    let body = |report: &mut Report<'_>| {
        // SAFETY: as the caller promises.
        let model = unsafe { memory::reference(model, "model", report) }?.model();
        let c = model.config();
        let mut value = vit_info {
            channels: c.channels,
            height: c.image[0],
            width: c.image[1],
            patch_height: c.patch[0],
            patch_width: c.patch[1],
            tokens: c.tokens(),
            dim: c.dim,
            depth: c.depth,
            heads: c.heads,
            classes: c.classes,
            embedding_len: c.embedding_len().unwrap_or(0),
            weight_bytes: model.weight_bytes(),
            precision: [0; 16],
            level: [0; 24],
        };
        copy(model.precision(), &mut value.precision);
        copy(model.isa().name(), &mut value.level);
        // SAFETY: as the caller promises.
        unsafe { memory::put(info, value, "info", report) }
    };
    // SAFETY: as the caller promises.
    unsafe { call(error, body) }
}
