//! Storage formats of weight matrices, one file per format.
mod bfloat16;
mod binary16;
mod binary32;
pub(crate) mod int4;
pub(crate) mod int8;

use core::fmt;

use bytemuck::{Pod, Zeroable};

pub(crate) use self::bfloat16::Bf16;
pub(crate) use self::binary16::F16;
pub(crate) use self::binary32::F32;
use super::Activations;
use super::pack::{Pack, PackError};
use crate::error::expect_len;
use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd};

/// How a weight matrix is stored.
///
/// | Format | Bytes a weight | Rounding | Largest weight | Arithmetic |
/// |---|---|---|---|---|
/// | `F32` | 4 | none | f32's | f32 |
/// | `F16` | 2 | relative 2⁻¹¹; below 2⁻¹⁴ absolute 2⁻²⁵ | 65504 | f32: widened exactly as it is read |
/// | `Bf16` | 2 | relative 2⁻⁸; below 2⁻¹²⁶ absolute 2⁻¹³⁴ | 3.38·10³⁸ | bf16 activations, f32 sums |
/// | `Int8` | 1, and 8 per output | absolute max\|w\|/254 over the output | f32's | int8 activations, i32 sums, then f32 unfused |
/// | `Int4` | ½, and 2 per output and 32 inputs | absolute max\|w\|/7.9 over 32 inputs, or 2⁻²² | 524,000 | as `Int8`, with an f32 sum over groups of 32 |
///
/// # Layout
/// Outputs (columns of the product) are stored in panels of [`LANES`], one after another. Within a panel, inputs are
/// stored in groups: `F32` and `F16` are \[k\]\[16\], `Bf16` is \[k/2\]\[16\]\[2\], `Int8` is \[k/4\]\[16\]\[4\].
/// `Int4` is \[k/8\]\[16\]\[4\] bytes, each with input i in its low nibble and input 4 + i in its high one. Missing
/// outputs of the last panel and missing inputs of the last group are 0.
///
/// After the panels, `Int8` has its scales, \[n\] f32, and the sum of each output's weights, \[n\] i32; `Int4` has its
/// scales, \[n/16\]\[k/32\]\[16\] f16. Every instruction set reads the same bytes, so a packed model can move between
/// machines of the same byte order (all targets so far are little-endian).
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
    /// int4 with a scale for each output and 32 inputs.
    Int4,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::Int8, Self::Int4];

    /// Consecutive inputs that share a scale in `Int4`; the last of an output's groups may be shorter.
    pub const INT4_GROUP: usize = int4::BLOCK;

    /// The format's constants.
    const fn spec(self) -> Spec {
        match self {
            Self::F32 => Spec::of::<F32>(),
            Self::F16 => Spec::of::<F16>(),
            Self::Bf16 => Spec::of::<Bf16>(),
            Self::Int8 => {
                Spec { name: "int8", group: int8::GROUP, group_bytes: 4, per_output: 8, per_block: 0, ggml_type: 24 }
            }
            Self::Int4 => {
                Spec { name: "int4", group: int4::GROUP, group_bytes: 4, per_output: 0, per_block: 2, ggml_type: 24 }
            }
        }
    }

    /// Whether this build has the format: `F16`, `Bf16` and `Int4` are Cargo features.
    pub const fn is_built(self) -> bool {
        match self {
            Self::F32 | Self::Int8 => true,
            Self::F16 => cfg!(feature = "f16"),
            Self::Bf16 => cfg!(feature = "bf16"),
            Self::Int4 => cfg!(feature = "int4"),
        }
    }

    /// Calls `visitor` with this format's type. A format that is left out gets no code.
    pub(super) fn visit<V: Visitor>(self, visitor: V) -> V::Output {
        match self {
            Self::F32 => visitor.visit::<F32>(),
            Self::F16 if const { Self::F16.is_built() } => visitor.visit::<F16>(),
            Self::Bf16 if const { Self::Bf16.is_built() } => visitor.visit::<Bf16>(),
            Self::Int8 => visitor.int8(),
            Self::Int4 if const { Self::Int4.is_built() } => visitor.int4(),
            _ => visitor.left_out(),
        }
    }

    /// 'f32', 'f16', 'bf16', 'int8', 'int4'.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// Consecutive inputs stored together in a panel.
    pub const fn group(self) -> usize {
        self.spec().group
    }

    /// Elements that a group takes in a panel: fewer than [`group`](Self::group) if an element holds two weights.
    pub const fn group_elements(self) -> usize {
        match self {
            Self::Int4 => int4::GROUP / 2,
            _ => self.group(),
        }
    }

    /// What these weights are multiplied with.
    pub const fn inputs(self) -> Inputs {
        match self {
            Self::F32 | Self::F16 => Inputs::F32,
            Self::Bf16 => Inputs::Bf16,
            Self::Int8 | Self::Int4 => Inputs::Int8,
        }
    }

    /// The GGML type number of the panels' elements, as in GGUF files. `Int4`'s are bytes.
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

    /// Bytes of the panels alone, whole lines. The scales and sums of quantised weights come after them.
    pub const fn panel_bytes(self, n: usize, k: usize) -> Option<usize> {
        let Spec { group, group_bytes, .. } = self.spec();
        let Some(columns) = n.checked_next_multiple_of(LANES) else { return None };
        match columns.checked_mul(k.div_ceil(group)) {
            Some(groups) => whole_lines(groups.checked_mul(group_bytes)),
            None => None,
        }
    }

    /// Bytes of [`lines`](Self::lines).
    pub const fn bytes(self, n: usize, k: usize) -> Option<usize> {
        let Spec { per_output, per_block, .. } = self.spec();
        let Some(panels) = self.panel_bytes(n, k) else { return None };
        // The next multiple of LANES fits: the panels' bytes do.
        match n.next_multiple_of(LANES).checked_mul(per_output + per_block * k.div_ceil(int4::BLOCK)) {
            Some(beside) => match whole_lines(Some(beside)) {
                Some(beside) => panels.checked_add(beside),
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
    /// [`PackError::LeftOut`] when this build does not have the format; [`PackError::Shape`] when `out` is not [`lines`](Self::lines)`(n, k)` long; [`PackError::TooManyInputs`] when
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

/// How the rows that weights are multiplied with are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inputs {
    /// [`Activations::F32`].
    F32,
    /// [`Activations::Bf16`].
    Bf16,
    /// [`Activations::Int8`].
    Int8,
}

impl Inputs {
    /// Bytes of an element.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }
}

/// A format's constants.
struct Spec {
    name: &'static str,
    /// Consecutive inputs stored together.
    group: usize,
    /// Bytes of a group of an output.
    group_bytes: usize,
    /// Bytes after the panels for each output.
    per_output: usize,
    /// Bytes after the panels for each output and 32 inputs.
    per_block: usize,
    ggml_type: u32,
}

impl Spec {
    const fn of<W: Weights>() -> Self {
        Self {
            name: W::NAME,
            group: W::GROUP,
            group_bytes: W::GROUP * size_of::<W::Element>(),
            per_output: 0,
            per_block: 0,
            ggml_type: W::GGML_TYPE,
        }
    }
}

/// Bytes rounded up to whole lines.
const fn whole_lines(bytes: Option<usize>) -> Option<usize> {
    match bytes {
        Some(bytes) => bytes.checked_next_multiple_of(size_of::<Line>()),
        None => None,
    }
}

/// Code that is generic over formats.
pub(super) trait Visitor {
    type Output;
    /// For formats that are multiplied in f32.
    fn visit<W: Weights>(self) -> Self::Output;
    /// For int8.
    fn int8(self) -> Self::Output;
    /// For int4.
    fn int4(self) -> Self::Output;
    /// For formats that are not built.
    fn left_out(self) -> Self::Output;
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

    /// Whether activation functions are those of [`activate_for_int8`](crate::activate_for_int8), because their results
    /// are rounded to few bits.
    const COARSE: bool = false;

    /// A group of inputs in a row that is multiplied with these weights.
    type Inputs: Pod;

    /// Four inputs that are neighbours in such a row.
    type Quad: Pod;

    /// The rows, if they are stored as these weights need them.
    fn rows<'a>(a: &Activations<'a>) -> Option<&'a [Self::Inputs]>;

    /// Whether [`dot`](Self::dot) is one instruction for a whole group.
    fn has_dot<S: Simd>() -> bool {
        false
    }

    /// Runs a kernel of a matmul with these weights.
    fn enter<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.call(kernel)
    }

    /// Rounds to nearest even; a number too large becomes infinite.
    fn encode(x: f32) -> Self::Element;

    fn decode(x: Self::Element) -> f32;

    /// The weights of input `i` of a group, widened exactly.
    fn load<S: Simd>(s: S, group: &Self::Group, i: usize) -> S::V;

    /// Input `i` of a group in every lane, widened exactly.
    fn splat<S: Simd>(s: S, inputs: &Self::Inputs, i: usize) -> S::V;

    /// Four inputs of a row, widened exactly.
    fn widen<S: Simd>(s: S, inputs: &Self::Quad) -> [f32; 4];

    /// Input `i` of a group of four rows, widened exactly.
    fn widen_column<S: Simd>(s: S, groups: &[Self::Inputs; 4], i: usize) -> [f32; 4];

    /// Adds, to the sums of panel `p` of a tile, the products of a group of inputs: in each row the elements from `I` to `J`.
    /// This is for groups of one.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    fn add_elements<S: Simd, const M: usize, const P: usize, const I: i32, const J: i32>(
        s: S,
        acc: &mut [[S::V; P]; M],
        p: usize,
        a: &[[f32; 4]; M],
        group: &Self::Group,
    ) {
        debug_assert!(Self::GROUP == 1 && I == J);
        let b = Self::load(s, group, 0);
        for m in 0..M {
            acc[m][p] = s.mul_add_element::<I>(&a[m], b, acc[m][p]);
        }
    }

    /// sum + the products of a group.
    #[inline(always)]
    fn dot<S: Simd>(s: S, mut sum: S::V, inputs: &Self::Inputs, group: &Self::Group) -> S::V {
        for i in 0..Self::GROUP {
            sum = s.mul_add(Self::splat(s, inputs, i), Self::load(s, group, i), sum);
        }
        sum
    }
}

const _: () = assert!(size_of::<Line>().is_multiple_of(size_of::<<F32 as Weights>::Group>()));
const _: () = assert!(LANES == 16, "the documented layout");
