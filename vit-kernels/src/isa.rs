//! The instruction-set level: detected once, stored by value, passed down.
use core::fmt;

use crate::arch::portable::Portable;
#[cfg(target_arch = "x86_64")]
use crate::arch::x86_64::{Features, avx2::Avx2, avx512::Avx512};
use crate::simd::{Kernel, Simd};

/// An instruction-set level that this CPU has.
///
/// Opaque: a value exists only for a level that was detected, so safe code cannot ask for what the CPU lacks.
///
/// | Name | Needs |
/// |---|---|
/// | `portable` | nothing: the target's compile-time features, through `wide` |
/// | `avx2` | AVX2, FMA, F16C |
/// | `avx512` | AVX-512 F beside those |
#[derive(Debug, Clone, Copy)]
pub struct Isa(Level);

#[derive(Debug, Clone, Copy)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// Every name that [`Isa::by_name`] knows, lowest level first.
const NAMES: [&str; 3] = ["portable", "avx2", "avx512"];

impl Isa {
    /// The level that every target has.
    pub const PORTABLE: Self = Self(Level::Portable);

    /// The highest level that this CPU has.
    pub fn best() -> Self {
        Self::available().last().unwrap_or(Self::PORTABLE)
    }

    /// The levels that this CPU has, lowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        levels().into_iter().flatten().map(Self)
    }

    /// The level of that name.
    ///
    /// # Errors
    /// [`IsaError::Unknown`] for a name that is no level's, [`IsaError::Missing`] for a level that this CPU lacks.
    pub fn by_name(name: &str) -> Result<Self, IsaError> {
        let known = NAMES.into_iter().find(|known| *known == name).ok_or(IsaError::Unknown)?;
        Self::available().find(|isa| isa.name() == known).ok_or(IsaError::Missing(known))
    }

    /// The level's name.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => NAMES[0],
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => NAMES[1],
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => NAMES[2],
        }
    }

    /// Runs a kernel on this level.
    pub(crate) fn call<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Portable => Portable.call(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => token.call(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(token) => token.call(kernel),
        }
    }
}

impl PartialEq for Isa {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Isa {}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a level cannot be had by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsaError {
    /// No level has that name.
    Unknown,
    /// This CPU, or what it was compiled for, lacks the level.
    Missing(&'static str),
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "no such instruction-set level; there are")?,
            Self::Missing(name) => write!(f, "this CPU lacks the level '{name}'; it has")?,
        }
        let available = |name: &&str| matches!(self, Self::Unknown) || Isa::available().any(|isa| isa.name() == *name);
        for (i, name) in NAMES.iter().filter(|name| available(name)).enumerate() {
            write!(f, "{} '{name}'", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl core::error::Error for IsaError {}

#[cfg(target_arch = "x86_64")]
fn levels() -> [Option<Level>; 3] {
    let cpu = Features::get();
    [Some(Level::Portable), Avx2::detect(cpu).map(Level::Avx2), Avx512::detect(cpu).map(Level::Avx512)]
}

#[cfg(not(target_arch = "x86_64"))]
fn levels() -> [Option<Level>; 1] {
    [Some(Level::Portable)]
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn names() {
        assert_eq!(Isa::by_name("portable"), Ok(Isa::PORTABLE));
        assert_eq!(Isa::by_name("sse9"), Err(IsaError::Unknown));
        assert!(IsaError::Unknown.to_string().ends_with("there are 'portable', 'avx2', 'avx512'"));
        assert!(IsaError::Missing("avx512").to_string().contains("it has 'portable'"));
        for isa in Isa::available() {
            assert_eq!(Isa::by_name(isa.name()), Ok(isa));
        }
    }
}
