//! Tiled matmul over weights packed once: out = epilogue(A·Wᵀ).
//!
//! ```text
//! for each block of the depth            usually one; A's share of it stays in L2
//!     for each group of weight panels    with some rows a task; the group stays in L2
//!         for each tile of rows of A     read in place, row-major
//!             tile: sums in registers, epilogue, out; the next group comes from memory meanwhile
//! ```
//! Rows and columns that are left over get tiles of exactly their size.
#![allow(unsafe_code)] // A task's promise about its part of `out`.

mod epilogue;
mod format;
mod int8;
mod pack;
mod part;
pub(crate) mod tile;
mod widened;

use core::ops::Range;

pub(crate) use epilogue::Finish;
pub use epilogue::{Accumulate, Epilogue};
pub(crate) use format::F32;
pub use format::{Format, Line};
pub use pack::{PackError, Packed};

use crate::error::{ShapeError, expect_len};
use crate::isa::Isa;
use crate::job::{Job, Shared, TASK_ROWS};
use crate::quantise::Quantised;
use crate::simd::LANES;
use format::int8::MOST_INPUTS;
use format::{Visitor, Weights};
use part::Part;

/// out = epilogue(A·Wᵀ): `a` is \[rows, k\], `weights` \[n, k\] packed, `out` \[rows, n\]; all row-major.
///
/// Before the epilogue every output is one chain of k multiply–adds over ascending k (fused on levels that have it),
/// from 0: its error is at most (k + 1)·2⁻²⁴·Σ|aₖ·wₖ| against the weights as they are stored. The same rows give the
/// same bits whatever the number of rows beside them. NaN and infinities follow IEEE 754. With k = 0 the sums are 0;
/// with n or rows 0 nothing happens.
///
/// # Errors
/// When a length does not fit: rows come from `out`.
pub fn matmul(
    isa: Isa,
    a: &[f32],
    weights: Packed<'_>,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    Matmul::new(isa, a, weights, epilogue, out)?.run();
    Ok(())
}

/// The left operand of a matmul.
#[derive(Debug, Clone, Copy)]
pub enum Activations<'a> {
    /// \[rows, k\], for weights in f32, f16 and bf16.
    F32(&'a [f32]),
    /// Quantised rows, for int8 weights.
    Int8(Quantised<'a>),
}

impl<'a> From<&'a [f32]> for Activations<'a> {
    fn from(a: &'a [f32]) -> Self {
        Self::F32(a)
    }
}

impl<'a> From<&'a mut [f32]> for Activations<'a> {
    fn from(a: &'a mut [f32]) -> Self {
        Self::F32(a)
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for Activations<'a> {
    fn from(a: &'a [f32; N]) -> Self {
        Self::F32(a)
    }
}

impl<'a> From<Quantised<'a>> for Activations<'a> {
    fn from(a: Quantised<'a>) -> Self {
        Self::Int8(a)
    }
}

impl Activations<'_> {
    /// Elements of all rows.
    fn len(&self) -> usize {
        match self {
            Self::F32(a) => a.len(),
            Self::Int8(a) => a.scales.len().saturating_mul(a.k),
        }
    }

    /// Whether these weights can be multiplied with them on this level.
    fn check(&self, isa: Isa, weights: &Packed<'_>) -> Result<(), ShapeError> {
        let wanted = if weights.format() == Format::Int8 { size_of::<i8>() } else { size_of::<f32>() };
        match self {
            Self::F32(_) => expect_len("matmul: bytes of an activation for weights of this format", Some(wanted), 4),
            Self::Int8(a) => {
                expect_len("matmul: bytes of an activation for weights of this format", Some(wanted), 1)?;
                expect_len("matmul: inputs of the quantised rows", Some(weights.k()), a.k)?;
                expect_len(
                    "matmul: zero point of the quantised rows",
                    Some(isa.zero_point().into()),
                    a.isa.zero_point().into(),
                )?;
                // Sums that could overflow i32.
                expect_len("matmul: inputs of int8 weights, at most", Some(weights.k().min(MOST_INPUTS)), weights.k())
            }
        }
    }
}

/// A prepared [`matmul`], cut into groups of columns and of rows.
pub struct Matmul<'a> {
    isa: Isa,
    a: Activations<'a>,
    rows: usize,
    weights: Packed<'a>,
    epilogue: Epilogue<'a>,
    out: Shared<'a, f32>,
    /// Sums of the depth so far, laid out as `out`; where there are none, `out` itself serves.
    partial: Option<Shared<'a, f32>>,
    depth: Range<usize>,
}

/// Multiply–accumulates that a task should have, so that handing it out costs nothing that can be noticed: some
/// microseconds' worth.
const TASK_MACS: usize = 3 << 17;

/// Inputs that a block of the depth has at most: a few hundred rows of them stay in an L2 of 1 or 2 MB.
const DEPTH_BLOCK: usize = 1024;

/// Blocks of the depth start at multiples of it, where every format's groups do.
const DEPTH_UNIT: usize = 32;

