//! A precision, and the matrices of the layers that are kept in f32 beside it.
use core::fmt;
use core::str::FromStr;

use vit_kernels::Format;

use super::Precision;
use crate::config::{Config, ConfigError};
use crate::parameters::{self, Entry, LayerSite, Site};

/// The sites that name a layer's matrices. Keys and values are one matrix, which [`LayerSite::Key`] names.
const MATRICES: [LayerSite; 6] =
    [LayerSite::Key, LayerSite::Query, LayerSite::Out, LayerSite::Gate, LayerSite::Up, LayerSite::Down];

/// A weight matrix of a layer. `Display` writes its name in [packed](crate::packed) files, such as 'blk.3.attn_q'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerMatrix {
    layer: usize,
    /// One of [`MATRICES`].
    site: LayerSite,
}

impl LayerMatrix {
    /// The matrix at a site of layer `layer`. Keys and values are one matrix. `None` if the site has no matrix.
    pub fn new(layer: usize, site: LayerSite) -> Option<Self> {
        let site = if site == LayerSite::Value { LayerSite::Key } else { site };
        MATRICES.contains(&site).then_some(Self { layer, site })
    }

    /// All matrices of the layers of a model, in the order of memory.
    pub fn all(config: &Config) -> impl Iterator<Item = Self> {
        (0..config.depth).flat_map(move |layer| sites(config).map(move |site| Self { layer, site }))
    }

    /// The index of the layer.
    pub fn layer(self) -> usize {
        self.layer
    }

    /// The site within the layer.
    pub fn site(self) -> LayerSite {
        self.site
    }
}

/// The sites of the matrices that every layer has, in the order of memory.
fn sites(config: &Config) -> impl Iterator<Item = LayerSite> {
    parameters::layer(config).filter_map(|entry| match entry {
        Entry::Linear { site, .. } => Some(site),
        Entry::KeysValues { sites, .. } => Some(sites[0]),
        Entry::Rows { .. } | Entry::Norm { .. } => None,
    })
}

impl fmt::Display for LayerMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blk.{}.{}", self.layer, self.site.name())
    }
}

impl FromStr for LayerMatrix {
    type Err = UnknownMatrix;

    /// Reads what `Display` writes.
    fn from_str(name: &str) -> Result<Self, UnknownMatrix> {
        let (layer, name) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).ok_or(UnknownMatrix)?;
        let site = MATRICES.into_iter().find(|site| site.name() == name).ok_or(UnknownMatrix)?;
        Ok(Self { layer: layer.parse().map_err(|_| UnknownMatrix)?, site })
    }
}

/// The text is not the name of a layer's matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownMatrix;

impl fmt::Display for UnknownMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected the name of a layer's matrix: blk.N.attn_kv")?;
        MATRICES[1..].iter().try_for_each(|site| write!(f, ", blk.N.{}", site.name()))
    }
}

impl core::error::Error for UnknownMatrix {}

/// A set of matrices that are kept in f32 whatever the precision. It can hold matrices of the first
/// [`LAYERS`](Self::LAYERS) layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepF32 {
    /// For each of [`MATRICES`], a bit for each layer.
    layers: [u128; MATRICES.len()],
}

impl KeepF32 {
    /// The empty set.
    pub const NONE: Self = Self { layers: [0; MATRICES.len()] };

    /// The number of layers whose matrices the set can hold.
    pub const LAYERS: usize = u128::BITS as usize;

    /// The set with one more matrix.
    ///
    /// # Errors
    /// If the layer is not one of the first [`LAYERS`](Self::LAYERS).
    pub fn with(mut self, matrix: LayerMatrix) -> Result<Self, TooManyLayers> {
        if matrix.layer >= Self::LAYERS {
            return Err(TooManyLayers { layer: matrix.layer });
        }
        MATRICES.iter().zip(&mut self.layers).for_each(|(site, layers)| {
            *layers |= u128::from(*site == matrix.site) << matrix.layer;
        });
        Ok(self)
    }

    /// Whether the set holds this matrix.
    pub fn contains(&self, matrix: LayerMatrix) -> bool {
        matrix.layer < Self::LAYERS && self.layers_of(matrix.site) >> matrix.layer & 1 == 1
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// The matrices of a model that the set holds, in the order of memory.
    pub fn matrices(self, config: &Config) -> impl Iterator<Item = LayerMatrix> {
        LayerMatrix::all(config).filter(move |matrix| self.contains(*matrix))
    }

    /// How many of the layers before `layer` keep the matrix at this site.
    pub(crate) fn count_before(&self, layer: usize, site: LayerSite) -> usize {
        let before = if layer < Self::LAYERS { (1 << layer) - 1 } else { u128::MAX };
        (self.layers_of(site) & before).count_ones() as usize
    }

    fn layers_of(&self, site: LayerSite) -> u128 {
        MATRICES.iter().position(|own| *own == site).map_or(0, |index| self.layers[index])
    }

    /// Checks that a model has all matrices of the set.
    pub(crate) fn check(&self, config: &Config) -> Result<(), ConfigError> {
        if self.is_empty() {
            return Ok(());
        }
        for (site, layers) in MATRICES.into_iter().zip(self.layers) {
            let there = sites(config).any(|own| own == site);
            let first = if there && config.depth < Self::LAYERS {
                layers >> config.depth << config.depth
            } else if there {
                0
            } else {
                layers
            };
            if first != 0 {
                return Err(ConfigError::NoMatrix(LayerMatrix { layer: first.trailing_zeros() as usize, site }));
            }
        }
        Ok(())
    }
}

/// The layer is too high for [`KeepF32`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyLayers {
    /// The layer.
    pub layer: usize,
}

