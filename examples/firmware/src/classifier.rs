//! The model, and what follows from it: all known when the program is compiled.
use vit_engine::packed::{config_of, weights_of};
use vit_engine::{Aligned, Config, Executor, Isa, Model, ModelError, Output, Plan, Precision, arena_bytes};

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

/// All the memory that a forward pass works in, but for the stack.
pub const ARENA_LEN: usize = match arena_bytes(&CONFIG, PRECISION, 1, ROWS) {
    Some(bytes) => bytes,
    None => panic!("the config makes no model"),
};

pub const CLASSES: [&str; CONFIG.classes] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Names and pixels, 28 × 28 bytes each.
pub static IMAGES: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The model, whose weights are in flash.
pub fn model() -> Result<Model<'static>, ModelError> {
    Model::new(&CONFIG, PRECISION, Isa::best(), &WEIGHTS.0)
}

/// The logits of one picture, computed in blocks of that many tokens.
pub fn logits(
    model: &Model<'_>,
    arena: &mut [u8],
    pixels: &[u8],
    rows: usize,
    executor: &dyn Executor,
) -> Result<[f32; CONFIG.classes], Failure> {
    let plan = &Plan::with_blocks(&CONFIG, PRECISION, Output::Logits, 1, 1, rows);
    let plan = plan.as_ref().map_err(|error| Failure::Plan(*error))?;
    let mut logits = [0.0; CONFIG.classes];
    model.forward(plan, &mut Camera::new(pixels), arena, executor, &mut logits)?;
    Ok(logits)
}
