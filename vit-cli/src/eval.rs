//! `vit eval`: the accuracy of a model.
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use image::{DynamicImage, GrayImage};
use serde::Serialize;
use vit_engine::Output;

use crate::idx::Idx;
use crate::inputs::Input;
use crate::logits::Logits;
use crate::options::{JsonOption, ModelOptions, PictureOptions};
use crate::picture::Preparer;
use crate::pipeline::{self, Times};
use crate::{inputs, model, npy, output, picture};

/// Measure a model's accuracy on labelled pictures
///
/// A picture that cannot be read is reported and not counted. A picture with NaN or infinite logits is reported and
/// counts as wrong. The exit code is 1 in both cases.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit eval --images t10k-images-idx3-ubyte.gz --labels t10k-labels-idx1-ubyte.gz
  vit eval --folder imagenet/val --model vit-base
  vit eval --folder val/ --predictions predicted.npy --json")]
#[group(id = "data", required = true, multiple = true, args = ["images", "folder"])]
pub(crate) struct Args {
    /// Pictures as an IDX file (as MNIST has), plain or gzipped
    #[arg(long, value_name = "FILE", requires = "labels", conflicts_with = "folder")]
    images: Option<PathBuf>,

    /// Their classes as an IDX file, plain or gzipped
    #[arg(long, value_name = "FILE", requires = "images")]
    labels: Option<PathBuf>,

    /// A folder with a folder of pictures for each class
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,

    /// Write the predicted classes here, as a .npy file of int32 in the order of the pictures
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,

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

/// Labelled pictures from either source.
enum Data {
    Idx { images: Box<Idx>, labels: Box<Idx>, classes: usize },
    Files(Vec<(PathBuf, usize)>),
}

/// The number of pictures in a batch.
const BATCH: usize = 64;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let loaded = Arc::new(model::load(&args.model.source)?);
    let config = *loaded.config();
    let (data, classes_from) = match (&args.images, &args.labels, &args.folder) {
        (Some(images), Some(labels), _) => {
            (Data::idx(images, labels, config.classes, args.picture.max_pixels)?, "labels file")
        }
        (_, _, Some(folder)) => Data::folder(folder, &loaded.labels, config.classes)?,
        _ => bail!("give --images and --labels, or --folder"),
    };
    let preparer = Preparer::new(&config, loaded.preprocessing.as_ref(), args.picture.max_pixels)?;
    let batch = (BATCH.min(data.len()), None);
    let (mut session, pool) = model::session(Arc::clone(&loaded), &args.model, Output::Logits, batch)?;

    let (mut top1, mut top5, mut failed, mut not_finite, mut predictions) = (0, 0, 0, 0, Vec::new());
    let progress = output::progress(data.len(), "pictures");
    let read = |index: usize, pixels: &mut [f32]| data.read(index, &preparer, pixels);
    let times = pipeline::run(&pool, (data.len(), BATCH, preparer.len()), read, |batch| {
        let logits = model::output(&mut session, &batch.pixels)?;
        let results = batch.range.clone().zip(logits.chunks_exact(config.classes)).zip(batch.results.drain(..));
        for ((index, logits), result) in results {
            progress.inc(1);
            let label = data.label(index)?;
            let logits = match result {
                Ok(()) => Logits::new(logits).inspect_err(|_| not_finite += 1),
                // If one file holds all pictures, an error in it ends the run.
                Err(error) if matches!(data, Data::Idx { .. }) => return Err(error.context(data.name(index))),
                Err(error) => {
                    failed += 1;
                    Err(error)
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

impl Data {
    fn idx(images: &Path, labels: &Path, classes: usize, max_pixels: u64) -> Result<Self> {
        let (images, labels) = (Idx::open(images, 3)?, Idx::open(labels, 1)?);
        let name = &images.name;
        let (&[found, height, width], &[labelled]) = (images.shape(), labels.shape()) else {
            bail!("{name}: not pictures and labels");
        };
        ensure!(found == labelled, "{found} pictures in {name}, but {labelled} labels");
        ensure!(found > 0, "{name}: no pictures");
        ensure!(height > 0 && width > 0, "{name}: pictures without pixels");
        picture::check_size(width as u64, height as u64, max_pixels).with_context(|| name.clone())?;
        Ok(Self::Idx { images: Box::new(images), labels: Box::new(labels), classes })
    }

    /// Class folders are matched to the model's label names if all of them have such names, and otherwise taken in
    /// sorted order.
    fn folder(folder: &Path, labels: &[String], classes: usize) -> Result<(Self, &'static str)> {
        let entries = inputs::entries(folder).with_context(|| inputs::shown(folder))?;
        let folders: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path).filter(|path| path.is_dir()).collect();
        // Of equal label names the first class is used.
        let classes_of: HashMap<String, usize> =
            labels.iter().enumerate().rev().map(|(class, label)| (slug(label), class)).collect();
        let position =
            |path: &PathBuf| classes_of.get(&slug(&path.file_name().unwrap_or_default().to_string_lossy())).copied();
        let matched: Option<Vec<usize>> = folders.iter().map(position).collect();
        let (order, how) = match matched {
            Some(order) if !order.is_empty() => (order, "folders named like the labels"),
            _ => ((0..folders.len()).collect(), "folders in sorted order"),
        };
        if how == "folders in sorted order" && folders.len() != classes {
            bail!(
                "{}: {} folders, not all named like the model's labels; to match them in sorted order there must be {classes}",
                inputs::shown(folder),
                folders.len()
            );
        }
        let mut files = Vec::new();
        for (folder, class) in folders.iter().zip(order) {
            for Input { path, problem } in inputs::pictures(folder) {
                // If a folder cannot be listed, the number of missing pictures is unknown, so the run ends.
                ensure!(problem.is_none(), "{}: {}", inputs::shown(&path), problem.unwrap_or_default());
                files.push((path, class));
            }
        }
        ensure!(!files.is_empty(), "{}: no PNG or JPEG files in its class folders", inputs::shown(folder));
        Ok((Self::Files(files), how))
    }

    fn len(&self) -> usize {
        match self {
            Self::Idx { labels, .. } => labels.shape()[0],
            Self::Files(files) => files.len(),
        }
    }

    /// The class of a picture. It can be read only once, because labels are taken from their file.
    fn label(&self, index: usize) -> Result<usize> {
        match self {
            Self::Idx { labels, classes, .. } => {
                let name = &labels.name;
                let label = usize::from(labels.take(index).with_context(|| name.clone())?[0]);
                ensure!(label < *classes, "{name}: label {label}, but the model has {classes} classes");
                Ok(label)
            }
            Self::Files(files) => Ok(files[index].1),
        }
    }

    /// The name of a picture in messages.
    fn name(&self, index: usize) -> String {
        match self {
            Self::Idx { images, .. } => format!("{}, picture {index}", images.name),
            Self::Files(files) => inputs::shown(&files[index].0),
        }
    }

    fn read(&self, index: usize, preparer: &Preparer<'_>, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Idx { images, .. } => {
                let gray = match *images.shape() {
                    [_, height, width] => {
                        GrayImage::from_raw(u32::try_from(width)?, u32::try_from(height)?, images.take(index)?)
                    }
                    _ => None,
                };
                preparer.prepare(DynamicImage::ImageLuma8(gray.context("not a whole picture")?), out)
            }
            Self::Files(files) => preparer.read(&files[index].0, out),
        }
    }
}

/// The letters and digits of a name: the class 'T-shirt/top' matches a folder named 't-shirt-top'.
fn slug(name: &str) -> String {
    name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect()
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
