//! Each kernel, at the shapes of `benches/instructions`.
use std::hint::black_box;

use vit_kernels::half::bf16;
use vit_kernels::{
    Activation, Attention, Bf16Kv, Epilogue, Format, Inputs, Isa, Job, KvLayout, Line, Matmul, Packed, Quantise,
    QuantiseKv, Quantised, QuantisedKv, Rope, RoundKv, RoundToBf16, activate, bf16_len, elementwise, layer_norm, math,
    matmul, quantised_len, softmax,
};

use crate::{Counter, noise};

/// Inputs, outputs and rows of the matmuls.
const K: usize = 192;
const N: usize = 192;
const ROWS: usize = 50;

const LAYOUT: KvLayout = KvLayout { heads: 3, head_dim: 64, tokens: ROWS };

pub(crate) fn count_all(isa: Isa, counter: &Counter) {
    let x = noise(64 * 768, 1);
    let mut y = x.clone();
    counter.count("softmax_64x197", || softmax(isa, black_box(&mut y[..64 * 197]), 197).expect("whole rows"));
    let gamma = vec![1.0; 768];
    counter.count("layer_norm_64x768", || {
        layer_norm(isa, black_box(&x), &gamma, &gamma, 1e-6, &mut y).expect("whole rows");
    });
    let activations = [("erf", Activation::Gelu), ("tanh", Activation::GeluTanh), ("quick", Activation::QuickGelu)];
    for (name, activation) in activations {
        counter.count(&format!("gelu_{name}_16384"), || activate(isa, activation, black_box(&mut y[..16_384])));
    }
    counter.count("silu_16384", || activate(isa, Activation::Silu, black_box(&mut y[..16_384])));
    counter.count("exp_16384", || math::exp(isa, black_box(&mut y[..16_384])));
    counter.count("erf_16384", || math::erf(isa, black_box(&mut y[..16_384])));
    counter.count("scale_16384", || elementwise::scale(isa, black_box(&mut y[..16_384]), 0.5));
    counter.count("add_16384", || elementwise::add(isa, black_box(&mut y[..16_384]), &x[..16_384]).expect("as long"));
    let table = noise(ROWS * 64, 2);
    counter.count("rope_50x3x64", || {
        Rope::new(isa, black_box(&mut y[..ROWS * K]), K, [3, 64], &table).expect("shapes fit").run();
    });
    for format in Format::ALL {
        for rows in [ROWS, 1] {
            product(isa, counter, format, rows);
        }
    }
    attention(isa, counter);
}

fn product(isa: Isa, counter: &Counter, format: Format, rows: usize) {
    let (w, mut lines) = (noise(N * K, 2), vec![Line::ZERO; format.lines(N, K).expect("it fits memory")]);
    let read = |row: usize, start: usize, into: &mut [f32]| into.copy_from_slice(&w[row * K + start..][..into.len()]);
    format.pack(N, K, read, &mut lines).expect("noise is finite");
    let weights = Packed::new(format, N, K, &lines).expect("packed for this shape");
    let (a, mut out) = (noise(rows * K, 1), vec![0.0; rows * N]);
    let name = format!("matmul_{rows}x{K}x{N}_{format}");
    match format.inputs() {
        Inputs::Int8 => {}
        Inputs::Bf16 => {
            let mut rounded = vec![bf16::ZERO; rows * bf16_len(K)];
            let mut round = || RoundToBf16::new(isa, black_box(&a), K, &mut rounded).expect("shapes fit").run();
            if rows == ROWS {
                counter.count("round_50x192", round);
            } else {
                round();
            }
            return counter.count(&name, || {
                Matmul::new(isa, black_box(&*rounded), weights, Epilogue::default(), &mut out)
                    .expect("shapes fit")
                    .run();
            });
        }
        _ => {
            return counter.count(&name, || {
                matmul(isa, black_box(&a), weights, Epilogue::default(), &mut out).expect("shapes fit");
            });
        }
    }
    let (mut values, mut scales) = (vec![0; rows * quantised_len(K)], vec![0.0; rows]);
    let mut quantise = || Quantise::new(isa, black_box(&a), K, &mut values, &mut scales).expect("shapes fit").run();
    if format == Format::Int8 && rows == ROWS {
        counter.count("quantise_50x192", quantise);
    } else {
        quantise();
    }
    let a = Quantised::new(isa, K, &values, &scales).expect("shapes fit");
    counter.count(&name, || {
        Matmul::new(isa, black_box(a), weights, Epilogue::default(), &mut out).expect("shapes fit").run()
    });
}

fn attention(isa: Isa, counter: &Counter) {
    let (q, kv) = (noise(ROWS * K, 1), noise(LAYOUT.len().expect("it fits memory"), 2));
    let mut out = vec![0.0; q.len()];
    counter.count("attention_50x3x64", || {
        Attention::new(isa, LAYOUT, 0.125, black_box(&q), &kv[..], &mut out).expect("shapes fit").run();
    });
    let mut rounded = vec![bf16::ZERO; LAYOUT.bf16_len().expect("it fits memory")];
    counter.count("round_kv_50x3x64", || {
        RoundKv::new(isa, LAYOUT, black_box(&kv), 0, &mut rounded).expect("shapes fit").run();
    });
    let rounded = Bf16Kv::new(LAYOUT, &rounded).expect("shapes fit");
    counter.count("attention_bf16_50x3x64", || {
        Attention::new(isa, LAYOUT, 0.125, black_box(&q), rounded, &mut out).expect("shapes fit").run();
    });
    let mut values = vec![0; LAYOUT.int8_len().expect("it fits memory")];
    let mut scales = vec![0.0; LAYOUT.scales_len().expect("it fits memory")];
    counter.count("quantise_kv_50x3x64", || {
        QuantiseKv::new(isa, LAYOUT, black_box(&kv), 0, &mut values, &mut scales).expect("shapes fit").run();
    });
    let kv = QuantisedKv::new(isa, LAYOUT, &values, &scales).expect("shapes fit");
    counter.count("attention_int8_50x3x64", || {
        Attention::new(isa, LAYOUT, 0.125, black_box(&q), kv, &mut out).expect("shapes fit").run();
    });
}
