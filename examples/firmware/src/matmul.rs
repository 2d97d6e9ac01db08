//! Counts the instructions of the int8 product, per multiply–accumulate: of its inner loop with its loads and the
//! widening of the activations, and of all, with what a tile takes once (the epilogue).
#![cfg_attr(target_os = "none", no_std, no_main)]

#[allow(dead_code)] // The stack is not measured.
mod board;

use core::fmt::{self, Write};

use vit_kernels::{Epilogue, Format, Isa, Job, Line, Matmul, Packed, Quantised, ShapeError};

use board::{console, instructions};

/// Inputs of the products: of ViTs of width 64, 192 and 768.
const DEPTHS: [usize; 3] = [64, 192, 768];

/// Outputs.
const N: usize = 32;

/// The most rows, and inputs: twice the depth, whose difference to the depth is the inner loop.
const ROWS: usize = 4;
const MOST: usize = 2 * DEPTHS[2];

/// Weights; what they are makes no difference.
static WEIGHTS: [Line; lines(MOST)] = [Line([3; 64]); lines(MOST)];

const fn lines(k: usize) -> usize {
    match Format::Int8.lines(N, k) {
        Some(lines) => lines,
        None => panic!("a matrix that small"),
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    board::start();
}

/// Counts; a board's entry point calls it once.
pub fn firmware() -> Result<(), Failure> {
    let mut out = console();
    writeln!(out, "rows  inputs  inner loop  all, instructions per multiply-accumulate")?;
    for rows in 1..=ROWS {
        for k in DEPTHS {
            let (Some(once), Some(twice)) = (product(rows, k)?, product(rows, 2 * k)?) else { continue };
            let macs = (rows * N * k) as u64;
            let [inner, all] = [twice.saturating_sub(once), once].map(|count| count * 1000 / macs);
            let [inner, all] = [inner, all].map(|x| (x / 1000, x % 1000));
            writeln!(out, "{rows}     {k:<6}  {}.{:03}       {}.{:03}", inner.0, inner.1, all.0, all.1)?;
        }
    }
    Ok(())
}

/// Instructions of one product.
fn product(rows: usize, k: usize) -> Result<Option<u64>, Failure> {
    static ACTIVATIONS: [i8; ROWS * MOST] = [1; ROWS * MOST];
    let mut out = [0.0; ROWS * N];
    let isa = Isa::best();
    let a = Quantised::new(isa, k, &ACTIVATIONS[..rows * k], &[0.5; ROWS][..rows])?;
    let weights = Packed::new(Format::Int8, N, k, &WEIGHTS[..lines(k)])?;
    let mut job = Matmul::new(isa, a, weights, Epilogue::default(), &mut out[..rows * N])?;
    let start = instructions();
    // So many, that a tick of the counter makes no difference.
    for _ in 0..8 {
        job.run();
    }
    Ok(start.zip(instructions()).map(|(start, end)| (end - start) / 8))
}

pub enum Failure {
    Shape(ShapeError),
    Console,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => error.fmt(f),
            Self::Console => write!(f, "the console does not take text"),
        }
    }
}

impl From<ShapeError> for Failure {
    fn from(error: ShapeError) -> Self {
        Self::Shape(error)
    }
}

impl From<fmt::Error> for Failure {
    fn from(_: fmt::Error) -> Self {
        Self::Console
    }
}
