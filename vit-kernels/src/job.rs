//! Kernel calls split into independent tasks. This crate has no threads; the caller's executor runs the tasks.
#![allow(unsafe_code)]

/// A task takes this many rows of data, or a multiple. Every level's tile rows divide it, so no tile is cut, and all
/// jobs can give a thread the same rows.
pub(crate) const TASK_ROWS: usize = 24;

/// A prepared kernel call: a grid of tasks that may run in any order, on any threads, at the same time.
///
/// Tasks in the same row of the grid work on the same rows of data (tokens); tasks in the same column work on the same
/// columns of weights or the same head. A thread should keep the same rows from job to job, so that it finds the data
/// it wrote in its own cache, and go through them column by column, so that it reads weights once.
///
/// The grid depends only on the shapes, and results do not depend on the grid, so the bits are the same for any number
/// of threads.
///
/// # Safety
/// Implementors promise that two different tasks write to disjoint memory.
pub unsafe trait Job: Sync {
    /// The rows and columns of the grid.
    fn grid(&self) -> [usize; 2];

    /// Runs one task. A task outside the grid does nothing.
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

// SAFETY: access needs unsafe code, through `at` or `part`, whose callers keep to disjoint parts.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: it represents the exclusive borrow it was made from.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: core::marker::PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A pointer to `len` elements from element `start` on. Panics if they are out of bounds.
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
