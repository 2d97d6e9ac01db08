//! Packs a checkpoint into one file that the program includes. Runs on the host, which has `std`.
use std::error::Error;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use vit_engine::Precision;
use vit_engine::file::{Access, Checkpoint};

/// A checkpoint, and in `golden.safetensors` pixels with the logits that PyTorch computes from them.
const CHECKPOINT: &str = "../../vit-engine/tests/goldens/timm-mlp-ratio";
/// `main.rs` has the same.
const PRECISION: Precision = Precision::F32;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={CHECKPOINT}");
    let folder = Path::new(CHECKPOINT);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    // The program reads the weights in place, so they have to be in its byte order, and the packed format is
    // little-endian.
    for (side, little) in
        [("host", cfg!(target_endian = "little")), ("target", std::env::var("CARGO_CFG_TARGET_ENDIAN")? == "little")]
    {
        assert!(little, "packed models are for little-endian machines, and the {side} is big-endian");
    }
    let loaded = Checkpoint::open(folder, Access::Read)?.load(PRECISION)?;
    loaded.write_packed(BufWriter::new(File::create(out.join("model.gguf"))?))?;

    let golden = fs::read(folder.join("golden.safetensors"))?;
    let golden = SafeTensors::deserialize(&golden)?;
    for name in ["pixels", "logits"] {
        fs::write(out.join(name), golden.tensor(name)?.data())?;
    }
    Ok(())
}
