//! int8, symmetric, with one f32 scale for each output: weight ≈ scale·q, q in −127…127.
//!
//! ```text
//! panels   [n/16][k/4][16][4] i8        groups of four inputs, which VPDPBUSD and SDOT multiply at a time
//! scales   [n] f32                      max|weight| of the output / 127
//! sums     [n] i32                      Σ q of the output, for levels that multiply unsigned activations
//! ```
//! n and k are padded with zeros to whole panels and groups.
use super::super::pack::PackError;
use super::Line;
pub(crate) use crate::quantise::GROUP;
use crate::quantise::{LARGEST, inverse_scale, round_to_i8};
use crate::simd::LANES;

/// Most inputs: with these, sums of products of 8-bit numbers, one of them offset by 128, cannot overflow 32 bits.
pub(crate) const MOST_INPUTS: usize = 1 << 16;

/// The weights of sixteen outputs for a group of inputs.
pub(crate) type Group = [[i8; GROUP]; LANES];

/// The parts of packed int8 weights.
#[derive(Clone, Copy)]
pub(crate) struct Int8Weights<'a> {
    /// \[panels\]\[groups\].
    pub(crate) panels: &'a [Group],
    /// Groups of a panel.
    pub(crate) groups: usize,
    /// \[n\], whole panels.
    pub(crate) scales: &'a [[f32; LANES]],
    /// \[n\], whole panels.
    pub(crate) sums: &'a [[i32; LANES]],
}

impl<'a> Int8Weights<'a> {
    /// Splits `lines`; other weights may follow in them.
    pub(crate) fn new(lines: &'a [Line], n: usize, k: usize) -> Self {
        let (panels, groups) = (n.div_ceil(LANES), k.div_ceil(GROUP));
        let (groups_of_panels, rest) = lines.split_at(panels * groups);
        let (scales, rest) = rest.split_at(panels);
        Self {
            panels: bytemuck::cast_slice(groups_of_panels),
            groups,
            scales: bytemuck::cast_slice(scales),
            sums: bytemuck::cast_slice(&rest[..panels]),
        }
    }

    pub(crate) fn get(&self, row: usize, column: usize) -> f32 {
        let group = self.panels[row / LANES * self.groups + column / GROUP];
        f32::from(group[row % LANES][column % GROUP]) * self.scales[row / LANES][row % LANES]
    }
}

/// Inputs read at a time.
const DEPTH: usize = 64;

/// [`Format::pack`](super::Format::pack); `out` is exactly [`Format::lines`](super::Format::lines) long.
pub(in super::super) fn pack(
    n: usize,
    k: usize,
    read: &mut dyn FnMut(usize, usize, &mut [f32]),
    out: &mut [Line],
) -> Result<(), PackError> {
    if k > MOST_INPUTS {
        return Err(PackError::TooManyInputs { k, most: MOST_INPUTS });
    }
    out.fill(Line::ZERO);
    let groups = k.div_ceil(GROUP);
    let (panels, rest) = out.split_at_mut(n.div_ceil(LANES) * groups);
    let (scales, sums) = rest.split_at_mut(n.div_ceil(LANES));
    let panels: &mut [Group] = bytemuck::cast_slice_mut(panels);
    let (scales, sums): (&mut [f32], &mut [i32]) = (bytemuck::cast_slice_mut(scales), bytemuck::cast_slice_mut(sums));
    for row in 0..n {
        // Reads the row twice: rounding needs the scale.
        let mut largest = 0.0f32;
        for_each(k, row, read, |column, x| {
            largest = largest.max(x.abs());
            if x.is_finite() { Ok(()) } else { Err(PackError::OutOfRange { row, column, value: x, format: "int8" }) }
        })?;
        let inverse = inverse_scale(largest);
        scales[row] = largest / LARGEST;
        let (panel, lane) = (row / LANES * groups, row % LANES);
        for_each(k, row, read, |column, x| {
            let q = round_to_i8(x, inverse);
            panels[panel + column / GROUP][lane][column % GROUP] = q;
            sums[row] += i32::from(q);
            Ok(())
        })?;
    }
    Ok(())
}

/// Calls `visit` with each weight of a row and its column.
fn for_each(
    k: usize,
    row: usize,
    read: &mut dyn FnMut(usize, usize, &mut [f32]),
    mut visit: impl FnMut(usize, f32) -> Result<(), PackError>,
) -> Result<(), PackError> {
    let mut buffer = [0.0; DEPTH];
    for start in (0..k).step_by(DEPTH) {
        let part = &mut buffer[..DEPTH.min(k - start)];
        read(row, start, part);
        part.iter().zip(start..).try_for_each(|(x, column)| visit(column, *x))?;
    }
    Ok(())
}
