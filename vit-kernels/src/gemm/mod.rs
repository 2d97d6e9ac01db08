//! Tiled matmul over weights packed once: out = epilogue(A·Wᵀ).
//!
//! ```text
//! for each block of the depth            usually one; A's columns of it stay in L2
//!     for each group of weight panels    a group and a range of rows are a task; the group stays in L2
//!         for each tile of rows of A     read in place, row-major
//!             tile: sums in registers, epilogue, store; prefetches the next group
//! ```
//! Remaining rows and columns get tiles of exactly their size.
#![allow(unsafe_code)] // `Job` is an unsafe trait.

mod epilogue;
mod format;
mod int4;
pub(crate) mod int8;
pub(crate) mod integer;
mod pack;
mod part;
pub(crate) mod tile;
mod widened;

use core::ops::Range;

use ::half::bf16;
pub(crate) use epilogue::Finish;
pub use epilogue::{Accumulate, Epilogue};
pub(crate) use format::{Bf16, F32};
pub use format::{Format, Inputs, Line};
pub use pack::{PackError, Packed};

use crate::error::{ShapeError, expect_len};
use crate::isa::Isa;
use crate::job::{Job, Shared, TASK_ROWS};
use crate::quantise::Quantised;
use crate::round::bf16_len;
use crate::simd::LANES;
use format::int8::MOST_INPUTS;
use format::{Visitor, Weights};
use integer::{IntegerPart, IntegerWeights};
use part::FloatPart;

/// out = epilogue(A·Wᵀ): `a` is \[rows, k\], `weights` \[n, k\] packed, `out` \[rows, n\]; all row-major.
///
/// Before the epilogue every output is one chain of k multiply–adds over ascending k (fused on levels that have it),
/// from 0: its error, given the weights as stored, is at most (k + 1)·2⁻²⁴·Σ|aₖ·wₖ|. The bits of a row do not depend on
/// the number of rows. NaN and infinities follow IEEE 754. With k = 0 the sums are 0; with n or rows 0 nothing happens.
///
/// With bf16 activations the same holds, given both factors as stored, on levels without an instruction for it. VDPBF16PS
/// (level `avx512-bf16`) adds two products at a time and takes subnormal numbers as 0: the error is at most
/// (k + 2)·2⁻²³·Σ|aₖ·wₖ| + k·2⁻¹²⁶·(1 + max|w|). The activation function is that of
/// [`activate_for_int8`](crate::activate_for_int8).
///
/// With int8 activations sums are exact, over all inputs or, in int4, over 32, whose products with their scales are then
/// added in f32: the error, given both factors as stored, is at most 3·2⁻²⁴·Σ|aₖ·wₖ| in int8 and
/// (k/32 + 3)·2⁻²⁴·Σ|aₖ·wₖ| in int4. The activation function is that of
/// [`activate_for_int8`](crate::activate_for_int8).
///
/// # Errors
/// When a length is wrong. `out` determines the number of rows.
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
#[non_exhaustive]
pub enum Activations<'a> {
    /// \[rows, k\], for weights in f32 and f16.
    F32(&'a [f32]),
    /// \[rows, [`bf16_len`]`(k)`\], for weights in bf16; padding must be 0, as [`RoundToBf16`](crate::RoundToBf16) writes
    /// it.
    Bf16(&'a [bf16]),
    /// Quantised rows, for int8 and int4 weights.
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

impl<'a> From<&'a [bf16]> for Activations<'a> {
    fn from(a: &'a [bf16]) -> Self {
        Self::Bf16(a)
    }
}

impl<'a> From<Quantised<'a>> for Activations<'a> {
    fn from(a: Quantised<'a>) -> Self {
        Self::Int8(a)
    }
}

