//! `vit eval`: the accuracy of a model.
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use vit_engine::pipeline::{self, Times};

use crate::data::{Data, NAMED};
use crate::head::HeadOptions;
use crate::labels::Names;
use crate::options::{JsonOption, ModelOptions, PictureOptions};
use crate::picture::Preparer;
use crate::{model, npy, output};

/// Measure a model's accuracy on labelled pictures
///
/// A picture that cannot be read is reported and not counted. A picture with NaN or infinite logits is reported and
/// counts as wrong. The exit code is 1 in both cases.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit eval --images t10k-images-idx3-ubyte.gz --labels t10k-labels-idx1-ubyte.gz
  vit eval --folder imagenet/val --model vit-base
  vit eval --folder val/ --model facebook/dinov2-base --neighbours train.parquet
  vit eval --folder val/ --predictions predicted.npy --json")]
#[group(id = "data", required = true, multiple = true, args = ["images", "folder"])]
pub(crate) struct Args {
    /// Pictures as an IDX file (as MNIST has), plain or gzipped
    #[arg(long, value_name = "FILE", requires = "labels", conflicts_with = "folder")]
    images: Option<PathBuf>,

    /// Their classes as an IDX file, plain or gzipped; with --folder, the names of the classes, one per line
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,

    /// A folder with a folder of pictures for each class
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,

    /// Write the predicted classes here, as a .npy file of int32 in the order of the pictures
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,

    #[command(flatten)]
    head: HeadOptions,
    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    picture: PictureOptions,
    #[command(flatten)]
    model: ModelOptions,
}

/// The result.
#[derive(Serialize)]
struct Report {
    images: usize,
    correct: usize,
    top1: f64,
    top5: f64,
    failed: usize,
    /// The pictures among `images` whose logits are not finite.
    not_finite: usize,
    #[serde(flatten)]
    times: Times,
    images_per_s: f64,
    precision: &'static str,
    isa: &'static str,
    threads: usize,
    classes_from: &'static str,
}

/// The number of pictures in a batch.
const BATCH: usize = 64;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let loaded = Arc::new(model::load(&args.model.source)?);
    let preparer = Preparer::new(&loaded, &args.picture)?;
    let names = if args.folder.is_some() { Names::Of(args.labels.as_deref()) } else { Names::Unused };
    let head = args.head.open(&loaded, &preparer, &args.model.source, names)?;
    let (data, classes_from) = match (&args.images, &args.labels, &args.folder) {
        (Some(images), Some(labels), _) => {
            (Data::idx(images, Some(labels), head.classes, args.picture.max_pixels)?, "labels file")
        }
        (.., Some(folder)) => Data::folder(folder, &head.names, head.classes)?,
        _ => bail!("give --images and --labels, or --folder"),
    };
    ensure!(
        !head.is_of_folders() || args.folder.is_none() || classes_from == NAMED,
        "the folders are not all named like the classes of the neighbours: {}",
        output::names(&head.names)
    );

    let batch = (BATCH.min(data.len()), preparer.other_size(loaded.config()));
    let (mut session, pool) = model::session(Arc::clone(&loaded), &args.model, head.output, batch)?;

    let (mut top1, mut top5, mut failed, mut not_finite, mut predictions) = (0, 0, 0, 0, Vec::new());
    let progress = output::progress(data.len(), "pictures");
    let read = |index: usize, pixels: &mut [f32]| data.read(index, &preparer, pixels);
    let times = pipeline::run(&pool, (data.len(), BATCH, preparer.len()), read, |batch| {
        let range = batch.range.clone();
        let logits = head.logits(model::rows(&mut session, batch)?, &pool);
        for (index, result) in range.zip(&logits) {
            progress.inc(1);
            let label = data.label(index)?.context("a picture without label")?;
            let logits = match result {
                Ok(logits) => head.read(logits).inspect_err(|_| not_finite += 1),
                // If one file holds all pictures, an error in it ends the run.
                Err(error) if matches!(data, Data::Idx { .. }) => {
                    bail!("{}: {}", data.name(index), output::message(error))
                }
                Err(error) => {
                    failed += 1;
                    Err(anyhow!("{}", output::message(error)))
                }
            };
            match logits {
                Ok(logits) => {
                    let rank = logits.rank(label);
                    (top1, top5) = (top1 + usize::from(rank == 0), top5 + usize::from(rank < 5));
                    predictions.push(logits.best() as i32);
                }
                Err(error) => {
                    predictions.push(-1);
                    progress
                        .suspend(|| output::error(format_args!("{}: {}", data.name(index), output::message(&error))));
                }
            }
        }
        Ok(())
    })?;
    progress.finish_and_clear();
    if let Some(path) = &args.predictions {
        npy::write(path, &[predictions.len()], &predictions)?;
    }

    let images = data.len() - failed;
    ensure!(images > 0, "none of the pictures could be read");
    let share = |count: usize| count as f64 / images as f64;
    let report = Report {
        images,
        correct: top1,
        top1: share(top1),
        top5: share(top5),
        failed,
        not_finite,
        images_per_s: data.len() as f64 / times.seconds,
        times,
        precision: loaded.precision().name(),
        isa: session.options().isa.name(),
        threads: pool.threads(),
        classes_from,
    };
    if args.json.json {
        output::json(&report)?
    } else {
        report.show()?
    }
    Ok(if failed + not_finite > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Report {
    fn show(&self) -> Result<()> {
        let Self {
            images,
            correct,
            top1,
            top5,
            failed,
            not_finite,
            times,
            images_per_s,
            precision,
            isa,
            threads,
            classes_from,
        } = self;
        output::text(format!("top-1     {:6.2} %   {correct} of {images}", top1 * 100.0))?;
        output::text(format!("top-5     {:6.2} %", top5 * 100.0))?;
        output::text(format!("speed     {images_per_s:.0} images/s   {times}"))?;
        output::text(format!("run with  {precision}, {isa}, {threads} threads; classes: {classes_from}"))?;
        if *failed > 0 {
            output::text(format!("failed    {failed} pictures could not be read and are not counted"))?;
        }
        if *not_finite > 0 {
            output::text(format!(
                "broken    {not_finite} pictures have logits that are not finite, and count as wrong"
            ))?;
        }
        Ok(())
    }
}
