//! Many callers on one pool of threads, as in a server.
mod support;

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use support::{golden, run_plan};
use vit_engine::{AlignedBox, Isa, Output, Precision, Serial, ThreadPool};

/// Runs `work` on a thread of its own, and panics if that takes longer than any machine needs: it has hung.
fn within_a_minute(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = is_done.recv_timeout(Duration::from_secs(60)) {
        panic!("hung");
    }
    worker.join().unwrap();
}

/// Eight callers, fewer arenas than callers, each arena behind a lock that is held during a pass.
#[test]
fn eight_callers_on_one_pool_with_arenas_behind_locks() {
    within_a_minute(|| {
        let golden = golden("timm-token");
        let (loaded, pixels) = (golden.load(Precision::F32), golden.tensor("pixels").unwrap());
        let model = loaded.model(Isa::best());
        let c = *loaded.config();
        let plan = model.plan(Output::Logits, 2, None).unwrap();
        let want = run_plan(&model, &plan, &pixels.data, &Serial);
        for threads in [2, 3, 4, 8] {
            let pool = ThreadPool::new(threads).unwrap();
            let arenas: Vec<_> = (0..3).map(|_| Mutex::new(AlignedBox::new(plan.arena_bytes()).unwrap())).collect();
            std::thread::scope(|scope| {
                for caller in 0..8 {
                    let (pool, arenas, model, plan, pixels, want) = (&pool, &arenas, &model, &plan, &pixels, &want);
                    scope.spawn(move || {
                        for round in 0..100 {
                            let mut arena = arenas[(caller + round) % arenas.len()].lock().unwrap();
                            let shape = [c.channels, c.image[0], c.image[1]];
                            let mut images = vit_engine::Images::new(&pixels.data, shape).unwrap();
                            let mut out = vec![0.0; plan.output_len()];
                            model.forward(plan, &mut images, &mut arena, pool, &mut out).unwrap();
                            assert!(out == *want, "caller {caller}, round {round}, {threads} threads");
                        }
                    });
                }
            });
        }
    });
}

/// Pixels that wait for another thread, which itself runs a pass on the same pool, and that use the pool themselves.
#[test]
fn pixels_may_wait_for_other_passes_of_the_pool() {
    within_a_minute(|| {
        let golden = golden("timm-token");
        let (loaded, data) = (golden.load(Precision::F32), golden.tensor("pixels").unwrap());
        let model = loaded.model(Isa::best());
        let plan = model.plan(Output::Logits, 1, None).unwrap();
        for threads in [1, 2, 4] {
            let pool = ThreadPool::new(threads).unwrap();
            let mut pixels = |_: usize, _: usize, strip: &mut [f32]| {
                std::thread::scope(|scope| {
                    scope.spawn(|| run_plan(&model, &plan, &data.data, &pool)).join().map(drop).map_err(|_| "panicked")
                })?;
                pool.for_each(strip, |i, x| {
                    std::thread::yield_now();
                    *x = i as f32 / 1000.0;
                });
                Ok::<(), &str>(())
            };
            let mut arena = AlignedBox::new(plan.arena_bytes()).unwrap();
            let mut out = vec![f32::NAN; plan.output_len()];
            for _ in 0..20 {
                model.forward(&plan, &mut pixels, &mut arena, &pool, &mut out).unwrap();
            }
            assert!(out.iter().all(|x| x.is_finite()));
        }
    });
}
