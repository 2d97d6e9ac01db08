//! Precisions: which format each matrix of a model is stored in.
use core::fmt;
use core::str::FromStr;

use vit_kernels::{Format, Inputs};

use crate::parameters::Site;

/// How weight matrices are stored and multiplied; everything else (norms, biases, positions) is f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precision {
    /// Every matrix in f32.
    F32,
    /// Every matrix in f16, half the bytes; the arithmetic stays f32.
    F16,
    /// The layers' matrices in bf16, multiplied with activations that are rounded to bf16; products are added in f32.
    /// Attention multiplies in bf16 too. Softmax, GELU, LayerNorm and the residual are f32, and so are the patch
    /// projection, the attention pool and the heads. CPUs with VDPBF16PS add in an order of their own, so the bits are
    /// the same on all other levels, and on all of those.
    Bf16,
    /// The layers' matrices in int8 with a scale for each output, multiplied with int8 activations that have a scale for
    /// each token. Attention multiplies in int8 too: queries, keys and values have a scale for each token and head,
    /// probabilities one for each query and block of keys. Softmax, GELU, LayerNorm and the residual are f32, and so
    /// are the patch projection, the attention pool and the heads. Nothing is fused, so that the bits are the same on
    /// every instruction set.
    Int8,
    /// The layers' matrices in int4, in groups of 32 inputs with an f16 scale for each output, multiplied with int8
    /// activations; the rest as in [`Int8`](Self::Int8), and the bits the same on every instruction set too.
    Int4,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::Int8, Self::Int4];

    /// 'f32', 'f16', 'bf16', 'int8', 'int4'.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// The storage format of the matrix at a site.
    pub(crate) fn format(self, site: Site) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
            _ if !matches!(site, Site::Layer(..)) => Format::F32,
            Self::Bf16 => Format::Bf16,
            Self::Int8 => Format::Int8,
            Self::Int4 => Format::Int4,
        }
    }

    /// The Cargo feature that the precision needs and this build leaves out.
    pub(crate) const fn left_out(self) -> Option<&'static str> {
        let built = match self {
            Self::F32 => cfg!(feature = "f32"),
            Self::F16 => cfg!(feature = "f16"),
            Self::Bf16 => cfg!(feature = "bf16"),
            Self::Int8 => true,
            Self::Int4 => cfg!(feature = "int4"),
        };
        if built { None } else { Some(self.name()) }
    }

    /// What the layers' matrices are multiplied with, and what attention multiplies.
    pub const fn inputs(self) -> Inputs {
        match self {
            Self::F32 | Self::F16 => Inputs::F32,
            Self::Bf16 => Inputs::Bf16,
            Self::Int8 | Self::Int4 => Inputs::Int8,
        }
    }

    /// Whether the layers' activations are quantised to int8.
    pub const fn quantises(self) -> bool {
        matches!(self.inputs(), Inputs::Int8)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    /// Parses what `Display` writes.
    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        Self::ALL.into_iter().find(|precision| precision.name() == name).ok_or(UnknownPrecision)
    }
}

/// The text is not the name of a [`Precision`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownPrecision;

impl fmt::Display for UnknownPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown precision; expected ")?;
        for (i, precision) in Precision::ALL.into_iter().enumerate() {
            write!(f, "{}{precision}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl core::error::Error for UnknownPrecision {}
