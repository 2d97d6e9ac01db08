//! What `vit embed` says at the end.
use anyhow::Result;
use serde::Serialize;
use vit_engine::pipeline::Times;

use super::Args;
use crate::embeddings::Description;
use crate::output;

#[derive(Serialize)]
pub(super) struct Report {
    out: String,
    /// The rows of the file.
    rows: usize,
    /// Those that it had before.
    resumed: usize,
    failed: usize,
    #[serde(flatten)]
    description: Description,
    #[serde(flatten)]
    times: Times,
    threads: usize,
    images_per_s: f64,
    /// How many pictures are decoded in a second of decoding, by all threads that do.
    decode_images_per_s: f64,
    /// How many pictures are computed in a second of computing.
    compute_images_per_s: f64,
    limit: &'static str,
}

impl Report {
    pub(super) fn new(
        args: &Args,
        description: &Description,
        (rows, resumed, failed): (usize, usize, usize),
        times: Times,
    ) -> Self {
        let images = rows - resumed + failed;
        let rate = |seconds: f64| if images > 0 { images as f64 / seconds.max(1e-9) } else { 0.0 };
        let decoding = times.decode_wall_seconds > times.compute_seconds;
        Self {
            out: args.out.display().to_string(),
            rows,
            resumed,
            failed,
            description: description.clone(),
            threads: args.model.threads(),
            images_per_s: rate(times.seconds),
            decode_images_per_s: rate(times.decode_wall_seconds),
            compute_images_per_s: rate(times.compute_seconds),
            limit: if decoding { "decoding" } else { "computing" },
            times,
        }
    }

    pub(super) fn show(&self) -> Result<()> {
        let Self { out, rows, resumed, failed, description, .. } = self;
        let Description { dim, features, normalized, precision, .. } = description;
        let normalized = if *normalized { ", normalised" } else { "" };
        output::text(format!("{}: {rows} × {dim}, {features}{normalized}, {precision}", output::name(out)))?;
        if *resumed > 0 {
            output::text(format!("{resumed} of them were there before"))?;
        }
        if *failed > 0 {
            output::text(format!("{failed} pictures failed and are left out"))?;
        }
        if rows - resumed + failed > 0 {
            let Self { images_per_s, decode_images_per_s, compute_images_per_s, limit, .. } = self;
            output::text(format!(
                "{images_per_s:.1} images/s in {:.2} s; the limit is {limit}: decoding {decode_images_per_s:.1} \
                 images/s, computing {compute_images_per_s:.1} images/s",
                self.times.seconds
            ))?;
        }
        Ok(())
    }
}
