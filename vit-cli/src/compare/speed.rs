//! How fast both models are on this machine.
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
    /// Milliseconds of a picture, of the first model and of the second: medians.
    pub(super) median_ms: [f64; 2],
    /// How many times as fast the second is: the median of the rounds' ratios.
    pub(super) ratio: f64,
    pub(super) rounds: usize,
    pub(super) isa: &'static str,
    pub(super) threads: usize,
    /// The arenas of these passes.
    #[serde(skip)]
    pub(super) arena_bytes: [usize; 2],
}

/// Passes of both models over one picture in turn, so that both see the same machine, for at least `seconds`.
pub(super) fn measure(
    pool: &Arc<ThreadPool>,
    models: [&Arc<Loaded>; 2],
    run: &RunOptions,
    features: Output,
    (picture, size): (&[f32], Option<[usize; 2]>),
    seconds: f64,
) -> Result<Speed> {
    /// Passes before the first that counts, and rounds at least.
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
        // The first of a round finds the caches as the other left them: they change places.
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
