//! The instruction-set level: detected once, stored by value, passed down.
use core::fmt;

#[cfg(arm_neon)]
use crate::arch::aarch64::{Dotprod, I8mm, Smull, neon::Neon};
#[cfg(test)]
use crate::arch::small::Small;
#[cfg(target_arch = "x86_64")]
use crate::arch::x86_64::{
    Features,
    avx2::Avx2,
    avx512::{Avx512, BF16, VNNI},
};
use crate::arch::{self, Portable};
use crate::simd::{Kernel, Simd};
use crate::unfused;

/// An instruction-set level that this CPU has.
///
/// Opaque: a value exists only for a level that was detected, so safe code cannot use instructions the CPU lacks.
///
/// | Name | Needs |
/// |---|---|
/// | `portable` | nothing: it uses the target's compile-time features |
/// | `avx2` | AVX2, FMA, F16C |
/// | `avx2-vnni` | those of `avx2`, and AVX-VNNI; differs for int8 and int4 only |
/// | `avx512` | those of `avx2`, and AVX-512 F and BW |
/// | `avx512-vnni` | those of `avx512`, and AVX-512 VNNI; differs for int8 and int4 only |
/// | `avx512-bf16` | those of `avx512-vnni`, and AVX-512 BF16; differs for bf16 only |
/// | `neon` | 64-bit Arm, little-endian |
/// | `neon-dotprod` | that, and SDOT (Armv8.2 and later, optional); differs for int8 and int4 only |
/// | `neon-i8mm` | those of `neon-dotprod`, and SMMLA (Armv8.2 and later, optional); differs for int8 and int4 only |
/// | `simd128` | WebAssembly, compiled with `+simd128` |
/// | `relaxed-simd` | WebAssembly, compiled with `+simd128,+relaxed-simd` |
///
/// On WebAssembly with SIMD the level is fixed when the module is compiled: it is the only one, and
/// [`PORTABLE`](Self::PORTABLE).
///
/// `portable` has code of its own for cores without vectors, such as Cortex-M and 32-bit RISC-V.
#[derive(Debug, Clone, Copy)]
pub struct Isa {
    level: Level,
    unfused: bool,
}

#[derive(Debug, Clone, Copy)]
enum Level {
    Portable,
    /// The portable level of cores without vectors.
    #[cfg(test)]
    Small,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni(Avx2<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512<VNNI>),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512<BF16>),
    #[cfg(arm_neon)]
    Neon(Neon<Smull>),
    #[cfg(arm_neon)]
    NeonDotprod(Neon<Dotprod>),
    #[cfg(arm_neon)]
    NeonI8mm(Neon<I8mm>),
}

/// Every name that [`Isa::by_name`] accepts, lowest level first.
const NAMES: [&str; 11] = [
    "portable",
    "avx2",
    "avx2-vnni",
    "avx512",
    "avx512-vnni",
    "avx512-bf16",
    "neon",
    "neon-dotprod",
    "neon-i8mm",
    "simd128",
    "relaxed-simd",
];

impl Isa {
    /// The level that every target has.
    pub const PORTABLE: Self = Self { level: Level::Portable, unfused: false };

    /// What [`PORTABLE`](Self::PORTABLE) is on cores without vectors.
    #[cfg(test)]
    pub(crate) const SMALL: Self = Self { level: Level::Small, unfused: false };

    /// The highest level that this CPU has.
    pub fn best() -> Self {
        Self::available().last().unwrap_or(Self::PORTABLE)
    }