impl<'a> Activations<'a> {
    /// The rows, if they are in f32.
    fn binary32(&self) -> Option<&'a [f32]> {
        match self {
            Self::F32(a) => Some(a),
            _ => None,
        }
    }

    /// Checks that these are `rows` rows that these weights can multiply on this level.
    fn check(&self, isa: Isa, weights: &Packed<'_>, rows: usize) -> Result<(), ShapeError> {
        let (k, wanted) = (weights.k(), weights.format().inputs());
        let (inputs, row, len) = match self {
            Self::F32(a) => (Inputs::F32, k, a.len()),
            Self::Bf16(a) => (Inputs::Bf16, bf16_len(k), a.len()),
            Self::Int8(a) => (Inputs::Int8, a.k, a.scales.len().saturating_mul(a.k)),
        };
        expect_len("matmul: bytes per activation for this weight format", Some(wanted.bytes()), inputs.bytes())?;
        if weights.n() > 0 {
            expect_len("matmul: a must have k elements for each row of out", rows.checked_mul(row), len)?;
        }
        let Self::Int8(a) = self else { return Ok(()) };
        expect_len("matmul: the quantised rows must have k elements", Some(k), a.k)?;
        expect_len(
            "matmul: the quantised rows must have this level's zero point",
            Some(isa.zero_point().into()),
            a.isa.zero_point().into(),
        )?;
        // With more inputs int8's sums could overflow i32.
        let most = if weights.format() == Format::Int8 { MOST_INPUTS } else { usize::MAX };
        expect_len("matmul: too many inputs for int8", Some(k.min(most)), k)
    }
}

/// A prepared [`matmul`], split into groups of rows and of columns.
pub struct Matmul<'a> {
    isa: Isa,
    a: Activations<'a>,
    rows: usize,
    weights: Packed<'a>,
    epilogue: Epilogue<'a>,
    /// The place of the result; empty if that is `rounded`.
    out: Shared<'a, f32>,
    /// The place of a result in bf16.
    rounded: Option<Shared<'a, bf16>>,
    /// The sums over the previous blocks of the depth, \[rows, n\]; `None` if they are kept in `out`.
    partial: Option<Shared<'a, f32>>,
    depth: Range<usize>,
}

/// A task should have at least this many multiply–accumulates: some microseconds, far longer than handing it out takes.
const TASK_MACS: usize = 3 << 17;

/// Most bytes of a row in a block of the depth: a few hundred rows of it stay in an L2 of 1 or 2 MB.
const DEPTH_BYTES: usize = 4096;

/// Blocks of the depth start at multiples of this, which every format's group divides.
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
        let rows = whole_rows(out.len(), weights.n())?;
        Ok(Self { out: Shared::new(out), ..Self::of_rows(isa, a.into(), weights, epilogue, rows)? })
    }

    /// [`new`](Self::new) for bf16 weights, with the result rounded as [`RoundToBf16`](crate::RoundToBf16) rounds it: `out`
    /// is \[rows, [`bf16_len`]`(n)`\]. The epilogue replaces `out`.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when the weights are not in bf16 or the epilogue reads `out`.
    pub fn to_bf16(
        isa: Isa,
        a: impl Into<Activations<'a>>,
        weights: Packed<'a>,
        epilogue: Epilogue<'a>,
        out: &'a mut [bf16],
    ) -> Result<Self, ShapeError> {
        let rows = whole_rows(out.len(), bf16_len(weights.n()))?;
        expect_len("matmul: only bf16 weights give bf16", Some(1), usize::from(weights.format() == Format::Bf16))?;
        let reads_out = usize::from(epilogue.accumulate != Accumulate::Replace);
        expect_len("matmul: a result in bf16 cannot be combined with out", Some(0), reads_out)?;
        Ok(Self { rounded: Some(Shared::new(out)), ..Self::of_rows(isa, a.into(), weights, epilogue, rows)? })
    }

    /// The product of `rows` rows, without a place for the result.
    #[inline(always)] // Otherwise it would be moved, which takes 100 bytes of a microcontroller's stack.
    fn of_rows(
        isa: Isa,
        a: Activations<'a>,
        weights: Packed<'a>,
        epilogue: Epilogue<'a>,
        rows: usize,
    ) -> Result<Self, ShapeError> {
        a.check(isa, &weights, rows)?;
        epilogue.check(weights.n())?;
        let (out, depth) = (Shared::new(&mut []), 0..weights.k());
        Ok(Self { isa, a, rows, weights, epilogue, out, rounded: None, partial: None, depth })
    }

    /// The same product in blocks of the depth, to be run one after another: faster if A's rows are so long that they
    /// do not stay in the cache. The bits are the same. Run the blocks instead of the matmul.
    ///
    /// `partial` is scratch, \[rows, n\], or empty. If it is empty, the sums are kept in `out`, or, if the epilogue reads
    /// `out` or that is in bf16, there is only one block.
    ///
    /// # Errors
    /// When `partial` is neither empty nor \[rows, n\].
    pub fn blocks(&mut self, partial: &'a mut [f32]) -> Result<Blocks<'_, 'a>, ShapeError> {
        let keeps_no_sums = self.rounded.is_some() || self.epilogue.accumulate != Accumulate::Replace;
        let no_room = partial.is_empty() && keeps_no_sums;
        if !partial.is_empty() {
            expect_len("matmul: partial must be [rows, n]", Some(self.rows * self.weights.n()), partial.len())?;
            self.partial = Some(Shared::new(partial));
        }
        let k = self.weights.k();
        // A single row is used once: nothing is gained by keeping it in the cache.
        let whole = no_room || self.weights.format().inputs() == Inputs::Int8;
        let most = DEPTH_BYTES / self.weights.format().inputs().bytes();
        let count = if self.rows > 1 && !whole { k.div_ceil(most).max(1) } else { 1 };
        let size = k.div_ceil(count).next_multiple_of(DEPTH_UNIT);
        self.depth = 0..0;
        Ok(Blocks { job: self, size, left: k.div_ceil(size).max(1) })
    }

    fn panels(&self) -> usize {
        self.weights.n().div_ceil(LANES)
    }

    /// Groups of panels. A group has the panels of the widest tile, or a multiple of them if few rows need more to
    /// reach [`TASK_MACS`].
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

