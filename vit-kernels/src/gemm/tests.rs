//! Matmul on every level and in every format, against the f64 reference; its bits for every split of the work.
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::part::even_tiles;
use super::*;
use crate::reference;
use crate::round::RoundToBf16;
use crate::testing::{levels, nans, noise};
use crate::{Activation, activate};

/// Formats that are multiplied in f32 or bf16.
const FLOATS: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];

/// Rows of `k` as the format needs them.
enum Rows<'a> {
    F32(&'a [f32]),
    Bf16(Vec<bf16>),
}

impl<'a> Rows<'a> {
    fn new(isa: Isa, format: Format, a: &'a [f32], k: usize) -> Self {
        if format != Format::Bf16 {
            return Self::F32(a);
        }
        let mut rounded = vec![bf16::ONE; a.len().checked_div(k).unwrap_or(0) * bf16_len(k)];
        RoundToBf16::new(isa, a, k, &mut rounded).unwrap().run();
        Self::Bf16(rounded)
    }

    fn get(&self) -> Activations<'_> {
        match self {
            Self::F32(rows) => Activations::F32(rows),
            Self::Bf16(rows) => Activations::Bf16(rows),
        }
    }
}

/// [`matmul`] of rows of f32, rounded if the weights' format asks for that.
fn multiply(isa: Isa, a: &[f32], weights: Packed<'_>, epilogue: Epilogue<'_>, out: &mut [f32]) {
    let rows = Rows::new(isa, weights.format(), a, weights.k());
    Matmul::new(isa, rows.get(), weights, epilogue, out).unwrap().run();
}

/// Runs the blocks of a product, and counts them.
fn run_blocks<'a>(mut job: Matmul<'a>, partial: &'a mut [f32]) -> usize {
    let mut blocks = job.blocks(partial).unwrap();
    let mut count = 0;
    while let Some(job) = blocks.next() {
        job.run();
        count += 1;
    }
    count
}

fn packed(format: Format, w: &[f32], n: usize, k: usize) -> Vec<Line> {
    let mut out = vec![Line::ZERO; format.lines(n, k).unwrap()];
    format.pack(n, k, |row, start, into| into.copy_from_slice(&w[row * k + start..][..into.len()]), &mut out).unwrap();
    out
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

fn check(isa: Isa, rows: usize, n: usize, k: usize, a: &[f32], w: &[f32], got: &[f32]) {
    let mut want = vec![0.0; rows * n];
    let mut magnitude = vec![0.0; rows * n];
    let abs = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x).abs()).collect() };
    reference::matmul(&wide(a), &wide(w), k, &mut want);
    reference::matmul(&abs(a), &abs(w), k, &mut magnitude);
    for i in 0..rows * n {
        let bound = if isa.has_bf16_dot() {
            let largest = w.iter().fold(0.0, |max: f64, w| max.max(f64::from(*w).abs()));
            (k + 2) as f64 * 2f64.powi(-23) * magnitude[i] + k as f64 * 2f64.powi(-126) * (1.0 + largest)
        } else {
            (k + 1) as f64 * 2f64.powi(-24) * magnitude[i]
        };
        assert!(
            (f64::from(got[i]) - want[i]).abs() <= bound,
            "{isa} {rows}x{n}x{k} at {i}: {} not {}",
            got[i],
            want[i]
        );
    }
}

/// Every format against the reference, which gets the rounded weights.
fn run(isa: Isa, rows: usize, n: usize, k: usize, seed: u64) {
    let (a, w) = (noise(rows * k, seed, 2.0), noise(n * k, seed + 1, 1.0));
    for format in FLOATS {
        let mut got = vec![9.0; rows * n];
        let lines = packed(format, &w, n, k);
        let weights = Packed::new(format, n, k, &lines).unwrap();
        multiply(isa, &a, weights, Epilogue::default(), &mut got);
        let rounded: Vec<f32> = (0..n * k).map(|i| weights.get(i / k, i % k).unwrap()).collect();
        let read = |x: f32| if format == Format::Bf16 { bf16::from_f32(x).to_f32() } else { x };
        let a: Vec<f32> = a.iter().map(|x| read(*x)).collect();
        let isa = if format == Format::Bf16 { isa } else { Isa::PORTABLE };
        check(isa, rows, n, k, &a, &rounded, &got);
    }
}

#[test]
fn bound_holds_around_every_tile_edge() {
    for isa in levels() {
        for rows in (0..=26).chain([48, 50]) {
            for n in [0, 1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 80, 97, 113] {
                for k in [0, 1, 2, 7, 33] {
                    run(isa, rows, n, k, 3);
                }
            }
        }
        run(isa, 197, 192, 192, 4);
        run(isa, 1, 1000, 768, 5);
    }
}

