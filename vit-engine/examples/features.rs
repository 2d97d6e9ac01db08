//! Writes features of pictures to a .npy file, \[pictures, …\] in f32, to be read with `numpy.load`:
//!
//! ```sh
//! cargo run -p vit-engine --example features -- \
//!     vit-cli/models/fashion-vit patches features.npy vit-cli/models/fashion-vit/samples/*.png
//! ```
//! The third argument is one of `logits`, `class`, `patches`, `registers`, `embedding`, `layer:N` and `attention`.
use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use npyz::WriterBuilder;
use vit_engine::file::{Access, Checkpoint};
use vit_engine::{AlignedBox, Config, Features, Images, Isa, Precision, ThreadPool};

mod picture;

const USAGE: &str = "usage: features CHECKPOINT FEATURES OUT.npy PICTURE...";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let mut next = || arguments.next().ok_or(USAGE);
    let (checkpoint, features, out) = (PathBuf::from(next()?), next()?, next()?);
    let features: Features = features.to_str().ok_or(USAGE)?.parse()?;
    let pictures: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    if pictures.is_empty() {
        return Err(USAGE.into());
    }

    let loaded = Checkpoint::open(&checkpoint, Access::Map)?.load(Precision::F32)?;
    let model = loaded.model(Isa::best());
    let config = loaded.config();

    // All pictures are one batch. The arena does not grow with it.
    let mut pixels = Vec::new();
    for path in &pictures {
        pixels.extend(picture::pixels(path, &loaded)?);
    }
    let plan = model.plan(features, pictures.len(), None)?;
    let mut arena = AlignedBox::new(plan.arena_bytes())?;
    let mut output = vec![0.0; plan.output_len()];
    let mut images =
        Images::new(&pixels, [config.channels, config.image[0], config.image[1]])?;
    let pool = ThreadPool::new(std::thread::available_parallelism()?.get())?;
    model.forward(&plan, &mut images, &mut arena, &pool, &mut output)?;

    let shape: Vec<u64> = shape(features, config, pictures.len()).iter().map(|size| *size as u64).collect();
    let file = BufWriter::new(File::create(&out)?);
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
    writer.extend(&output)?;
    writer.finish()?;
    println!("{shape:?} written to {}", out.display());
    Ok(())
}

/// The output's shape, as [`Features`] documents it.
fn shape(features: Features, config: &Config, batch: usize) -> Vec<usize> {
    let of_image = match features {
        Features::Logits => vec![config.classes],
        Features::Class => vec![config.dim],
        Features::Patches => vec![config.patches(), config.dim],
        Features::Registers => vec![config.registers, config.dim],
        Features::Embedding => vec![features.len(config).unwrap_or(0)],
        Features::Layer(_) => vec![config.tokens(), config.dim],
        Features::Attention => vec![config.depth, config.heads, config.tokens(), config.tokens()],
    };
    [vec![batch], of_image].concat()
}
