//! Classifies pictures, and prints the three likeliest classes of each:
//!
//! ```sh
//! cargo run -p vit-engine --example classify -- vit-cli/models/fashion-vit vit-cli/models/fashion-vit/samples/*.png
//! ```
use std::error::Error;
use std::path::PathBuf;

use vit_engine::file::{Access, Checkpoint};
use vit_engine::{AlignedBox, Images, Isa, Output, Precision, ThreadPool};

mod picture;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let model = arguments.next().ok_or("usage: classify CHECKPOINT PICTURE...")?;
    let pictures: Vec<PathBuf> = arguments.collect();

    let loaded = Checkpoint::open(&model, Access::Map)?.load(Precision::F32)?;
    let model = loaded.model(Isa::best());
    let config = loaded.config();
    let pool = ThreadPool::new(std::thread::available_parallelism()?.get())?;

    // Everything that a forward pass needs is allocated once: the arena's size follows from the plan.
    let plan = model.plan(Output::Logits, 1, None)?;
    let mut arena = AlignedBox::new(plan.arena_bytes())?;
    let mut logits = vec![0.0; plan.output_len()]; // [1, classes]

    for path in &pictures {
        let pixels = picture::pixels(path, &loaded)?;
        let shape = [config.channels, config.image[0], config.image[1]];
        let mut images = Images::new(&pixels, shape)?;
        model.forward(&plan, &mut images, &mut arena, &pool, &mut logits)?;

        println!("{}", path.display());
        for (class, share) in top(&logits, 3) {
            println!("  {:5.1} %  {}", 100.0 * share, label(&loaded.labels, class));
        }
    }
    Ok(())
}

/// The likeliest classes and their probabilities: softmax over the logits.
fn top(logits: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut shares = logits.to_vec();
    vit_kernels::softmax(Isa::best(), &mut shares, logits.len()).expect("one row");
    let mut ranking: Vec<(usize, f32)> = shares.into_iter().enumerate().collect();
    ranking.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranking.truncate(count);
    ranking
}

/// A class's name; its number where the checkpoint has no names.
fn label(labels: &[String], class: usize) -> String {
    labels.get(class).cloned().unwrap_or_else(|| format!("class {class}"))
}
