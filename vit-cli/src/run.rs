//! `vit run`: normalised pixels in, features out, as .npy files.
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use npyz::{DType, NpyFile, Order, TypeChar, WriterBuilder};
use vit_engine::{Config, Features};

use crate::options::ModelOptions;
use crate::session::{Session, load};

/// Run a model on normalised pixels from a .npy file
///
/// x.npy holds f32 [B,C,H,W], already normalised, of any size that the checkpoint's own code takes: positions are
/// resampled as that code does it. The output is f32. Tokens are those that the source's own last_hidden_state or
/// forward_features has.
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
  attention   [B,L,heads,T,T]   what every query gives to every key, after the softmax

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
    features: Features,

    #[command(flatten)]
    model: ModelOptions,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let loaded = load(&args.model)?;
    let (shape, pixels) =
        read(&args.pixels, loaded.config().channels).with_context(|| args.pixels.display().to_string())?;
    let [batch, _, height, width] = shape;
    let model = loaded.model_at(args.model.how.isa(), [height, width])?;
    let config = *model.config();
    let mut session = Session::new(model, &args.model, args.features, batch)?;
    let plan = session.plan(batch)?;
    let mut out = Vec::new();
    let len = plan.output_len();
    out.try_reserve_exact(len)
        .with_context(|| format!("the output has {len} elements, and the system does not give the memory"))?;
    out.resize(len, 0.0);
    session.forward(&plan, &pixels, &mut out)?;
    let mut shape = vec![batch];
    shape.extend(shape_of(args.features, &config));
    write(&args.out, &shape, &out).with_context(|| args.out.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// The shape of one image's features.
fn shape_of(features: Features, c: &Config) -> Vec<usize> {
    match features {
        Features::Logits => vec![c.classes],
        Features::Class => vec![c.dim],
        Features::Patches => vec![c.patches(), c.dim],
        Features::Registers => vec![c.registers, c.dim],
        Features::Embedding => vec![c.embedding_len().unwrap_or(0)],
        Features::Layer(_) => vec![c.tokens(), c.dim],
        Features::Attention => vec![c.depth, c.heads, c.tokens(), c.tokens()],
    }
}

/// The images of a .npy file, \[B,C,H,W\], and their shape.
fn read(path: &Path, channels: usize) -> Result<([usize; 4], Vec<f32>)> {
    ensure!(!path.is_dir(), "is a folder, not a .npy file");
    let npy = NpyFile::new(BufReader::new(File::open(path)?)).context("not a .npy file")?;
    let shape: Vec<usize> = npy.shape().iter().map(|size| usize::try_from(*size)).collect::<Result<_, _>>()?;
    let &[batch, found, height, width] = &*shape else {
        bail!("the shape is {shape:?}, and this model takes [B, {channels}, H, W]");
    };
    ensure!(
        found == channels && batch > 0,
        "the shape is {shape:?}, and this model takes [B, {channels}, H, W] with B ≥ 1"
    );
    let shape = [batch, channels, height, width];
    let is_f32 = matches!(npy.dtype(), DType::Plain(t) if t.type_char() == TypeChar::Float && t.size_field() == 4);
    ensure!(is_f32, "the dtype is {}; convert it: x.astype('float32')", npy.dtype().descr());
    ensure!(npy.order() == Order::C, "the array is in Fortran order; save numpy.ascontiguousarray(x)");
    let len = shape.iter().try_fold(1usize, |len, size| len.checked_mul(*size)).context("too many images")?;
    // Grows with what there is, not with what the header promises.
    let mut pixels = Vec::new();
    for x in npy.data::<f32>()? {
        pixels.push(x.context("the file is shorter than its header says")?);
    }
    ensure!(pixels.len() == len, "the file holds {} values, and its header says {len}", pixels.len());
    Ok((shape, pixels))
}

fn write(path: &Path, shape: &[usize], data: &[f32]) -> Result<()> {
    let shape: Vec<u64> = shape.iter().map(|size| *size as u64).collect();
    let file = BufWriter::new(File::create(path)?);
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
    writer.extend(data)?;
    Ok(writer.finish()?)
}
