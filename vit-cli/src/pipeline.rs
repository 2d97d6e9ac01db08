//! Runs a model on pictures, batch by batch. While one batch is computed, the next one is decoded.
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use vit_engine::ThreadPool;

use crate::memory;

/// The time that a run took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Times {
    /// Time from the first picture to the last result.
    pub(crate) seconds: f64,
    /// Time of decoding and resizing, summed over all threads.
    pub(crate) decode_seconds: f64,
    /// Time during which at least one thread was decoding.
    pub(crate) decode_wall_seconds: f64,
    /// Time of computing, during which the next pictures are decoded.
    pub(crate) compute_seconds: f64,
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seconds, decode_seconds, compute_seconds, .. } = self;
        write!(f, "{seconds:.2} s: computing {compute_seconds:.2} s, decoding {decode_seconds:.2} s meanwhile")
    }
}

/// A batch of pictures.
pub(crate) struct Batch {
    /// The range of these pictures among all pictures.
    pub(crate) range: Range<usize>,
    /// The pixels, \[pictures, `len`\]. Those of a failed picture are undefined.
    pub(crate) pixels: Vec<f32>,
    /// The result for each picture.
    pub(crate) results: Vec<Result<()>>,
}

impl Batch {
    /// Moves the pixels of the pictures that could be read to the front, and returns them.
    pub(crate) fn readable(&mut self) -> &[f32] {
        let len = self.pixels.len() / self.results.len().max(1);
        let mut good = 0;
        for (i, result) in self.results.iter().enumerate() {
            if result.is_ok() {
                self.pixels.copy_within(i * len..(i + 1) * len, good * len);
                good += 1;
            }
        }
        &self.pixels[..good * len]
    }
}

/// Prepares the pictures `0..count` with `prepare`, `len` elements each, and passes them to `compute` in order.
///
/// The next batch is decoded while this one is computed, by a thread beside those of the pool, which join it where they
/// have nothing to compute, and help to compute where nothing is left to decode. There are never more than two batches.
pub(crate) fn run(
    pool: &ThreadPool,
    (count, size, len): (usize, usize, usize),
    prepare: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
    mut compute: impl FnMut(&mut Batch) -> Result<()>,
) -> Result<Times> {
    let (start, mut computing) = (Instant::now(), Duration::ZERO);
    // The sum over all threads, and the time by the clock.
    let (decoding, decoding_wall) = (Mutex::new(Duration::ZERO), Mutex::new(Duration::ZERO));
    let empty = |first: usize, most: usize| -> Result<Batch> {
        let range = first.min(count)..(first + most.min(size)).min(count);
        let pixels = memory::zeros("the pixels of a batch", &[range.len(), len])?;
        Ok(Batch { pixels, results: range.clone().map(|_| Ok(())).collect(), range })
    };
    let decode = |batch: &mut Batch| {
        let start = Instant::now();
        let mut pictures: Vec<_> = batch.pixels.chunks_exact_mut(len).zip(&mut batch.results).collect();
        pool.for_each(&mut pictures, |i, (pixels, result)| {
            let start = Instant::now();
            **result = prepare(batch.range.start + i, pixels);
            add(&decoding, start);
        });
        add(&decoding_wall, start);
    };
    // Nothing can be computed before the first batch is decoded, so the first ones are small.
    let mut next = empty(0, pool.threads())?;
    decode(&mut next);
    while !next.range.is_empty() {
        let following = empty(next.range.end, 2 * next.range.len())?;
        let mut batch = std::mem::replace(&mut next, following);
        std::thread::scope(|scope| {
            if !next.range.is_empty() {
                let thread = std::thread::Builder::new().spawn_scoped(scope, || decode(&mut next));
                thread.context("cannot start a thread")?;
            }
            let start = Instant::now();
            let result = compute(&mut batch);
            computing += start.elapsed();
            result
        })?;
    }
    let seconds = |time: Mutex<Duration>| time.into_inner().unwrap_or_default().as_secs_f64();
    Ok(Times {
        seconds: start.elapsed().as_secs_f64(),
        decode_seconds: seconds(decoding),
        decode_wall_seconds: seconds(decoding_wall),
        compute_seconds: computing.as_secs_f64(),
    })
}

/// Adds the time since `start`.
fn add(sum: &Mutex<Duration>, start: Instant) {
    *sum.lock().unwrap_or_else(PoisonError::into_inner) += start.elapsed();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_once_and_in_order() {
        for threads in [1, 2, 3] {
            let pool = ThreadPool::new(threads).unwrap();
            for count in [0, 1, 4, 5, 17] {
                let prepare = |index: usize, pixels: &mut [f32]| {
                    pixels.fill(index as f32);
                    anyhow::ensure!(index % 7 != 3, "a broken picture");
                    Ok(())
                };
                let mut seen = Vec::new();
                let times = run(&pool, (count, 4, 2), prepare, |batch| {
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

    #[test]
    fn a_batch_too_large_is_an_error() {
        let pool = ThreadPool::new(1).unwrap();
        let error = run(&pool, (4, 4, usize::MAX / 4), |_, _| Ok(()), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("bytes for the pixels of a batch"), "{error}");
    }
}
