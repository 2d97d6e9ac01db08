//! `vit preprocess`: a picture as a model's input.
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::options::{PictureOptions, SourceOptions};
use crate::picture::Preparer;
use crate::{inputs, model, npy, output};

/// Show what a model is given of a picture
///
/// Writes the f32 tensor [1,C,H,W] that 'vit classify' gives to the model: decoded, upright, resized, cropped and
/// normalised as the model's files say. 'vit run' takes it as --pixels.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit preprocess cat.jpg --model google/vit-base-patch16-224 --out x.npy
  vit preprocess cat.jpg --model clip/ --out x.npy --image-size 336
  vit preprocess cat.jpg --model vit-pytorch/ --out x.npy \\
    --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --resize 224x224 --filter bicubic")]
pub(crate) struct Args {
    /// A PNG, JPEG, WebP, GIF, BMP or TIFF file
    #[arg(value_name = "IMAGE")]
    image: PathBuf,

    /// Output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    #[command(flatten)]
    picture: PictureOptions,
    #[command(flatten)]
    source: SourceOptions,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let loaded = model::load(&args.source)?;
    let preparer = Preparer::new(&loaded, &args.picture)?;
    let at = || inputs::shown(&args.image);
    let picture = preparer.decode(&args.image).with_context(at)?;
    let ([height, width], pixels) = preparer.prepared(&picture).with_context(at)?;
    npy::write(&args.out, &[1, preparer.channels(), height, width], &pixels)?;
    let [before_height, before_width] = picture.size();
    output::text(format!("{}: {before_width}×{before_height} to {width}×{height} pixels", at()))?;
    Ok(ExitCode::SUCCESS)
}
