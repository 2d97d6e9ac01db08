//! Work that can be cut into independent tasks. This crate knows no threads; whoever has some hands out the indices.
#![allow(unsafe_code)]

/// Rows of data in a row of tasks, or a multiple of it: no tile of any level is cut, and a thread's rows are the same in
/// all jobs.
pub(crate) const TASK_ROWS: usize = 24;

/// A prepared kernel call: a grid of tasks that may run in any order, on any threads, at the same time.
///
/// Tasks of the same row work on the same rows of data (tokens), tasks of the same column on the same columns of weights
/// or the same head. Threads that keep to rows of their own find what they wrote before in their own cache; within its
/// rows a thread goes from column to column, so that weights are read once.
///
/// How the work is cut depends on its shape alone, and no result depends on the cut, so the bits are the same however
/// many threads share it.
///
/// # Safety
/// Implementors promise that two different tasks write to disjoint memory.
pub unsafe trait Job: Sync {
    /// How many rows and columns of tasks there are.
    fn grid(&self) -> [usize; 2];

    /// Runs one task. One outside the grid does nothing.
    ///
    /// # Safety
    /// No two calls for the same task may overlap in time.
    unsafe fn task(&self, row: usize, column: usize);

    /// Runs every task on this thread.
    fn run(&mut self) {
        let [rows, columns] = self.grid();
        for column in 0..columns {
            for row in 0..rows {
                // SAFETY: `&mut self` excludes every other call.
                unsafe { self.task(row, column) }
            }
        }
    }
}

/// A `&mut [T]` that tasks share, each writing its own part.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    borrow: core::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: only the unsafe method below gives access, and its callers keep to disjoint parts.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: it stands for the exclusive borrow that it was made from.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: core::marker::PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where element `start` is; `len` elements from there on exist.
    #[inline(always)]
    pub(crate) fn at(&self, start: usize, len: usize) -> *mut T {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: in bounds by the assertion.
        unsafe { self.start.add(start) }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the result lives, no other call may ask for an overlapping range.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // Disjointness is the caller's promise.
    pub(crate) unsafe fn part(&self, range: core::ops::Range<usize>) -> &mut [T] {
        let len = range.end - range.start;
        // SAFETY: in bounds, as `at` asserts; unaliased by the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(self.at(range.start, len), len) }
    }
}
