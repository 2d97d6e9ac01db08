//! Storage formats of weight matrices, one file per format.
mod bfloat16;
mod binary16;
mod binary32;
pub(crate) mod int8;

use core::fmt;

use bytemuck::{Pod, Zeroable};

pub(crate) use self::bfloat16::Bf16;
pub(crate) use self::binary16::F16;
pub(crate) use self::binary32::F32;
use super::pack::{Pack, PackError};
use crate::error::expect_len;
use crate::simd::{LANES, Simd};

/// How a weight matrix is stored.
///
/// | Format | Bytes a weight | Rounding | Largest weight | Arithmetic |
/// |---|---|---|---|---|
/// | `F32` | 4 | none | f32's | f32 |
/// | `F16` | 2 | relative 2⁻¹¹; below 2⁻¹⁴ absolute 2⁻²⁵ | 65504 | f32: widened exactly as it is read |
/// | `Bf16` | 2 | relative 2⁻⁸; below 2⁻¹²⁶ absolute 2⁻¹³⁴ | 3.38·10³⁸ | f32: widened exactly as it is read |
/// | `Int8` | 1, and 8 per output | absolute max\|w\|/254 over the output | f32's | int8 activations, i32 sums, then f32 unfused |
///
/// # Layout
/// Outputs (columns of the product) are stored in panels of [`LANES`], one after another. Within a panel, inputs are
/// stored in groups: `F32` and `F16` are \[k\]\[16\], `Bf16` is \[k/2\]\[16\]\[2\], `Int8` is \[k/4\]\[16\]\[4\].
/// Missing outputs of the last panel and missing inputs of the last group are 0. `Int8` has its scales, \[n\] f32, and
/// the sum of each output's weights, \[n\] i32, after the panels. Every instruction set reads the same bytes, so a
/// packed model can move between machines of the same byte order (all targets so far are little-endian).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// int8 with a scale for each output.
    Int8,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::Int8];

    /// The format's constants.
    const fn spec(self) -> Spec {
        match self {
            Self::F32 => Spec::of::<F32>(),
            Self::F16 => Spec::of::<F16>(),
            Self::Bf16 => Spec::of::<Bf16>(),
            Self::Int8 => Spec { name: "int8", group: int8::GROUP, element: 1, per_output: 8, ggml_type: 24 },
        }
    }

    /// Calls `visitor` with this format's type.
    pub(super) fn visit<V: Visitor>(self, visitor: V) -> V::Output {
        match self {
            Self::F32 => visitor.visit::<F32>(),
            Self::F16 => visitor.visit::<F16>(),
            Self::Bf16 => visitor.visit::<Bf16>(),
            Self::Int8 => visitor.int8(),
        }
    }

    /// 'f32', 'f16', 'bf16', 'int8'.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// Consecutive inputs stored together in a panel.
    pub const fn group(self) -> usize {
        self.spec().group
    }

    /// The GGML type number of the panels' elements, as in GGUF files.
    pub const fn ggml_type(self) -> u32 {
        self.spec().ggml_type
    }

    /// The cache lines that \[n, k\] weights take; `None` on overflow.
    pub const fn lines(self, n: usize, k: usize) -> Option<usize> {
        match self.bytes(n, k) {
            Some(bytes) => Some(bytes / size_of::<Line>()),
            None => None,
        }
    }

    /// Bytes of the panels alone. `Int8` has scales and sums after them, 4 bytes each for every output of whole panels.
    pub const fn panel_bytes(self, n: usize, k: usize) -> Option<usize> {
        match (self.bytes(n, k), n.checked_next_multiple_of(LANES)) {
            (Some(bytes), Some(columns)) => Some(bytes - columns * self.spec().per_output),
            _ => None,
        }
    }

    /// Bytes of [`lines`](Self::lines).
    pub const fn bytes(self, n: usize, k: usize) -> Option<usize> {
        let Spec { group, element, per_output, .. } = self.spec();
        let (Some(columns), Some(rows)) = (n.checked_next_multiple_of(LANES), k.checked_next_multiple_of(group)) else {
            return None;
        };
        let (Some(elements), Some(beside)) = (columns.checked_mul(rows), columns.checked_mul(per_output)) else {
            return None;
        };
        // Panels, scales and sums each take whole lines.
        match elements.checked_mul(element) {
            Some(bytes) => match bytes.checked_next_multiple_of(size_of::<Line>()) {
                Some(bytes) => bytes.checked_add(beside),
                None => None,
            },
            None => None,
        }
    }

    /// Packs \[n, k\] weights (row-major, as in PyTorch's `nn.Linear`) into `out`. Rounds to nearest even.
    ///
    /// `read(row, start, into)` must fill `into` with the weights of output `row` from input `start` on; it may decode
    /// them from a file.
    ///
    /// # Errors
    /// [`PackError::Shape`] when `out` is not [`lines`](Self::lines)`(n, k)` long; [`PackError::TooManyInputs`] when
    /// int8 sums could overflow; [`PackError::OutOfRange`] at the first weight that is NaN, infinite or too large.
    pub fn pack(
        self,
        n: usize,
        k: usize,
        mut read: impl FnMut(usize, usize, &mut [f32]),
        out: &mut [Line],
    ) -> Result<(), PackError> {
        expect_len("pack: lines of out for n × k", self.lines(n, k), out.len()).map_err(PackError::Shape)?;
        self.visit(Pack { shape: [n, k], read: &mut read, out })
    }
}

/// A format's constants.
struct Spec {
    name: &'static str,
    /// Consecutive inputs stored together.
    group: usize,
    /// Bytes of a stored weight.
    element: usize,
    /// Bytes after the panels for each output.
    per_output: usize,
    ggml_type: u32,
}

impl Spec {
    const fn of<W: Weights>() -> Self {
        Self {
            name: W::NAME,
            group: W::GROUP,
            element: size_of::<W::Element>(),
            per_output: 0,
            ggml_type: W::GGML_TYPE,
        }
    }
}

/// Code that is generic over formats.
pub(super) trait Visitor {
    type Output;
    /// For formats that are multiplied in f32.
    fn visit<W: Weights>(self) -> Self::Output;
    /// For int8.
    fn int8(self) -> Self::Output;
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A cache line: the unit and alignment of packed weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

impl Line {
    /// 64 zeros.
    pub const ZERO: Self = Self([0; 64]);
}

/// A storage format, as packing and the register tile see it.
pub(crate) trait Weights: Copy + Send + Sync + 'static {
    const NAME: &'static str;

    /// Consecutive inputs stored together in a panel.
    const GROUP: usize;

    /// The GGML type number of an element, as in GGUF files.
    const GGML_TYPE: u32;

    /// Whether elements are f16, which some levels need many instructions to widen.
    const IS_F16: bool = false;

    /// A stored weight.
    type Element: Pod;

    /// The weights of [`LANES`] outputs for one group of inputs, \[LANES\]\[GROUP\].
    type Group: Pod;

    /// Rounds to nearest even; a number too large becomes infinite.
    fn encode(x: f32) -> Self::Element;

    fn decode(x: Self::Element) -> f32;

    /// The weights of input `i` of a group, widened exactly.
    fn load<S: Simd>(s: S, group: &Self::Group, i: usize) -> S::V;
}

const _: () = assert!(size_of::<Line>().is_multiple_of(size_of::<<F32 as Weights>::Group>()));
const _: () = assert!(LANES == 16, "the documented layout");
