//! Prints a plan as text.
use anyhow::Result;

use super::fit::Fit;
use super::{Needs, Report};
use crate::output::{self, bytes, number};

pub(super) fn show(report: &Report) -> Result<()> {
    let fact = |name: &str, value: String| output::text(format!("{name:<12} {value}"));
    let Needs { precision, image: [height, width], tokens, rows_per_block, images_in_flight, macs, .. } = report.needs;
    fact("model", output::name(&report.model))?;
    fact(
        "pass",
        format!("{}, {precision}, {height}×{width}, {tokens} tokens, batch {}", report.features, report.batch),
    )?;
    fact("MACs", number(macs as f64, ""))?;
    let images = if images_in_flight > 1 { format!(" of {images_in_flight} images") } else { String::new() };
    fact("blocks", format!("{rows_per_block} tokens{images}"))?;
    output::text("")?;
    let mut table = output::table(&["memory", "bytes", "", "phase"]);
    let row = |name: &str, count: usize, phase: &str| [name.to_owned(), count.to_string(), bytes(count), phase.into()];
    table.add_row(row("weights", report.needs.weight_bytes, ""));
    table.add_row(row("packed file", report.needs.packed_bytes, ""));
    table.add_row(row("arena", report.needs.arena_bytes, ""));
    for buffer in report.buffers.iter().filter(|buffer| buffer.bytes > 0) {
        table.add_row(row(&format!("  {}", buffer.name), buffer.bytes, &buffer.phase));
    }
    output::text(table)?;
    output::text("The phases embed, layers and head share their part of the arena.")?;
    match &report.chip {
        Some(fit) => show_fit(fit, &report.needs),
        None => Ok(()),
    }
}

fn show_fit(fit: &Fit, needs: &Needs) -> Result<()> {
    output::text("")?;
    let chip = &fit.chip;
    let core = chip.core.map_or(String::new(), |core| format!(", {}", core.name));
    let clock = chip.mhz.map_or(String::new(), |mhz| format!(" at {mhz} MHz"));
    output::text(format!("{}{core}{clock} ({})", chip.name, chip.source))?;
    let mut table = output::table(&["", "needed", "there", "free"]);
    for (name, needed, there) in [("flash", fit.flash_bytes, chip.flash), ("RAM", fit.ram_bytes, chip.ram)] {
        let (there, free) = match there {
            None => ("any".to_owned(), String::new()),
            Some(there) if needed <= there => (there.to_string(), (there - needed).to_string()),
            Some(there) => (there.to_string(), format!("{} too few", needed - there)),
        };
        table.add_row([name.to_owned(), needed.to_string(), there, free]);
    }
    output::text(table)?;
    if let Some(core) = chip.core {
        output::text(format!(
            "Flash is the weights and {} of code and constants, RAM is arena and {} of stack: examples/firmware on this core.",
            bytes(core.code_bytes),
            bytes(core.stack_bytes)
        ))?;
    }
    if let (Some(core), Some(instructions), Some(seconds)) = (chip.core, fit.instructions, fit.seconds) {
        output::text(format!(
            "About {} of instructions ({} for each MAC, as fashion-vit), {:.3} s at one instruction a clock. Chips wait \
             for flash and branches: expect more.",
            number(instructions, ""),
            core.instructions_per_mac,
            seconds
        ))?;
    }
    if fit.fits {
        return output::text(format!("It fits, in blocks of {} tokens.", needs.rows_per_block));
    }
    output::text("It does not fit.")?;
    if fit.alternatives.is_empty() {
        return output::text("No lower precision and no smaller image makes it fit: take a smaller model.");
    }
    output::text("What does, by the work that is left (`vit eval` and `vit compare` say what it costs):")?;
    let mut table = output::table(&["precision", "image", "tokens", "per block", "MACs", "packed", "arena"]);
    for needs in &fit.alternatives {
        table.add_row([
            needs.precision.to_owned(),
            format!("{}×{}", needs.image[0], needs.image[1]),
            needs.tokens.to_string(),
            needs.rows_per_block.to_string(),
            number(needs.macs as f64, ""),
            needs.packed_bytes.to_string(),
            needs.arena_bytes.to_string(),
        ]);
    }
    output::text(table)
}
