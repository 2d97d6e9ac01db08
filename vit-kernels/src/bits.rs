//! The bits of every kernel, recorded: levels and targets agree with each other although no machine has all of them.
//!
//! A level with fused multiply–add has the first column, every other and every level under [`Isa::unfused`] the second. Int8 and int4
//! are never fused. Where all levels change on purpose, the failed assertion prints the new table.
use core::hint::black_box;
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use ::half::bf16;

use crate::attention::{Attention, Bf16Kv, KvLayout, QuantiseKv, QuantisedKv, RelativeBias, RoundKv, Scores};
use crate::simd::{Kernel, Simd};
use crate::testing::{levels, noise};
use crate::{
    Accumulate, Activation, Activations, Epilogue, Format, Inputs, Isa, Job, Line, Matmul, Packed, Quantise, Quantised,
    Rope, RoundToBf16, activate, bf16_len, layer_norm, math, quantised_len, softmax,
};

/// Whether a level's multiply–adds round once. Of relaxed SIMD only the CPU knows.
fn is_fused(isa: Isa) -> bool {
    struct Fused(f32);
    impl Kernel for Fused {
        type Output = bool;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> bool {
            // x·x has more bits than an f32: rounded before the sum, its last ones are lost.
            let x = s.splat(self.0);
            let rest = s.sum(s.mul_add(x, x, s.sub(s.splat(0.0), s.mul(x, x))));
            assert!(S::FUSED || rest == 0.0);
            rest != 0.0
        }
    }
    isa.call(Fused(black_box(1.0 + f32::EPSILON)))
}

/// FNV-1a over the bits of finite numbers.
fn hash(x: &[f32]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let bytes = x.iter().inspect(|x| assert!(x.is_finite())).flat_map(|x| x.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, step)
}

/// Inputs and outputs of the matmuls: neither is a multiple of a tile, a group or a register.
const K: usize = 77;
const N: usize = 53;

fn product(isa: Isa, format: Format, rows: usize, activation: Option<Activation>) -> Vec<f32> {
    let (w, mut lines) = (noise(N * K, 2, 0.2), vec![Line::ZERO; format.lines(N, K).unwrap()]);
    let read = |row: usize, start: usize, into: &mut [f32]| into.copy_from_slice(&w[row * K + start..][..into.len()]);
    format.pack(N, K, read, &mut lines).unwrap();
    let weights = Packed::new(format, N, K, &lines).unwrap();
    let (bias, scale) = (noise(N, 3, 1.0), noise(N, 4, 1.0));
    let accumulate = if activation.is_some() { Accumulate::Replace } else { Accumulate::Add };
    let epilogue = Epilogue { bias: Some(&bias), scale: Some(&scale), activation, accumulate };
    let (a, mut out) = (noise(rows * K, 1, 2.0), noise(rows * N, 5, 1.0));
    let mut rounded = vec![bf16::ZERO; rows * bf16_len(K)];
    let (mut values, mut scales) = (vec![0; rows * quantised_len(K)], vec![0.0; rows]);
    let a: Activations<'_> = match format.inputs() {
        Inputs::F32 => (&*a).into(),
        Inputs::Bf16 => {
            RoundToBf16::new(isa, &a, K, &mut rounded).unwrap().run();
            (&*rounded).into()
        }
        Inputs::Int8 => {
            Quantise::new(isa, &a, K, &mut values, &mut scales).unwrap().run();
            Quantised::new(isa, K, &values, &scales).unwrap().into()
        }
    };
    Matmul::new(isa, a, weights, epilogue, &mut out).unwrap().run();
    out
}

