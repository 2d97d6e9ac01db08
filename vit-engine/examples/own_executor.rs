//! A forward pass on threads of one's own, by an [`Executor`] over `std::thread::scope`:
//!
//! ```sh
//! cargo run -p vit-engine --example own_executor
//! ```
//! An executor is how the engine runs on a thread pool, an RTOS or a second core. This one starts threads for every job,
//! which takes tens of microseconds each time; [`ThreadPool`](vit_engine::ThreadPool) keeps its threads.
use std::convert::Infallible;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};

use vit_engine::{
    AlignedBox, Config, Executor, Isa, Model, Output, Param, Precision, Serial, Source, Stage, Team, Values,
};
use vit_kernels::Job;

/// This many threads, the caller's among them.
struct Threads(usize);

impl Executor for Threads {
    /// Called once for each forward pass: the place to gather threads that stay for all its jobs.
    fn enter(&self, pass: &mut (dyn FnMut(&dyn Team) + Send)) {
        pass(self);
    }
}

impl Team for Threads {
    /// Runs every task of a job's grid once, and returns when all have ended.
    fn run(&self, _: Stage, job: &mut (dyn Job + '_)) {
        let [rows, columns] = job.grid();
        let job: &(dyn Job + '_) = job; // Threads share it: a `Job` is `Sync`.
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= rows * columns {
                    return;
                }
                // SAFETY: the counter gives each number to one thread, once, so no two calls are for the same task.
                unsafe { job.task(task % rows, task / rows) };
            }
        };
        let helpers = self.0.min(rows * columns).saturating_sub(1);
        std::thread::scope(|scope| {
            for _ in 0..helpers {
                scope.spawn(work);
            }
            work();
        });
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let config = Config { classes: 10, ..Config::plain([64, 64], [8, 8], 64, 2, 4) };
    let mut weights = AlignedBox::new(Model::bytes(&config, Precision::F32)?)?;
    Model::fill(&config, Precision::F32, &Waves, &mut weights)?;
    let model = Model::new(&config, Precision::F32, Isa::best(), &weights)?;

    let plan = model.plan(Output::Logits, 4, None)?;
    let logits = |executor: &dyn Executor| -> Result<Vec<f32>, Box<dyn Error>> {
        let mut arena = AlignedBox::new(plan.arena_bytes())?;
        let mut logits = vec![0.0; plan.output_len()];
        let mut pixels = |image: usize, top: usize, strip: &mut [f32]| {
            strip.iter_mut().enumerate().for_each(|(i, x)| *x = ((image + top + i) % 13) as f32 / 6.0 - 1.0);
            Ok::<(), Infallible>(())
        };
        model.forward(&plan, &mut pixels, &mut arena, executor, &mut logits)?;
        Ok(logits)
    };
    let (one, four) = (logits(&Serial)?, logits(&Threads(4))?);
    // How the work is cut does not depend on the threads, and so the bits do not either.
    assert!(one.iter().zip(&four).all(|(a, b)| a.to_bits() == b.to_bits()), "the executor changed the result");
    println!("the same bits on one thread and on four: {:?} ...", &four[..3]);
    Ok(())
}

/// Weights to compute with.
struct Waves;

impl Source for Waves {
    type Error = Infallible;

    fn open(&self, _: Param, [_, inputs]: [usize; 2]) -> Result<impl Values, Infallible> {
        Ok(move |row: usize, start: usize, into: &mut [f32]| {
            let wave = |column: usize| ((row * 31 + column * 7) as f32).sin() / (inputs as f32).sqrt();
            into.iter_mut().enumerate().for_each(|(i, x)| *x = wave(start + i));
        })
    }
}
