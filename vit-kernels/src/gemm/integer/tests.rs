//! The product of int8 rows with int8 and int4 weights: the documented formula's bits on every level.
mod vnni;

use std::vec;
use std::vec::Vec;

use ::half::f16;
use proptest::prelude::*;
use vnni::PlainVnni;

use super::super::format::int8::MOST_INPUTS;
use super::super::{Accumulate, Epilogue, Format, Line, PackError, Packed};
use super::*;
use crate::arch::Portable;
use crate::quantise::Quantise;
use crate::testing::{levels, nans, noise};
use crate::{Activation, Isa, Job, activate_for_int8};

const FORMATS: [Format; 2] = [Format::Int8, Format::Int4];

fn packed(format: Format, w: &[f32], n: usize, k: usize) -> Vec<Line> {
    let mut out = vec![Line::ZERO; format.lines(n, k).unwrap()];
    let read = |row: usize, start: usize, into: &mut [f32]| into.copy_from_slice(&w[row * k + start..][..into.len()]);
    format.pack(n, k, read, &mut out).unwrap();
    out
}

fn quantised(isa: Isa, a: &[f32], k: usize) -> (Vec<i8>, Vec<f32>) {
    let rows = a.len().checked_div(k).unwrap_or(0);
    let (mut values, mut scales) = (vec![1; rows * quantised_len(k)], vec![9.0; rows]);
    Quantise::new(isa, a, k, &mut values, &mut scales).unwrap().run();
    (values, scales)
}

fn product(isa: Isa, a: &[f32], weights: Packed<'_>, epilogue: Epilogue<'_>, out: &mut [f32]) {
    let (values, scales) = quantised(isa, a, weights.k());
    let a = Quantised::new(isa, weights.k(), &values, &scales).unwrap();
    Matmul::new(isa, a, weights, epilogue, out).unwrap().run();
}

/// The integers and the scale of a row or an output in int8.
fn to_int8(row: &[f32]) -> (Vec<i64>, f32) {
    let largest = row.iter().fold(0.0f32, |a, x| a.max(x.abs()));
    let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
    (row.iter().map(|x| (x * inverse).round_ties_even() as i64).collect(), largest / 127.0)
}

/// The integers and the scale of up to 32 inputs of an output in int4.
fn to_int4(group: &[f32]) -> (Vec<i64>, f32) {
    let largest = group.iter().fold(0.0f32, |a, x| if x.abs() > a.abs() { *x } else { a });
    let scale = f16::from_f32(largest / -8.0).to_f32();
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    (group.iter().map(|x| ((x * inverse).round_ties_even() as i64).clamp(-8, 7)).collect(), scale)
}

/// The documented formula: exact sums, of all inputs or of 32 at a time, then the f32 operations in order.
fn formula(format: Format, a: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    let dot = |a: &[i64], w: &[i64]| a.iter().zip(w).map(|(a, w)| a * w).sum::<i64>() as f32;
    let weights: Vec<Vec<(Vec<i64>, f32)>> = w
        .chunks(k)
        .map(|w| match format {
            Format::Int4 => w.chunks(32).map(to_int4).collect(),
            _ => vec![to_int8(w)],
        })
        .collect();
    let mut out = Vec::new();
    for (a, scale) in a.chunks(k).map(to_int8) {
        for groups in &weights {
            let group_len = groups[0].0.len();
            let products = groups.iter().zip(a.chunks(group_len)).map(|((w, scale), a)| dot(a, w) * scale);
            out.push(products.reduce(|sum, product| sum + product).unwrap() * scale);
        }
    }
    out
}

