//! Packs weights into panels of [`LANES`] columns, so that a tile reads them as one stream.
use core::fmt;

use bytemuck::Zeroable;

use super::format::int4::{self, Int4Weights};
use super::format::int8::{self, Int8Weights};
use super::format::{Format, Line, Visitor, Weights};
use crate::error::{ShapeError, expect_len};
use crate::simd::LANES;

/// Packed weights: a view that knows its format and shape.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    format: Format,
    n: usize,
    k: usize,
    lines: &'a [Line],
}

impl<'a> Packed<'a> {
    /// A view of `lines` as weights of `n` outputs and `k` inputs.
    ///
    /// # Errors
    /// When `lines` is not exactly [`Format::lines`]`(n, k)` long, or this build does not have the format.
    pub fn new(format: Format, n: usize, k: usize, lines: &'a [Line]) -> Result<Self, ShapeError> {
        expect_built(format)?;
        expect_len("packed weights: lines for n × k", format.lines(n, k), lines.len())?;
        Ok(Self { format, n, k, lines })
    }

    /// [`new`](Self::new) of the first lines. The lines after them should be the weights used next: they are prefetched
    /// while the last panels are multiplied.
    ///
    /// # Errors
    /// When `lines` is shorter than [`Format::lines`]`(n, k)`, or this build does not have the format.
    pub fn before_others(format: Format, n: usize, k: usize, lines: &'a [Line]) -> Result<Self, ShapeError> {
        expect_built(format)?;
        let len = format.lines(n, k).unwrap_or(usize::MAX);
        expect_len("packed weights: lines for n × k", Some(len), lines.len().min(len))?;
        Ok(Self { format, n, k, lines })
    }

    /// The storage format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The stored (rounded) weight of output `row` and input `column`; `None` if out of range.
    pub fn get(&self, row: usize, column: usize) -> Option<f32> {
        struct Get<'a>(Packed<'a>, usize, usize);
        impl Visitor for Get<'_> {
            type Output = f32;
            fn int8(self) -> f32 {
                let Self(weights, row, column) = self;
                weights.int8().get(row, column)
            }
            fn int4(self) -> f32 {
                let Self(weights, row, column) = self;
                weights.int4().get(row, column)
            }
            fn visit<W: Weights>(self) -> f32 {
                let Self(weights, row, column) = self;
                let panel = row / LANES * panel_len::<W>(weights.k);
                W::decode(weights.elements::<W>()[panel + in_panel::<W>(column, row % LANES)])
            }
            fn left_out(self) -> f32 {
                f32::NAN // `Packed::new` refuses such weights.
            }
        }
        (row < self.n && column < self.k).then(|| self.format.visit(Get(*self, row, column)))
    }

    /// The parts of int8 weights.
    pub(super) fn int8(&self) -> Int8Weights<'a> {
        Int8Weights::new(self.lines, self.n, self.k)
    }

    /// The parts of int4 weights.
    pub(super) fn int4(&self) -> Int4Weights<'a> {
        Int4Weights::new(self.lines, self.n, self.k)
    }

    /// The panels and everything after them. `W` must be the format's type.
    pub(super) fn elements<W: Weights>(&self) -> &'a [W::Element] {
        bytemuck::cast_slice(self.lines)
    }
}

/// `Ok` if this build has the format.
fn expect_built(format: Format) -> Result<(), ShapeError> {
    expect_len("packed weights: formats that this build leaves out", Some(0), usize::from(!format.is_built()))
}

/// Elements of a panel for `k` inputs.
pub(super) const fn panel_len<W: Weights>(k: usize) -> usize {
    k.next_multiple_of(W::GROUP) * LANES
}

/// The index of a weight within its panel.
#[inline(always)]
fn in_panel<W: Weights>(column: usize, lane: usize) -> usize {
    (column / W::GROUP * LANES + lane) * W::GROUP + column % W::GROUP
}

/// Inputs read at a time: as f32 and packed, those of a panel fit in L1. A multiple of every format's group.
const DEPTH: usize = 64;

