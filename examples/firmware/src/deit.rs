//! DeiT-Ti/16 at 224 × 224 in int8, with seeded weights, in 256 KB of RAM: arena, logits and stack.
//!
//! It prints the same lines on every machine, but for those that begin with '#'.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod board;
mod failure;

use core::convert::Infallible;
use core::fmt::Write;

use vit_engine::packed::config_of;
use vit_engine::{Aligned, Config, Isa, Model, Output, Plan, Precision, Serial};

use board::{Painted, console, instructions};

type Failure = failure::Failure<Infallible>;

/// The packed model that `build.rs` wrote. It is longer than the flash of the Cortex-M boards that QEMU emulates; there it
/// is in their external memory, which the program does not write.
#[cfg_attr(all(target_os = "none", target_arch = "arm"), unsafe(link_section = ".external"))] // SAFETY: only constants.
static FILE: Aligned<{ PACKED.len() }> = Aligned(*PACKED);
const PACKED: &[u8; include_bytes!(concat!(env!("OUT_DIR"), "/deit.gguf")).len()] =
    include_bytes!(concat!(env!("OUT_DIR"), "/deit.gguf"));

const CONFIG: Config = match config_of(PACKED) {
    Ok(config) => config,
    Err(_) => panic!("build.rs did not write a packed model"),
};

/// One token at a time: the least arena.
static PLAN: Plan = plan();
static mut ARENA: Aligned<ARENA_LEN> = Aligned([0; ARENA_LEN]);
const ARENA_LEN: usize = plan().arena_bytes();

const fn plan() -> Plan {
    match Plan::with_blocks(&CONFIG, Precision::Int8, Output::Logits, 1, 1, 1) {
        Ok(plan) => plan,
        Err(_) => panic!("the config makes no model"),
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    board::start();
}

/// Classifies one picture; a board's entry point calls it once.
pub fn firmware() -> Result<(), Failure> {
    let painted = Painted::new();
    let arena = &raw mut ARENA;
    // SAFETY: this function is called once, and nothing else names the arena.
    let arena = unsafe { &mut (*arena).0 };
    let mut out = console();
    let start = instructions();
    let model = Model::from_packed(&FILE.0, Isa::best()).map_err(Failure::Packed)?;
    let mut logits = [0.0; CONFIG.classes];
    model.forward(&PLAN, &mut pixels, arena, &Serial, &mut logits)?;
    writeln!(out, "model {} bytes, arena {ARENA_LEN} bytes, {} multiply-accumulates", PACKED.len(), PLAN.macs())?;
    write!(out, "logits")?;
    for logit in &logits {
        write!(out, " {:08x}", logit.to_bits())?;
    }
    writeln!(out)?;
    if let (Some(start), Some(end)) = (start, instructions()) {
        writeln!(out, "# all: {} instructions", end - start)?;
    }
    match painted.high_water_mark() {
        Some([used, of]) if used == of => Err(Failure::StackOverflow),
        Some([used, of]) => Ok(writeln!(out, "# stack {used} of {of} bytes")?),
        None => Ok(()),
    }
}

/// Pixels that follow from their places, in the range of a normalised picture.
fn pixels(_image: usize, top: usize, strip: &mut [f32]) -> Result<(), Infallible> {
    for (i, x) in strip.iter_mut().enumerate() {
        let hash = ((top * 4096 + i) as u32).wrapping_mul(0x9e37_79b9);
        *x = (hash >> 24) as f32 / 64.0 - 2.0;
    }
    Ok(())
}
