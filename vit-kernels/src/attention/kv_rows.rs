//! Keys and values as the matmul wrote them, on their way to another form.
use core::ops::Range;

use super::KvLayout;
use crate::error::{ShapeError, expect_len};
use crate::job::TASK_ROWS;

/// The keys and values of some tokens of an image, in f32.
#[derive(Clone)]
pub(super) struct KvRows<'a> {
    pub(super) layout: KvLayout,
    kv: &'a [f32],
    tokens: Range<usize>,
}

impl<'a> KvRows<'a> {
    /// `kv` has a row of keys and values for each token from `first` on, as [`KvLayout::len`] says.
    ///
    /// # Errors
    /// When `kv` is not whole rows, or the tokens go past the last.
    pub(super) fn new(layout: KvLayout, kv: &'a [f32], first: usize) -> Result<Self, ShapeError> {
        let count = kv.len().checked_div(2 * layout.inner()).unwrap_or(0);
        expect_len("attention: kv must be a whole number of rows", Some(count * 2 * layout.inner()), kv.len())?;
        let end = first.saturating_add(count);
        expect_len("attention: the keys must not go past the last token", Some(end.min(layout.tokens)), end)?;
        Ok(Self { layout, kv, tokens: first..end })
    }

    /// The grid of a job over these tokens. Tasks begin at tokens that are multiples of [`TASK_ROWS`], so that a group
    /// of tokens whose number divides it is one task's.
    pub(super) fn grid(&self) -> [usize; 2] {
        [self.tokens.end.div_ceil(TASK_ROWS) - self.tokens.start / TASK_ROWS, 1]
    }

    /// The tokens of a task; `None` outside the grid.
    pub(super) fn of_task(&self, row: usize, column: usize) -> Option<Range<usize>> {
        let start = (self.tokens.start / TASK_ROWS + row) * TASK_ROWS;
        let tokens = start.max(self.tokens.start)..(start + TASK_ROWS).min(self.tokens.end);
        (row < self.grid()[0] && column == 0).then_some(tokens)
    }

    /// A token's key of a head.
    #[inline(always)]
    pub(super) fn key(&self, token: usize, head: usize) -> &'a [f32] {
        self.part(token, 0, head)
    }

    /// A token's value of a head.
    #[inline(always)]
    pub(super) fn value(&self, token: usize, head: usize) -> &'a [f32] {
        self.part(token, 1, head)
    }

    #[inline(always)]
    fn part(&self, token: usize, at: usize, head: usize) -> &'a [f32] {
        let KvLayout { heads, head_dim, .. } = self.layout;
        let row = token - self.tokens.start;
        &self.kv[((2 * row + at) * heads + head) * head_dim..][..head_dim]
    }
}

/// Cuts tokens where a group of `N` begins.
#[inline(always)]
pub(super) fn groups<const N: usize>(tokens: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    const { assert!(TASK_ROWS.is_multiple_of(N)) }
    let (mut start, end) = (tokens.start, tokens.end);
    core::iter::from_fn(move || {
        let group = start..(start + 1).next_multiple_of(N).min(end);
        start = group.end;
        (!group.is_empty()).then_some(group)
    })
}
