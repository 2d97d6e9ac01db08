//! A Vision Transformer without `std`, `alloc` or an allocator: weights where flash would be, activations in a static
//! arena of the smallest size there is, pixels from a callback. Ends with 0 if the logits are PyTorch's.
#![no_std]
#![no_main]

mod linux;

use core::convert::Infallible;
use core::fmt::{self, Write};

use vit_engine::packed::config_of;
use vit_engine::{Aligned, Config, Output, Isa, Model, Plan, Precision, Serial, arena_bytes, include_model};

use linux::stdout;

/// The packed model that `build.rs` wrote, aligned, in the program's constant data: flash on a microcontroller.
static MODEL: &[u8] = include_model!(concat!(env!("OUT_DIR"), "/model.gguf"));

/// The model's hyper-parameters, read from the file when the program is compiled.
const CONFIG: Config = match config_of(MODEL) {
    Ok(config) => config,
    Err(_) => panic!("build.rs did not write a packed model"),
};

/// `build.rs` has the same.
const PRECISION: Precision = Precision::F32;

/// Images to classify, \[`BATCH`, channels, height, width\] in little-endian f32, and PyTorch's logits for them.
static PIXELS: &[[u8; 4]] = include_bytes!(concat!(env!("OUT_DIR"), "/pixels")).as_chunks().0;
const LOGITS: &[[u8; 4]] = include_bytes!(concat!(env!("OUT_DIR"), "/logits")).as_chunks().0;
const BATCH: usize = LOGITS.len() / CONFIG.classes;

/// The least memory that a forward pass works in: one image and one token at a time.
const MINIMUM_ARENA: usize = match arena_bytes(&CONFIG, PRECISION, 1, 1) {
    Some(bytes) => bytes,
    None => panic!("the config makes no model"),
};

/// What the whole batch takes at once.
const LARGEST_ARENA: usize = match arena_bytes(&CONFIG, PRECISION, BATCH, usize::MAX) {
    Some(bytes) => bytes,
    None => panic!("the config makes no model"),
};

/// max|difference| ÷ max|reference| that is still agreement.
const BOUND: f32 = 1e-5;

/// All the memory that a forward pass works in, but for the stack. Firmware reserves `MINIMUM_ARENA`, or what it can
/// spare; here an unbounded plan runs in it too.
static mut ARENA: Aligned<LARGEST_ARENA> = Aligned([0; LARGEST_ARENA]);

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
    writeln!(stdout(), "packed model: {} bytes", MODEL.len())?;
    writeln!(stdout(), "arena: {MINIMUM_ARENA} bytes at least, {LARGEST_ARENA} for the whole batch at once")?;
    let mut agree = true;
    for isa in [Isa::best(), Isa::PORTABLE] {
        let model = Model::from_packed(MODEL, isa).expect("build.rs wrote it");
        assert_eq!(model.precision(), PRECISION, "the arena was sized for another precision");
        let least = model.plan(Output::Logits, BATCH, Some(MINIMUM_ARENA)).expect("the least that does");
        let unbounded = model.plan(Output::Logits, BATCH, None).expect("a valid config");
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
