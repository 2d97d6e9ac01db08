//! `vit eval`: how often a model is right.
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use image::{DynamicImage, GrayImage};
use npyz::WriterBuilder;
use serde::Serialize;
use vit_engine::Features;

use crate::options::{JsonOption, ModelOptions, PictureOptions};
use crate::picture::Preparer;
use crate::pipeline::{self, Times};
use crate::session::{Session, load};
use crate::{idx, inputs, output};

/// Measure a model's accuracy on labelled pictures
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit eval --images t10k-images-idx3-ubyte.gz --labels t10k-labels-idx1-ubyte.gz
  vit eval --folder imagenet/val --model vit-base
  vit eval --folder val/ --predictions predicted.npy --json")]
#[group(id = "data", required = true, multiple = true, args = ["images", "folder"])]
pub(crate) struct Args {
    /// Pictures as an IDX file (MNIST and its kin), plain or gzipped
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
    #[serde(flatten)]
    times: Times,
    images_per_s: f64,
    precision: &'static str,
    isa: &'static str,
    threads: usize,
    classes_from: &'static str,
}

/// Labelled pictures, wherever they are.
enum Data {
    Idx { images: idx::Idx, labels: Vec<u8> },
    Files(Vec<(PathBuf, usize)>),
}

/// Pictures prepared together.
const BATCH: usize = 64;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let loaded = load(&args.model)?;
    let config = *loaded.config();
    let (data, classes_from) = match (&args.images, &args.labels, &args.folder) {
        (Some(images), Some(labels), _) => (Data::idx(images, labels, config.classes)?, "labels file"),
        (_, _, Some(folder)) => Data::folder(folder, &loaded.labels, config.classes)?,
        _ => bail!("give --images and --labels, or --folder"),
    };
    let preparer = Preparer::new(&config, loaded.preprocessing.as_ref(), args.picture.max_pixels)?;
    let model = loaded.model(args.model.how.isa());
    let mut session = Session::new(model, &args.model, Features::Logits, BATCH.min(data.len()))?;

    let (mut top1, mut top5, mut failed, mut predictions) = (0, 0, 0, Vec::with_capacity(data.len()));
    let progress = output::progress(data.len(), "pictures");
    let pool = Arc::clone(&session.pool);
    let read = |index: usize, pixels: &mut [f32]| data.read(index, &preparer, pixels);
    let times = pipeline::run(&pool, (data.len(), BATCH, preparer.len()), read, |batch| {
        let plan = session.plan(batch.range.len())?;
        let mut logits = vec![0.0; plan.output_len()];
        session.forward(&plan, &batch.pixels, &mut logits)?;
        let results = batch.range.clone().zip(logits.chunks_exact(config.classes)).zip(batch.results.drain(..));
        for ((index, logits), result) in results {
            progress.inc(1);
            if let Err(error) = result {
                failed += 1;
                predictions.push(-1);
                progress.suspend(|| eprintln!("error: {error:#}"));
                continue;
            }
            let label = data.label(index);
            // Ties go to the lower class, as in PyTorch's argmax.
            let better = |(class, x): (usize, &f32)| *x > logits[label] || *x == logits[label] && class < label;
            let rank = logits.iter().enumerate().filter(|item| better(*item)).count();
            (top1, top5) = (top1 + usize::from(rank == 0), top5 + usize::from(rank < 5));
            predictions.push(argmax(logits) as i32);
        }
        Ok(())
    })?;
    progress.finish_and_clear();
    if let Some(path) = &args.predictions {
        write_npy(path, &predictions)?;
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
        images_per_s: data.len() as f64 / times.seconds,
        times,
        precision: session.model.precision().name(),
        isa: session.model.isa().name(),
        threads: session.pool.threads(),
        classes_from,
    };
    if args.json.json {
        output::json(&report)?
    } else {
        report.show()?
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn argmax(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, class| if logits[class] > logits[best] { class } else { best })
}

