//! The epilogue of a matmul: operations on the sums before they are stored.
use core::ops::Range;

use crate::activation::Activation;
use crate::error::{ShapeError, expect_len};
use crate::half::Storage;
use crate::simd::{Kernel, LANES, Simd, lanes, lanes_mut};

/// out = \[out + or out ⊙\] scale ⊙ activation(A·Wᵀ + bias); a part that is `None` is skipped. Vectors are \[n\].
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added to every row.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Option<Activation>,
    /// Multiplied into every row: LayerScale.
    pub scale: Option<&'a [f32]>,
    /// How the result combines with `out`.
    pub accumulate: Accumulate,
}

/// How a matmul's result combines with `out`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Accumulate {
    /// out = result.
    #[default]
    Replace,
    /// out = out + result: the residual connection.
    Add,
    /// out = out · result: `out` holds a gate.
    Multiply,
}

impl Accumulate {
    #[inline(always)]
    pub(super) fn merge<S: Simd>(self, s: S, before: S::V, v: S::V) -> S::V {
        match self {
            Self::Replace => v,
            Self::Add => s.add(before, v),
            Self::Multiply => s.mul(before, v),
        }
    }
}

impl Epilogue<'_> {
    /// out = out + A·Wᵀ.
    pub const RESIDUAL: Self = Self { bias: None, activation: None, scale: None, accumulate: Accumulate::Add };
}

/// The part of an epilogue that a tile applies in its registers; the vectors start at its first column.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Finish<'a> {
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) scale: Option<&'a [f32]>,
    pub(crate) accumulate: Accumulate,
}

impl Finish<'_> {
    /// The same for some of its columns.
    #[cfg(wasm_simd)]
    pub(crate) fn columns(&self, columns: Range<usize>) -> Self {
        let part = |x| <[f32]>::get(x, columns.clone());
        Self { bias: self.bias.and_then(part), scale: self.scale.and_then(part), accumulate: self.accumulate }
    }
}

impl Epilogue<'_> {
    /// Whether the activation is followed by a scale or by `out`: then `out` cannot hold the activation's input.
    pub(super) fn needs_two_passes(&self) -> bool {
        self.activation.is_some() && (self.scale.is_some() || self.accumulate != Accumulate::Replace)
    }

    /// The part before the activation, or all if there is none, for a range of columns.
    pub(super) fn finish(&self, columns: &Range<usize>) -> Finish<'_> {
        let part = |x| <[f32]>::get(x, columns.clone());
        Finish { bias: self.bias.and_then(part), scale: self.scale.and_then(part), accumulate: self.accumulate }
    }

    pub(super) fn check(&self, n: usize) -> Result<(), ShapeError> {
        let len = |what, vector: Option<&[f32]>| expect_len(what, Some(n), vector.map_or(n, <[f32]>::len));
        len("matmul: the bias must have one element per column", self.bias)?;
        len("matmul: the scale must have one element per column", self.scale)
    }

    /// Applies the epilogue to the sums of one row, columns `column..column + out.len()`, and stores them in `out`.
    /// `COARSE` if that is then rounded to int8. What is left in `sums` is unspecified.
    #[inline(always)]
    pub(super) fn apply<S: Simd, const COARSE: bool>(&self, s: S, sums: &mut [f32], column: usize, out: &mut [f32]) {
        if !S::VECTORS {
            return s.call(ByNumber::<COARSE> { epilogue: self, sums, column, out });
        }
        let (out, out_tail) = lanes_mut(out);
        let (sums, rest) = lanes(sums);
        for (i, (sums, out)) in sums.iter().zip(out.iter_mut()).enumerate() {
            let v = self.vector::<S, COARSE>(s, s.load(sums), column + i * LANES, LANES, s.load(out));
            s.store(v, out);
        }
        if !out_tail.is_empty() {
            // If `sums` is padded to whole vectors, the tail's is the next one.
            let sums = sums.get(out.len()).map_or(f32::load_tail(s, rest, 0.0), |sums| s.load(sums));
            let at = column + out.len() * LANES;
            let v = self.vector::<S, COARSE>(s, sums, at, out_tail.len(), f32::load_tail(s, out_tail, 0.0));
            f32::store_tail(s, v, out_tail);
        }
    }

    /// The epilogue for columns `at..at + len`.
    #[inline(always)]
    fn vector<S: Simd, const COARSE: bool>(&self, s: S, sums: S::V, at: usize, len: usize, out: S::V) -> S::V {
        let columns = |x: &[f32]| match x[at..at + len].try_into() {
            Ok(full) => s.load(full),
            Err(_) => f32::load_tail(s, &x[at..at + len], 0.0),
        };
        let mut v = sums;
        if let Some(bias) = self.bias {
            v = s.add(v, columns(bias));
        }
        if let Some(activation) = self.activation {
            v = activation.lanes::<S, COARSE>(s, v);
        }
        if let Some(scale) = self.scale {
            v = s.mul(v, columns(scale));
        }
        self.accumulate.merge(s, out, v)
    }
}

/// [`Epilogue::apply`] for a level without vectors.
struct ByNumber<'a, const COARSE: bool> {
    epilogue: &'a Epilogue<'a>,
    sums: &'a mut [f32],
    column: usize,
    out: &'a mut [f32],
}

impl<const COARSE: bool> Kernel for ByNumber<'_, COARSE> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (epilogue, sums) = (self.epilogue, &mut self.sums[..self.out.len()]);
        let columns = self.column..self.column + self.out.len();
        if let Some(bias) = epilogue.bias {
            for (sum, bias) in sums.iter_mut().zip(&bias[columns.clone()]) {
                *sum += bias;
            }
        }
        if let Some(activation) = epilogue.activation {
            activation.slice::<S, COARSE>(s, sums);
        }
        if let Some(scale) = epilogue.scale {
            for (sum, scale) in sums.iter_mut().zip(&scale[columns]) {
                *sum *= scale;
            }
        }
        for (out, sum) in self.out.iter_mut().zip(sums) {
            *out = match epilogue.accumulate {
                Accumulate::Replace => *sum,
                Accumulate::Add => *out + *sum,
                Accumulate::Multiply => *out * *sum,
            }
        }
    }
}