    /// The levels that this CPU has, lowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        levels().into_iter().flatten().map(|level| Self { level, unfused: false })
    }

    /// The level with this name.
    ///
    /// ```
    /// use vit_kernels::{Isa, IsaError};
    /// assert_eq!(Isa::by_name("portable"), Ok(Isa::PORTABLE));
    /// assert_eq!(Isa::by_name("abacus"), Err(IsaError::Unknown));
    /// assert_eq!(Isa::available().next(), Some(Isa::PORTABLE));
    /// ```
    ///
    /// # Errors
    /// [`IsaError::Unknown`] if no level has this name, [`IsaError::Missing`] if this CPU lacks the level.
    pub fn by_name(name: &str) -> Result<Self, IsaError> {
        let known = NAMES.into_iter().find(|known| *known == name).ok_or(IsaError::Unknown)?;
        Self::available().find(|isa| isa.name() == known).ok_or(IsaError::Missing(known))
    }

    /// The level's name.
    pub fn name(self) -> &'static str {
        match self.level {
            Level::Portable => arch::PORTABLE,
            #[cfg(test)]
            Level::Small => "small",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => NAMES[1],
            #[cfg(target_arch = "x86_64")]
            Level::Avx2Vnni(_) => NAMES[2],
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => NAMES[3],
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni(_) => NAMES[4],
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16(_) => NAMES[5],
            #[cfg(arm_neon)]
            Level::Neon(_) => NAMES[6],
            #[cfg(arm_neon)]
            Level::NeonDotprod(_) => NAMES[7],
            #[cfg(arm_neon)]
            Level::NeonI8mm(_) => NAMES[8],
        }
    }

    /// The same level without fused multiply–add: every kernel then gives the same bits on every level and every
    /// target.
    #[must_use]
    pub fn unfused(self) -> Self {
        Self { unfused: true, ..self }
    }

    /// Runs a kernel on this level.
    pub(crate) fn call<K: Kernel>(self, kernel: K) -> K::Output {
        match self.level {
            Level::Portable => self.enter(Portable, kernel),
            #[cfg(test)]
            Level::Small => self.enter(Small, kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => self.enter(token, kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2Vnni(token) => self.enter(token.base(), kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(token) => self.enter(token, kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni(token) => self.enter(token.base(), kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16(token) => self.enter(token.base(), kernel),
            #[cfg(arm_neon)]
            Level::Neon(token) => self.enter(token, kernel),
            // They differ in int8 only.
            #[cfg(arm_neon)]
            Level::NeonDotprod(_) | Level::NeonI8mm(_) => self.enter(Neon(Smull), kernel),
        }
    }

    fn enter<S: Simd, K: Kernel>(self, token: S, kernel: K) -> K::Output {
        if self.unfused { unfused::call(token, kernel) } else { token.call(kernel) }
    }

    /// Runs a kernel over int8 activations: unfused, with VNNI if the level has it.
    pub(crate) fn call_int8<K: Kernel>(self, kernel: K) -> K::Output {
        match self.level {
            Level::Portable => unfused::call(Portable, kernel),
            #[cfg(test)]
            Level::Small => unfused::call(Small, kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => unfused::call(token, kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2Vnni(token) => unfused::call(token, kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(token) => unfused::call(token, kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni(token) => unfused::call(token, kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16(token) => unfused::call(token.vnni(), kernel),
            #[cfg(arm_neon)]
            Level::Neon(token) => unfused::call(token, kernel),
            #[cfg(arm_neon)]
            Level::NeonDotprod(token) => unfused::call(token, kernel),
            #[cfg(arm_neon)]
            Level::NeonI8mm(token) => unfused::call(token, kernel),
        }
    }

    /// Runs a kernel over bf16 activations, with VDPBF16PS if the level has it.
    pub(crate) fn call_bf16<K: Kernel>(self, kernel: K) -> K::Output {
        match self.level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16(token) => self.enter(token, kernel),
            _ => self.call(kernel),
        }
    }

    /// Whether products of bf16 are added by an instruction of their own, in an order of its own.
    #[cfg(test)]
    pub(crate) fn has_bf16_dot(self) -> bool {
        struct Dot;
        impl Kernel for Dot {
            type Output = bool;
            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> bool {
                S::BF16_DOT
            }
        }
        self.call_bf16(Dot)
    }

    /// Whether this is the level of cores without vectors.
    #[cfg(any(no_vectors, test))]
    pub(crate) fn is_small(self) -> bool {
        match self.level {
            Level::Portable => cfg!(no_vectors),
            #[cfg(test)]
            Level::Small => true,
            #[allow(unreachable_patterns)] // Some targets have no other levels.
            _ => false,
        }
    }

    /// The offset added to int8 activations when they are stored for this level.
    pub(crate) fn zero_point(self) -> u8 {
        struct ZeroPoint;
        impl Kernel for ZeroPoint {
            type Output = u8;
            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> u8 {
                S::ZERO_POINT
            }
        }
        self.call_int8(ZeroPoint)
    }
}

impl PartialEq for Isa {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.unfused == other.unfused
    }
}

impl Eq for Isa {}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why [`Isa::by_name`] failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum IsaError {
    /// No level has this name.
    Unknown,
    /// This CPU, or the compilation target, lacks the level.
    Missing(&'static str),
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "unknown instruction-set level; known levels:")?,
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
fn levels() -> [Option<Level>; 6] {
    let cpu = Features::get();
    [
        Some(Level::Portable),
        Avx2::detect(cpu).map(Level::Avx2),
        Avx2::detect(cpu).map(Level::Avx2Vnni),
        Avx512::detect(cpu).map(Level::Avx512),
        Avx512::detect(cpu).map(Level::Avx512Vnni),
        Avx512::detect(cpu).map(Level::Avx512Bf16),
    ]
}

#[cfg(arm_neon)]
fn levels() -> [Option<Level>; 4] {
    [
        Some(Level::Portable),
        Some(Level::Neon(Neon(Smull))),
        Dotprod::detect().map(|token| Level::NeonDotprod(Neon(token))),
        I8mm::detect().map(|token| Level::NeonI8mm(Neon(token))),
    ]
}

#[cfg(not(any(target_arch = "x86_64", arm_neon)))]
fn levels() -> [Option<Level>; 1] {
    [Some(Level::Portable)]
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn names() {
        assert_eq!(Isa::by_name(Isa::PORTABLE.name()), Ok(Isa::PORTABLE));
        assert_eq!(Isa::by_name("sse9"), Err(IsaError::Unknown));
        assert!(IsaError::Unknown.to_string().ends_with("'neon-dotprod', 'neon-i8mm', 'simd128', 'relaxed-simd'"));
        let has = std::format!("it has '{}'", Isa::PORTABLE.name());
        assert!(IsaError::Missing("avx512").to_string().contains(&has));
        for isa in Isa::available() {
            assert_eq!(Isa::by_name(isa.name()), Ok(isa));
        }
    }
}