/// The formula's bits, within the rounding of both factors of the exact product, and within the documented bound of the
/// product of the factors as stored.
fn check(isa: Isa, format: Format, rows: usize, n: usize, k: usize, seed: u64) {
    let (a, w) = (noise(rows * k, seed, 2.0), noise(n * k, seed + 1, 1.0));
    let lines = packed(format, &w, n, k);
    let weights = Packed::new(format, n, k, &lines).unwrap();
    let mut got = vec![9.0; rows * n];
    product(isa, &a, weights, Epilogue::default(), &mut got);
    let want = formula(format, &a, &w, k);
    assert_eq!(got, want, "{isa} {format} {rows}x{n}x{k}");
    let (values, scales) = quantised(isa, &a, k);
    let stored_a = Quantised::new(isa, k, &values, &scales).unwrap();
    let largest = |x: &[f32]| x.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
    for (row, a) in a.chunks(k).enumerate() {
        let half_step_a = largest(a) / 254.0;
        for (column, w) in w.chunks(k).enumerate() {
            let (mut exact, mut bound, mut stored, mut magnitude) = (0.0, 0.0, 0.0, 0.0);
            let (group, steps) = if format == Format::Int4 { (32, 7.9) } else { (k, 254.0) };
            for (i, (a, w)) in a.chunks(group).zip(w.chunks(group)).enumerate() {
                let error_w = largest(w) / steps;
                for (j, (a, w)) in a.iter().zip(w).enumerate() {
                    let (a, w) = (f64::from(*a), f64::from(*w));
                    exact += a * w;
                    bound += error_w * a.abs() + half_step_a * w.abs() + half_step_a * error_w;
                    let (a, w) = (stored_a.get(row, i * group + j), weights.get(column, i * group + j).unwrap());
                    stored += f64::from(a) * f64::from(w);
                    magnitude += f64::from(a.abs()) * f64::from(w.abs());
                }
            }
            let got = f64::from(got[row * n + column]);
            assert!((got - exact).abs() <= bound * 1.001, "{isa} {format} {rows}x{n}x{k}: {got}, not {exact}");
            // `get` rounds a to f32, and w in int8.
            let roundings = if format == Format::Int4 { k as f64 / 32.0 + 3.0 } else { 3.0 } + 2.0;
            let bound = roundings * 2f64.powi(-24) * magnitude;
            assert!((got - stored).abs() <= bound, "{isa} {format} {rows}x{n}x{k}: {got}, not {stored}");
        }
    }
}

#[test]
fn every_level_gives_the_formulas_bits_around_every_edge() {
    for (isa, format) in levels().into_iter().flat_map(|isa| FORMATS.map(|format| (isa, format))) {
        for rows in (1..=9).chain([17, 50]) {
            for n in [1, 16, 17, 33, 49, 113] {
                for k in [1, 4, 5, 9, 31, 33, 64, 77] {
                    check(isa, format, rows, n, k, 3);
                }
            }
        }
        check(isa, format, 50, 40, 768, 4);
        check(isa, format, 3, 50, 3072, 5);
        check(isa, format, 5, 40, 588, 6);
    }
}

/// A level with a zero point gives the same bits, on machines too that have none.
#[test]
fn zero_points_cancel() {
    for format in FORMATS {
        for (rows, n, k) in [(1, 1, 1), (9, 50, 4), (3, 16, 37), (8, 48, 32), (17, 65, 75), (5, 33, 588), (2, 20, 768)]
        {
            let (a, w) = (noise(rows * k, 1, 2.0), noise(n * k, 2, 1.0));
            let lines = packed(format, &w, n, k);
            let weights = Packed::new(format, n, k, &lines).unwrap();
            let (mut values, scales) = quantised(Isa::PORTABLE, &a, k);
            let stored = Quantised::new(Isa::PORTABLE, k, &values, &scales).unwrap();
            let (mut want, mut got) = (vec![0.0; rows * n], vec![9.0; rows * n]);
            Matmul::new(Isa::PORTABLE, stored, weights, Epilogue::default(), &mut want).unwrap().run();

            values.iter_mut().for_each(|q| *q = q.wrapping_add(-128));
            let stored = Quantised::new(Isa::PORTABLE, k, &values, &scales).unwrap();
            let job = Matmul::new(Isa::PORTABLE, stored, weights, Epilogue::default(), &mut got).unwrap();
            let (panels, rows) = (0..n.div_ceil(LANES), 0..rows);
            let level = PlainVnni(Portable);
            match format {
                Format::Int8 => IntegerPart { job: &job, a: stored, weights: weights.int8(), panels, rows }.run(level),
                _ => IntegerPart { job: &job, a: stored, weights: weights.int4(), panels, rows }.run(level),
            }
            assert_eq!(got, want, "{format} {n}x{k}");
        }
    }
}

