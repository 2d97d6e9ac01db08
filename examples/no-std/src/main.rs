//! A Vision Transformer without `std`, `alloc` or an allocator: weights where flash would be, activations in a static
//! arena of the smallest size there is, pixels from a callback. Ends with 0 if the logits are PyTorch's.
#![no_std]
#![no_main]

mod linux;

use core::convert::Infallible;
use core::fmt::{self, Write};

use vit_engine::{Aligned, Features, Isa, Model, Plan, Serial};

use linux::stdout;
use model::{BATCH, CONFIG, LOGITS, MINIMUM_ARENA, PIXELS, PRECISION, UNBOUNDED_ARENA, WEIGHTS};

/// What `build.rs` made of the checkpoint.
mod model {
    include!(concat!(env!("OUT_DIR"), "/model.rs"));
}

/// max|difference| ÷ max|reference| that is still agreement.
const BOUND: f32 = 1e-5;

/// All the memory that a forward pass works in, but for the stack. Firmware reserves `MINIMUM_ARENA`, or what it can
/// spare; here an unbounded plan runs in it too.
static mut ARENA: Aligned<UNBOUNDED_ARENA> = Aligned([0; UNBOUNDED_ARENA]);

#[unsafe(no_mangle)] // SAFETY: libc's startup code looks for this symbol, and the program has no other of that name.
extern "C" fn main() -> i32 {
    let arena = &raw mut ARENA;
    // SAFETY: the startup code calls `main` once, on the only thread, and nothing else names the arena.
    let arena = unsafe { &mut *arena };
    match report(&mut arena.0) {
        Ok(true) => 0,
        Ok(false) | Err(fmt::Error) => 1,
    }
}

/// Runs the model on the CPU's best level and on the portable one; whether both agree with PyTorch.
fn report(arena: &mut [u8]) -> Result<bool, fmt::Error> {
    let reference: [f32; LOGITS.len()] = core::array::from_fn(|i| f32::from_le_bytes(LOGITS[i]));
    writeln!(stdout(), "weights: {} bytes", WEIGHTS.0.len())?;
    writeln!(stdout(), "arena: {MINIMUM_ARENA} bytes at least, {UNBOUNDED_ARENA} without a bound")?;
    let mut agree = true;
    for isa in [Isa::best(), Isa::PORTABLE] {
        let model = Model::new(&CONFIG, PRECISION, isa, &WEIGHTS.0).expect("packed for this config");
        let least = Plan::new(&CONFIG, Features::Logits, BATCH, Some(MINIMUM_ARENA)).expect("the least that does");
        let unbounded = Plan::new(&CONFIG, Features::Logits, BATCH, None).expect("a valid config");
        let logits = run(&model, &least, arena);
        let same_bits = logits.map(f32::to_bits) == run(&model, &unbounded, arena).map(f32::to_bits);
        let distance = distance(&logits, &reference);

        writeln!(stdout(), "{isa}: {} MACs", least.macs())?;
        let images = logits.chunks_exact(CONFIG.classes).zip(reference.chunks_exact(CONFIG.classes));
        for (image, (logits, reference)) in images.enumerate() {
            writeln!(stdout(), "  image {image}: class {}, PyTorch's is {}", class(logits), class(reference))?;
        }
        writeln!(stdout(), "  distance from PyTorch: {distance:.1e}, at most {BOUND:e} will do")?;
        writeln!(stdout(), "  same bits in blocks of {} and {} rows: {same_bits}", least.rows(), unbounded.rows())?;
        agree &= same_bits && distance <= BOUND;
    }
    Ok(agree)
}

/// The logits of all images, \[`BATCH`, classes\], in exactly the memory that the plan asks for.
fn run(model: &Model<'_>, plan: &Plan, arena: &mut [u8]) -> [f32; LOGITS.len()] {
    let mut logits = [f32::NAN; LOGITS.len()];
    let arena = &mut arena[..plan.arena_bytes()];
    model.forward(plan, &mut camera, arena, &Serial, &mut logits).expect("the arena and the logits fit the plan");
    logits
}

/// Delivers one row of patches: the strip that starts at pixel row `top`, \[channels, patch height, width\].
fn camera(image: usize, top: usize, strip: &mut [f32]) -> Result<(), Infallible> {
    let [height, width] = CONFIG.image;
    let channel_len = strip.len() / CONFIG.channels;
    for (channel, rows) in strip.chunks_exact_mut(channel_len).enumerate() {
        let start = ((image * CONFIG.channels + channel) * height + top) * width;
        rows.iter_mut().zip(&PIXELS[start..]).for_each(|(x, bytes)| *x = f32::from_le_bytes(*bytes));
    }
    Ok(())
}

/// The largest logit's index.
fn class(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0)
}

/// max|difference| ÷ max|reference|, and NaN if a logit is.
fn distance(logits: &[f32], reference: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a >= b || a.is_nan() { a } else { b };
    let differences = logits.iter().zip(reference).map(|(x, y)| (x - y).abs());
    differences.fold(0.0, larger) / reference.iter().map(|x| x.abs()).fold(0.0, larger)
}