#[test]
fn agrees_with_matrixmultiply() {
    let (rows, n, k) = (61, 130, 97);
    let (a, w) = (noise(rows * k, 1, 1.0), noise(n * k, 2, 1.0));
    let mut other = vec![0.0f32; rows * n];
    let (rs, cs) = (n as isize, k as isize);
    // SAFETY: the three matrices have the shapes that the strides say; B is W transposed.
    unsafe {
        let (a, b, c) = (a.as_ptr(), w.as_ptr(), other.as_mut_ptr());
        matrixmultiply::sgemm(rows, k, n, 1.0, a, cs, 1, b, 1, cs, 0.0, c, rs, 1);
    }
    for isa in levels() {
        let (panels, mut got) = (packed(Format::F32, &w, n, k), vec![0.0; rows * n]);
        matmul(isa, &a, Packed::new(Format::F32, n, k, &panels).unwrap(), Epilogue::default(), &mut got).unwrap();
        assert!(got.iter().zip(&other).all(|(got, other)| (got - other).abs() < 1e-4), "{isa}");
    }
}

/// A row's bits depend neither on the other rows nor on the tile that computes it.
#[test]
fn rows_are_independent_to_the_bit() {
    for (isa, format) in levels().into_iter().flat_map(|isa| FLOATS.map(|format| (isa, format))) {
        for (n, k) in [(100, 70), (16, 5), (200, 33)] {
            let (a, w) = (noise(40 * k, 1, 1.0), noise(n * k, 2, 1.0));
            let panels = packed(format, &w, n, k);
            let weights = Packed::new(format, n, k, &panels).unwrap();
            let mut whole = vec![0.0; 40 * n];
            multiply(isa, &a, weights, Epilogue::default(), &mut whole);
            for block in 1..40 {
                let mut cut = vec![0.0; 40 * n];
                for (a, out) in a.chunks(block * k).zip(cut.chunks_mut(block * n)) {
                    multiply(isa, a, weights, Epilogue::default(), out);
                }
                assert_eq!(cut, whole, "{isa} {format} blocks of {block}");
            }
        }
    }
}

#[test]
fn fused_levels_agree_to_the_bit() {
    let fused: Vec<Isa> = levels().into_iter().filter(|isa| ![Isa::PORTABLE, Isa::SMALL].contains(isa)).collect();
    let (rows, n, k) = (29, 75, 131);
    let (a, w, bias) = (noise(rows * k, 1, 1.0), noise(n * k, 2, 1.0), noise(n, 3, 1.0));
    let panels = packed(Format::F32, &w, n, k);
    let run = |isa| {
        let mut out = noise(rows * n, 4, 1.0);
        let epilogue = Epilogue {
            bias: Some(&bias),
            activation: Some(Activation::Gelu),
            accumulate: Accumulate::Add,
            ..Epilogue::default()
        };
        matmul(isa, &a, Packed::new(Format::F32, n, k, &panels).unwrap(), epilogue, &mut out).unwrap();
        out
    };
    for pair in fused.windows(2) {
        assert_eq!(run(pair[0]), run(pair[1]), "{} {}", pair[0], pair[1]);
    }
    // A machine may have only one such level: compare with one chain of fused multiply-adds, too.
    for &isa in &fused {
        let mut out = vec![0.0; rows * n];
        let weights = Packed::new(Format::F32, n, k, &panels).unwrap();
        matmul(isa, &a, weights, Epilogue::default(), &mut out).unwrap();
        for (i, &out) in out.iter().enumerate() {
            let (a, w) = (&a[i / n * k..][..k], &w[i % n * k..][..k]);
            let chain = a.iter().zip(w).fold(0.0f32, |sum, (a, w)| a.mul_add(*w, sum));
            assert_eq!(out.to_bits(), chain.to_bits(), "{isa}");
        }
    }
}

