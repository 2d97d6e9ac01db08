//! What the fuzz targets of checkpoints share.
use std::convert::Infallible;

use vit_engine::file::{Checkpoint, Loaded};
use vit_engine::{AlignedBox, Isa, Model, Output, PlanError, Precision, Serial};

/// Models that need more are valid but slow: they are loaded, and not run.
const MOST_BYTES: usize = 16 << 20;
const MOST_MACS: u64 = 20_000_000;

/// Loads a checkpoint in every precision and runs what loads. Errors are fine, panics are not.
pub fn load_and_run(config: &[u8], weights: &[u8]) {
    let Ok(checkpoint) = Checkpoint::from_bytes(config, weights) else { return };
    for precision in Precision::ALL {
        match checkpoint.load(precision) {
            Ok(loaded) => {
                repack(&loaded);
                let model = loaded.model(Isa::best());
                let kinds = [Output::Logits, Output::Embedding, Output::Patches, Output::Layers, Output::Attention];
                for output in kinds.into_iter().chain([Output::PoolAttention]) {
                    run(&model, output);
                }
                let c = model.config();
                let larger = [c.image[0] + c.patch[0], c.image[1] + 2 * c.patch[1]];
                // Positions of huge grids are valid too, and take their time.
                if larger[0].saturating_mul(larger[1]) < 1 << 16 {
                    match loaded.model_at(Isa::best(), larger) {
                        Ok(model) => run(&model, Output::Embedding),
                        Err(error) => assert!(!error.to_string().is_empty()),
                    }
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// Written as a packed file and read again, it is the same model.
fn repack(loaded: &Loaded) {
    if loaded.weights().len() > MOST_BYTES {
        return;
    }
    let mut file = Vec::new();
    loaded.write_packed(&mut file).expect("memory takes everything");
    let again = Checkpoint::from_bytes(b"null", &file).and_then(|checkpoint| checkpoint.load(loaded.formats()));
    let again = again.expect("what was written can be read");
    assert_eq!(again.config(), loaded.config());
    assert!(again.weights() == loaded.weights());
}

/// One forward pass in the smallest arena.
fn run(model: &Model<'_>, output: Output) {
    let plan = |budget| model.plan(output, 1, Some(budget));
    let Err(PlanError::Budget { minimum, .. }) = plan(0) else { return };
    let plan = plan(minimum).expect("the minimum is enough");
    assert_eq!(plan.arena_bytes(), minimum);
    if minimum.max(model.weight_bytes()).max(plan.output_len()) > MOST_BYTES || plan.macs() > MOST_MACS {
        return;
    }
    let mut arena = AlignedBox::new(minimum).expect("a few megabytes");
    let mut out = vec![0.0; plan.output_len()];
    let mut pixels = |_: usize, top: usize, strip: &mut [f32]| {
        strip.iter_mut().enumerate().for_each(|(i, x)| *x = ((top + i) % 17) as f32 / 8.0 - 1.0);
        Ok::<(), Infallible>(())
    };
    model.forward(&plan, &mut pixels, &mut arena, &Serial, &mut out).expect("everything fits the plan");
}