#[test]
fn largest_values_do_not_saturate() {
    for (isa, format) in levels().into_iter().flat_map(|isa| FORMATS.map(|format| (isa, format))) {
        for sign in [1.0, -1.0] {
            // int4 has no bound: its integer sums are over 32 inputs.
            let k = if format == Format::Int8 { MOST_INPUTS } else { MOST_INPUTS + 37 };
            let n = 17;
            let (a, w) = (vec![3.0; 2 * k], vec![2.0 * sign; n * k]);
            let mut got = vec![0.0; 2 * n];
            let lines = packed(format, &w, n, k);
            product(isa, &a, Packed::new(format, n, k, &lines).unwrap(), Epilogue::default(), &mut got);
            assert_eq!(got, formula(format, &a, &w, k), "{isa} {format}");
        }
    }
    let too_many = Format::Int8.pack(
        1,
        MOST_INPUTS + 1,
        |_, _, _| (),
        &mut vec![Line::ZERO; Format::Int8.lines(1, MOST_INPUTS + 1).unwrap()],
    );
    assert!(matches!(too_many, Err(PackError::TooManyInputs { .. })), "{too_many:?}");
}

/// Every pattern of bits that a file may hold, which packing need not write: all nibbles, with scales of any value.
#[test]
fn int4_weights_of_any_bits_are_the_same_on_every_level() {
    let (rows, n, k) = (9, 37, 75);
    let a = noise(rows * k, 1, 2.0);
    let mut lines = packed(Format::Int4, &noise(n * k, 2, 1.0), n, k);
    for (i, byte) in lines.iter_mut().flat_map(|line| &mut line.0).enumerate() {
        *byte = (i * 167 + i / 64) as u8;
    }
    let weights = Packed::new(Format::Int4, n, k, &lines).unwrap();
    let run = |isa| {
        let mut out = vec![0.0; rows * n];
        product(isa, &a, weights, Epilogue::default(), &mut out);
        out.into_iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect::<Vec<_>>()
    };
    let want = run(Isa::PORTABLE);
    assert!(want.iter().any(|x| *x != u32::MAX));
    for isa in levels() {
        assert_eq!(run(isa), want, "{isa}");
    }
}

#[test]
fn int4_scales_out_of_range_are_errors_and_small_ones_round() {
    let pack = |w: &[f32]| {
        let mut lines = vec![Line::ZERO; Format::Int4.lines(1, w.len()).unwrap()];
        Format::Int4.pack(1, w.len(), |_, start, into| into.copy_from_slice(&w[start..][..into.len()]), &mut lines)?;
        Ok(lines)
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 530_000.0, -530_000.0] {
        let mut w = [1.0; 70];
        w[40] = value;
        let error: Result<Vec<Line>, PackError> = pack(&w);
        assert!(matches!(error, Err(PackError::OutOfRange { row: 0, column: 40, .. })), "{value}: {error:?}");
    }
    for size in [524_000.0, 1.0, 1e-3, 1e-5, 1e-6, 1e-7, 1e-12, 1e-40, 0.0] {
        let w = noise(70, 3, size);
        let lines = pack(&w).unwrap();
        let weights = Packed::new(Format::Int4, 1, 70, &lines).unwrap();
        for (start, group) in w.chunks(32).enumerate().map(|(i, group)| (32 * i, group)) {
            let bound = group.iter().fold(0.0f32, |a, w| a.max(w.abs())) / 7.9;
            let bound = bound.max(2f32.powi(-22));
            for (i, w) in group.iter().enumerate() {
                let got = weights.get(0, start + i).unwrap();
                assert!((got - w).abs() <= bound, "{size}: {got}, not {w}");
            }
        }
    }
}

