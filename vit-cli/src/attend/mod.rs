//! `vit attend`: where a model looks, and what its patches have in common.
//!
//! This file and [`heat`], [`colours`] know the command line, [`figure`] makes figures of the pictures that
//! [`vit_attend`] has painted.
mod colours;
mod figure;
mod heat;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::options::{JsonOption, ModelOptions, PictureOptions, positive};

/// Show where a model looks: attention maps and patch features, placed on the picture
///
/// The map shows how much attention each patch gets from the class token, from the query of an attention pool (SigLIP),
/// or from the patch at a pixel. Class token and registers are left out of the map. It is drawn on the original
/// picture, upright by its EXIF orientation. What was cropped away is dark and outside of the outline; padding is
/// hatched.
///
/// With --pca the features of the patches, after the final norm, become colours: their first principal component tells
/// the foreground from the background, then three components of the foreground become red, green and blue (as in
/// DINOv2's paper). All pictures have the same components, so that the same colour means the same thing.
#[derive(clap::Args)]
#[command(after_help = "\
Layers and heads are counted from 1. --rollout holds the maps of all layers in memory: layers × heads × tokens² numbers.

Examples:
  vit attend cat.jpg --model facebook/dinov2-base --out heat.png
  vit attend cat.jpg --model facebook/dinov2-base --out heat.png --layer 9 --head 3 --image-size 448
  vit attend cat.jpg --model google/vit-base-patch16-224 --out heat.png --rollout
  vit attend cat.jpg --model google/siglip-base-patch16-224 --out heat.png
  vit attend cat.jpg --model facebook/dinov2-base --out heat.png --at 310,220
  vit attend cat.jpg --model facebook/dinov2-base --json --npy heat.npy
  vit attend --pca cats/ --model facebook/dinov2-base --out cats.png
  vit attend --pca a.jpg b.jpg --model facebook/dinov2-base --out folder/")]
pub(crate) struct Args {
    /// A PNG, JPEG, WebP, GIF, BMP or TIFF file. With --pca files, folders of them, or - for paths on stdin
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,

    /// The PNG file to write. With --pca a sheet of all pictures, or a folder that exists (or a name that ends with /),
    /// for one file for each picture
    #[arg(long, value_name = "FILE", required_unless_present_any = ["json", "npy"])]
    out: Option<PathBuf>,

    #[command(flatten)]
    map: heat::MapOptions,
    #[command(flatten)]
    colours: colours::ColourOptions,

    /// The colours' share where they are over the picture, from 0 to 1 [default: 0.6, with --pca 1]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    alpha: Option<f64>,

    /// Show each patch as a rectangle, or interpolate between patches
    #[arg(long, value_name = "HOW", value_parser = ["nearest", "bilinear"], default_value = "bilinear")]
    interpolation: String,

    /// Longest side of the picture in the output, in pixels [default: its own, but at least 448 and at most 1024; with
    /// --pca 320]
    #[arg(long, value_name = "N", value_parser = longest)]
    size: Option<usize>,

    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    picture: PictureOptions,
    #[command(flatten)]
    model: ModelOptions,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "must be a number from 0 to 1".into())
}

fn longest(text: &str) -> Result<usize, String> {
    positive(text).and_then(|side| if side <= 4096 { Ok(side) } else { Err("must be at most 4096".into()) })
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.colours.pca {
        return colours::run(args);
    }
    ensure!(args.images.len() == 1, "one picture at a time, except with --pca");
    heat::run(args, &args.images[0])
}
