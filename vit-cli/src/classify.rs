//! `vit classify`: what is on a picture.
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use serde::Serialize;
use vit_engine::Features;

use crate::options::{JsonOption, ModelOptions, PictureOptions, positive};
use crate::picture::Preparer;
use crate::pipeline::{self, Batch};
use crate::session::{Session, load};
use crate::{inputs, output};

/// Say what is on pictures
///
/// A picture that cannot be read is reported, the rest go on, and the exit code is 1.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit classify boot.png shirt.jpg
  vit classify photos/ --top 1
  find . -name '*.png' | vit classify - --jsonl")]
pub(crate) struct Args {
    /// PNG or JPEG files, folders of them, or - for paths on stdin
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,

    /// Classes to show for each picture
    #[arg(long, value_name = "K", default_value = "3", value_parser = positive)]
    top: usize,

    /// Print one JSON object a line, each as soon as it is known
    #[arg(long, conflicts_with = "json")]
    jsonl: bool,

    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    picture: PictureOptions,
    #[command(flatten)]
    model: ModelOptions,
}

/// What is said of one picture.
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

/// Pictures decoded together.
const BATCH: usize = 32;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let paths = inputs::expand(&args.images)?;
    ensure!(!paths.is_empty(), "no pictures: stdin was empty");
    let loaded = load(&args.model)?;
    let config = *loaded.config();
    let preparer = Preparer::new(&config, loaded.preprocessing.as_ref(), args.picture.max_pixels)?;
    let model = loaded.model(args.model.how.isa());
    let mut session = Session::new(model, &args.model, Features::Logits, BATCH.min(paths.len()))?;

    let mut answers = Vec::new();
    let mut failed = false;
    let progress = output::progress(paths.len(), "pictures");
    let pool = Arc::clone(&session.pool);
    let read = |index: usize, pixels: &mut [f32]| preparer.read(&paths[index], pixels);
    let times = pipeline::run(&pool, (paths.len(), BATCH, preparer.len()), read, |batch| {
        for answer in classify(batch, &paths, &mut session, args.top, &loaded.labels)? {
            progress.inc(1);
            if let Some(error) = &answer.error {
                failed = true;
                progress.suspend(|| eprintln!("error: {}: {error}", answer.path));
            }
            if args.jsonl {
                progress.suspend(|| output::json_line(&answer))?;
            } else if args.json.json {
                answers.push(answer);
            } else {
                progress.suspend(|| show(&answer))?;
            }
        }
        Ok(())
    })?;
    progress.finish_and_clear();
    if args.json.json {
        output::json(&answers)?;
    } else if !args.jsonl && paths.len() > 1 {
        output::text(format!("\n{} pictures in {times}", paths.len()))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs the model over the pictures of a batch that could be read.
fn classify(
    batch: &mut Batch,
    paths: &[PathBuf],
    session: &mut Session<'_>,
    top: usize,
    labels: &[String],
) -> Result<Vec<Answer>> {
    let Batch { range, pixels, results } = batch;
    let len = pixels.len() / results.len();
    // What could be read moves to the front.
    let mut good = 0;
    for (i, result) in results.iter().enumerate() {
        if result.is_ok() {
            pixels.copy_within(i * len..(i + 1) * len, good * len);
            good += 1;
        }
    }
    let classes = session.model.config().classes;
    let mut logits = vec![0.0; good * classes];
    if good > 0 {
        let plan = session.plan(good)?;
        session.forward(&plan, &pixels[..good * len], &mut logits)?;
    }
    let mut rows = logits.chunks_exact(classes);
    let answers = paths[range.clone()].iter().zip(results.drain(..)).map(|(path, result)| {
        let path = path.display().to_string();
        match result {
            Ok(()) => Answer { path, predictions: rows.next().map(|row| best(row, top, labels)), error: None },
            Err(error) => Answer { path, predictions: None, error: Some(format!("{error:#}")) },
        }
    });
    Ok(answers.collect())
}

/// The `top` classes by probability, most probable first.
fn best(logits: &[f32], top: usize, labels: &[String]) -> Vec<Prediction> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|x| (x - max).exp()).sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let prediction = |&class: &usize| Prediction {
        class,
        label: labels.get(class).cloned().unwrap_or_else(|| format!("class {class}")),
        probability: (logits[class] - max).exp() / sum,
    };
    order.iter().take(top).map(prediction).collect()
}

/// For people: the labels with a bar each.
fn show(answer: &Answer) -> Result<()> {
    let Some(predictions) = &answer.predictions else { return Ok(()) };
    output::text(Path::new(&answer.path).display())?;
    let width = predictions.iter().map(|p| p.label.chars().count()).max().unwrap_or(0);
    for Prediction { label, probability, .. } in predictions {
        let bar = "█".repeat((probability * 30.0).round() as usize);
        output::text(format!("  {label:width$}  {:5.1} %  {bar}", probability * 100.0).trim_end())?;
    }
    Ok(())
}
