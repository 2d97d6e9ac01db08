//! Fashion-MNIST pictures classified by a Vision Transformer in int8: weights in flash, activations in a static arena.
//!
//! One source for every machine. On a host it prints the same lines, but for those that begin with '#': what only a
//! microcontroller measures.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod board;
mod camera;
mod failure;
mod profile;
mod refused;

use core::fmt::Write;

use vit_engine::packed::config_of;
use vit_engine::{Aligned, Config, Executor, Isa, Model, Output, Plan, Precision, arena_bytes, include_model};

use board::{Painted, console, instructions};
use camera::{Camera, WrongSize};
use profile::Profile;

type Failure = failure::Failure<WrongSize>;

/// The packed model that `build.rs` wrote, in flash.
static MODEL: &[u8] = include_model!(concat!(env!("OUT_DIR"), "/model.gguf"));

/// The model's hyper-parameters, read from the file when the program is compiled.
const CONFIG: Config = match config_of(MODEL) {
    Ok(config) => config,
    Err(_) => panic!("build.rs did not write a packed model"),
};

/// `build.rs` has the same.
const PRECISION: Precision = Precision::Int8;

/// Tokens that are worked on at a time. More are faster, since each weight that is read serves more tokens, and take
/// more arena.
const ROWS: usize = 16;

/// All the memory that a forward pass works in, but for the stack.
static mut ARENA: Aligned<ARENA_LEN> = Aligned([0; ARENA_LEN]);
const ARENA_LEN: usize = match arena_bytes(&CONFIG, PRECISION, 1, ROWS) {
    Some(bytes) => bytes,
    None => panic!("the config makes no model"),
};

const CLASSES: [&str; CONFIG.classes] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Names and pixels, 28 × 28 bytes each.
static IMAGES: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/images.rs"));

#[cfg(not(target_os = "none"))]
fn main() {
    board::start();
}

/// Classifies the pictures and shows that bad input gives errors; a board's entry point calls it once.
pub fn firmware() -> Result<(), Failure> {
    let painted = Painted::new();
    let arena = &raw mut ARENA;
    // SAFETY: this function is called once, and nothing else names the arena.
    let arena = unsafe { &mut (*arena).0 };
    let mut out = console();
    let model = Model::from_packed(MODEL, Isa::best())?;
    writeln!(out, "model {} bytes, arena {ARENA_LEN} bytes, blocks of {ROWS} tokens", MODEL.len())?;
    for (name, pixels) in IMAGES {
        let start = instructions();
        let profile = Profile::default();
        let logits = logits(&model, arena, pixels, ROWS, &profile)?;
        let end = instructions();
        let class = (0..CLASSES.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0);
        write!(out, "{name}: {}, logits", CLASSES[class])?;
        for logit in logits {
            write!(out, " {:08x}", logit.to_bits())?;
        }
        writeln!(out)?;
        if let (Some(start), Some(end)) = (start, end) {
            profile.show(&mut out)?;
            writeln!(out, "# all: {} instructions", end - start)?;
        }
    }
    if let Some([used, of]) = painted.high_water_mark() {
        writeln!(out, "# stack {used} of {of} bytes")?;
        if used == of {
            return Err(Failure::StackOverflow);
        }
    }
    refused::show(arena, &mut out)
}

/// The logits of one picture, computed in blocks of that many tokens.
fn logits(
    model: &Model<'_>,
    arena: &mut [u8],
    pixels: &[u8],
    rows: usize,
    executor: &dyn Executor,
) -> Result<[f32; CONFIG.classes], Failure> {
    let plan = Plan::with_blocks(&CONFIG, PRECISION, Output::Logits, 1, 1, rows)?;
    let mut logits = [0.0; CONFIG.classes];
    model.forward(&plan, &mut Camera::new(pixels), arena, executor, &mut logits)?;
    Ok(logits)
}
