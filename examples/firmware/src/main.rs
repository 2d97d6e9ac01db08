//! Fashion-MNIST pictures classified by a Vision Transformer in int8: weights in flash, activations in a static arena.
//!
//! One source for every machine. On a host it prints the same lines, but for those that begin with '#': what only a
//! microcontroller measures, or what depends on its memory.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod board;
mod camera;
mod classifier;
mod failure;
mod profile;

use core::fmt::Write;

use vit_engine::Aligned;

use board::{Painted, console, instructions};
use camera::WrongSize;
use classifier::{ARENA_LEN, CLASSES, IMAGES, PLAN, ROWS};
use profile::Profile;

type Failure = failure::Failure<WrongSize>;

static mut ARENA: Aligned<ARENA_LEN> = Aligned([0; ARENA_LEN]);

#[cfg(not(target_os = "none"))]
fn main() {
    board::start();
}

/// Classifies the pictures; a board's entry point calls it once.
pub fn firmware() -> Result<(), Failure> {
    let painted = Painted::new();
    let arena = &raw mut ARENA;
    // SAFETY: this function is called once, and nothing else names the arena.
    let arena = unsafe { &mut (*arena).0 };
    let mut out = console();
    // By reference: a move would take as much stack again.
    let model = &classifier::model();
    let model = model.as_ref().map_err(|error| Failure::Model(*error))?;
    writeln!(out, "# arena {ARENA_LEN} bytes, blocks of {ROWS} tokens")?;
    for (name, pixels) in IMAGES {
        let start = instructions();
        let profile = Profile::default();
        let logits = classifier::logits(model, &PLAN, arena, pixels, &profile)?;
        let end = instructions();
        let class = (0..CLASSES.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0);
        write!(out, "{name}: {}, logits", CLASSES[class])?;
        for logit in logits {
            write!(out, " {:08x}", logit.to_bits())?;
        }
        writeln!(out)?;
        if let (Some(start), Some(end)) = (start, end) {
            profile.show(&mut out)?;
            // It is fewer than 2³²; printing 64 bits would take 800 bytes of flash.
            writeln!(out, "# all: {} instructions", (end - start) as u32)?;
        }
    }
    match painted.high_water_mark() {
        Some([used, of]) if used == of => Err(Failure::StackOverflow),
        Some([used, of]) => Ok(writeln!(out, "# stack {used} of {of} bytes")?),
        None => Ok(()),
    }
}
