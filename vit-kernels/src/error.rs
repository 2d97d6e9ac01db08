//! The one way in which a kernel's arguments can be wrong.
use core::fmt;

/// A slice whose length does not fit the shapes that came with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapeError {
    /// Which argument, and what its length has to be.
    pub what: &'static str,
    /// The length that the shapes ask for.
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

/// `Ok` if a length is what the shapes ask for.
pub(crate) fn expect_len(what: &'static str, expected: Option<usize>, found: usize) -> Result<(), ShapeError> {
    // Shapes whose product overflows fit no slice.
    let expected = expected.unwrap_or(usize::MAX);
    if expected == found { Ok(()) } else { Err(ShapeError { what, expected, found }) }
}

/// `Ok` if `len` is a whole number of rows of `cols`; an empty slice is, whatever `cols` is.
pub(crate) fn expect_rows(what: &'static str, cols: usize, len: usize) -> Result<(), ShapeError> {
    let whole = match cols {
        0 => 0,
        cols => len - len % cols,
    };
    expect_len(what, Some(whole), len)
}
