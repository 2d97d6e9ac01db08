//! Why a picture cannot be prepared.
use std::fmt;

/// Why a picture cannot be prepared.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// The picture has no pixels.
    Empty,
    /// Pictures have 1 or 3 channels.
    PictureChannels(usize),
    /// A slice of samples or of outputs has another length than its shape asks for.
    Length {
        /// What the shape asks for.
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// `mean` and `std` are for another number of channels.
    Channels {
        /// Numbers in `mean`.
        mean: usize,
        /// Channels of the picture.
        channels: usize,
    },
    /// A description with a number that it cannot have: which field.
    Description(&'static str),
    /// A side would have no pixels after resizing.
    NoPixels {
        /// Height and width before.
        from: [usize; 2],
        /// Height and width after.
        to: [usize; 2],
    },
    /// Resizing would take too many pixels.
    TooLarge {
        /// Height and width before.
        from: [usize; 2],
        /// Height and width after, or between the two passes.
        to: [usize; 2],
        /// The most pixels that are allowed.
        limit: u64,
    },
    /// The picture is larger than what it should be padded to.
    Pad {
        /// Height and width of the picture.
        from: [usize; 2],
        /// Height and width to pad to.
        to: [usize; 2],
    },
    /// The system does not give that many bytes.
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// The resizing library's own error.
    Resize(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the picture has no pixels"),
            Self::PictureChannels(channels) => write!(f, "{channels} channels, where pictures have 1 or 3"),
            Self::Length { expected, found } => write!(f, "expected {expected} samples, found {found}"),
            Self::Channels { mean, channels } => {
                write!(f, "the preprocessing is for {mean} channels, and the picture has {channels}")
            }
            Self::Description(field) => write!(f, "the preprocessing's {field} has a value that it cannot have"),
            Self::NoPixels { from, to } => {
                write!(f, "{}×{} would be resized to {}×{}: no pixels", from[1], from[0], to[1], to[0])
            }
            Self::TooLarge { from, to, limit } => write!(
                f,
                "{}×{} would have to be resized to {}×{}, above the limit of {limit} pixels",
                from[1], from[0], to[1], to[0]
            ),
            Self::Pad { from, to } => {
                write!(f, "{}×{} is larger than the {}×{} to pad to", from[1], from[0], to[1], to[0])
            }
            Self::OutOfMemory { bytes } => write!(f, "the system does not give {bytes} bytes for a picture"),
            Self::Resize(error) => write!(f, "cannot be resized: {error}"),
        }
    }
}

impl std::error::Error for Error {}