/// [`Format::pack`].
pub(super) struct Pack<'a, R> {
    pub(super) shape: [usize; 2],
    pub(super) read: R,
    pub(super) out: &'a mut [Line],
}

impl<R: FnMut(usize, usize, &mut [f32])> Visitor for Pack<'_, R> {
    type Output = Result<(), PackError>;

    fn int8(self) -> Result<(), PackError> {
        let Self { shape: [n, k], mut read, out } = self;
        int8::pack(n, k, &mut read, out)
    }

    fn int4(self) -> Result<(), PackError> {
        let Self { shape: [n, k], mut read, out } = self;
        int4::pack(n, k, &mut read, out)
    }

    fn left_out(self) -> Result<(), PackError> {
        Err(PackError::LeftOut)
    }

    fn visit<W: Weights>(self) -> Result<(), PackError> {
        const { assert!(DEPTH.is_multiple_of(W::GROUP)) }
        let Self { shape: [n, k], mut read, out } = self;
        if n == 0 || k == 0 {
            return Ok(());
        }
        let out: &mut [W::Element] = bytemuck::cast_slice_mut(out);
        // The rest of the last line is 0.
        let (out, padding) = out.split_at_mut(n.div_ceil(LANES) * panel_len::<W>(k));
        padding.fill(W::Element::zeroed());
        let mut rows = [[0.0f32; DEPTH]; LANES];
        for (panel, out) in out.chunks_exact_mut(panel_len::<W>(k)).enumerate() {
            let first = panel * LANES;
            let columns = LANES.min(n - first);
            rows[columns..].fill([0.0; DEPTH]);
            for start in (0..k).step_by(DEPTH) {
                let depth = DEPTH.min(k - start);
                for (column, row) in rows[..columns].iter_mut().enumerate() {
                    read(first + column, start, &mut row[..depth]);
                    // The last group is padded with zeros.
                    row[depth..].fill(0.0);
                }
                let out = &mut out[start * LANES..];
                let mut finite = true;
                for (group, out) in out.chunks_exact_mut(W::GROUP * LANES).take(depth.div_ceil(W::GROUP)).enumerate() {
                    for (out, row) in out.chunks_exact_mut(W::GROUP).zip(&rows) {
                        for (i, out) in out.iter_mut().enumerate() {
                            *out = W::encode(row[group * W::GROUP + i]);
                            finite &= W::decode(*out).is_finite();
                        }
                    }
                }
                if !finite {
                    return Err(out_of_range::<W>(&rows[..columns], [first, start]));
                }
            }
        }
        Ok(())
    }
}

/// The error for the first weight in these rows that the format cannot hold.
#[cold]
fn out_of_range<W: Weights>(rows: &[[f32; DEPTH]], [first, start]: [usize; 2]) -> PackError {
    let bad = |x: &f32| !W::decode(W::encode(*x)).is_finite();
    let found = rows.iter().enumerate().find_map(|(i, row)| row.iter().position(bad).map(|at| (i, at)));
    let (i, at) = found.unwrap_or_default();
    PackError::OutOfRange { row: first + i, column: start + at, value: rows[i][at], format: W::NAME }
}

/// Why weights could not be packed.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum PackError {
    /// `out` has the wrong length.
    Shape(ShapeError),
    /// This build does not have the format.
    LeftOut,
    /// With this many inputs, the format's sums could overflow.
    TooManyInputs {
        /// The inputs.
        k: usize,
        /// The largest k supported.
        most: usize,
    },
    /// A weight is NaN or infinite, or too large for the format.
    OutOfRange {
        /// The output.
        row: usize,
        /// The input.
        column: usize,
        /// The weight.
        value: f32,
        /// The format's name.
        format: &'static str,
    },
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(error) => error.fmt(f),
            Self::LeftOut => write!(f, "this build leaves out the format"),
            Self::TooManyInputs { k, most } => {
                write!(f, "{k} inputs could overflow the format's sums; at most {most} are supported")
            }
            Self::OutOfRange { row, column, value, format } if value.is_finite() => {
                write!(f, "the weight at [{row}, {column}] is {value}: too large for {format}")
            }
            Self::OutOfRange { row, column, value, .. } => write!(f, "the weight at [{row}, {column}] is {value}"),
        }
    }
}

