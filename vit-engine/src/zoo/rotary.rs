//! The angles of rotary position embeddings.

/// How angles follow from a patch's place, for each pair of a head's elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rotary {
    /// DINOv3 (Siméoni et al. 2025, <https://arxiv.org/abs/2508.10104>): places in −1..1 along each axis, halves rotated.
    Normalised {
        /// Base of the periods.
        theta: f64,
    },
    /// EVA-02 (Fang et al. 2023, <https://arxiv.org/abs/2303.11331>) and its kin: places counted in patches.
    Counted {
        /// Base of the frequencies.
        temperature: f64,
        /// Added to every place.
        offset: f64,
        /// The grid, \[rows, columns\], whose range of places other grids are scaled to.
        reference: Option<[usize; 2]>,
        /// Whether x comes before y.
        x_first: bool,
    },
}

impl Rotary {
    /// Cosines and then sines for each patch, \[patches, head_dim\]: angle j is that of elements j and j + head_dim/2, of
    /// which the first half belongs to one axis and the second to the other.
    pub fn table(self, grid: [usize; 2], head_dim: usize) -> Vec<f32> {
        let quarter = head_dim / 4;
        let mut table = Vec::with_capacity(grid[0] * grid[1] * head_dim);
        for y in 0..grid[0] {
            for x in 0..grid[1] {
                let angles: Vec<f64> =
                    (0..head_dim / 2).map(|j| self.angle([y, x], grid, j / quarter, j % quarter, quarter)).collect();
                table.extend(angles.iter().map(|angle| angle.cos() as f32));
                table.extend(angles.iter().map(|angle| angle.sin() as f32));
            }
        }
        table
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