fn write_npy(path: &Path, predictions: &[i32]) -> Result<()> {
    let write = || -> Result<()> {
        let file = std::io::BufWriter::new(std::fs::File::create(path)?);
        let mut writer =
            npyz::WriteOptions::new().default_dtype().shape(&[predictions.len() as u64]).writer(file).begin_nd()?;
        writer.extend(predictions)?;
        Ok(writer.finish()?)
    };
    write().with_context(|| path.display().to_string())
}

impl Data {
    fn idx(images: &Path, labels: &Path, classes: usize) -> Result<Self> {
        let (pictures, labels_idx) = (idx::read(images, 3)?, idx::read(labels, 1)?);
        let (found, labelled) = (pictures.shape[0], labels_idx.shape[0]);
        ensure!(found == labelled, "{found} pictures in {}, but {labelled} labels", images.display());
        ensure!(found > 0, "{}: no pictures", images.display());
        ensure!(pictures.shape[1] > 0 && pictures.shape[2] > 0, "{}: pictures without pixels", images.display());
        if let Some(label) = labels_idx.data.iter().find(|label| usize::from(**label) >= classes) {
            bail!("{}: label {label}, but the model has {classes} classes", labels.display());
        }
        Ok(Self::Idx { images: pictures, labels: labels_idx.data })
    }

    /// Class folders are matched to the model's label names if all of them are such names, else taken in sorted order.
    fn folder(folder: &Path, labels: &[String], classes: usize) -> Result<(Self, &'static str)> {
        let folders: Vec<PathBuf> = inputs::entries(folder)?.into_iter().filter(|path| path.is_dir()).collect();
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let position = |path: &PathBuf| labels.iter().position(|label| slug(label) == slug(&name(path)));
        let matched: Option<Vec<usize>> = folders.iter().map(position).collect();
        let (order, how) = match matched {
            Some(order) if !order.is_empty() => (order, "folders named like the labels"),
            _ => ((0..folders.len()).collect(), "folders in sorted order"),
        };
        if how == "folders in sorted order" && folders.len() != classes {
            bail!(
                "{}: {} folders, not all named like the model's labels; in sorted order there have to be {classes}",
                folder.display(),
                folders.len()
            );
        }
        let mut files = Vec::new();
        for (folder, class) in folders.iter().zip(order) {
            files.extend(inputs::pictures(folder)?.into_iter().map(|path| (path, class)));
        }
        ensure!(!files.is_empty(), "{}: no PNG or JPEG files in its class folders", folder.display());
        Ok((Self::Files(files), how))
    }

    fn len(&self) -> usize {
        match self {
            Self::Idx { labels, .. } => labels.len(),
            Self::Files(files) => files.len(),
        }
    }

    fn label(&self, index: usize) -> usize {
        match self {
            Self::Idx { labels, .. } => labels[index].into(),
            Self::Files(files) => files[index].1,
        }
    }

    fn read(&self, index: usize, preparer: &Preparer<'_>, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Idx { images: idx::Idx { shape, data }, .. } => {
                let (height, width) = (shape[1], shape[2]);
                let bytes = data[index * height * width..][..height * width].to_vec();
                let gray = GrayImage::from_raw(u32::try_from(width)?, u32::try_from(height)?, bytes);
                preparer.prepare(DynamicImage::ImageLuma8(gray.context("not a whole picture")?), out)
            }
            Self::Files(files) => {
                let path = &files[index].0;
                preparer.read(path, out).with_context(|| path.display().to_string())
            }
        }
    }
}

/// A name's letters and digits: 'T-shirt/top' can be a folder called 't-shirt-top'.
fn slug(name: &str) -> String {
    name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect()
}

impl Report {
    fn show(&self) -> Result<()> {
        let Self { images, correct, top1, top5, failed, times, images_per_s, precision, isa, threads, classes_from } =
            self;
        output::text(format!("top-1     {:6.2} %   {correct} of {images}", top1 * 100.0))?;
        output::text(format!("top-5     {:6.2} %", top5 * 100.0))?;
        output::text(format!("speed     {images_per_s:.0} images/s   {times}"))?;
        output::text(format!("run with  {precision}, {isa}, {threads} threads; classes: {classes_from}"))?;
        if *failed > 0 {
            output::text(format!("failed    {failed} pictures could not be read and are not counted"))?;
        }
        Ok(())
    }
}
