//! Whether a model fits a chip, and what would if it does not.
use anyhow::Result;
use serde::Serialize;
use vit_engine::{Config, Formats, Output, Plan, PlanError, Precision};

use super::chips::Chip;
use super::{Needs, Subject};

/// How a model and a chip go together.
#[derive(Serialize)]
pub(super) struct Fit {
    #[serde(flatten)]
    pub(super) chip: Chip,
    pub(super) fits: bool,
    /// Packed model and code.
    pub(super) flash_bytes: usize,
    /// Arena and stack.
    pub(super) ram_bytes: usize,
    /// An estimate, in int8: multiply–accumulates × the core's instructions for each of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instructions: Option<f64>,
    /// An estimate: one instruction a clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seconds: Option<f64>,
    /// What would fit if this does not, the most multiply–accumulates first.
    pub(super) alternatives: Vec<Needs>,
}

impl Fit {
    /// The plan with the largest blocks that fit, or the one with the least arena if none does.
    pub(super) fn new(
        chip: &Chip,
        subject: &Subject,
        config: &Config,
        formats: Formats,
        output: Output,
    ) -> Result<(Plan, Self)> {
        let (plan, in_ram) = largest_blocks(chip, config, formats.precision(), output)?;
        let needs = Needs::of(&plan, formats)?;
        let (code, stack) = chip.core.map_or((0, 0), |core| (core.code_bytes, core.stack_bytes));
        let flash_bytes = needs.weight_bytes + code;
        let fits = in_ram && chip.flash.is_none_or(|flash| flash_bytes <= flash);
        let per_mac =
            chip.core.filter(|_| formats.precision() == Precision::Int8).map(|core| core.instructions_per_mac);
        let instructions = per_mac.map(|per_mac| per_mac * plan.macs() as f64);
        let seconds = instructions.zip(chip.mhz).map(|(instructions, mhz)| instructions / (f64::from(mhz) * 1e6));
        let alternatives =
            if fits { Vec::new() } else { alternatives(chip, subject, config, formats.precision(), output)? };
        let ram_bytes = plan.arena_bytes() + stack;
        Ok((plan, Self { chip: chip.clone(), fits, flash_bytes, ram_bytes, instructions, seconds, alternatives }))
    }
}

/// The plan with the largest blocks that fit the RAM beside the stack, and whether there is one; else the smallest plan.
fn largest_blocks(chip: &Chip, config: &Config, precision: Precision, output: Output) -> Result<(Plan, bool)> {
    let stack = chip.core.map_or(0, |core| core.stack_bytes);
    let budget = chip.ram.map(|ram| ram.saturating_sub(stack));
    match Plan::new(config, precision, output, 1, budget) {
        Err(PlanError::Budget { .. }) => Ok((Plan::with_blocks(config, precision, output, 1, 1, 1)?, false)),
        plan => Ok((plan?, true)),
    }
}

/// The largest image that fits, in each precision that is not wider than this one.
fn alternatives(
    chip: &Chip,
    subject: &Subject,
    config: &Config,
    precision: Precision,
    output: Output,
) -> Result<Vec<Needs>> {
    let code = chip.core.map_or(0, |core| core.code_bytes);
    let mut found: Vec<Needs> = Vec::new();
    for other in [precision, Precision::Int8, Precision::Int4] {
        let formats = Formats::from(other);
        let wider = vit_engine::Model::bytes(config, formats)? > vit_engine::Model::bytes(config, precision)?;
        if wider || found.iter().any(|needs| needs.precision == other.name()) {
            continue;
        }
        let grid = config.grid();
        for less in 0..grid[0].min(grid[1]) {
            let size = [0, 1].map(|side| config.image[side] - less * config.patch[side]);
            let Ok(smaller) = subject.config_at(size) else { continue };
            let (plan, in_ram) = largest_blocks(chip, &smaller, other, output)?;
            let needs = Needs::of(&plan, formats)?;
            if in_ram && chip.flash.is_none_or(|flash| needs.weight_bytes + code <= flash) {
                found.push(needs);
                break;
            }
        }
    }
    found.sort_by_key(|needs| core::cmp::Reverse(needs.macs));
    Ok(found)
}
