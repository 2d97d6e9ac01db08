//! `vit bench --profile`: the time of each stage of a forward pass.
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use serde::Serialize;
use vit_engine::{Executor, Plan, Stage, Team, ThreadPool};
use vit_kernels::{Inputs, Isa, Job, activate, activate_for_int8, softmax};

use super::median;

/// The time that the parts of a pass take.
#[derive(Serialize)]
pub(super) struct Profile {
    pub(super) stages: Vec<Row>,
    /// The parts that are fused into stages, timed separately on one thread, with the same number of elements, in
    /// cache.
    pub(super) fused: Vec<Row>,
    /// Share of the pass outside matrix products: norms, the rest, and the fused parts.
    pub(super) other_than_matmul: f64,
}

#[derive(Serialize)]
pub(super) struct Row {
    pub(super) stage: String,
    pub(super) ms: f64,
    /// `None` for stages without matrix products.
    pub(super) gflops: Option<f64>,
    /// Share of the whole pass.
    pub(super) share: f64,
}

/// Runs `pass` for about `seconds` on `pool` and measures the time of each job.
pub(super) fn profile<E>(
    pool: &ThreadPool,
    isa: Isa,
    plan: &Plan,
    seconds: f64,
    mut pass: impl FnMut(&Timed<'_>) -> Result<(), E>,
) -> Result<Profile, E> {
    let timed = Timed { pool, spent: Mutex::new([0.0; STAGES]) };
    let (mut totals, mut spent): (Vec<f64>, Vec<[f64; STAGES]>) = Default::default();
    let start = Instant::now();
    while totals.len() < 5 || start.elapsed().as_secs_f64() < seconds {
        *timed.lock() = [0.0; STAGES];
        let start = Instant::now();
        pass(&timed)?;
        totals.push(start.elapsed().as_secs_f64() * 1e3);
        spent.push(*timed.lock());
    }
    let total = median(&mut totals);
    let row = |stage: String, ms: f64, macs: u64| Row {
        stage,
        ms,
        gflops: (macs > 0).then_some(2.0 * macs as f64 / ms / 1e6),
        share: ms / total,
    };
    let mut stages: Vec<Row> = Stage::ALL
        .into_iter()
        .enumerate()
        .map(|(i, stage)| {
            let ms = median(&mut spent.iter().map(|spent| spent[i]).collect::<Vec<_>>());
            row(format!("{stage:?}"), ms, plan.stage_macs(stage))
        })
        .collect();
    let rest = (total - stages.iter().map(|row| row.ms).sum::<f64>()).max(0.0);
    stages.push(row("Rest".into(), rest, 0));
    let fused = fused(pool, isa, plan).into_iter().map(|(name, ms)| row(name, ms, 0)).collect::<Vec<_>>();
    let other = stages.iter().filter(|row| row.gflops.is_none() && row.ms > 0.0).chain(&fused).map(|row| row.share);
    Ok(Profile { other_than_matmul: other.sum(), stages, fused })
}

/// Times GELU and softmax on as many elements as in a pass, in blocks that stay in L1.
fn fused(pool: &ThreadPool, isa: Isa, plan: &Plan) -> [(String, f64); 2] {
    const BLOCK: usize = 4096;
    let c = plan.config();
    let ms = |elements: u64, run: &dyn Fn(&mut [f32])| {
        let mut best = f64::INFINITY;
        for _ in 0..20 {
            let mut block: Vec<f32> = (0..BLOCK).map(|i| (i % 61) as f32 / 10.0 - 3.0).collect();
            let start = Instant::now();
            run(black_box(&mut block));
            best = best.min(start.elapsed().as_secs_f64() * 1e3);
        }
        best * elements as f64 / BLOCK as f64 / pool.threads() as f64
    };
    let hidden = plan.stage_macs(Stage::Up) / c.dim as u64;
    let scores = plan.stage_macs(Stage::Attention) / (2 * c.head_dim) as u64;
    let by_softmax = |block: &mut [f32]| softmax(isa, block, 256).expect("a block is whole rows");
    let activate = if plan.precision().inputs() == Inputs::F32 { activate } else { activate_for_int8 };
    [
        ("GELU, within Up".into(), ms(hidden, &|block| activate(isa, c.activation, block))),
        ("Softmax, within Attention".into(), ms(scores, &by_softmax)),
    ]
}

const STAGES: usize = Stage::ALL.len();

/// An executor that records the time of each stage's jobs.
pub(super) struct Timed<'a> {
    pool: &'a ThreadPool,
    spent: Mutex<[f64; STAGES]>,
}

impl Timed<'_> {
    fn lock(&self) -> std::sync::MutexGuard<'_, [f64; STAGES]> {
        self.spent.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Executor for Timed<'_> {
    fn enter(&self, pass: &mut (dyn FnMut(&dyn Team) + Send)) {
        self.pool.enter(&mut |team| pass(&Clock { team, timed: self }));
    }
}

/// A team that measures the time of its jobs.
struct Clock<'a> {
    team: &'a dyn Team,
    timed: &'a Timed<'a>,
}

impl Team for Clock<'_> {
    fn run(&self, stage: Stage, job: &mut (dyn Job + '_)) {
        let start = Instant::now();
        self.team.run(stage, job);
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let index = Stage::ALL.iter().position(|known| *known == stage).expect("ALL has every stage");
        self.timed.lock()[index] += ms;
    }
}
