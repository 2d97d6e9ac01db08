//! `vit run`: computes features from normalised pixels, both in .npy files.
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use vit_engine::Output;

use crate::options::ModelOptions;
use crate::{inputs, model, npy, output};

/// Run a model on normalised pixels from a .npy file
///
/// x.npy holds normalised f32 [B,C,H,W]. H and W may be any size that the checkpoint's original code accepts; positions
/// are resampled as in that code. The output is f32. Tokens are those of last_hidden_state or forward_features of that
/// code.
#[derive(clap::Args)]
#[command(after_help = "\
KIND is one of
  logits      [B,classes]       the head's outputs
  class       [B,D]             the class token
  patches     [B,N,D]           the patch tokens
  registers   [B,R,D]           the registers
  embedding   [B,E]             what the family calls so: CLIP's projection (not normalised), SigLIP's
                                attention pool, DINO's class token, what a classifier's head reads
  layer:N     [B,T,D]           all tokens after N layers, before the final norm; 0 goes into the first
  layers      [B,L+1,T,D]       layer:0 to layer:L, of a model of L layers
  attention   [B,L,heads,T,T]   what every query gives to every key, after the softmax
  attention:N [B,heads,T,T]     the same of the N-th layer alone, counted from 1
  pool-attention [B,heads,K]    what the attention pool's query gives to the K tokens that it attends to

Examples:
  vit run --model vit-base --pixels x.npy --out logits.npy
  vit run --model facebook/dinov2-base --pixels x.npy --out patches.npy --features patches
  vit run --model clip/ --pixels x.npy --out embedding.npy --features embedding
  vit run --model weights.safetensors --as vit_base_patch16_224 --pixels x.npy --out y.npy --memory 4M")]
pub(crate) struct Args {
    /// Input: f32 [B,C,H,W]
    #[arg(long, value_name = "FILE")]
    pixels: PathBuf,

    /// Output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// What to compute
    #[arg(long, value_name = "KIND", default_value = "logits")]
    features: Output,

    #[command(flatten)]
    model: ModelOptions,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let loaded = Arc::new(model::load(&args.model.source)?);
    let (shape, pixels) = read(&args.pixels, loaded.config().channels).with_context(|| inputs::shown(&args.pixels))?;
    let [batch, _, height, width] = shape;
    let (mut session, _) = model::session(loaded, &args.model, args.features, (batch, Some([height, width])))?;
    let out = model::output(&mut session, &pixels)?;
    let shape = [&[batch][..], &session.output_shape()].concat();
    npy::write(&args.out, &shape, &out)?;
    let broken = out.iter().filter(|x| !x.is_finite()).count();
    if broken > 0 {
        let (out, all) = (inputs::shown(&args.out), out.len());
        output::warning(format_args!("{out}: {broken} of the {all} numbers are NaN or infinite"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the images of a .npy file, \[B,C,H,W\], and their shape.
pub(crate) fn read(path: &Path, channels: usize) -> Result<([usize; 4], Vec<f32>)> {
    let npy = npy::open(path)?;
    let shape = <[usize; 4]>::try_from(npy.shape()).ok().filter(|shape| shape[0] > 0 && shape[1] == channels);
    let shape = shape.with_context(|| {
        format!("the shape is {:?}, but this model takes [B, {channels}, H, W] with B ≥ 1", npy.shape())
    })?;
    Ok((shape, npy.read()?))
}
