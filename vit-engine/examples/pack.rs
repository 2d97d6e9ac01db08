//! Turns a checkpoint into a packed file, whose weights are used where they are mapped or linked; see
//! [`vit_engine::packed`]:
//!
//! ```sh
//! cargo run -p vit-engine --example pack -- vit-cli/models/fashion-vit fashion-vit.gguf f16
//! ```
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use vit_engine::Precision;
use vit_engine::file::{Access, Checkpoint};

const USAGE: &str = "usage: pack CHECKPOINT OUT.gguf [f32|f16|bf16|int8|int4]";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let checkpoint = PathBuf::from(arguments.next().ok_or(USAGE)?);
    let out = PathBuf::from(arguments.next().ok_or(USAGE)?);
    let precision = match arguments.next() {
        Some(name) => name.to_str().ok_or(USAGE)?.parse()?,
        None => Precision::F32,
    };

    let loaded = Checkpoint::open(&checkpoint, Access::Map)?.load(precision)?;
    let mut file = BufWriter::new(File::create(&out)?);
    loaded.write_packed(&mut file)?;
    file.flush()?;

    // It opens like any checkpoint, in the precision that it was packed in.
    let packed = Checkpoint::open(&out, Access::Map)?;
    let reopened = packed.load(packed.formats()?.ok_or("not a packed file")?)?;
    println!("{}: {} bytes of weights in {precision}", out.display(), reopened.weights().len());
    Ok(())
}