#[test]
fn epilogues_are_the_same_on_every_level() {
    let (rows, k) = (11, 40);
    for (format, n) in FORMATS.into_iter().flat_map(|format| [1, 16, 37, 100].map(|n| (format, n))) {
        let (a, w) = (noise(rows * k, 1, 1.0), noise(n * k, 2, 1.0));
        let (bias, scale, before) = (noise(n, 3, 1.0), noise(n, 4, 1.0), noise(rows * n, 5, 1.0));
        let lines = packed(format, &w, n, k);
        let weights = Packed::new(format, n, k, &lines).unwrap();
        for (bits, accumulate) in (0..8).flat_map(|bits| {
            [Accumulate::Replace, Accumulate::Add, Accumulate::Multiply].map(|accumulate| (bits, accumulate))
        }) {
            let epilogue = Epilogue {
                bias: (bits & 1 > 0).then_some(&*bias),
                activation: (bits & 4 > 0).then_some(Activation::Gelu),
                scale: (bits & 2 > 0).then_some(&*scale),
                accumulate,
            };
            let mut want = formula(format, &a, &w, k);
            for (i, x) in want.iter_mut().enumerate() {
                *x += epilogue.bias.map_or(0.0, |bias| bias[i % n]);
            }
            if let Some(form) = epilogue.activation {
                activate_for_int8(Isa::PORTABLE.unfused(), form, &mut want);
            }
            for (i, x) in want.iter_mut().enumerate() {
                *x *= epilogue.scale.map_or(1.0, |scale| scale[i % n]);
                match accumulate {
                    Accumulate::Replace => {}
                    Accumulate::Add => *x += before[i],
                    Accumulate::Multiply => *x *= before[i],
                }
            }
            for isa in levels() {
                let mut got = before.clone();
                product(isa, &a, weights, epilogue, &mut got);
                assert_eq!(got, want, "{isa} {format} n {n} {epilogue:?}");
            }
        }
    }
}

#[test]
fn special_rows() {
    let (n, k) = (20, 9);
    let w = noise(n * k, 2, 1.0);
    for (isa, format) in levels().into_iter().flat_map(|isa| FORMATS.map(|format| (isa, format))) {
        let lines = packed(format, &w, n, k);
        let weights = Packed::new(format, n, k, &lines).unwrap();
        for special in nans().into_iter().chain([f32::INFINITY, f32::NEG_INFINITY]) {
            let (mut a, mut out) = (noise(3 * k, 1, 1.0), vec![0.0; 3 * n]);
            a[k + 4] = special;
            product(isa, &a, weights, Epilogue::default(), &mut out);
            assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (i / n == 1)), "{isa} {format} {special}");
        }
        // A row of zeros, a row that becomes zeros, and a row with one huge value.
        let mut a = vec![0.0; 3 * k];
        (a[k], a[2 * k + 3]) = (1e-37, f32::MAX);
        let mut out = vec![9.0; 3 * n];
        product(isa, &a, weights, Epilogue::default(), &mut out);
        assert!(out[..2 * n].iter().all(|x| *x == 0.0) && out[2 * n..].iter().all(|x| x.is_finite()), "{isa}");
    }
}

#[test]
fn operands_that_do_not_fit() {
    let isa = Isa::best();
    for format in FORMATS {
        let lines = packed(format, &[1.0; 12], 2, 6);
        let weights = Packed::new(format, 2, 6, &lines).unwrap();
        let (values, scales) = quantised(isa, &[1.0; 18], 6);
        let rows = Quantised::new(isa, 6, &values, &scales).unwrap();
        let mut out = [0.0; 6];
        assert!(Matmul::new(isa, rows, weights, Epilogue::default(), &mut out).is_ok());
        assert!(Matmul::new(isa, rows, weights, Epilogue::default(), &mut out[..4]).is_err());
        assert!(Matmul::new(isa, &[0.0; 18], weights, Epilogue::default(), &mut out).is_err());
        let floats = [Line::ZERO; 6];
        let floats = Packed::new(Format::F32, 2, 6, &floats).unwrap();
        assert!(Matmul::new(isa, rows, floats, Epilogue::default(), &mut out).is_err());
        assert!(Quantised::new(isa, 6, &values[1..], &scales).is_err());
    }
}

proptest! {
    #[test]
    fn any_shape(rows in 1usize..40, n in 1usize..120, k in 1usize..90, seed in 1u64..1000) {
        for isa in levels() {
            FORMATS.into_iter().for_each(|format| check(isa, format, rows, n, k, seed));
        }
    }
}
