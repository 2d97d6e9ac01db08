//! Runs on the host: packs the checkpoint into one file, turns pictures into raw pixels, and hands the linker the
//! memory layout of the machine.
#[path = "build/deit.rs"]
mod deit;

use std::error::Error;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::{env, io};

use vit_engine::Precision;
use vit_engine::file::{Access, Checkpoint};

const CHECKPOINT: &str = "../../vit-cli/models/fashion-vit";
const PRECISION: Precision = Precision::Int8;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={CHECKPOINT}");
    let loaded = Checkpoint::open(Path::new(CHECKPOINT), Access::Read)?.load(PRECISION)?;
    loaded.write_packed(BufWriter::new(File::create(out.join("model.gguf"))?))?;
    deit::write(&out.join("deit.gguf"))?;
    println!("cargo::rerun-if-env-changed=ROWS");
    println!("cargo::rustc-env=ROWS={}", env::var("ROWS").unwrap_or(String::from("16")));
    images(&Path::new(CHECKPOINT).join("samples"), &out)?;
    if env::var("CARGO_CFG_TARGET_OS")? == "none" {
        memory_layout(&out)?;
    }
    Ok(())
}

/// Writes `images.rs`: the expression of an array of (name, pixels). They are the pictures of `folder`, or those of the
/// IDX file that `VIT_IDX` names; `VIT_IMAGES` limits how many.
fn images(folder: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=VIT_IMAGES");
    println!("cargo::rerun-if-env-changed=VIT_IDX");
    let most = env::var("VIT_IMAGES").map_or(Ok(usize::MAX), |most| most.parse())?;
    let pictures = match env::var("VIT_IDX") {
        Ok(path) => of_idx(&fs::read(&path).map_err(|error| format!("{path}: {error}"))?),
        Err(_) => of_folder(folder)?,
    };
    let mut list = String::from("[");
    for (name, pixels) in pictures.into_iter().take(most) {
        fs::write(out.join(&name), pixels)?;
        write!(list, "({name:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\")).as_slice()),")?;
    }
    list.push(']');
    Ok(fs::write(out.join("images.rs"), list)?)
}

/// Names and pixels.
type Pictures = Vec<(String, Vec<u8>)>;

fn of_folder(folder: &Path) -> Result<Pictures, Box<dyn Error>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let mut pictures = Vec::new();
    for path in paths {
        let name = path.file_stem().ok_or("a picture without a name")?.to_string_lossy().into_owned();
        pictures.push((name, image::open(path)?.into_luma8().into_raw()));
    }
    Ok(pictures)
}

/// Pictures of 28 × 28 after the 16 bytes of an IDX file's header.
fn of_idx(bytes: &[u8]) -> Pictures {
    let pictures = bytes.get(16..).unwrap_or_default().chunks_exact(28 * 28).enumerate();
    pictures.map(|(index, pixels)| (format!("test-{index}"), pixels.to_vec())).collect()
}

/// Makes `machines/$MACHINE.x` the `memory.x` that the run-time crate's linker script includes.
fn memory_layout(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=MACHINE");
    let machine = env::var("MACHINE").map_err(|_| "MACHINE has to name a file of machines/")?;
    let layout = format!("machines/{machine}.x");
    println!("cargo::rerun-if-changed={layout}");
    fs::copy(&layout, out.join("memory.x")).map_err(|error| format!("{layout}: {error}"))?;
    println!("cargo::rustc-link-search={}", out.display());
    if env::var("CARGO_CFG_TARGET_ARCH")? != "arm" {
        // riscv-rt's script does not include the layout by itself.
        println!("cargo::rustc-link-arg=-Tmemory.x");
    }
    println!("cargo::rustc-link-arg=-Tlink.x");
    println!("cargo::rustc-link-arg=--nmagic"); // No padding to pages.
    Ok(())
}