impl core::error::Error for PackError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Shape(error) => Some(error),
            Self::LeftOut | Self::TooManyInputs { .. } | Self::OutOfRange { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::testing::noise;

    /// The index of a weight in the layout that [`Format`] documents.
    fn offset(format: Format, k: usize, row: usize, column: usize) -> usize {
        let group = match format {
            Format::F32 | Format::F16 => 1,
            Format::Bf16 => 2,
            Format::Int8 => 4,
            // Bytes: the index is of a byte's low or high nibble, counted as two elements.
            Format::Int4 => {
                let panel = row / LANES * LANES * k.next_multiple_of(8);
                let byte = panel / 2 + (column / 8 * LANES + row % LANES) * 4 + column % 4;
                return 2 * byte + column % 8 / 4;
            }
        };
        let panel = row / LANES * LANES * k.next_multiple_of(group);
        panel + column / group * LANES * group + row % LANES * group + column % group
    }

    fn packed_scales(lines: &[Line], n: usize, k: usize) -> &[f32] {
        let panels = n.div_ceil(LANES);
        bytemuck::cast_slice(&lines[panels * k.div_ceil(4)..][..panels])
    }

    fn check(format: Format, n: usize, k: usize) {
        let w = noise(n * k, 1, 2.0);
        let mut packed_lines = vec![Line([0xff; 64]); format.lines(n, k).unwrap()];
        let read =
            |row: usize, start: usize, into: &mut [f32]| into.copy_from_slice(&w[row * k + start..][..into.len()]);
        format.pack(n, k, read, &mut packed_lines).unwrap();
        let stored: Vec<f32> = match format {
            Format::F32 => bytemuck::cast_slice::<Line, f32>(&packed_lines).to_vec(),
            Format::F16 => bytemuck::cast_slice::<Line, half::f16>(&packed_lines).iter().map(|x| x.to_f32()).collect(),
            Format::Bf16 => {
                bytemuck::cast_slice::<Line, half::bf16>(&packed_lines).iter().map(|x| x.to_f32()).collect()
            }
            Format::Int8 => {
                let panels = &bytemuck::cast_slice::<Line, i8>(&packed_lines)
                    [..n.next_multiple_of(LANES) * k.next_multiple_of(4)];
                let of_panel = (LANES * k.next_multiple_of(4)).max(1);
                let scale = |at: usize| packed_scales(&packed_lines, n, k)[at / of_panel * LANES + at / 4 % LANES];
                panels.iter().enumerate().map(|(at, q)| f32::from(*q) * scale(at)).collect()
            }
            Format::Int4 => {
                let (lines, blocks) = (k.div_ceil(8), k.div_ceil(32));
                let (bytes, rest) =
                    bytemuck::cast_slice::<Line, u8>(&packed_lines).split_at(n.div_ceil(LANES) * lines * 64);
                let scales: &[half::f16] = bytemuck::cast_slice(rest);
                let nibbles = bytes.iter().enumerate().flat_map(|(at, byte)| {
                    let (line, lane) = (at / 64, at % 64 / 4);
                    let (panel, block) = (line / lines, line % lines / 4);
                    let scale = scales[(panel * blocks + block) * LANES + lane].to_f32();
                    // Two's complement.
                    [byte & 15, byte >> 4].map(|q| f32::from((q ^ 8) as i8 - 8) * scale)
                });
                nibbles.collect()
            }
        };
        let packed = Packed::new(format, n, k, &packed_lines).unwrap();
        let mut seen = vec![false; stored.len()];
        for (row, column) in (0..n.next_multiple_of(LANES)).flat_map(|row| (0..k).map(move |column| (row, column))) {
            let at = offset(format, k, row, column);
            let want = if row < n { w[row * k + column] } else { 0.0 };
            let bound = match format {
                Format::F32 => 0.0,
                Format::F16 => 2f32.powi(-11) * want.abs(),
                Format::Bf16 => 2f32.powi(-8) * want.abs(),
                Format::Int4 => {
                    let block = &w[row.min(n - 1) * k..][..k][column / 32 * 32..];
                    block.iter().take(32).fold(0.0f32, |a, w| a.max(w.abs())) / 7.9
                }
                Format::Int8 => w[row.min(n - 1) * k..][..k].iter().fold(0.0f32, |a, w| a.max(w.abs())) / 253.9,
            };
            assert!((stored[at] - want).abs() <= bound, "{format} [{row}, {column}] of [{n}, {k}]");
            assert_eq!(packed.get(row, column), (row < n).then_some(stored[at]));
            seen[at] = true;
        }
        let mut rest = stored.iter().zip(seen).filter(|(_, seen)| !seen);
        assert!(n == 0 || rest.all(|(x, _)| *x == 0.0), "{format} [{n}, {k}]");
    }

    #[test]
    fn every_weight_is_in_its_place() {
        for format in Format::ALL {
            for n in [0, 1, 15, 16, 17, 48, 50] {
                for k in [0, 1, 2, 63, 64, 65, 130] {
                    check(format, n, k);
                }
            }
        }
    }

    #[test]
    fn what_a_format_cannot_hold_is_named() {
        let largest_bf16 = half::bf16::MAX.to_f32();
        for (format, largest) in [(Format::F32, f32::MAX), (Format::F16, 65_504.0), (Format::Bf16, largest_bf16)] {
            let above = if format == Format::F16 { largest * 1.01 } else { f32::INFINITY };
            for value in [f32::NAN, f32::NEG_INFINITY, above, largest] {
                let read = |row: usize, start: usize, into: &mut [f32]| {
                    for (i, x) in into.iter_mut().enumerate() {
                        *x = if (row, start + i) == (18, 70) { value } else { 1.0 };
                    }
                };
                let packed = format.pack(20, 80, read, &mut vec![Line::ZERO; format.lines(20, 80).unwrap()]);
                match packed {
                    Ok(()) => assert_eq!(value, largest),
                    Err(error) => {
                        assert!(matches!(error, PackError::OutOfRange { row: 18, column: 70, .. }), "{error:?}");
                        assert!(value != largest && error.to_string().contains("[18, 70]"));
                    }
                }
            }
        }
    }

    #[test]
    fn shapes() {
        let lines = [Line::ZERO; 7];
        assert_eq!(Format::F32.lines(17, 3), Some(6));
        assert_eq!(Format::F16.lines(17, 3), Some(3));
        assert_eq!(Format::Bf16.lines(17, 3), Some(4));
        // Two panels of one group, two lines of scales, two of sums.
        assert_eq!(Format::Int8.lines(17, 3), Some(6));
        // Two panels of one line, one line of scales; three of five lines, and half of the sixth line of scales.
        assert_eq!(Format::Int4.lines(17, 3), Some(3));
        assert_eq!(Format::Int4.lines(40, 40), Some(3 * 5 + 3));
        assert_eq!(Format::Int4.lines(40, 65), Some(3 * 9 + 5));
        for format in Format::ALL {
            assert_eq!(format.lines(usize::MAX, 1), None);
            assert_eq!(format.lines(1, usize::MAX), None);
        }
        assert!(Packed::new(Format::F32, 17, 3, &lines[..5]).is_err());
        assert!(Packed::new(Format::F32, 17, 3, &lines[..6]).is_ok());
        assert!(Packed::new(Format::F32, 17, 3, &lines).is_err());
        assert!(Packed::before_others(Format::F32, 17, 3, &lines[..5]).is_err());
        assert!(Packed::before_others(Format::F32, 17, 3, &lines).is_ok());
        let packed = Format::F32.pack(1, 1, |_, _, _| (), &mut [Line::ZERO; 3]);
        assert!(matches!(packed, Err(PackError::Shape(_))));
    }
}
