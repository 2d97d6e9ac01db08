//! Why something cannot be shown.
use std::fmt;

/// Why something cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The canvas would have too many pixels.
    TooLarge {
        /// Height and width.
        size: [u64; 2],
    },
    /// The system does not give the memory.
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// There are no patches, or they have no features.
    NoPatches,
    /// Features are NaN or infinite.
    NotFinite,
    /// The eigenvalues did not converge.
    NoComponents,
    /// No patch is above the threshold of the foreground.
    NoForeground,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { size: [height, width] } => write!(f, "{width}×{height} pixels are too many to draw"),
            Self::OutOfMemory { bytes } => write!(f, "the system does not give {bytes} bytes for a picture"),
            Self::NoPatches => write!(f, "there are no patches to compare"),
            Self::NotFinite => write!(f, "features are NaN or infinite"),
            Self::NoComponents => write!(f, "no components were found"),
            Self::NoForeground => write!(f, "no patch is above the threshold"),
        }
    }
}

impl std::error::Error for Error {}
