//! The error of every kernel: a slice of the wrong length.
use core::fmt;

/// A slice's length, or another size, does not fit the shapes it was passed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapeError {
    /// Which argument, and what its length must be.
    pub what: &'static str,
    /// The length that the shapes require.
    pub expected: usize,
    /// The length that was passed.
    pub found: usize,
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.what, self.expected, self.found)
    }
}

impl core::error::Error for ShapeError {}

/// `Ok` if `found` is `expected`; `None` means that computing it overflowed.
pub(crate) fn expect_len(what: &'static str, expected: Option<usize>, found: usize) -> Result<(), ShapeError> {
    // No slice is that long.
    let expected = expected.unwrap_or(usize::MAX);
    if expected == found { Ok(()) } else { Err(ShapeError { what, expected, found }) }
}

/// `Ok` if `len` is a whole number of rows of `cols`; 0 always is.
pub(crate) fn expect_rows(what: &'static str, cols: usize, len: usize) -> Result<(), ShapeError> {
    let whole = match cols {
        0 => 0,
        cols => len - len % cols,
    };
    expect_len(what, Some(whole), len)
}
