//! Writes features of pictures to a .npy file, \[pictures, …\] in f32, to be read with `numpy.load`:
//!
//! ```sh
//! cargo run -p vit-engine --example features -- \
//!     vit-cli/models/fashion-vit patches features.npy vit-cli/models/fashion-vit/samples/*.png
//! ```
//! The third argument is one of `logits`, `class`, `patches`, `registers`, `embedding`, `layer:N`, `layers` and `attention`.
use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Arc;

use npyz::WriterBuilder;
use vit_engine::file::{Access, Checkpoint};
use vit_engine::{Output, Precision, Session, SessionOptions, ThreadPool};

mod picture;

const USAGE: &str = "usage: features CHECKPOINT FEATURES OUT.npy PICTURE...";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let mut next = || arguments.next().ok_or(USAGE);
    let (checkpoint, features, out) = (PathBuf::from(next()?), next()?, next()?);
    let features: Output = features.to_str().ok_or(USAGE)?.parse()?;
    let pictures: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    if pictures.is_empty() {
        return Err(USAGE.into());
    }

    let loaded = Checkpoint::open(&checkpoint, Access::Map)?.load(Precision::F32)?;
    let mut pixels = Vec::new();
    for path in &pictures {
        pixels.extend(picture::pixels(path, &loaded)?);
    }

    // All pictures are one batch. The arena does not grow with it.
    let pool = ThreadPool::new(std::thread::available_parallelism()?.get())?;
    let options =
        SessionOptions { output: features, batch: pictures.len(), executor: Arc::new(pool), ..Default::default() };
    let mut session = Session::new(loaded, options)?;
    let mut output = vec![0.0; pictures.len() * session.output_len(1)];
    session.forward(&pixels, &mut output)?;

    let of_image = session.output_shape();
    let shape: Vec<u64> = [pictures.len()].iter().chain(&of_image).map(|size| *size as u64).collect();
    let file = BufWriter::new(File::create(&out)?);
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
    writer.extend(&output)?;
    writer.finish()?;
    println!("{shape:?} written to {}", out.display());
    Ok(())
}
