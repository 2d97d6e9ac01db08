//! Prints measurements as tables.
use anyhow::Result;

use super::Measurement;
use super::profile::{Profile, Row};
use crate::output::{self, bytes};

pub(super) fn show(measurements: &[Measurement]) -> Result<()> {
    let Some(first) = measurements.first() else { return Ok(()) };
    let Measurement { model, precision, isa, features, pinned, .. } = first;
    let pinned = if *pinned { "threads pinned" } else { "threads not pinned" };
    if let Some(cpu) = &first.cpu {
        output::text(output::name(cpu))?;
    }
    let model = output::name(model);
    let ([height, width], tokens) = (first.image, first.tokens);
    output::text(format!("{model}, {height} × {width}, {tokens} tokens: {features}, {precision}, {isa}, {pinned}"))?;
    let rss = measurements.iter().filter_map(|m| m.peak_rss_bytes).max();
    let rss = rss.map_or(String::new(), |rss| format!(", peak RSS {}", bytes(rss as usize)));
    let load = first.load_ms.map_or(String::new(), |ms| format!(", load {ms:.1} ms"));
    output::text(format!("weights {}{load}, first {:.1} ms{rss}", bytes(first.weight_bytes), first.first_ms))?;
    let mut table = output::table(&[
        "threads",
        "batch",
        "median ms",
        "min",
        "p95",
        "images/s",
        "GFLOP/s",
        "peak",
        "efficiency",
        "arena",
        "allocations",
    ]);
    for m in measurements {
        table.add_row([
            m.threads.to_string(),
            m.batch.to_string(),
            format!("{:.3}", m.median_ms),
            format!("{:.3}", m.min_ms),
            format!("{:.3}", m.p95_ms),
            format!("{:.1}", m.images_per_s),
            format!("{:.1}", m.gflops),
            format!("{:.1}", m.peak_gflops),
            format!("{:.1} %", 100.0 * m.efficiency),
            bytes(m.arena_bytes),
            m.allocations.to_string(),
        ]);
    }
    output::text(table)?;
    for m in measurements {
        if let Some(profile) = &m.profile {
            output::text(format!("\n{} threads, batch {}", m.threads, m.batch))?;
            show_profile(profile)?;
        }
    }
    Ok(())
}

fn show_profile(profile: &Profile) -> Result<()> {
    let mut table = output::table(&["stage", "ms", "GFLOP/s", "share"]);
    let cells = |row: &Row| {
        [
            row.stage.clone(),
            format!("{:.3}", row.ms),
            row.gflops.map_or(String::new(), |gflops| format!("{gflops:.1}")),
            format!("{:.1} %", 100.0 * row.share),
        ]
    };
    table.add_rows(profile.stages.iter().map(cells));
    output::text(table)?;
    for row in &profile.fused {
        output::text(format!("{}: about {:.3} ms, {:.1} %", row.stage, row.ms, 100.0 * row.share))?;
    }
    output::text(format!("not a matrix product: about {:.1} %", 100.0 * profile.other_than_matmul))
}
