//! The angles of rotary position embeddings.
use crate::weights::Values;

/// How the angle of each pair of a head's elements follows from the position of a patch.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Rotary {
    /// DINOv3 (Siméoni et al. 2025, <https://arxiv.org/abs/2508.10104>): positions in −1..1 along each axis.
    Normalised {
        /// Base of the periods.
        theta: f64,
    },
    /// EVA-02 (Fang et al. 2023, <https://arxiv.org/abs/2303.11331>) and related models: positions counted in patches.
    Counted {
        /// Base of the frequencies.
        temperature: f64,
        /// Added to every position.
        offset: f64,
        /// The grid, \[rows, columns\], to whose range of positions other grids are scaled.
        reference: Option<[usize; 2]>,
        /// Whether the angles of x come before those of y.
        x_first: bool,
    },
}

impl Rotary {
    /// Cosines and then sines for each patch of a grid, \[patches, head_dim\]: angle j rotates the elements j and j +
    /// head_dim/2. The first half of the angles belongs to one axis, the second half to the other. `None` if head_dim
    /// is not a multiple of 4.
    ///
    /// Elements are computed while they are read, so a table of any size takes no memory.
    pub fn table(self, grid: [usize; 2], head_dim: usize) -> Option<Table> {
        (head_dim > 0 && head_dim.is_multiple_of(4)).then_some(Table { rotary: self, grid, head_dim })
    }

    /// The angle of pair `k` of the axis that comes at `axis`.
    fn angle(self, place: [usize; 2], grid: [usize; 2], axis: usize, k: usize, quarter: usize) -> f64 {
        let share = k as f64 / quarter as f64;
        match self {
            Self::Normalised { theta } => {
                let place = 2.0 * (place[axis] as f64 + 0.5) / grid[axis] as f64 - 1.0;
                core::f64::consts::TAU * place * theta.powf(-share)
            }
            Self::Counted { temperature, offset, reference, x_first } => {
                let axis = if x_first { 1 - axis } else { axis };
                let scale = reference.map_or(1.0, |reference| reference[axis] as f64 / grid[axis] as f64);
                (place[axis] as f64 + offset) * scale * temperature.powf(-share)
            }
        }
    }
}

/// The cosines and sines of a grid; see [`Rotary::table`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Table {
    rotary: Rotary,
    grid: [usize; 2],
    head_dim: usize,
}

impl Values for Table {
    fn read(&self, row: usize, start: usize, into: &mut [f32]) {
        let Self { rotary, grid, head_dim } = *self;
        let place = [row / grid[1], row % grid[1]];
        let (half, quarter) = (head_dim / 2, head_dim / 4);
        for (column, x) in (start..).zip(into) {
            let j = column % half;
            let angle = rotary.angle(place, grid, usize::from(j >= quarter), j % quarter, quarter);
            *x = if column < half { angle.cos() } else { angle.sin() } as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two by three patches, heads of 8, with angles computed by hand.
    #[test]
    fn cosines_come_before_sines_and_rows_before_columns() {
        let rotary = Rotary::Counted { temperature: 100.0, offset: 0.5, reference: None, x_first: false };
        let table = rotary.table([2, 3], 8).unwrap();
        let mut row = [0.0; 8];
        table.read(5, 0, &mut row);
        let angles = [1.5, 0.15, 2.5, 0.25f64];
        let want = [angles.map(f64::cos), angles.map(f64::sin)].concat();
        for (got, want) in row.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-7, "{row:?}");
        }
        let mut part = [0.0; 3];
        table.read(5, 3, &mut part);
        assert_eq!(part, row[3..6]);
        assert!([0, 1, 2, 6].iter().all(|head_dim| rotary.table([2, 3], *head_dim).is_none()));
    }

    #[test]
    fn a_table_of_any_size_takes_no_memory() {
        let side = 1 << 24;
        let mut last = [0.0; 4];
        Rotary::Normalised { theta: 100.0 }.table([side, side], 4).unwrap().read(side * side - 1, 0, &mut last);
        // The last patch is at 1 − 1/2²⁴ along both axes, just before a full turn.
        let angle = core::f64::consts::TAU * (1.0 - 1.0 / side as f64);
        assert_eq!(last, [angle.cos() as f32, angle.cos() as f32, angle.sin() as f32, angle.sin() as f32]);
    }
}
