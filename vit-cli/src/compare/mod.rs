//! `vit compare`: the speed and the accuracy of two models, such as a model and its int8 version.
mod difference;
mod found;
mod pictures;
mod plot;
mod rank;
mod report;
mod show;
mod speed;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::ArgGroup;
use vit_engine::file::Loaded;

use crate::options::{JsonOption, LoadOptions, ModelOptions, PictureOptions};
use crate::{inputs, model, output};
use found::compare;
use pictures::Pictures;
use report::Model;
use subject::{check_alike, file_bytes, main_output};

/// Compare a model with itself in a lower precision, or with another of the same shape
///
/// Both models run on the same pictures. --precision and --keep-f32 apply to the second model; --model runs in f32, or
/// in the precision of its packed file. Signal to noise is 10·log₁₀(Σ a² ÷ Σ (b − a)²) in dB, where a are the numbers of
/// --model and b those of the second model, over all tokens of all pictures. An error of 10 % is 20 dB. Speed is
/// measured on this machine with one picture at a time, both models in turn.
///
/// A picture that cannot be read, or for which a model computes NaN or infinite numbers, is reported and left out. The
/// exit code is then 1.
#[derive(clap::Args)]
#[command(after_help = "\
--max-loss limits, in percent: with labels, the loss of top-1 accuracy; without labels, the pictures for which the two
models find different classes; for a model without classes, 100·(1 − mean cosine of the embedding).

Examples:
  vit compare --precision int8 --images photos/                       the built-in model
  vit compare --model vit-base --precision int8 --folder val/ --plot layers.svg
  vit compare --model vit-base --precision int8 --images photos/ --rank     which matrices to keep in f32
  vit compare --model vit-base --precision int8 --keep-f32 'blk.*.ffn_down' --images photos/
  vit compare --model vit-base --against vit-base-int8.gguf --pixels x.npy --json
  vit compare --precision bf16 --images t10k-images-idx3-ubyte.gz --labels t10k-labels-idx1-ubyte.gz")]
#[command(group = ArgGroup::new("second").args(["against", "precision"]).required(true).multiple(true))]
#[command(group = ArgGroup::new("data").args(["images", "folder", "pixels"]).required(true))]
pub(crate) struct Args {
    /// The second model, of the same shape: a checkpoint or a packed file [default: --model in --precision]
    #[arg(long, value_name = "DIR|FILE|ORG/NAME")]
    against: Option<PathBuf>,

    /// Pictures: a folder, or an IDX file (MNIST and its kin), plain or gzipped
    #[arg(long, value_name = "DIR|FILE")]
    images: Option<PathBuf>,

    /// The classes of the pictures in an IDX file, as an IDX file, plain or gzipped
    #[arg(long, value_name = "FILE", requires = "images")]
    labels: Option<PathBuf>,

    /// A folder with a folder of pictures for each class
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,

    /// Normalised pixels, f32 [B,C,H,W], of any size that the model takes
    #[arg(long, value_name = "FILE")]
    pixels: Option<PathBuf>,

    /// Measure which matrices to keep in f32: quantise the model again with each kind of matrix, and then each layer,
    /// kept in f32, and run it on up to 64 of the pictures
    #[arg(long, conflicts_with = "against")]
    rank: bool,

    /// Warn when the second model loses more than this, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = not_negative)]
    max_loss: f64,

    /// Measure speed for at least this long
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = not_negative)]
    seconds: f64,

    /// Write a plot of the signal to noise by layer here, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    picture: PictureOptions,
    #[command(flatten)]
    model: ModelOptions,
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number.is_finite() && number >= 0.0 { Ok(number) } else { Err("has to be finite and not negative".into()) }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let LoadOptions { precision: _, keep_f32: _, family, no_mmap } = args.model.source.how.clone();
    let as_it_is = LoadOptions { precision: None, keep_f32: Vec::new(), family, no_mmap };
    let path = args.model.source.model.as_deref();
    let first = Arc::new(model::open(path, &as_it_is)?);
    let second = Arc::new(match &args.against {
        // --as is for --model alone.
        Some(path) => model::open(Some(path), &LoadOptions { family: None, ..args.model.source.how.clone() })?,
        None => model::open(path, &args.model.source.how)?,
    });
    check_alike(first.config(), second.config())?;
    if args.rank {
        rank::check(&first, &second)?;
    }
    let pictures = Pictures::open(args, &first)?;
    let mut warnings = Vec::new();
    if args.pixels.is_none() && first.preprocessing != second.preprocessing {
        warnings.push(
            "the configs of the models prepare pictures differently; both models get the pixels of --model".to_owned(),
        );
    }

    let pool = Arc::new(model::pool(args.model.threads())?);
    let found = compare(args, &pool, [&first, &second], &pictures)?;
    let size = pictures.size();
    let features = main_output(&first.config_at(size.unwrap_or(first.config().image))?);
    let picture = (&found.sample.pixels[..pictures.image_len()], size);
    let speed = speed::measure(&pool, [&first, &second], &args.model.run, features, picture, args.seconds)?;
    let ranking = args.rank.then(|| rank::measure(args, &pool, &second, features, &found.sample)).transpose()?;

    let second_name = args.against.as_ref().map_or_else(|| args.model.source.name(), |path| path.display().to_string());
    let describe = |index: usize, name: String, loaded: &Loaded| -> Result<Model> {
        Ok(Model {
            name,
            precision: loaded.precision().name(),
            keep_f32: model::kept(loaded),
            file_bytes: file_bytes(loaded)?,
            weight_bytes: loaded.weights().len(),
            arena_bytes: speed.arena_bytes[index],
            accuracy: found.classes.accuracy(index),
        })
    };
    let models = [describe(0, args.model.source.name(), &first)?, describe(1, second_name, &second)?];
    let mut report = found.report(args, &pictures, models, speed)?;
    report.ranking = ranking;
    report.warnings.splice(0..0, warnings);
    if let Some(path) = &args.plot {
        let title = format!("Signal to noise of {} by layer", report.title());
        let svg = plot::svg(&title, &report.layers_snr_db)?;
        std::fs::write(path, svg).with_context(|| inputs::shown(path))?;
    }
    report.warnings.iter().for_each(output::warning);
    if args.json.json {
        output::json(&report)?
    } else {
        report.show()?
    }
    Ok(if report.failed + report.not_finite > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
