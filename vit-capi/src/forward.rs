//! Forward passes.
use core::ffi::{c_int, c_void};
use core::fmt;

use vit_engine::{ForwardError, Images, Pixels};

use crate::error::{Failed, Report, VIT_MEMORY, VIT_PIXELS, call, vit_error, vit_status};
use crate::memory;
use crate::model::vit_model;
use crate::plan::{engine_plan, vit_plan};

/// Computes the plan's output for images in memory.
///
/// `pixels` holds `pixels_len` floats, [batch, channels, height, width], normalised as the model expects. `arena` has
/// the plan's arena_bytes or more and is aligned to VIT_ALIGN; its contents do not matter. `output` has the plan's
/// output_len floats. The three must not overlap. After an error `output` may be partly written.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub unsafe extern "C" fn vit_model_forward(
    model: *const vit_model,
    plan: *const vit_plan,
    pixels: *const f32,
    pixels_len: usize,
    arena: *mut c_void,
    arena_len: usize,
    output: *mut f32,
    output_len: usize,
    error: *mut vit_error,
) -> vit_status {
    let body = |report: &mut Report<'_>| {
        let arena: *mut u8 = arena.cast();
        memory::disjoint(
            &[
                ("pixels", memory::range(pixels, pixels_len)),
                ("arena", memory::range(arena, arena_len)),
                ("output", memory::range(output, output_len)),
            ],
            report,
        )?;
        // SAFETY: as the caller promises; the buffers do not overlap.
        let (model, plan, pixels, arena, output) = unsafe {
            (
                memory::reference(model, "model", report)?,
                memory::reference(plan, "plan", report)?,
                memory::slice(pixels, pixels_len, "pixels", report)?,
                memory::slice_mut(arena, arena_len, "arena", report)?,
                memory::slice_mut(output, output_len, "output", report)?,
            )
        };
        let engine = model.model();
        let plan = engine_plan(plan, &engine, report)?;
        let c = engine.config();
        let images = Images::new(pixels, [c.channels, c.image[0], c.image[1]]);
        let mut images = images.map_err(|error| report.argument(format_args!("pixels: {error}")))?;
        let result = engine.forward(&plan, &mut images, arena, model.executor(), output);
        result.map_err(|error| match &error {
            ForwardError::Arena(_) => report.fail(VIT_MEMORY, error),
            _ => report.argument(error),
        })
    };
    // SAFETY: as the caller promises.
    unsafe { call(error, body) }
}

/// Reads pixels: the rows of pixels from `top` on of one image of the batch, as many as a patch is high, into `strip`,
/// [channels, patch_height, width], `strip_len` floats, normalised as the model expects. Returns 0, or another number
/// to stop the pass.
pub type vit_read_rows = Option<
    unsafe extern "C" fn(context: *mut c_void, image: usize, top: usize, strip: *mut f32, strip_len: usize) -> c_int,
>;

/// The same as vit_model_forward, with pixels from a callback, so that a whole image need not be in memory. `read` is
/// called with `context` for every row of patches once, image by image, from top to bottom: on one thread at a time, but
/// perhaps not the caller's.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub unsafe extern "C" fn vit_model_forward_rows(
    model: *const vit_model,
    plan: *const vit_plan,
    read: vit_read_rows,
    context: *mut c_void,
    arena: *mut c_void,
    arena_len: usize,
    output: *mut f32,
    output_len: usize,
    error: *mut vit_error,
) -> vit_status {
    let body = |report: &mut Report<'_>| {
        let arena: *mut u8 = arena.cast();
        let buffers = [("arena", memory::range(arena, arena_len)), ("output", memory::range(output, output_len))];
        memory::disjoint(&buffers, report)?;
        // SAFETY: as the caller promises; the buffers do not overlap.
        let (model, plan, arena, output) = unsafe {
            (
                memory::reference(model, "model", report)?,
                memory::reference(plan, "plan", report)?,
                memory::slice_mut(arena, arena_len, "arena", report)?,
                memory::slice_mut(output, output_len, "output", report)?,
            )
        };
        let read = read.ok_or_else(|| report.argument("read is NULL"))?;
        let engine = model.model();
        let plan = engine_plan(plan, &engine, report)?;
        let mut rows = Rows { read, context };
        engine.forward(&plan, &mut rows, arena, model.executor(), output).map_err(|error| of_rows(report, &error))
    };
    // SAFETY: as the caller promises.
    unsafe { call(error, body) }
}

fn of_rows(report: &mut Report<'_>, error: &ForwardError<Stopped>) -> Failed {
    match error {
        ForwardError::Arena(_) => report.fail(VIT_MEMORY, error),
        ForwardError::Pixels(_) => report.fail(VIT_PIXELS, error),
        _ => report.argument(error),
    }
}

/// The callback with its context.
struct Rows {
    read: unsafe extern "C" fn(*mut c_void, usize, usize, *mut f32, usize) -> c_int,
    context: *mut c_void,
}

// SAFETY: the header states that the callback may run on another thread, one call at a time.
unsafe impl Send for Rows {}

/// What the callback returned.
struct Stopped(c_int);

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the callback that reads pixels returned {}", self.0)
    }
}

impl Pixels for Rows {
    type Error = Stopped;

    fn read(&mut self, image: usize, top: usize, strip: &mut [f32]) -> Result<(), Stopped> {
        // SAFETY: the caller of `vit_model_forward_rows` promises that `read` may be called so.
        match unsafe { (self.read)(self.context, image, top, strip.as_mut_ptr(), strip.len()) } {
            0 => Ok(()),
            code => Err(Stopped(code)),
        }
    }
}
