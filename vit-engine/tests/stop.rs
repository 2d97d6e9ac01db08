//! A forward pass that is stopped ends before its next job, and leaves an arena that can be used again.
mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use support::golden;
use vit_engine::{
    Executor, ForwardError, Job, Output, Precision, Serial, Session, SessionError, SessionOptions, Stage, Stoppable,
    Team, ThreadPool,
};

/// Counts the jobs that run.
struct Counting<'a>(&'a dyn Executor, &'a AtomicUsize);

struct CountingTeam<'a>(&'a dyn Team, &'a AtomicUsize);

impl Executor for Counting<'_> {
    fn enter(&self, pass: &mut (dyn FnMut(&dyn Team) + Send)) {
        self.0.enter(&mut |team| pass(&CountingTeam(team, self.1)));
    }
}

impl Team for CountingTeam<'_> {
    fn run(&self, stage: Stage, job: &mut (dyn Job + '_)) {
        self.1.fetch_add(1, Relaxed);
        self.0.run(stage, job);
    }
}

#[test]
fn after_any_job() {
    let stopped = Err(SessionError::Forward(ForwardError::Stopped));
    let pool = ThreadPool::new(3).unwrap();
    for (name, output) in [
        ("timm-token", Output::Logits),
        ("timm-token", Output::Patches),
        ("timm-token", Output::Attention),
        ("siglip-model", Output::Embedding),
    ] {
        let golden = golden(name);
        let pixels = golden.tensor("pixels").unwrap();
        for precision in [Precision::F32, Precision::Int8] {
            let loaded = Arc::new(golden.load(precision));
            let options = SessionOptions { output, batch: pixels.shape[0], ..Default::default() };
            let mut session = Session::new(loaded, options).unwrap();
            let mut want = vec![0.0; session.output_len(pixels.shape[0])];
            let mut out = want.clone();
            for executor in [&Serial as &dyn Executor, &pool] {
                let jobs = AtomicUsize::new(0);
                session.forward_on(&Counting(executor, &jobs), &pixels.data, &mut want).unwrap();
                let all = jobs.load(Relaxed);
                assert!(all > 10, "{all} jobs");
                for most in (0..all).step_by(1 + all / 40) {
                    let (asked, jobs) = (AtomicUsize::new(0), AtomicUsize::new(0));
                    // True once, and then never again: a pass that has left out a job does not go on.
                    let stop = || asked.fetch_add(1, Relaxed) == most;
                    let executor = Stoppable { executor: &Counting(executor, &jobs), stop: &stop };
                    assert_eq!(session.forward_on(&executor, &pixels.data, &mut out), stopped);
                    assert_eq!((jobs.load(Relaxed), asked.load(Relaxed)), (most, most + 1), "{name}");
                    out.fill(f32::NAN);
                    session.forward(&pixels.data, &mut out).unwrap();
                    assert!(out == want, "{name}: other bits after a pass that was stopped");
                }
                // When all jobs have run, the pass is complete.
                let asked = AtomicUsize::new(0);
                let stop = || asked.fetch_add(1, Relaxed) >= all;
                out.fill(f32::NAN);
                session.forward_on(&Stoppable { executor, stop: &stop }, &pixels.data, &mut out).unwrap();
                assert!(out == want && asked.load(Relaxed) == all);
            }
        }
    }
}

/// A source of pixels is not asked for images that nobody computes.
#[test]
fn pixels_of_later_images_are_not_read() {
    let golden = golden("timm-token");
    let loaded = golden.load(Precision::F32);
    let model = loaded.model(vit_engine::Isa::best());
    // The smallest budget takes one image at a time.
    let least = vit_engine::arena_bytes(model.config(), Precision::F32, 1, 1);
    let plan = model.plan(Output::Logits, 8, least).unwrap();
    assert_eq!(plan.images(), 1);
    let mut arena = vit_engine::AlignedBox::new(plan.arena_bytes()).unwrap();
    let mut last = 0;
    let mut pixels = |image: usize, _: usize, strip: &mut [f32]| -> Result<(), std::convert::Infallible> {
        last = image;
        strip.fill(0.5);
        Ok(())
    };
    let asked = AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, Relaxed) > 20;
    let executor = Stoppable { executor: &Serial, stop: &stop };
    let mut out = vec![0.0; plan.output_len()];
    let result = model.forward(&plan, &mut pixels, &mut arena, &executor, &mut out);
    assert_eq!(result, Err(ForwardError::Stopped));
    assert!(last < 7, "image {last}");
}