impl fmt::Display for TooManyLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = KeepF32::LAYERS;
        write!(f, "matrices of layer {} cannot be kept in f32: only those of the first {most} layers can", self.layer)
    }
}

impl core::error::Error for TooManyLayers {}

/// The format of every weight matrix: a precision, and the matrices that are kept in f32.
///
/// ```
/// use vit_engine::{Config, Formats, KeepF32, LayerMatrix, Model, Precision};
///
/// let config = Config::plain([224, 224], [16, 16], 192, 12, 3);
/// let int8 = Model::bytes(&config, Precision::Int8)?; // a precision alone is `Formats`, too
///
/// let last: LayerMatrix = "blk.11.ffn_down".parse()?;
/// let formats = Formats::new(Precision::Int8, KeepF32::NONE.with(last)?);
/// assert_eq!(formats.keep_f32().matrices(&config).collect::<Vec<_>>(), [last]);
/// assert!(Model::bytes(&config, formats)? > int8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats {
    precision: Precision,
    keep_f32: KeepF32,
}

impl Formats {
    /// A precision, with these matrices kept in f32. With [`Precision::F32`] all matrices are f32 and the set is
    /// ignored.
    pub fn new(precision: Precision, keep_f32: KeepF32) -> Self {
        let keep_f32 = if precision == Precision::F32 { KeepF32::NONE } else { keep_f32 };
        Self { precision, keep_f32 }
    }

    /// The precision.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The matrices that are kept in f32.
    pub fn keep_f32(&self) -> KeepF32 {
        self.keep_f32
    }

    /// [`keep_f32`](Self::keep_f32) where it is: a copy takes stack.
    pub(crate) fn kept(&self) -> &KeepF32 {
        &self.keep_f32
    }

    /// The format of the matrix at a site.
    pub(crate) fn format(&self, site: Site) -> Format {
        match site {
            Site::Layer(layer, site)
                if LayerMatrix::new(layer, site).is_some_and(|matrix| self.keep_f32.contains(matrix)) =>
            {
                Format::F32
            }
            _ => self.precision.format(site),
        }
    }
}

impl From<Precision> for Formats {
    fn from(precision: Precision) -> Self {
        Self { precision, keep_f32: KeepF32::NONE }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec::Vec;

    use super::*;
    use crate::testing::tiny;

    #[test]
    fn matrices_are_read_as_they_are_written() {
        let config = Config { gated: true, ..tiny() };
        let all: Vec<_> = LayerMatrix::all(&config).collect();
        assert_eq!(all.len(), 6 * config.depth);
        for matrix in all {
            assert_eq!(matrix.to_string().parse(), Ok(matrix));
            assert_eq!(LayerMatrix::new(matrix.layer(), matrix.site()), Some(matrix));
        }
        assert_eq!(LayerMatrix::new(3, LayerSite::Value).unwrap().to_string(), "blk.3.attn_kv");
        assert_eq!(LayerMatrix::new(0, LayerSite::MlpNorm), None);
        for name in ["", "blk.0", "blk.0.", "blk.x.attn_q", "blk.-1.attn_q", "blk.0.ffn_norm", "0.attn_q", "head"] {
            assert_eq!(name.parse::<LayerMatrix>(), Err(UnknownMatrix), "{name}");
        }
        assert!(UnknownMatrix.to_string().ends_with("blk.N.ffn_up, blk.N.ffn_down"), "{UnknownMatrix}");
    }

    #[test]
    fn kept_matrices_are_counted() {
        let at = |layer, site| LayerMatrix::new(layer, site).unwrap();
        let layers = [0, 3, 64, 127];
        let keep = layers.iter().try_fold(KeepF32::NONE, |keep, layer| keep.with(at(*layer, LayerSite::Up))).unwrap();
        for layer in 0..300 {
            assert_eq!(keep.contains(at(layer, LayerSite::Up)), layers.contains(&layer));
            assert_eq!(keep.count_before(layer, LayerSite::Up), layers.iter().filter(|kept| **kept < layer).count());
            assert!(!keep.contains(at(layer, LayerSite::Down)) && keep.count_before(layer, LayerSite::MlpNorm) == 0);
        }
        assert_eq!(keep.with(at(128, LayerSite::Up)), Err(TooManyLayers { layer: 128 }));
        assert!(!keep.is_empty() && KeepF32::NONE.is_empty());
    }

    #[test]
    fn what_a_model_does_not_have_cannot_be_kept() {
        let keep = |layer, site| KeepF32::NONE.with(LayerMatrix::new(layer, site).unwrap()).unwrap();
        let config = Config { depth: 2, ..tiny() };
        assert_eq!(keep(1, LayerSite::Down).check(&config), Ok(()));
        for (layer, site, name) in [(2, LayerSite::Down, "blk.2.ffn_down"), (0, LayerSite::Gate, "blk.0.ffn_gate")] {
            let error = keep(layer, site).check(&config).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        for depth in [127, 128, 129] {
            assert_eq!(keep(127, LayerSite::Up).check(&Config { depth, ..tiny() }).is_ok(), depth > 127);
        }
    }
}
