//! Shows the results as tables.
use anyhow::Result;

use super::difference::Agreement;
use super::report::{Difference, Loss, Report};
use super::speed::Speed;
use crate::output::{self, bytes};

/// The number of groups of the ranking to show.
const RANKED: usize = 10;

impl Report {
    pub(super) fn show(&self) -> Result<()> {
        let Self { pictures, failed, not_finite, speed, loss, .. } = self;
        let fact = |name: &str, value: String| output::text(format!("{name:<12} {value}"));
        for (model, name) in self.models.iter().zip(["model", "against"]) {
            let kept = match &model.keep_f32[..] {
                [] => String::new(),
                kept => format!(", in f32 {}", output::names(kept)),
            };
            fact(name, format!("{}: {}{kept}", output::name(&model.name), model.precision))?;
        }
        fact("pictures", pictures.to_string())?;
        if *failed > 0 {
            fact("failed", format!("{failed} pictures could not be read and are not counted"))?;
        }
        if *not_finite > 0 {
            fact("broken", format!("{not_finite} pictures, of which numbers are NaN or infinite, are not counted"))?;
        }
        output::text("")?;
        self.show_models()?;
        let Speed { ratio, features, rounds, isa, threads, .. } = speed;
        output::text(format!("{ratio:.2} times as fast: {features}, {rounds} rounds, {isa}, {threads} threads"))?;

        output::text("")?;
        let mut table = output::table(&["difference", "signal to noise", "mean cosine", "worst", "picture"]);
        let parts = [("logits", &self.logits), ("embedding", &self.embedding)];
        let parts = parts.into_iter().filter_map(|(name, part)| Some((name, part.as_ref()?)));
        for (name, Difference { snr_db, cosine }) in parts.chain([("tokens", &self.tokens)]) {
            let [mean, worst] = [cosine.mean, cosine.worst].map(|cosine| format!("{cosine:.6}"));
            table.add_row([name.into(), decibels(*snr_db), mean, worst, output::name(&cosine.worst_picture)]);
        }
        output::text(table)?;
        if let Some(agreement) = &self.agreement {
            output::text(format!("same class: {}", shares(agreement)))?;
        }
        let Loss { percent, most, of } = loss;
        output::text(format!("loss: {percent:.2} % ({of}); --max-loss is {most} %"))?;

        output::text("")?;
        let mut table = output::table(&["after layers", "signal to noise"]);
        for (layer, snr) in self.layers_snr_db.iter().enumerate() {
            table.add_row([layer.to_string(), decibels(*snr)]);
        }
        output::text(table)?;
        self.show_ranking()
    }

    fn show_models(&self) -> Result<()> {
        let [first, second] = &self.models;
        let mut table = output::table(&["", first.precision, second.precision]);
        let sizes = [
            ("packed file", [first.file_bytes as usize, second.file_bytes as usize]),
            ("weights", [first.weight_bytes, second.weight_bytes]),
            ("arena", [first.arena_bytes, second.arena_bytes]),
        ];
        for (name, [first, second]) in sizes {
            table.add_row([name.into(), bytes(first), bytes(second)]);
        }
        let [a, b] = self.speed.median_ms.map(|ms| format!("{ms:.3}"));
        table.add_row(["ms a picture".into(), a, b]);
        if let Some((first, second)) = first.accuracy.zip(second.accuracy) {
            let percent = |share: f64| format!("{:.2} %", 100.0 * share);
            table.add_row(["top-1".into(), percent(first.top1), percent(second.top1)]);
            table.add_row(["top-5".into(), percent(first.top5), percent(second.top5)]);
        }
        output::text(table)
    }

    fn show_ranking(&self) -> Result<()> {
        let Some(ranking) = &self.ranking else { return Ok(()) };
        output::text("")?;
        let mut table = output::table(&[
            "--keep-f32",
            &format!("signal to noise, {}", self.speed.features),
            "gain",
            "more weights",
        ]);
        for kept in ranking.iter().take(RANKED) {
            let more = bytes(kept.more_weight_bytes);
            table.add_row([kept.keep_f32.clone(), decibels(kept.snr_db), decibels(kept.gain_db), more]);
        }
        output::text(table)
    }
}

fn decibels(decibels: f64) -> String {
    if decibels == f64::INFINITY { "no noise".into() } else { format!("{decibels:.1} dB") }
}

fn shares(Agreement { top1, top5 }: &Agreement) -> String {
    format!("first for {:.2} % of the pictures, among the first five for {:.2} %", 100.0 * top1, 100.0 * top5)
}
