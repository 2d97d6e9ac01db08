//! Matmul of any shape on every level the CPU has, in every format, within its documented bound of the f64 truth.
#![no_main]
use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use vit_kernels::half::bf16;
use vit_kernels::{
    Epilogue, Format, Inputs, Isa, Job, Line, Matmul, Packed, Quantise, Quantised, RoundToBf16, bf16_len, matmul,
    quantised_len, reference,
};

#[derive(Debug)]
struct Input {
    rows: usize,
    n: usize,
    k: usize,
    a: Vec<f32>, // [rows, k]
    w: Vec<f32>, // [n, k]
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let (rows, n, k) = (u.int_in_range(0..=40)?, u.int_in_range(0..=80)?, u.int_in_range(0..=60)?);
        let bytes = u.bytes(u.len())?;
        let words = bytes.as_chunks().0;
        // Few bytes are stretched to noise: else they would make matrices of mostly zeros.
        let value = |i: usize| {
            let word = words.get(i % words.len().max(1)).map_or(0, |word| u32::from_le_bytes(*word));
            let round = (i / words.len().max(1)) as u32;
            number(word.wrapping_add(round.wrapping_mul(0x9e37_79b9)))
        };
        let (a, w) = ((0..rows * k).map(value).collect(), (rows * k..(rows + n) * k).map(value).collect());
        Ok(Self { rows, n, k, a, w })
    }
}

/// Zero, or from 2⁻²⁰ to 2¹²: finite in f16 too, and no product or sum overflows or becomes subnormal, which the bound
/// does not speak of.
fn number(bits: u32) -> f32 {
    let exponent = 127 - 20 + (bits >> 23) % 32;
    if bits == 0 { 0.0 } else { f32::from_bits(bits & 0x807f_ffff | exponent << 23) }
}

/// The product in a format against f64, from the activations and weights as the format rounds them.
fn check(Input { rows, n, k, a, w }: &Input, format: Format) {
    let mut lines = vec![Line::ZERO; format.lines(*n, *k).unwrap()];
    let read = |row: usize, start: usize, into: &mut [f32]| into.copy_from_slice(&w[row * k + start..][..into.len()]);
    format.pack(*n, *k, read, &mut lines).unwrap();
    let weights = Packed::new(format, *n, *k, &lines).unwrap();
    let w: Vec<f32> = (0..n * k).map(|i| weights.get(i / k, i % k).unwrap()).collect();
    for isa in Isa::available() {
        let mut got = vec![f32::NAN; rows * n];
        let (mut values, mut scales) = (vec![0; rows * quantised_len(*k)], vec![0.0; *rows]);
        let mut rounded = vec![bf16::ZERO; rows * bf16_len(*k)];
        let (used, roundings) = if format.inputs() == Inputs::Bf16 {
            RoundToBf16::new(isa, a, *k, &mut rounded).unwrap().run();
            Matmul::new(isa, &*rounded, weights, Epilogue::default(), &mut got).unwrap().run();
            // VDPBF16PS may round twice as coarsely.
            (a.iter().map(|a| bf16::from_f32(*a).to_f32()).collect(), 2 * (k + 2))
        } else if format.inputs() == Inputs::Int8 {
            Quantise::new(isa, a, *k, &mut values, &mut scales).unwrap().run();
            let quantised = Quantised::new(isa, *k, &values, &scales).unwrap();
            Matmul::new(isa, quantised, weights, Epilogue::default(), &mut got).unwrap().run();
            // The dequantised factors are rounded to f32 here. The exact sum is rounded three times there; in int4,
            // there is one for every 32 inputs.
            ((0..rows * k).map(|i| quantised.get(i / k, i % k)).collect(), 8 + k / 32)
        } else {
            matmul(isa, a, weights, Epilogue::default(), &mut got).unwrap();
            (a.clone(), k + 1)
        };
        let product = |of: fn(f64) -> f64| {
            let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| of(x.into())).collect() };
            let mut out = vec![0.0; rows * n];
            reference::matmul(&wide(&used), &wide(&w), *k, &mut out);
            out
        };
        let (want, magnitude) = (product(|x| x), product(f64::abs));
        for (i, got) in got.into_iter().enumerate() {
            let bound = roundings as f64 * 2f64.powi(-24) * magnitude[i];
            assert!((f64::from(got) - want[i]).abs() <= bound, "{isa} {format} at {i}: {got} not {}", want[i]);
        }
    }
}

fuzz_target!(|input: Input| Format::ALL.into_iter().for_each(|format| check(&input, format)));
