//! Whose attention is shown, and which patches are on the picture.
use vit_engine::{Config, Pool};
use vit_image::View;

/// Whose attention is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// That of the class token.
    Class,
    /// That of the attention pool's query.
    Pool,
    /// The mean of all patches.
    Patches,
    /// That of one patch, `[row, column]`.
    Patch([usize; 2]),
}

impl Query {
    /// What the model pools: its attention pool, its class token, or its patches.
    pub fn of_model(c: &Config) -> Self {
        match c.embedding.unwrap_or(c.logits).pool {
            Pool::Attention if c.attention_pool.is_some() => Self::Pool,
            _ if c.class_token => Self::Class,
            _ => Self::Patches,
        }
    }

    /// The patch at a position `[y, x]` in the picture; `None` if the model does not see it.
    pub fn patch_at(c: &Config, view: &View, at: [f64; 2]) -> Option<Self> {
        let (at, grid) = (view.to_input(at), c.grid());
        let cell = [0, 1].map(|axis| (at[axis] / c.patch[axis] as f64).floor());
        let inside = (0..2).all(|axis| (0.0..grid[axis] as f64).contains(&cell[axis]));
        inside.then(|| Self::Patch(cell.map(|index| index as usize)))
    }

    /// How much each token counts as a query in a layer's attention, \[tokens\]; they sum to 1. For an attention pool it
    /// is what its own query attends to, which is not known here: zeros.
    pub fn weights(self, c: &Config) -> Vec<f64> {
        let mut weights = vec![0.0; c.tokens()];
        match self {
            Self::Class => weights[0] = 1.0,
            Self::Patch([row, column]) => weights[c.prefix() + row * c.grid()[1] + column] = 1.0,
            Self::Patches => weights[c.prefix()..].fill(1.0 / c.patches() as f64),
            Self::Pool => {}
        }
        weights
    }
}

/// For each patch: `None` if its centre is on padding, else whether it is at the border of the patches that are not.
pub fn places(c: &Config, view: &View) -> Vec<Option<bool>> {
    let [height, width] = view.picture().map(|side| side as f64);
    let grid = c.grid();
    let on_picture = |row: i64, column: i64| {
        let inside = (0..grid[0] as i64).contains(&row) && (0..grid[1] as i64).contains(&column);
        let centre = [(row as f64 + 0.5) * c.patch[0] as f64, (column as f64 + 0.5) * c.patch[1] as f64];
        let [y, x] = view.to_picture(centre);
        inside && (0.0..height).contains(&y) && (0.0..width).contains(&x)
    };
    let place = |index: usize| {
        let (row, column) = ((index / grid[1]) as i64, (index % grid[1]) as i64);
        let around = [(-1, 0), (1, 0), (0, -1), (0, 1)];
        on_picture(row, column).then(|| !around.iter().all(|(y, x)| on_picture(row + y, column + x)))
    };
    (0..c.patches()).map(place).collect()
}
