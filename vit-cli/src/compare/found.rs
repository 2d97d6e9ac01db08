//! Runs both models on all pictures and accumulates the differences.
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use vit_engine::file::Loaded;
use vit_engine::pipeline::{self, Batch};
use vit_engine::{Output, ThreadPool};

use super::Args;
use super::difference::{Classes, Cosines, Noise};
use super::pictures::Pictures;
use super::rank::{self, Sample};
use super::report::{Difference, Loss, Model, Report};
use super::speed::Speed;
use super::subject::{Outputs, Subject};
use crate::output;

/// The most pictures in a batch.
pub(super) const BATCH: usize = 32;

/// The most numbers in the layers' output of a batch: 64 MB for each model.
const LAYER_NUMBERS: usize = 16 << 20;

/// The accumulated differences.
#[derive(Default)]
pub(super) struct Found {
    pictures: usize,
    failed: usize,
    not_finite: usize,
    layers: Vec<Noise>,
    tokens: (Noise, Cosines),
    logits: (Noise, Cosines),
    embedding: (Noise, Cosines),
    pub(super) classes: Classes,
    /// Pictures for [`rank`] and for measuring speed.
    pub(super) sample: Sample,
}

/// Runs both models on all pictures.
pub(super) fn compare(
    args: &Args,
    pool: &Arc<ThreadPool>,
    models: [&Arc<Loaded>; 2],
    pictures: &Pictures,
) -> Result<Found> {
    let size = pictures.size();
    let config = models[0].config_at(size.unwrap_or(models[0].config().image))?;
    let per_picture = Output::Layers.len(&config).context("the model's layers are too large")?;
    let batch = (LAYER_NUMBERS / per_picture).clamp(1, BATCH).min(pictures.len());
    let subject = |loaded: &Arc<Loaded>| Subject::new(pool, loaded, &args.model.run, (batch, size));
    let mut subjects = [subject(models[0])?, subject(models[1])?];
    let layers = vec![Noise::default(); config.depth + 1];
    let mut found = Found { layers, sample: Sample { size, ..Sample::default() }, ..Found::default() };
    let every = pictures.len().div_ceil(rank::MOST);

    let progress = output::progress(pictures.len(), "pictures");
    let read = |index: usize, pixels: &mut [f32]| pictures.read(index, pixels);
    pipeline::run(pool, (pictures.len(), batch, pictures.image_len()), read, |batch| {
        let Batch { range, pixels, results } = batch;
        let outputs = [subjects[0].outputs(pixels)?, subjects[1].outputs(pixels)?];
        for (i, (index, result)) in range.clone().zip(results.drain(..)).enumerate() {
            progress.inc(1);
            let checked = match result {
                Err(error) if pictures.is_one_file() => return Err(error.context(pictures.name(index))),
                Err(error) => {
                    found.failed += 1;
                    Err(error)
                }
                Ok(()) => finite(&outputs, i).inspect_err(|_| found.not_finite += 1),
            };
            let label = pictures.label(index)?;
            if let Err(error) = checked {
                let name = pictures.name(index);
                progress.suspend(|| output::error(format_args!("{name}: {}", output::message(&error))));
                continue;
            }
            found.add(index, &outputs, i, label)?;
            // The first picture without an error, and for the ranking an evenly spaced selection.
            if found.sample.pictures == 0 || (args.rank && index.is_multiple_of(every)) {
                let pixels = &pixels[i * pictures.image_len()..][..pictures.image_len()];
                found.sample.add(pixels, outputs[0].of(i).main(config.depth));
            }
        }
        Ok(())
    })?;
    progress.finish_and_clear();
    ensure!(found.pictures > 0, "no picture is left to compare the models on");
    Ok(found)
}

impl Found {
    /// Adds a picture for which both models give finite numbers.
    fn add(&mut self, index: usize, outputs: &[Outputs; 2], place: usize, label: Option<usize>) -> Result<()> {
        let [a, b] = outputs.each_ref().map(|outputs| outputs.of(place));
        let depth = self.layers.len() - 1;
        self.pictures += 1;
        let layers = || a.each_layer(depth).zip(b.each_layer(depth));
        self.layers.iter_mut().zip(layers()).for_each(|(noise, (a, b))| noise.add(a, b));
        let (last_a, last_b) = layers().last().unwrap_or_default();
        let outputs = [(last_a, last_b), (a.logits, b.logits), (a.embedding, b.embedding)];
        for ((noise, cosines), (a, b)) in
            [&mut self.tokens, &mut self.logits, &mut self.embedding].into_iter().zip(outputs)
        {
            // An output that the models do not have is empty.
            if !a.is_empty() {
                noise.add(a, b);
                cosines.add(index, a, b);
            }
        }
        if a.logits.is_empty() { Ok(()) } else { self.classes.add([a.logits, b.logits], label) }
    }

    /// The report about the differences, the models and their speed.
    pub(super) fn report(&self, args: &Args, pictures: &Pictures, models: [Model; 2], speed: Speed) -> Result<Report> {
        let difference = |(noise, cosines): &(Noise, Cosines)| {
            let cosine = cosines.report(|index| pictures.name(index))?;
            Some(Difference { snr_db: noise.decibels(), cosine })
        };
        let (logits, embedding) = (difference(&self.logits), difference(&self.embedding));
        let tokens = difference(&self.tokens).context("nothing was compared")?;
        let agreement = logits.is_some().then(|| self.classes.agreement());
        let loss = match (models[0].accuracy.zip(models[1].accuracy), &agreement, &embedding) {
            (Some((first, second)), ..) => (first.top1 - second.top1, "top-1 accuracy"),
            (_, Some(agreement), _) => (1.0 - agreement.top1, "pictures with a different class"),
            (.., Some(embedding)) => (1.0 - embedding.cosine.mean, "1 − mean cosine of the embedding"),
            _ => (1.0 - tokens.cosine.mean, "1 − mean cosine of the tokens"),
        };
        let loss = Loss { percent: 100.0 * loss.0, most: args.max_loss, of: loss.1 };
        let mut report = Report {
            pictures: self.pictures,
            failed: self.failed,
            not_finite: self.not_finite,
            layers_snr_db: self.layers.iter().map(Noise::decibels).collect(),
            tokens,
            logits,
            embedding,
            agreement,
            speed,
            loss,
            ranking: None,
            warnings: Vec::new(),
            models,
        };
        report.warnings.extend(report.slow());
        report.warnings.extend(report.lossy());
        Ok(report)
    }
}

/// # Errors
/// If some numbers of either model are NaN or infinite.
fn finite(outputs: &[Outputs; 2], picture: usize) -> Result<()> {
    for (outputs, model) in outputs.iter().zip(["--model", "the second model"]) {
        if let Some(part) = outputs.of(picture).broken() {
            bail!("the {part} that {model} computes are NaN or infinite");
        }
    }
    Ok(())
}
