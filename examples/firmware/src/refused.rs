//! What bad input leads to: an error that says what is wrong, and never a fault.
//!
//! A program of its own, since it opens models at run time: from a file that has been written to flash apart from the
//! program, say. So it has what checks a packed file, and the texts of all errors.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[allow(dead_code)] // Nothing is measured.
mod board;
mod camera;
#[allow(dead_code)] // The weights are those of the whole file below.
mod classifier;
#[allow(dead_code)]
mod failure;

use core::fmt::Write;

use vit_engine::{Aligned, Isa, Model, Output, Plan, Serial, include_model};

use board::console;
use camera::WrongSize;
use classifier::{CONFIG, IMAGES, PRECISION, logits, plan};

type Failure = failure::Failure<WrongSize>;

/// The packed model that `build.rs` wrote, with its header.
static MODEL: &[u8] = include_model!(concat!(env!("OUT_DIR"), "/model.gguf"));

/// For one token at a time.
static PLAN: Plan = plan(1);
static mut ARENA: Aligned<ARENA_LEN> = Aligned([0; ARENA_LEN]);
const ARENA_LEN: usize = plan(1).arena_bytes();

#[cfg(not(target_os = "none"))]
fn main() {
    board::start();
}

/// Prints the error of each kind of bad input; a board's entry point calls it once.
pub fn firmware() -> Result<(), Failure> {
    let arena = &raw mut ARENA;
    // SAFETY: this function is called once, and nothing else names the arena.
    let arena = unsafe { &mut (*arena).0 };
    let mut out = console();
    let models: [(&str, &[u8]); 5] = [
        ("no model", &[]),
        ("half of the header", &MODEL[..2048]),
        ("a model that lacks its last byte", &MODEL[..MODEL.len() - 1]),
        ("a misaligned model", &MODEL[4..]),
        ("another file", &Aligned(*b"MZ\x90\0................................").0),
    ];
    for (what, model) in models {
        match Model::from_packed(model, Isa::best()) {
            Ok(_) => writeln!(out, "{what}: accepted")?,
            Err(error) => writeln!(out, "{what}: {error}")?,
        }
    }
    let model = Model::from_packed(MODEL, Isa::best()).map_err(Failure::Packed)?;
    let pixels = IMAGES.first().map_or(&[][..], |(_, pixels)| *pixels);
    match Plan::with_blocks(&CONFIG, PRECISION, Output::Logits, 1, 1, 0) {
        Ok(_) => writeln!(out, "blocks of no tokens: accepted")?,
        Err(error) => writeln!(out, "blocks of no tokens: {error}")?,
    }
    let mut attempt = |what, arena: &mut [u8], pixels| match logits(&model, &PLAN, arena, pixels, &Serial) {
        Ok(_) => writeln!(out, "{what}: accepted"),
        Err(error) => writeln!(out, "{what}: {error}"),
    };
    attempt("an arena that is too small", &mut arena[..64], pixels)?;
    attempt("an arena that is misaligned", &mut arena[1..], pixels)?;
    attempt("a picture that lacks its last row", arena, &pixels[..pixels.len() - CONFIG.image[1]])?;
    attempt("no picture", arena, &[])?;
    attempt("a good picture", arena, pixels)?;
    Ok(())
}