impl<'a> Matmul<'a> {
    /// Checks the shapes; see [`matmul`].
    ///
    /// # Errors
    /// As [`matmul`].
    pub fn new(
        isa: Isa,
        a: impl Into<Activations<'a>>,
        weights: Packed<'a>,
        epilogue: Epilogue<'a>,
        out: &'a mut [f32],
    ) -> Result<Self, ShapeError> {
        let a = a.into();
        let (n, k) = (weights.n(), weights.k());
        let rows = out.len().checked_div(n).unwrap_or(0);
        expect_len("matmul: out is not a whole number of rows", Some(rows * n), out.len())?;
        if n > 0 {
            expect_len("matmul: a has k elements for each row of out", rows.checked_mul(k), a.len())?;
        }
        a.check(isa, &weights)?;
        epilogue.check(n)?;
        Ok(Self { isa, a, rows, weights, epilogue, out: Shared::new(out), partial: None, depth: 0..k })
    }

    /// The same product in blocks of the depth, to be run one after the other: faster where A's rows are so long that
    /// they leave the cache. The bits are the same.
    ///
    /// `partial` is scratch as long as `out`, or empty: then `out` itself serves where it is replaced, and where it is not
    /// there is one block.
    ///
    /// # Errors
    /// When `partial` has another length.
    pub fn blocks(mut self, partial: &'a mut [f32]) -> Result<Blocks<'a>, ShapeError> {
        let no_room = partial.is_empty() && self.epilogue.accumulate != Accumulate::Replace;
        if !partial.is_empty() {
            expect_len("matmul: partial is as long as out", Some(self.out.len()), partial.len())?;
            self.partial = Some(Shared::new(partial));
        }
        let k = self.weights.k();
        // One row has nothing that could stay in a cache.
        let whole = no_room || self.weights.format() == Format::Int8;
        let count = if self.rows > 1 && !whole { k.div_ceil(DEPTH_BLOCK).max(1) } else { 1 };
        let size = k.div_ceil(count).next_multiple_of(DEPTH_UNIT);
        self.depth = 0..0;
        Ok(Blocks { job: self, size, left: k.div_ceil(size).max(1) })
    }

    fn panels(&self) -> usize {
        self.weights.n().div_ceil(LANES)
    }

    /// Groups of panels: a tile of the widest level each; more where rows are so few that this is no work.
    fn groups(&self) -> usize {
        let per_panel = (self.rows * self.weights.k() * LANES).max(1);
        let unit = if self.rows == 1 { 4 } else { 3 };
        self.panels().div_ceil((TASK_MACS / per_panel).max(1).next_multiple_of(unit))
    }

    /// Rows of a task.
    fn task_rows(&self) -> usize {
        let per_row = (self.weights.k() * LANES * 3).max(1);
        TASK_MACS.div_ceil(per_row).min(self.rows.max(1)).next_multiple_of(TASK_ROWS)
    }
}

/// A [`Matmul`] in blocks of the depth.
pub struct Blocks<'a> {
    job: Matmul<'a>,
    size: usize,
    left: usize,
}

impl<'a> Blocks<'a> {
    /// The next block, once the one before has run.
    #[allow(clippy::should_implement_trait)] // It lends what it yields.
    pub fn next(&mut self) -> Option<&mut Matmul<'a>> {
        self.left = self.left.checked_sub(1)?;
        let start = self.job.depth.end;
        self.job.depth = start..(start + self.size).min(self.job.weights.k());
        Some(&mut self.job)
    }
}

// SAFETY: a task writes its own rows' part of the columns of its own panels alone.
unsafe impl Job for Matmul<'_> {
    fn grid(&self) -> [usize; 2] {
        [self.rows.div_ceil(self.task_rows()), self.groups()]
    }

    unsafe fn task(&self, row: usize, group: usize) {
        let [rows, groups] = self.grid();
        if row >= rows || group >= groups {
            return;
        }
        let first = row * self.task_rows();
        let panel = |group: usize| group * self.panels() / groups;
        let panels = panel(group)..panel(group + 1);
        let rows = first..(first + self.task_rows()).min(self.rows);
        self.weights.format().visit(Task { job: self, panels, rows });
    }
}

/// Some rows of some panels.
struct Task<'a> {
    job: &'a Matmul<'a>,
    panels: Range<usize>,
    rows: Range<usize>,
}

impl Visitor for Task<'_> {
    type Output = ();
    fn visit<W: Weights>(self) {
        let Self { job, panels, rows } = self;
        // Checked when the job was made.
        let Activations::F32(a) = job.a else { return };
        job.isa.call(Part::<W> { job, a, data: job.weights.elements::<W>(), panels, rows });
    }
    fn int8(self) {
        let Self { job, panels, rows } = self;
        let Activations::Int8(a) = job.a else { return };
        job.isa.call_int8(int8::Part { job, a, weights: job.weights.int8(), panels, rows });
    }
}

#[cfg(test)]
mod tests;
