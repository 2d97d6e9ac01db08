//! Turns a checkpoint into files that a `no_std` program can include. Runs on the host, which has `std`.
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use safetensors::SafeTensors;
use vit_engine::file::{Access, Checkpoint};
use vit_engine::{Features, Plan, Precision};

/// A checkpoint, and in `golden.safetensors` pixels with the logits that PyTorch computes from them.
const CHECKPOINT: &str = "../../vit-engine/tests/goldens/timm-mlp-ratio";
const PRECISION: Precision = Precision::F32;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={CHECKPOINT}");
    let folder = Path::new(CHECKPOINT);
    let out = PathBuf::from(env::var("OUT_DIR")?);

    // The program uses the packed weights as they are, so they have to be in its byte order.
    let host = if cfg!(target_endian = "little") { "little" } else { "big" };
    assert_eq!(env::var("CARGO_CFG_TARGET_ENDIAN")?, host, "pack the weights on a host of the target's byte order");
    let loaded = Checkpoint::open(folder, Access::Read)?.load(PRECISION)?;
    let (config, weights) = (loaded.config(), loaded.weights());
    fs::write(out.join("weights.bin"), weights)?;

    let golden = fs::read(folder.join("golden.safetensors"))?;
    let golden = SafeTensors::deserialize(&golden)?;
    let (pixels, logits) = (golden.tensor("pixels")?, golden.tensor("logits")?);
    fs::write(out.join("pixels.bin"), pixels.data())?;
    fs::write(out.join("logits.bin"), logits.data())?;

    // A static arena's size has to be known here.
    let batch = logits.shape()[0];
    let minimum = Plan::minimum_bytes(config, Features::Logits, batch)?;
    let unbounded = Plan::new(config, Features::Logits, batch, None)?.arena_bytes();

    // What a config's Debug writes is Rust, given the names of the enums' variants.
    let code = format!(
        "#[allow(unused_imports)]\n\
         use vit_engine::{{Activation::*, Aligned, AttentionPool, Biases, Config, PatchOrder::*, Pool::*}};\n\
         use vit_engine::{{Positions::*, Precision, Readout}};\n\
         pub const CONFIG: Config = {config:#?};\n\
         pub const PRECISION: Precision = Precision::{PRECISION:?};\n\
         pub const BATCH: usize = {batch};\n\
         pub const MINIMUM_ARENA: usize = {minimum};\n\
         pub const UNBOUNDED_ARENA: usize = {unbounded};\n\
         pub static WEIGHTS: Aligned<{}> = Aligned(*include_bytes!(\"weights.bin\"));\n\
         pub static PIXELS: &[[u8; 4]] = include_bytes!(\"pixels.bin\").as_chunks().0;\n\
         pub static LOGITS: &[[u8; 4]] = include_bytes!(\"logits.bin\").as_chunks().0;\n",
        weights.len()
    );
    Ok(fs::write(out.join("model.rs"), code)?)
}
