//! DeiT-Ti with seeded weights, for the program `deit`.
use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use vit_engine::packed::write_model;
use vit_engine::{
    Activation, AlignedBox, Biases, Config, Model, Param, PatchOrder, Pool, Positions, Readout, Source, Values,
};

use crate::PRECISION;

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

/// Writes the packed model.
pub(crate) fn write(path: &Path) -> Result<(), Box<dyn Error>> {
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
