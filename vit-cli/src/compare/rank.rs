//! Measures how much is gained by keeping each kind of matrix, and each layer, in f32.
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use glob::Pattern;
use serde::Serialize;
use vit_engine::file::Loaded;
use vit_engine::{LayerMatrix, Output, ThreadPool};

use super::Args;
use super::difference::Noise;
use crate::options::LoadOptions;
use crate::{model, output};

/// The most pictures to measure with. They are evenly spaced among all pictures.
pub(super) const MOST: usize = 64;

/// The pictures to measure with.
#[derive(Default)]
pub(super) struct Sample {
    pub(super) pictures: usize,
    pub(super) pixels: Vec<f32>,
    /// The [`main_output`](super::subject::main_output) of the first model.
    pub(super) want: Vec<f32>,
    /// Height and width of the images, if they may differ from the model's.
    pub(super) size: Option<[usize; 2]>,
}

impl Sample {
    pub(super) fn add(&mut self, pixels: &[f32], want: &[f32]) {
        self.pictures += 1;
        self.pixels.extend(pixels);
        self.want.extend(want);
    }
}

/// The gain of keeping a group of matrices in f32.
#[derive(Serialize)]
pub(super) struct Kept {
    pub(super) keep_f32: String,
    /// Signal to noise of the output on the sample; null if nothing differs.
    pub(super) snr_db: f64,
    /// The signal to noise gained.
    pub(super) gain_db: f64,
    pub(super) more_weight_bytes: usize,
}

/// Quantises the model again for each group of matrices that is kept in f32. The best group is first.
pub(super) fn measure(
    args: &Args,
    pool: &Arc<ThreadPool>,
    second: &Arc<Loaded>,
    features: Output,
    sample: &Sample,
) -> Result<Vec<Kept>> {
    let noise = |loaded: Arc<Loaded>| -> Result<f64> {
        let size = (sample.pictures.min(super::found::BATCH), sample.size);
        let mut session = model::session_on(pool, loaded, &args.model.run, features, size)?;
        let mut noise = Noise::default();
        let parts = sample.pixels.chunks(size.0 * session.image_len());
        for (pixels, want) in parts.zip(sample.want.chunks(size.0 * session.output_len(1))) {
            noise.add(want, &model::output(&mut session, pixels)?);
        }
        Ok(noise.decibels())
    };
    let (plain, plain_bytes) = (noise(Arc::clone(second))?, second.weights().len());
    let groups = groups(second);
    let progress = output::progress(groups.len(), "groups of matrices");
    let mut ranking = Vec::new();
    for group in groups {
        let mut how: LoadOptions = args.model.source.how.clone();
        how.keep_f32.push(Pattern::new(&group).context("a pattern")?);
        let loaded = Arc::new(model::open(args.model.source.model.as_deref(), &how)?);
        let more_weight_bytes = loaded.weights().len().saturating_sub(plain_bytes);
        let snr_db = noise(loaded)?;
        ranking.push(Kept { keep_f32: group, snr_db, gain_db: snr_db - plain, more_weight_bytes });
        progress.inc(1);
    }
    progress.finish_and_clear();
    ranking.sort_by(|a, b| b.gain_db.total_cmp(&a.gain_db));
    Ok(ranking)
}

/// Checks that there is a checkpoint to quantise, and something to keep in f32.
pub(super) fn check(first: &Loaded, second: &Loaded) -> Result<()> {
    ensure!(!first.is_packed(), "--rank quantises the model again, and a packed file cannot be: give its checkpoint");
    ensure!(!groups(second).is_empty(), "--rank: every matrix of the layers is f32 already");
    Ok(())
}

/// Patterns for each kind of matrix and for each layer that are not yet kept in f32 as a whole.
fn groups(second: &Loaded) -> Vec<String> {
    let config = second.config();
    if second.precision() == vit_engine::Precision::F32 {
        return Vec::new();
    }
    let kept = second.formats().keep_f32();
    let mut groups = Vec::new();
    for matrix in LayerMatrix::all(config).filter(|matrix| !kept.contains(*matrix)) {
        let name = matrix.to_string();
        let kind = name.rsplit('.').next().unwrap_or_default();
        for group in [format!("blk.*.{kind}"), format!("blk.{}.*", matrix.layer())] {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
    }
    groups
}