/// How many rows of `row` elements `len` elements are.
fn whole_rows(len: usize, row: usize) -> Result<usize, ShapeError> {
    let rows = len.checked_div(row).unwrap_or(0);
    expect_len("matmul: out must be a whole number of rows", Some(rows * row), len)?;
    Ok(rows)
}

/// A [`Matmul`] in blocks of the depth.
pub struct Blocks<'j, 'a> {
    job: &'j mut Matmul<'a>,
    size: usize,
    left: usize,
}

impl<'a> Blocks<'_, 'a> {
    /// The next block; the one before must have run.
    #[allow(clippy::should_implement_trait)] // The item borrows `self`.
    pub fn next(&mut self) -> Option<&mut Matmul<'a>> {
        self.left = self.left.checked_sub(1)?;
        let start = self.job.depth.end;
        self.job.depth = start..(start + self.size).min(self.job.weights.k());
        Some(self.job)
    }
}

// SAFETY: a task writes only its own panels' columns of its own rows.
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
        self.weights.format().visit(MatmulTask { job: self, panels, rows });
    }
}

/// A task of [`Matmul`]: a range of rows times a range of panels.
struct MatmulTask<'a> {
    job: &'a Matmul<'a>,
    panels: Range<usize>,
    rows: Range<usize>,
}

impl Visitor for MatmulTask<'_> {
    type Output = ();
    fn visit<W: Weights>(self) {
        let Self { job, panels, rows } = self;
        // `Matmul::new` checked that the activations fit the format; so too below.
        let Some(a) = W::rows(&job.a) else { return };
        W::enter(job.isa, FloatPart::<W> { job, a, data: job.weights.elements::<W>(), panels, rows });
    }
    fn int8(self) {
        let weights = self.job.weights.int8();
        self.integer(weights);
    }
    fn int4(self) {
        let weights = self.job.weights.int4();
        self.integer(weights);
    }
    /// `Packed::new` refuses such weights.
    fn left_out(self) {}
}

impl<'a> MatmulTask<'a> {
    fn integer<W: IntegerWeights<'a>>(self, weights: W) {
        let Self { job, panels, rows } = self;
        let Activations::Int8(a) = job.a else { return };
        job.isa.call_int8(IntegerPart { job, a, weights, panels, rows });
    }
}

#[cfg(test)]
mod tests;