/// Attention of 23 queries to 300 keys, more than a block, in f32 with a bias.
fn attention(isa: Isa, inputs: Inputs) -> Vec<f32> {
    let (rows, layout) = (23, KvLayout { heads: 2, head_dim: 37, tokens: 300 });
    let (q, kv) = (noise(rows * 74, 1, 1.5), noise(layout.len().unwrap(), 2, 1.5));
    let mut out = vec![0.0; q.len()];
    if inputs == Inputs::F32 {
        let table = noise(2 * RelativeBias::row_len([13, 23]).unwrap(), 3, 1.0);
        let bias = RelativeBias { table: &table, grid: [13, 23], first_query: 0 };
        let scores = Scores::new(isa, layout, 0.2, &q, &kv[..]).unwrap();
        scores.with_bias(bias).unwrap().attend(&mut out).unwrap().run();
        return out;
    }
    if inputs == Inputs::Bf16 {
        let mut values = vec![bf16::ZERO; layout.bf16_len().unwrap()];
        RoundKv::new(isa, layout, &kv, 0, &mut values).unwrap().run();
        Attention::new(isa, layout, 0.2, &q, Bf16Kv::new(layout, &values).unwrap(), &mut out).unwrap().run();
        return out;
    }
    let (mut values, mut scales) = (vec![0; layout.int8_len().unwrap()], vec![0.0; layout.scales_len().unwrap()]);
    QuantiseKv::new(isa, layout, &kv, 0, &mut values, &mut scales).unwrap().run();
    let kv = QuantisedKv::new(isa, layout, &values, &scales).unwrap();
    Attention::new(isa, layout, 0.2, &q, kv, &mut out).unwrap().run();
    out
}

/// The name and the hash of every kernel's output.
fn hashes(isa: Isa) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let mut record = |name: &str, x: &[f32]| all.push((String::from(name), hash(x)));
    let x = noise(5 * 197, 1, 6.0);
    let in_place = |kernel: &dyn Fn(&mut [f32])| {
        let mut x = x.clone();
        kernel(&mut x);
        x
    };
    record("softmax", &in_place(&|x| softmax(isa, x, 197).unwrap()));
    let (gamma, beta, mut out) = (noise(197, 2, 1.0), noise(197, 3, 1.0), vec![0.0; x.len()]);
    layer_norm(isa, &x, &gamma, &beta, 1e-6, &mut out).unwrap();
    record("layer_norm", &out);
    let forms = [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu];
    for (form, name) in forms.into_iter().zip(["gelu", "gelu_tanh", "quick_gelu", "silu"]) {
        record(name, &in_place(&|x| activate(isa, form, x)));
    }
    record("exp", &in_place(&|x| math::exp(isa, x)));
    record("erf", &in_place(&|x| math::erf(isa, x)));
    let mut rotated = noise(11 * 72, 1, 1.0);
    Rope::new(isa, &mut rotated, 72, [2, 36], &noise(11 * 36, 2, 1.0)).unwrap().run();
    record("rope", &rotated);
    for format in Format::ALL {
        for rows in [1, 2, 3, 4, 5, 6, 7, 48] {
            record(&format!("matmul {format} {rows}"), &product(isa, format, rows, None));
        }
        record(&format!("matmul {format} gelu"), &product(isa, format, 7, Some(Activation::Gelu)));
    }
    record("attention", &attention(isa, Inputs::F32));
    record("attention bf16", &attention(isa, Inputs::Bf16));
    record("attention int8", &attention(isa, Inputs::Int8));
    all
}

#[test]
fn they_are_the_same_on_every_level_and_target() {
    for isa in levels() {
        check(isa, usize::from(!is_fused(isa)));
        check(isa.unfused(), 1);
    }
}

/// Compares a level's hashes with a column of the table.
fn check(isa: Isa, column: usize) {
    let wanted = include_str!("bits.txt").lines().map(|line| line.rsplit_once(' ').unwrap());
    let wanted = wanted.map(|(rest, unfused)| (rest.rsplit_once(' ').unwrap(), unfused));
    // An instruction for products of bf16 adds in an order of its own.
    let recorded = |name: &str| !(isa.has_bf16_dot() && name.contains("bf16"));
    let wanted = wanted.filter(|((name, _), _)| recorded(name));
    let wanted: Vec<_> = wanted.map(|((name, fused), unfused)| (name, [fused, unfused][column])).collect();
    let got: Vec<_> = hashes(isa)
        .into_iter()
        .filter(|(name, _)| recorded(name))
        .map(|(name, hash)| (name, format!("{hash:016x}")))
        .collect();
    let table: String = got.iter().map(|(name, hash)| format!("{name} {hash}\n")).collect();
    let same = got.iter().map(|(name, hash)| (&**name, &**hash)).eq(wanted);
    assert!(same, "{isa}, {}:\n{table}", ["fused", "unfused"][column]);
}
