//! Runs a model on pictures, batch by batch. While one batch is computed, the next one is decoded.
use core::fmt;
use core::ops::Range;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::threads::ThreadPool;

/// The time that a run took.
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub struct Times {
    /// Time from the first picture to the last result.
    pub seconds: f64,
    /// Time of decoding and resizing, summed over all threads.
    pub decode_seconds: f64,
    /// Time during which at least one thread was decoding.
    pub decode_wall_seconds: f64,
    /// Time of computing, during which the next pictures are decoded.
    pub compute_seconds: f64,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, decode_seconds, compute_seconds, .. } = self;
        write!(f, "{seconds:.2} s: computing {compute_seconds:.2} s, decoding {decode_seconds:.2} s meanwhile")
    }
}

/// A batch of pictures; `E` is why one cannot be read.
pub struct Batch<E> {
    /// The range of these pictures among all pictures.
    pub range: Range<usize>,
    /// The pixels, \[pictures, `len`\]. Those of a failed picture are undefined.
    pub pixels: Vec<f32>,
    /// The result for each picture.
    pub results: Vec<Result<(), E>>,
}

impl<E> Batch<E> {
    /// Moves the pixels of the pictures that could be read to the front, and returns them.
    pub fn readable(&mut self) -> &[f32] {
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

/// Prepares the pictures `0..count` with `prepare`, `len` elements each, and passes them to `compute` in order, in
/// batches of `size` (the first ones are smaller).
///
/// The next batch is decoded while this one is computed, by a thread beside those of the pool, which join it where they
/// have nothing to compute, and help to compute where nothing is left to decode. There are never more than two batches.
///
/// # Errors
/// The first error of `compute`, or if a batch cannot be allocated or a thread cannot be started.
///
/// # Example
/// ```
/// use vit_engine::{ThreadPool, pipeline};
///
/// let pool = ThreadPool::new(2)?;
/// let prepare = |picture: usize, pixels: &mut [f32]| match picture {
///     4 => Err("not a picture"),
///     _ => Ok(pixels.fill(picture as f32)),
/// };
/// let (mut sums, mut failed) = (Vec::new(), Vec::new());
/// pipeline::run(&pool, (10, 4, 3), prepare, |batch| {
///     let of = batch.range.clone().zip(&batch.results);
///     failed.extend(of.filter_map(|(picture, result)| result.err().map(|error| (picture, error))));
///     sums.extend(batch.readable().chunks(3).map(|pixels| pixels.iter().sum::<f32>())); // a forward pass
///     Ok::<(), pipeline::PipelineError>(())
/// })?;
/// assert_eq!(sums, [0.0, 3.0, 6.0, 9.0, 15.0, 18.0, 21.0, 24.0, 27.0]);
/// assert_eq!(failed, [(4, "not a picture")]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run<E: Send, F: From<PipelineError>>(
    pool: &ThreadPool,
    (count, size, len): (usize, usize, usize),
    prepare: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    mut compute: impl FnMut(&mut Batch<E>) -> Result<(), F>,
) -> Result<Times, F> {
    let (start, mut computing) = (Instant::now(), Duration::ZERO);
    // The sum over all threads, and the time by the clock.
    let (decoding, decoding_wall) = (Mutex::new(Duration::ZERO), Mutex::new(Duration::ZERO));
    let empty = |first: usize, most: usize| -> Result<Batch<E>, PipelineError> {
        let range = first.min(count)..(first + most.min(size)).min(count);
        let mut pixels = Vec::new();
        let elements = range.len().checked_mul(len).filter(|elements| pixels.try_reserve_exact(*elements).is_ok());
        pixels.resize(elements.ok_or(PipelineError::OutOfMemory { pictures: range.len(), len })?, 0.0);
        Ok(Batch { pixels, results: range.clone().map(|_| Ok(())).collect(), range })
    };
    let decode = |batch: &mut Batch<E>| {
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
                thread.map_err(PipelineError::Thread)?;
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

/// Why a pipeline cannot run.
#[derive(Debug)]
#[non_exhaustive]
pub enum PipelineError {
    /// The pixels of a batch cannot be allocated.
    OutOfMemory {
        /// The number of pictures.
        pictures: usize,
        /// The f32 elements of each.
        len: usize,
    },
    /// The thread that decodes cannot be started.
    Thread(io::Error),
}

impl fmt::Display for PipelineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { pictures, len } => {
                let bytes = (*pictures as u128).saturating_mul(*len as u128).saturating_mul(4);
                write!(f, "cannot allocate {bytes} bytes for the pixels of a batch")
            }
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl core::error::Error for PipelineError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::OutOfMemory { .. } => None,
            Self::Thread(error) => Some(error),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_picture_once_and_in_order() {
        for threads in [1, 2, 3] {
            let pool = ThreadPool::new(threads).unwrap();
            for count in [0, 1, 4, 5, 17] {
                let prepare = |index: usize, pixels: &mut [f32]| {
                    pixels.fill(index as f32);
                    if index % 7 == 3 { Err("a broken picture") } else { Ok(()) }
                };
                let mut seen = Vec::new();
                let times = run(&pool, (count, 4, 2), prepare, |batch| {
                    for (i, index) in batch.range.clone().enumerate() {
                        assert_eq!(batch.pixels[2 * i..2 * i + 2], [index as f32; 2]);
                        assert_eq!(batch.results[i].is_err(), index % 7 == 3);
                        seen.push(index);
                    }
                    Ok::<_, PipelineError>(())
                });
                assert!(times.unwrap().seconds >= 0.0);
                assert_eq!(seen, (0..count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_batch_too_large_is_an_error() {
        let pool = ThreadPool::new(1).unwrap();
        let prepare = |_: usize, _: &mut [f32]| Ok::<_, PipelineError>(());
        let error = run(&pool, (4, 4, usize::MAX / 4), prepare, |_| Ok::<_, PipelineError>(())).unwrap_err();
        assert!(error.to_string().contains("bytes for the pixels of a batch"), "{error}");
    }
}
