//! int4 in groups of 32 inputs, each with an f16 scale for each output: weight ≈ scale·q, q in −8…7.
//!
//! ```text
//! panels   [n/16][k/8][16][4] bytes     a line is eight inputs of sixteen outputs: byte i holds input i in its low
//!                                       nibble and input 4 + i in its high one, two's complement
//! scales   [n/16][k/32][16] f16         the weight of largest magnitude / −8
//! ```
//! n and k are padded with zeros to whole panels and lines; the last group of 32 may be shorter.
//!
//! The scale has the sign that makes the weight of largest magnitude −8, so that all sixteen values are used. With
//! −7…7 and max|w| / 7 the signal-to-noise ratio is 1.1 dB less (normal and Laplace distributions, and fashion-vit's
//! weights: 20.2 instead of 21.2 dB), and every level multiplies −8 as easily as 7.
use ::half::f16;

use super::super::pack::PackError;
use super::Line;
use crate::quantise::round_to_i8;
use crate::simd::LANES;

/// Inputs that share a scale.
pub(crate) const BLOCK: usize = 32;

/// Consecutive inputs stored together in a panel: two of int8's groups.
pub(crate) const GROUP: usize = 8;

/// The weights of sixteen outputs for eight inputs.
pub(crate) type Nibbles = [[u8; GROUP / 2]; LANES];

/// The parts of packed int4 weights.
#[derive(Clone, Copy)]
pub(crate) struct Int4Weights<'a> {
    /// Inputs.
    pub(crate) k: usize,
    /// \[panels\]\[k/8\].
    pub(crate) panels: &'a [Nibbles],
    /// \[panels\]\[k/32\].
    pub(crate) scales: &'a [[f16; LANES]],
}

impl<'a> Int4Weights<'a> {
    /// Splits `lines`; other weights may follow in them.
    pub(crate) fn new(lines: &'a [Line], n: usize, k: usize) -> Self {
        let panels = n.div_ceil(LANES);
        let (nibbles, rest) = lines.split_at(panels * k.div_ceil(GROUP));
        let scales: &[[f16; LANES]] = bytemuck::cast_slice(rest);
        Self { k, panels: bytemuck::cast_slice(nibbles), scales: &scales[..panels * k.div_ceil(BLOCK)] }
    }

    /// Lines of a panel.
    pub(crate) fn lines(&self) -> usize {
        self.k.div_ceil(GROUP)
    }

    /// Groups of 32 inputs, the last of which may be shorter.
    pub(crate) fn blocks(&self) -> usize {
        self.k.div_ceil(BLOCK)
    }

    pub(crate) fn get(&self, row: usize, column: usize) -> f32 {
        let (panel, lane) = (row / LANES, row % LANES);
        let byte = self.panels[panel * self.lines() + column / GROUP][lane][column % 4];
        let nibble = if column % GROUP < 4 { byte << 4 } else { byte };
        let scale = self.scales[panel * self.blocks() + column / BLOCK][lane];
        f32::from(nibble.cast_signed() >> 4) * scale.to_f32_const()
    }
}

/// [`Format::pack`](super::Format::pack); `out` is exactly [`Format::lines`](super::Format::lines) long.
pub(in super::super) fn pack(
    n: usize,
    k: usize,
    read: &mut dyn FnMut(usize, usize, &mut [f32]),
    out: &mut [Line],
) -> Result<(), PackError> {
    out.fill(Line::ZERO);
    let (lines, blocks) = (k.div_ceil(GROUP), k.div_ceil(BLOCK));
    let (panels, scales) = out.split_at_mut(n.div_ceil(LANES) * lines);
    let panels: &mut [Nibbles] = bytemuck::cast_slice_mut(panels);
    let scales: &mut [[f16; LANES]] = bytemuck::cast_slice_mut(scales);
    for row in 0..n {
        let (panel, lane) = (row / LANES, row % LANES);
        for block in 0..blocks {
            let start = block * BLOCK;
            let mut weights = [0.0; BLOCK];
            let weights = &mut weights[..BLOCK.min(k - start)];
            read(row, start, weights);
            let scale = scale(weights).map_err(|at| PackError::OutOfRange {
                row,
                column: start + at,
                value: weights[at],
                format: "int4",
            })?;
            scales[panel * blocks + block][lane] = scale;
            let scale = scale.to_f32_const();
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            for (column, x) in (start..).zip(weights) {
                let q = round_to_i8(*x, inverse).clamp(-8, 7).cast_unsigned() & 15;
                let shift = column % GROUP / 4 * 4;
                panels[panel * lines + column / GROUP][lane][column % 4] |= q << shift;
            }
        }
    }
    Ok(())
}

/// The scale of a group, or the index of a weight that is not finite or too large for a scale.
fn scale(weights: &[f32]) -> Result<f16, usize> {
    let mut largest = 0;
    for (i, x) in weights.iter().enumerate() {
        if !x.is_finite() {
            return Err(i);
        }
        if x.abs() > weights[largest].abs() {
            largest = i;
        }
    }
    let scale = f16::from_f32_const(weights[largest] / -8.0);
    if scale.is_finite() { Ok(scale) } else { Err(largest) }
}
