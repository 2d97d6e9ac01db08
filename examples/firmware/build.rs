//! Runs on the host: packs the checkpoint into one file, turns pictures into raw pixels, and hands the linker the
//! memory layout of the machine.
use std::error::Error;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::{env, io};

use vit_engine::file::{Access, Checkpoint};
use vit_engine::packed::write_model;
use vit_engine::{
    Activation, AlignedBox, Biases, Config, Model, Param, PatchOrder, Pool, Positions, Precision, Readout,
};
use vit_engine::{Source, Values};

const CHECKPOINT: &str = "../../vit-cli/models/fashion-vit";
const PRECISION: Precision = Precision::Int8;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={CHECKPOINT}");
    let loaded = Checkpoint::open(Path::new(CHECKPOINT), Access::Read)?.load(PRECISION)?;
    loaded.write_packed(BufWriter::new(File::create(out.join("model.gguf"))?))?;
    deit(&out.join("deit.gguf"))?;
    images(&Path::new(CHECKPOINT).join("samples"), &out)?;
    if env::var("CARGO_CFG_TARGET_OS")? == "none" {
        memory_layout(&out)?;
    }
    Ok(())
}

/// DeiT-Ti/16 for images of 224 × 224 (Touvron et al. 2020, <https://arxiv.org/abs/2012.12877>).
const DEIT: Config = Config {
    channels: 3,
    image: [224; 2],
    patch: [16; 2],
    patch_order: PatchOrder::ChannelRowColumn,
    patch_norm: false,
    embed_norm: false,
    class_token: true,
    distillation_token: false,
    registers: 0,
    positions: Positions::All,
    pre_norm: false,
    dim: 192,
    depth: 12,
    heads: 3,
    head_dim: 64,
    attention_scale: 0.125,
    qk_norm: false,
    rope: false,
    relative_bias: false,
    context_norm: false,
    out_proj: true,
    layer_scale: false,
    mlp_dim: 768,
    gated: false,
    hidden_norm: false,
    activation: Activation::Gelu,
    bias: Biases::all(true),
    norm_eps: 1e-6,
    final_norm: true,
    attention_pool: None,
    embedding: None,
    projection: 0,
    logits: Readout { pool: Pool::Class, norm: false },
    distillation_head: false,
    classes: 1000,
};

/// Writes DeiT-Ti with seeded weights.
fn deit(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut memory = AlignedBox::new(Model::bytes(&DEIT, PRECISION)?)?;
    Model::fill(&DEIT, PRECISION, &Seeded, &mut memory).map_err(|error| format!("{error:?}"))?;
    Ok(write_model(&DEIT, PRECISION, &memory, BufWriter::new(File::create(path)?))?)
}

/// Weights within ±0.05, each from a hash of its place.
struct Seeded;

impl Source for Seeded {
    type Error = std::convert::Infallible;
    fn open(&self, param: Param, shape: [usize; 2]) -> Result<impl Values, Self::Error> {
        // FNV-1a of the parameter's name.
        let name = format!("{param:?}");
        let seed = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Ok(move |row: usize, start: usize, into: &mut [f32]| {
            for (x, i) in into.iter_mut().zip(row * shape[1] + start..) {
                // The finaliser of SplitMix64.
                let mut z = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                *x = ((z >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.1;
            }
        })
    }
}

/// Writes `images.rs`: the expression of an array of (name, pixels). `VIT_IMAGES` limits how many.
fn images(folder: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=VIT_IMAGES");
    let most = env::var("VIT_IMAGES").map_or(Ok(usize::MAX), |most| most.parse())?;
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let mut list = String::from("[");
    for path in paths.iter().take(most) {
        let name = path.file_stem().ok_or("a picture without a name")?.to_string_lossy();
        fs::write(out.join(&*name), image::open(path)?.into_luma8().into_raw())?;
        write!(list, "({name:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\")).as_slice()),")?;
    }
    list.push(']');
    Ok(fs::write(out.join("images.rs"), list)?)
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
