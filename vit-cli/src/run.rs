//! `vit run`: normalised pixels in, features out, as .npy files.
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use npyz::{DType, NpyFile, Order, TypeChar, WriterBuilder};
use vit_engine::{Config, Features};

use crate::options::{FeaturesName, ModelOptions};
use crate::session::{Session, image_shape, load};

/// Run a model on normalised pixels from a .npy file
///
/// x.npy holds f32 [B,C,H,W], already normalised. The output is f32: logits [B,classes]; class [B,D] and patches [B,N,D]
/// after the final norm where the model has one before the pooling, as the source's own forward_features gives them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit run --model vit-base --pixels x.npy --out logits.npy
  vit run --model vit-base --pixels x.npy --out tokens.npy --features patches --memory 4M")]
pub(crate) struct Args {
    /// Input: f32 [B,C,H,W]
    #[arg(long, value_name = "FILE")]
    pixels: PathBuf,

    /// Output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// What to compute
    #[arg(long, value_enum, default_value = "logits")]
    features: FeaturesName,

    #[command(flatten)]
    model: ModelOptions,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let loaded = load(&args.model)?;
    let config = *loaded.config();
    let (batch, pixels) = read(&args.pixels, &config).with_context(|| args.pixels.display().to_string())?;
    let features = args.features.into();
    let model = loaded.model(args.model.how.isa());
    let mut session = Session::new(model, &args.model, features, batch)?;
    let plan = session.plan(batch)?;
    let mut out = vec![0.0; plan.output_len()];
    session.forward(&plan, &pixels, &mut out)?;
    let shape = match features {
        Features::Logits => vec![batch, config.classes],
        Features::Class => vec![batch, config.dim],
        Features::Patches => vec![batch, config.patches(), config.dim],
    };
    write(&args.out, &shape, &out).with_context(|| args.out.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path, config: &Config) -> Result<(usize, Vec<f32>)> {
    ensure!(!path.is_dir(), "is a folder, not a .npy file");
    let npy = NpyFile::new(BufReader::new(File::open(path)?)).context("not a .npy file")?;
    let shape: Vec<usize> = npy.shape().iter().map(|size| usize::try_from(*size)).collect::<Result<_, _>>()?;
    let [channels, height, width] = image_shape(config);
    match *shape {
        [batch, c, h, w] if [c, h, w] == [channels, height, width] && batch > 0 => {
            let is_f32 =
                matches!(npy.dtype(), DType::Plain(t) if t.type_char() == TypeChar::Float && t.size_field() == 4);
            ensure!(is_f32, "the dtype is {}; convert it: x.astype('float32')", npy.dtype().descr());
            ensure!(npy.order() == Order::C, "the array is in Fortran order; save numpy.ascontiguousarray(x)");
            let len = batch.checked_mul(channels * height * width).context("too many images")?;
            // Grows with what there is, not with what the header promises.
            let mut pixels = Vec::new();
            for x in npy.data::<f32>()? {
                pixels.push(x.context("the file is shorter than its header says")?);
            }
            ensure!(pixels.len() == len, "the file holds {} values, and its header says {len}", pixels.len());
            Ok((batch, pixels))
        }
        _ => bail!("the shape is {shape:?}, and this model takes [B, {channels}, {height}, {width}] with B ≥ 1"),
    }
}

fn write(path: &Path, shape: &[usize], data: &[f32]) -> Result<()> {
    let shape: Vec<u64> = shape.iter().map(|size| *size as u64).collect();
    let file = BufWriter::new(File::create(path)?);
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
    writer.extend(data)?;
    Ok(writer.finish()?)
}