#[test]
fn epilogue_is_the_formula() {
    let (rows, k) = (11, 9);
    for isa in levels() {
        for n in [1, 16, 37, 100] {
            let (a, w) = (noise(rows * k, 1, 1.0), noise(n * k, 2, 1.0));
            let (bias, factor, before) = (noise(n, 3, 1.0), noise(n, 4, 1.0), noise(rows * n, 5, 1.0));
            let panels = packed(Format::F32, &w, n, k);
            let weights = Packed::new(Format::F32, n, k, &panels).unwrap();
            let mut sums = before.clone();
            matmul(isa, &a, weights, Epilogue::default(), &mut sums).unwrap();
            for (bits, accumulate) in (0..4).flat_map(|bits| {
                [Accumulate::Replace, Accumulate::Add, Accumulate::Multiply].map(|accumulate| (bits, accumulate))
            }) {
                for activation in
                    [None, Some(Activation::Gelu), Some(Activation::GeluTanh), Some(Activation::QuickGelu)]
                {
                    let epilogue = Epilogue {
                        bias: (bits & 1 > 0).then_some(&*bias),
                        activation,
                        scale: (bits & 2 > 0).then_some(&*factor),
                        accumulate,
                    };
                    let mut want = sums.clone();
                    for (i, x) in want.iter_mut().enumerate() {
                        *x += epilogue.bias.map_or(0.0, |bias| bias[i % n]);
                    }
                    if let Some(form) = activation {
                        activate(isa, form, &mut want);
                    }
                    for (i, x) in want.iter_mut().enumerate() {
                        *x *= epilogue.scale.map_or(1.0, |factor| factor[i % n]);
                        match accumulate {
                            Accumulate::Replace => {}
                            Accumulate::Add => *x += before[i],
                            Accumulate::Multiply => *x *= before[i],
                        }
                    }
                    let mut got = before.clone();
                    matmul(isa, &a, weights, epilogue, &mut got).unwrap();
                    assert_eq!(got, want, "{isa} n {n} {epilogue:?}");
                }
            }
        }
    }
}

#[test]
fn blocks_of_the_depth_give_the_same_bits() {
    for (isa, format) in levels().into_iter().flat_map(|isa| FLOATS.map(|format| (isa, format))) {
        let most = DEPTH_BYTES / format.inputs().bytes();
        for k in [1, most, most + 1, 3 * most - 5] {
            for (rows, n) in [(1, 20), (2, 16), (11, 37), (30, 100)] {
                let (a, w) = (noise(rows * k, 1, 1.0), noise(n * k, 2, 1.0));
                let (bias, before) = (noise(n, 3, 1.0), noise(rows * n, 4, 1.0));
                let panels = packed(format, &w, n, k);
                let weights = Packed::new(format, n, k, &panels).unwrap();
                for (activation, accumulate) in [
                    (None, Accumulate::Replace),
                    (None, Accumulate::Add),
                    (Some(Activation::Gelu), Accumulate::Multiply),
                ] {
                    let epilogue = Epilogue { bias: Some(&bias), activation, accumulate, ..Epilogue::default() };
                    let (mut whole, mut cut) = (before.clone(), before.clone());
                    multiply(isa, &a, weights, epilogue, &mut whole);
                    let mut partial = vec![f32::NAN; if accumulate == Accumulate::Replace { 0 } else { rows * n }];
                    let a = Rows::new(isa, format, &a, k);
                    let job = Matmul::new(isa, a.get(), weights, epilogue, &mut cut).unwrap();
                    let count = run_blocks(job, &mut partial);
                    assert_eq!(count, if rows == 1 { 1 } else { k.div_ceil(most) });
                    assert_eq!(cut, whole, "{isa} {rows}x{n}x{k} {epilogue:?}");
                }
            }
        }
    }
}

/// A result in bf16 has the bits of one in f32 that is rounded later.
#[test]
fn result_in_bf16_is_the_rounded_one() {
    for isa in levels() {
        let most = DEPTH_BYTES / Inputs::Bf16.bytes();
        let shapes =
            [(1, 1, 3), (1, 70, 40), (8, 48, 32), (29, 16, 7), (30, 113, 64), (197, 96, 48), (9, 37, most + 1)];
        for (rows, n, k) in shapes {
            let (a, w) = (noise(rows * k, 1, 1.0), noise(n * k, 2, 1.0));
            let (bias, factor) = (noise(n, 3, 1.0), noise(n, 4, 1.0));
            let panels = packed(Format::Bf16, &w, n, k);
            let weights = Packed::new(Format::Bf16, n, k, &panels).unwrap();
            let a = Rows::new(isa, Format::Bf16, &a, k);
            for (bias, activation, scale) in [
                (None, None, None),
                (Some(&*bias), Some(Activation::Gelu), None),
                (Some(&*bias), None, Some(&*factor)),
                (None, Some(Activation::QuickGelu), Some(&*factor)),
            ] {
                let epilogue = Epilogue { bias, activation, scale, ..Epilogue::default() };
                let mut wide = vec![0.0; rows * n];
                Matmul::new(isa, a.get(), weights, epilogue, &mut wide).unwrap().run();
                let mut want = vec![bf16::ZERO; rows * bf16_len(n)];
                RoundToBf16::new(isa, &wide, n, &mut want).unwrap().run();
                // In one go, and with the sums of each block of the depth in `partial`.
                for scratch in [0, rows * n] {
                    let (mut got, mut partial) = (vec![bf16::NAN; want.len()], vec![f32::NAN; scratch]);
                    let job = Matmul::to_bf16(isa, a.get(), weights, epilogue, &mut got).unwrap();
                    let count = run_blocks(job, &mut partial);
                    assert_eq!(count, if scratch > 0 && k > most { 2 } else { 1 });
                    assert!(same_bits(&got, &want), "{isa} {rows}x{n}x{k} {epilogue:?}");
                }
            }
        }
    }
}

