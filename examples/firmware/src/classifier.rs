//! The model, and what follows from it: all known when the program is compiled.
use vit_engine::packed::{config_of, weights_of};
use vit_engine::{Aligned, Config, Executor, Isa, Model, ModelError, Output, Plan, Precision};

use crate::Failure;
use crate::camera::Camera;

/// The packed model that `build.rs` wrote. Its header is read by the compiler; only the weights go to flash.
const FILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/model.gguf"));

pub const CONFIG: Config = match config_of(FILE) {
    Ok(config) => config,
    Err(_) => panic!("build.rs did not write a packed model"),
};

const PACKED: &[u8] = match weights_of(FILE) {
    Ok(weights) => weights,
    Err(_) => panic!("build.rs did not write a packed model"),
};

static WEIGHTS: Aligned<{ PACKED.len() }> = Aligned(match PACKED.first_chunk() {
    Some(weights) => *weights,
    None => panic!("a slice has as many bytes as its length says"),
});

/// `build.rs` has the same.
pub const PRECISION: Precision = Precision::Int8;

/// Tokens that are worked on at a time. More are faster, since each weight that is read serves more tokens, and take
/// more arena.
pub const ROWS: usize = match usize::from_str_radix(env!("ROWS"), 10) {
    Ok(rows) => rows,
    Err(_) => panic!("ROWS is not a number"),
};

/// How a picture goes through the model. It lies in flash, and what is wrong with it the compiler says.
pub static PLAN: Plan = plan(ROWS);

/// All the memory that a forward pass works in, but for the stack.
pub const ARENA_LEN: usize = plan(ROWS).arena_bytes();

/// The plan with blocks of that many tokens.
pub const fn plan(rows: usize) -> Plan {
    match Plan::with_blocks(&CONFIG, PRECISION, Output::Logits, 1, 1, rows) {
        Ok(plan) => plan,
        Err(_) => panic!("the model has no plan with such blocks"),
    }
}

pub const CLASSES: [&str; CONFIG.classes] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Names and pixels, 28 × 28 bytes each.
pub static IMAGES: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The model, whose weights are in flash.
#[inline(never)] // What making it takes is not on the stack of a pass.
pub fn model() -> Result<Model<'static>, ModelError> {
    Model::new(&CONFIG, PRECISION, Isa::best(), &WEIGHTS.0)
}

/// The logits of one picture.
pub fn logits(
    model: &Model<'_>,
    plan: &Plan,
    arena: &mut [u8],
    pixels: &[u8],
    executor: &dyn Executor,
) -> Result<[f32; CONFIG.classes], Failure> {
    let mut logits = [0.0; CONFIG.classes];
    model.forward(plan, &mut Camera::new(pixels), arena, executor, &mut logits)?;
    Ok(logits)
}
