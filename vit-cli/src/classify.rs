//! `vit classify`: classifies pictures.
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use vit_engine::logits::Logits;
use vit_engine::pipeline;

use crate::head::{Head, HeadOptions};
use crate::inputs::Input;
use crate::labels::Names;
use crate::options::{JsonOption, ModelOptions, PictureOptions, positive};
use crate::picture::Preparer;
use crate::{inputs, labels, model, output};

/// Classify pictures
///
/// A picture that cannot be read, or whose logits are NaN or infinite, is reported. The others are still classified,
/// and the exit code is 1.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit classify boot.png shirt.jpg
  vit classify photos/ --top 1
  vit classify photos/ --model facebook/dinov2-base --neighbours train.parquet --k 20
  vit classify photos/ --model clip/ --class-embeddings t.npy --labels names.txt
  find . -name '*.png' | vit classify - --jsonl")]
pub(crate) struct Args {
    /// PNG, JPEG, WebP, GIF, BMP or TIFF files, folders of them, or - for paths on stdin
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,

    /// Classes to show for each picture
    #[arg(long, value_name = "K", default_value = "3", value_parser = positive)]
    top: usize,

    /// Print one JSON object per line, each as soon as it is known
    #[arg(long, conflicts_with = "json")]
    jsonl: bool,

    /// Names of the classes, one per line [default: the model's own]
    #[arg(long, value_name = "FILE", conflicts_with = "neighbours")]
    labels: Option<PathBuf>,

    #[command(flatten)]
    head: HeadOptions,

    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    picture: PictureOptions,
    #[command(flatten)]
    model: ModelOptions,
}

/// The result for one picture.
#[derive(Serialize)]
struct Answer {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    predictions: Option<Vec<Prediction>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Prediction {
    class: usize,
    label: String,
    probability: f32,
}

/// The number of pictures in a batch.
const BATCH: usize = 32;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let inputs = inputs::expand(&args.images)?;
    ensure!(!inputs.is_empty(), "no pictures: stdin was empty");
    let loaded = Arc::new(model::load(&args.model.source)?);
    let preparer = Preparer::new(&loaded, &args.picture)?;
    let head = args.head.open(&loaded, &preparer, &args.model.source, Names::Of(args.labels.as_deref()))?;
    let batch = (BATCH.min(inputs.len()), preparer.other_size(loaded.config()));
    let (mut session, pool) = model::session(loaded, &args.model, head.output, batch)?;

    let mut answers = Vec::new();
    let mut failed = false;
    let progress = output::progress(inputs.len(), "pictures");
    let read = |index: usize, pixels: &mut [f32]| match &inputs[index] {
        Input { problem: Some(problem), .. } => bail!("{problem}"),
        Input { path, .. } => preparer.read(path, pixels),
    };
    let times = pipeline::run(&pool, (inputs.len(), BATCH, preparer.len()), read, |batch| {
        let range = batch.range.clone();
        let logits = head.logits(model::rows(&mut session, batch)?, &pool);
        for (input, logits) in inputs[range].iter().zip(logits) {
            let answer = answer(input, logits, &head, args.top);
            progress.inc(1);
            if let Some(error) = &answer.error {
                failed = true;
                progress.suspend(|| output::error(format_args!("{}: {error}", output::name(&answer.path))));
            }
            if args.jsonl {
                progress.suspend(|| output::json_line(&answer))?;
            } else if args.json.json {
                answers.push(answer);
            } else {
                progress.suspend(|| show(&answer))?;
            }
        }
        anyhow::Ok(())
    })?;
    progress.finish_and_clear();
    if args.json.json {
        output::json(&answers)?;
    } else if !args.jsonl && inputs.len() > 1 {
        output::text(format!("\n{} pictures in {times}", inputs.len()))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The result for a picture, from its logits.
fn answer(input: &Input, logits: Result<Vec<f32>>, head: &Head, top: usize) -> Answer {
    let path = input.path.display().to_string();
    match logits.and_then(|logits| Ok(best(head.read(&logits)?, top, &head.names))) {
        Ok(predictions) => Answer { path, predictions: Some(predictions), error: None },
        Err(error) => Answer { path, predictions: None, error: Some(output::message(&error)) },
    }
}

/// The `top` classes by probability, most probable first.
fn best(logits: Logits<'_>, top: usize, labels: &[String]) -> Vec<Prediction> {
    let prediction = |(class, probability)| Prediction { class, label: labels::name(labels, class), probability };
    logits.probabilities().take(top).map(prediction).collect()
}

/// Prints the labels as text, each with a bar.
fn show(answer: &Answer) -> Result<()> {
    let Some(predictions) = &answer.predictions else { return Ok(()) };
    output::text(output::name(&answer.path))?;
    let labels: Vec<String> = predictions.iter().map(|p| output::name(&p.label)).collect();
    let width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    for (label, Prediction { probability, .. }) in labels.iter().zip(predictions) {
        let bar = "█".repeat((probability * 30.0).round() as usize);
        output::text(format!("  {label:width$}  {:5.1} %  {bar}", probability * 100.0).trim_end())?;
    }
    Ok(())
}
