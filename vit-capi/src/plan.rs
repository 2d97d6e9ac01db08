//! Plans: the memory of a forward pass, before it runs.
use core::ffi::{CStr, c_char};

use vit_engine::{Output, Plan, PlanError};

use crate::error::{Failed, Report, VIT_MEMORY, call, copy, vit_error, vit_status};
use crate::memory;
use crate::model::vit_model;

/// What a forward pass computes, in which blocks, and the memory that it needs. vit_model_plan fills it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct vit_plan {
    /// The name of the output.
    pub output: [c_char; 32],
    /// Images in the batch.
    pub batch: usize,
    /// Images that are computed together.
    pub images: usize,
    /// Tokens in a block.
    pub rows: usize,
    /// The bytes that the arena needs, exactly. It is aligned to VIT_ALIGN.
    pub arena_bytes: usize,
    /// Floats in the output, for the whole batch.
    pub output_len: usize,
    /// Multiply-accumulates of the pass.
    pub macs: u64,
}

/// Plans a forward pass over `batch` images. Nothing is allocated.
///
/// `output` is what it computes, per image:
///     "logits"          classes
///     "embedding"       embedding_len: one vector for the image
///     "class"           dim: the class token after the final norm
///     "patches"         patches x dim
///     "registers"       registers x dim
///     "layer:N"         tokens x dim: all tokens after N layers; 0 is the input of the first
///     "layers"          (depth + 1) x tokens x dim
///     "attention:N"     heads x tokens x tokens: the probabilities in layer N, counted from 1
///     "attention"       depth x heads x tokens x tokens
///     "pool-attention"  heads x tokens: those of an attention pool
///
/// `budget` is the most bytes that the arena may have, 0 for the fastest blocks. If it is too small, the message states
/// the smallest. The results do not depend on it.
#[unsafe(no_mangle)] // SAFETY: no other symbol has this name.
pub unsafe extern "C" fn vit_model_plan(
    model: *const vit_model,
    output: *const c_char,
    batch: usize,
    budget: usize,
    plan: *mut vit_plan,
    error: *mut vit_error,
) -> vit_status {
    let body = |report: &mut Report<'_>| {
        // SAFETY: as the caller promises.
        let (model, name) =
            unsafe { (memory::reference(model, "model", report)?.model(), memory::text(output, "output", report)?) };
        let output: Output = name.parse().map_err(|error| report.argument(format_args!("output: {error}")))?;
        let made = model.plan(output, batch, Some(budget).filter(|budget| *budget > 0));
        let made = made.map_err(|error| of_plan(report, &error))?;
        let mut value = vit_plan {
            output: [0; 32],
            batch,
            images: made.images(),
            rows: made.rows(),
            arena_bytes: made.arena_bytes(),
            output_len: made.output_len(),
            macs: made.macs(),
        };
        copy(output, &mut value.output);
        // SAFETY: as the caller promises.
        unsafe { memory::put(plan, value, "plan", report) }
    };
    // SAFETY: as the caller promises.
    unsafe { call(error, body) }
}

/// The engine's plan. It is made anew, so that a plan of another model, or one that was changed, is noticed.
pub(crate) fn engine_plan(
    plan: &vit_plan,
    model: &vit_engine::Model<'_>,
    report: &mut Report<'_>,
) -> Result<Plan, Failed> {
    // SAFETY: `c_char` has the size and the bit patterns of `u8`.
    let name = unsafe { &*(&raw const plan.output).cast::<[u8; 32]>() };
    let name = CStr::from_bytes_until_nul(name).ok().and_then(|name| name.to_str().ok());
    let output: Option<Output> = name.and_then(|name| name.parse().ok());
    let output = output.ok_or_else(|| report.argument("the plan was not made by vit_model_plan"))?;
    let made = Plan::with_blocks(model.config(), model.precision(), output, plan.batch, plan.images, plan.rows);
    let made = made.map_err(|error| of_plan(report, &error))?;
    if made.arena_bytes() != plan.arena_bytes || made.output_len() != plan.output_len {
        return Err(report.argument("the plan is for another model"));
    }
    Ok(made)
}

fn of_plan(report: &mut Report<'_>, error: &PlanError) -> Failed {
    if matches!(error, PlanError::Budget { .. }) { report.fail(VIT_MEMORY, error) } else { report.argument(error) }
}
