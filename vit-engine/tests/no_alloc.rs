//! A forward pass allocates nothing, on any thread.
#![allow(unsafe_code)] // A global allocator is.
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use support::golden;
use vit_engine::{AlignedBox, Executor, Images, Isa, Output, Precision, Serial, Session, SessionOptions, ThreadPool};

/// Counts what every thread of the process asks of the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const ROUNDS: usize = 1000;

fn allocations(executor: &dyn Executor) -> u64 {
    let mut worst = 0;
    for name in ["vp-middle-mean", "timm-token", "timm-siglip-tanh", "timm-beit", "eva02-base", "timm-qk-norm"] {
        let golden = golden(name);
        let pixels = golden.tensor("pixels").unwrap();
        for precision in Precision::ALL {
            let loaded = golden.load(precision);
            let (model, c) = (loaded.model(Isa::best()), *loaded.config());
            let kinds = [
                Output::Logits,
                Output::Embedding,
                Output::Patches,
                Output::Layers,
                Output::Attention,
                Output::PoolAttention,
            ];
            for output in kinds.into_iter().filter(|output| output.len(&c).is_some()) {
                let plan = model.plan(output, 2, None).unwrap();
                let mut arena = AlignedBox::new(plan.arena_bytes()).unwrap();
                let mut out = vec![0.0; plan.output_len()];
                let mut images = Images::new(&pixels.data, [c.channels, c.image[0], c.image[1]]).unwrap();
                let mut forward = || model.forward(&plan, &mut images, &mut arena, executor, &mut out).unwrap();
                (0..50).for_each(|_| forward());
                let before = ALLOCATIONS.load(Ordering::SeqCst);
                (0..ROUNDS).for_each(|_| forward());
                worst = worst.max(ALLOCATIONS.load(Ordering::SeqCst) - before);
            }
        }
    }
    worst
}

/// A session's, at another size of image than the model's own and with batches of changing sizes.
fn allocations_of_a_session(pool: ThreadPool) -> u64 {
    let loaded = golden("dinov2-model").load(Precision::F32);
    let options = SessionOptions {
        output: Output::Patches,
        image: Some([22, 17]),
        batch: 3,
        executor: std::sync::Arc::new(pool),
        ..Default::default()
    };
    let mut session = Session::new(loaded, options).unwrap();
    let pixels = vec![0.5; 3 * session.image_len()];
    let mut out = vec![0.0; session.output_len(3)];
    let mut forward = |batch: usize| {
        let (pixels, out) = (&pixels[..batch * session.image_len()], &mut out[..batch * session.output_len(1)]);
        session.forward(pixels, out).unwrap();
    };
    (0..50).for_each(|i| forward(1 + i % 3));
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    (0..ROUNDS).for_each(|i| forward(1 + i % 3));
    ALLOCATIONS.load(Ordering::SeqCst) - before
}

// Without the test harness, whose own threads would be counted.
fn main() {
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    drop(std::hint::black_box(vec![1u8; 10]));
    assert!(ALLOCATIONS.load(Ordering::SeqCst) > before, "the counter does not count");
    assert_eq!(allocations(&Serial), 0);
    println!("no allocations in {ROUNDS} forward passes on one thread");

    let pool = ThreadPool::new(2).unwrap();
    // Threads allocate as they start: wait until both are there.
    let both = std::sync::Barrier::new(2);
    pool.for_each(&mut [(); 2], |_, ()| {
        both.wait();
    });
    assert_eq!(allocations(&pool), 0);
    println!("no allocations in {ROUNDS} forward passes on two threads");
    assert_eq!(allocations_of_a_session(pool), 0);
    println!("no allocations in {ROUNDS} forward passes of a session");
    println!("3 passed, 0 failed");
}
