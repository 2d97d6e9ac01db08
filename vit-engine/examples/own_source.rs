//! A model whose weights come from a [`Source`] of one's own, here a generator of small numbers:
//!
//! ```sh
//! cargo run -p vit-engine --example own_source
//! ```
//! A source hands over parameters row by row, in whatever order packing asks for them: it can decode a file format, read
//! flash, or generate. Neither files nor `std` are needed; [`AlignedBox`] could be a `static`.
use std::convert::Infallible;
use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};

use vit_engine::{AlignedBox, Config, Images, Isa, Model, Output, Param, Part, Precision, Serial, Source, Values};

/// Weights between −1/√inputs and 1/√inputs, which keeps the activations' size; biases are 0.
struct Generator {
    seed: u64,
}

impl Source for Generator {
    type Error = Infallible;

    /// Opens a parameter of shape \[outputs, inputs\]; vectors are \[1, len\].
    fn open(&self, param: Param, [_, inputs]: [usize; 2]) -> Result<impl Values, Infallible> {
        let seed = self.seed;
        let scale = if param.part == Part::Bias { 0.0 } else { 1.0 / (inputs as f32).sqrt() };
        // Any closure of this form is `Values`. It gives the same numbers whenever it is asked for the same place.
        Ok(move |row: usize, start: usize, into: &mut [f32]| {
            for (column, x) in (start..).zip(into) {
                let mut hasher = DefaultHasher::new();
                (seed, param, row, column).hash(&mut hasher);
                let uniform = (hasher.finish() >> 40) as f32 / (1u64 << 24) as f32;
                *x = scale * (2.0 * uniform - 1.0);
            }
        })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // 32×32 pixels, patches of 8×8, 3 layers of width 48, 4 heads.
    let config = Config { classes: 5, ..Config::plain([32, 32], [8, 8], 48, 3, 4) };
    let precision = Precision::F32;

    let mut weights = AlignedBox::new(Model::bytes(&config, precision)?)?;
    Model::fill(&config, precision, &Generator { seed: 1 }, &mut weights)?;
    let model = Model::new(&config, precision, Isa::best(), &weights)?;

    let plan = model.plan(Output::Logits, 1, None)?;
    let mut arena = AlignedBox::new(plan.arena_bytes())?;
    let mut logits = vec![0.0; plan.output_len()];
    let pixels: Vec<f32> = (0..3 * 32 * 32).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
    let mut images = Images::new(&pixels, [3, 32, 32])?;
    model.forward(&plan, &mut images, &mut arena, &Serial, &mut logits)?;
    println!("{} bytes of weights, {} of arena, logits {logits:?}", weights.len(), arena.len());
    Ok(())
}
