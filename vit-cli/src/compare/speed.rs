//! Measures the speed of both models on this machine.
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use vit_engine::file::Loaded;
use vit_engine::{Output, Session, ThreadPool};

use crate::model;
use crate::options::RunOptions;

#[derive(Serialize)]
pub(super) struct Speed {
    pub(super) features: String,
    /// The median time of a picture in ms, for each model.
    pub(super) median_ms: [f64; 2],
    /// The time of the first model ÷ the time of the second: the median over the rounds.
    pub(super) ratio: f64,
    pub(super) rounds: usize,
    pub(super) isa: &'static str,
    pub(super) threads: usize,
    /// The bytes of arena of each model.
    #[serde(skip)]
    pub(super) arena_bytes: [usize; 2],
}

/// Runs both models on one picture in turn for at least `seconds`. So both are measured under the same conditions.
pub(super) fn measure(
    pool: &Arc<ThreadPool>,
    models: [&Arc<Loaded>; 2],
    run: &RunOptions,
    features: Output,
    (picture, size): (&[f32], Option<[usize; 2]>),
    seconds: f64,
) -> Result<Speed> {
    /// The number of rounds that are not measured, and the least number that are.
    const WARM_UP: usize = 3;
    const LEAST: usize = 11;
    let session = |loaded: &Arc<Loaded>| model::session_on(pool, Arc::clone(loaded), run, features, (1, size));
    let mut sessions = [session(models[0])?, session(models[1])?];
    let mut out = vec![0.0; sessions[0].output_len(1)];
    let mut pass = |session: &mut Session| -> Result<f64> {
        let start = Instant::now();
        session.forward(picture, &mut out)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let mut times: [Vec<f64>; 2] = Default::default();
    let mut ratios = Vec::new();
    let start = Instant::now();
    for round in 0.. {
        if round >= WARM_UP + LEAST && start.elapsed().as_secs_f64() >= seconds {
            break;
        }
        // The order changes every round, so that neither model is always first.
        let mut ms = [0.0; 2];
        for i in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            ms[i] = pass(&mut sessions[i])?;
        }
        if round >= WARM_UP {
            ratios.push(ms[0] / ms[1]);
            times.iter_mut().zip(ms).for_each(|(times, ms)| times.push(ms));
        }
    }
    let [first, second] = &mut times;
    Ok(Speed {
        features: features.to_string(),
        median_ms: [median(first), median(second)],
        ratio: median(&mut ratios),
        rounds: ratios.len(),
        isa: run.isa().name(),
        threads: pool.threads(),
        arena_bytes: [0, 1].map(|i| sessions[i].arena_bytes()),
    })
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