fn same_bits(a: &[bf16], b: &[bf16]) -> bool {
    a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()))
}

#[test]
fn nan_reaches_every_output_of_its_row() {
    for isa in levels() {
        let (n, k) = (50, 9);
        let panels = packed(Format::F32, &noise(n * k, 2, 1.0), n, k);
        let weights = Packed::new(Format::F32, n, k, &panels).unwrap();
        let forms = [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu, Activation::Relu];
        for (nan, form) in nans().into_iter().flat_map(|nan| forms.map(|form| (nan, form))) {
            let (mut a, mut out) = (noise(3 * k, 1, 1.0), vec![0.0; 3 * n]);
            a[k + 4] = nan;
            let epilogue = Epilogue { activation: Some(form), ..Epilogue::default() };
            matmul(isa, &a, weights, epilogue, &mut out).unwrap();
            assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (i / n == 1)), "{isa} {form:?}");
        }
    }
}

#[test]
fn tiles_are_even() {
    for most in 1..5 {
        for end in 2..30 {
            let tiles: Vec<_> = even_tiles(2..end, most).collect();
            assert_eq!(tiles.iter().map(|tile| tile.1).sum::<usize>(), end - 2);
            let widths = || tiles.iter().map(|tile| tile.1);
            assert!(widths().max().unwrap_or(1) <= most);
            assert!(widths().max().unwrap_or(1) - widths().min().unwrap_or(1) <= 1, "{tiles:?}");
        }
    }
}

#[test]
fn shapes() {
    let (isa, plain) = (Isa::best(), Epilogue::default());
    let weights = Packed::new(Format::F32, 2, 3, &[Line::ZERO; 3]).unwrap();
    assert!(matmul(isa, &[0.0; 6], weights, plain, &mut [0.0; 4]).is_ok());
    assert!(matmul(isa, &[0.0; 6], weights, plain, &mut [0.0; 3]).is_err());
    assert!(matmul(isa, &[0.0; 5], weights, plain, &mut [0.0; 4]).is_err());
    let biased = Epilogue { bias: Some(&[0.0; 3]), ..plain };
    assert!(matmul(isa, &[0.0; 6], weights, biased, &mut [0.0; 4]).is_err());
    let scaled = Epilogue { scale: Some(&[0.0; 1]), ..plain };
    assert!(matmul(isa, &[0.0; 6], weights, scaled, &mut [0.0; 4]).is_err());
    // In bf16 rows of 3 columns have 4 elements.
    let (a, lines) = ([bf16::ONE; 8], [Line::ZERO; 4]);
    let rounded = |format: Format, epilogue, len| {
        let weights = Packed::new(format, 3, 4, &lines[..format.lines(3, 4).unwrap()]).unwrap();
        Matmul::to_bf16(isa, &a[..], weights, epilogue, &mut vec![bf16::ZERO; len]).is_ok()
    };
    assert!(rounded(Format::Bf16, plain, 8));
    assert!(!rounded(Format::Bf16, plain, 6));
    assert!(!rounded(Format::Bf16, Epilogue::RESIDUAL, 8));
    assert!(!rounded(Format::F32, plain, 8));
    let none = Packed::new(Format::F32, 0, 3, &[]).unwrap();
    assert!(matmul(isa, &[0.0; 6], none, plain, &mut []).is_ok());
    assert!(matmul(isa, &[0.0; 6], none, plain, &mut [0.0]).is_err());
}

proptest! {
    #[test]
    fn any_shape(rows in 0usize..40, n in 0usize..120, k in 0usize..90, seed in 1u64..1000) {
        for isa in levels() {
            run(isa, rows, n, k, seed);
        }
    }
}
