//! Pictures through a model, batch by batch: while one batch is computed, the next one is decoded.
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::session::Workers;

/// Where the time went.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Times {
    /// From the first picture to the last answer.
    pub(crate) seconds: f64,
    /// Decoding and resizing, all threads' time added up.
    pub(crate) decode_seconds: f64,
    /// Computing, during which the next pictures were decoded.
    pub(crate) compute_seconds: f64,
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seconds, decode_seconds, compute_seconds } = self;
        write!(f, "{seconds:.2} s: computing {compute_seconds:.2} s, decoding {decode_seconds:.2} s meanwhile")
    }
}

/// A batch of pictures.
pub(crate) struct Batch {
    /// Which of all pictures.
    pub(crate) range: Range<usize>,
    /// \[pictures, `len` elements each\]; what a picture that failed left is of no use.
    pub(crate) pixels: Vec<f32>,
    /// What came of each.
    pub(crate) results: Vec<Result<()>>,
}

/// Prepares pictures 0 to `count` by `prepare`, `len` elements each, and hands them to `compute` in order.
///
/// With several threads the pool decodes the next batch while this one is computed: whichever thread has nothing left to
/// decode helps to compute.
pub(crate) fn run(
    workers: &Workers,
    (count, size, len): (usize, usize, usize),
    prepare: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
    mut compute: impl FnMut(&mut Batch) -> Result<()>,
) -> Result<Times> {
    let (start, decoding, mut computing) = (Instant::now(), Mutex::new(Duration::ZERO), Duration::ZERO);
    let empty = |first: usize| {
        let range = first.min(count)..(first + size).min(count);
        let (pixels, results) = (vec![0.0; range.len() * len], range.clone().map(|_| Ok(())).collect());
        Batch { range, pixels, results }
    };
    let one = |index: usize, pixels: &mut [f32], result: &mut Result<()>| {
        let start = Instant::now();
        *result = prepare(index, pixels);
        *decoding.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += start.elapsed();
    };
    let one = &one;
    let mut next = empty(0);
    workers.scope(|scope| prepare_all(scope, &mut next, len, one));
    while !next.range.is_empty() {
        let following = empty(next.range.end);
        let mut batch = std::mem::replace(&mut next, following);
        let computed = workers.scope(|scope| {
            prepare_all(scope, &mut next, len, one);
            let start = Instant::now();
            let result = compute(&mut batch);
            computing += start.elapsed();
            result
        });
        computed?;
    }
    let decode_seconds = decoding.into_inner().unwrap_or_default().as_secs_f64();
    Ok(Times { seconds: start.elapsed().as_secs_f64(), decode_seconds, compute_seconds: computing.as_secs_f64() })
}

/// Has every picture of a batch prepared: by the scope's pool, or at once if there is none.
fn prepare_all<'s>(
    scope: Option<&rayon::Scope<'s>>,
    batch: &'s mut Batch,
    len: usize,
    one: &'s (impl Fn(usize, &mut [f32], &mut Result<()>) + Sync),
) {
    let pictures = batch.pixels.chunks_exact_mut(len).zip(&mut batch.results);
    for (index, (pixels, result)) in batch.range.clone().zip(pictures) {
        match scope {
            Some(scope) => scope.spawn(move |_| one(index, pixels, result)),
            None => one(index, pixels, result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_once_and_in_order() {
        for threads in [1, 2, 3] {
            let workers = Workers::new(threads).unwrap();
            for count in [0, 1, 4, 5, 17] {
                let prepare = |index: usize, pixels: &mut [f32]| {
                    pixels.fill(index as f32);
                    anyhow::ensure!(index % 7 != 3, "a broken picture");
                    Ok(())
                };
                let mut seen = Vec::new();
                let times = run(&workers, (count, 4, 2), prepare, |batch| {
                    for (i, index) in batch.range.clone().enumerate() {
                        assert_eq!(batch.pixels[2 * i..2 * i + 2], [index as f32; 2]);
                        assert_eq!(batch.results[i].is_err(), index % 7 == 3);
                        seen.push(index);
                    }
                    Ok(())
                });
                assert!(times.unwrap().seconds >= 0.0);
                assert_eq!(seen, (0..count).collect::<Vec<_>>());
            }
        }
    }
}
