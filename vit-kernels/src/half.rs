//! f16 as a storage type: widened when read, rounded when written; the arithmetic is f32.
use crate::isa::Isa;
use crate::layer_norm::{NormRows, Stored};
use crate::simd::{LANES, Simd};

/// For reading checkpoints; rows cannot be stored in it.
pub use ::half::bf16;
pub use ::half::f16;

/// A type that rows may be stored in: `f32` or [`struct@f16`].
#[allow(private_bounds)] // Sealed: only this crate implements it.
pub trait Element: Storage {}

impl Element for f32 {}
impl Element for f16 {}

pub(crate) trait Storage: Copy + Default + PartialEq + Send + Sync + 'static {
    /// Whether every f32 is stored exactly.
    const HOLDS_F32: bool;

    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::V;
    fn store<S: Simd>(s: S, v: S::V, out: &mut [Self; LANES]);
    fn from_f32(x: f32) -> Self;
    fn to_f32(self) -> f32;

    /// LayerNorm of rows. A function of each type, so that it is compiled in this crate, with the options of this crate.
    fn norm_rows(isa: Isa, rows: NormRows<'_, Self, Stored<'_, Self>>);

    /// Loads up to a vector's worth of elements; the lanes beyond them hold `fill`.
    #[inline(always)]
    fn load_tail<S: Simd>(s: S, x: &[Self], fill: f32) -> S::V {
        let mut full = [Self::from_f32(fill); LANES];
        full[..x.len()].copy_from_slice(x);
        Self::load(s, &full)
    }

    /// Loads up to a vector's worth of elements; the lanes beyond them hold 0.
    #[inline(always)]
    fn load_any<S: Simd>(s: S, x: &[Self]) -> S::V {
        match x.try_into() {
            Ok(whole) => Self::load(s, whole),
            Err(_) => Self::load_tail(s, x, Self::default().to_f32()),
        }
    }

    /// Stores as many lanes as `out` has elements, up to all.
    #[inline(always)]
    fn store_any<S: Simd>(s: S, v: S::V, out: &mut [Self]) {
        match out.try_into() {
            Ok(whole) => Self::store(s, v, whole),
            Err(_) => Self::store_tail(s, v, out),
        }
    }

    /// Stores the first `out.len()` lanes.
    #[inline(always)]
    fn store_tail<S: Simd>(s: S, v: S::V, out: &mut [Self]) {
        let mut full = [Self::default(); LANES];
        Self::store(s, v, &mut full);
        out.copy_from_slice(&full[..out.len()]);
    }
}

impl Storage for f32 {
    const HOLDS_F32: bool = true;

    fn norm_rows(isa: Isa, rows: NormRows<'_, Self, Stored<'_, Self>>) {
        isa.call(rows);
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::V {
        s.load(x)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, out: &mut [Self; LANES]) {
        s.store(v, out);
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Storage for f16 {
    const HOLDS_F32: bool = false;

    fn norm_rows(isa: Isa, rows: NormRows<'_, Self, Stored<'_, Self>>) {
        isa.call(rows);
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::V {
        s.load_f16(x)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::V, out: &mut [Self; LANES]) {
        s.store_f16(v, out);
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        Self::from_f32_const(x)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.to_f32_const()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Kernel;
    use crate::testing::{levels, noise, specials};

    struct RoundTrip<'a>(&'a [f16; LANES], &'a mut [f32; LANES], &'a mut [f16; LANES]);

    impl Kernel for RoundTrip<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let v = s.load_f16(self.0);
            s.store(v, self.1);
            s.store_f16(v, self.2);
        }
    }

    #[test]
    fn every_f16_survives() {
        for isa in levels() {
            for start in (0..=u16::MAX).step_by(LANES) {
                let halves: [f16; LANES] = core::array::from_fn(|i| f16::from_bits(start + i as u16));
                let (mut wide, mut back) = ([0.0; LANES], [f16::ZERO; LANES]);
                isa.call(RoundTrip(&halves, &mut wide, &mut back));
                for i in 0..LANES {
                    let exact = halves[i].to_f32_const();
                    assert!(wide[i].to_bits() == exact.to_bits() || (wide[i].is_nan() && exact.is_nan()), "{isa}");
                    assert!(same(back[i], halves[i]), "{isa}");
                }
            }
        }
    }

    struct Narrow<'a>(&'a [f32; LANES], &'a mut [f16; LANES]);

    impl Kernel for Narrow<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            s.store_f16(s.load(self.0), self.1);
        }
    }

    #[test]
    fn rounds_to_nearest_even() {
        for isa in levels() {
            for seed in 0..200 {
                let scale = [1.0, 70_000.0, 1e-4, 1e-7][seed as usize % 4];
                let x: [f32; LANES] = noise(LANES, seed, scale).try_into().unwrap();
                let mut got = [f16::ZERO; LANES];
                isa.call(Narrow(&x, &mut got));
                assert_eq!(got.map(f16::to_bits), x.map(|x| f16::from_f32_const(x).to_bits()), "{isa}");
            }
            // Ties, the edges between normal, subnormal and infinite, and special values.
            let edges = (0..=u16::MAX).step_by(7).map(|bits| f16::from_bits(bits).to_f32_const());
            let edges =
                edges.flat_map(|x| [x, f32::from_bits(x.to_bits() ^ 0x1000), f32::from_bits(x.to_bits() ^ 0x1001)]);
            for x in edges.chain(specials()) {
                let mut got = [f16::ZERO; LANES];
                isa.call(Narrow(&[x; LANES], &mut got));
                let want = f16::from_f32_const(x);
                assert!(got.iter().all(|got| same(*got, want)), "{isa} {x:e}");
                // Beside numbers that need no special case.
                let mut mixed = [1.0; LANES];
                mixed[3] = x;
                isa.call(Narrow(&mixed, &mut got));
                let is_right = |(i, &got): (usize, &f16)| same(got, if i == 3 { want } else { f16::ONE });
                assert!(got.iter().enumerate().all(is_right), "{isa} {x:e}");
            }
        }
    }

    #[test]
    #[ignore = "all 2^32 f32; minutes"]
    fn exhaustive_narrow() {
        for isa in levels() {
            for start in (0..=u32::MAX).step_by(LANES) {
                let x: [f32; LANES] = core::array::from_fn(|i| f32::from_bits(start + i as u32));
                let mut got = [f16::ZERO; LANES];
                isa.call(Narrow(&x, &mut got));
                for (got, x) in got.into_iter().zip(x) {
                    assert!(same(got, f16::from_f32_const(x)), "{isa} {x:e}");
                }
            }
        }
    }

    /// The same bits, or both NaN.
    fn same(a: f16, b: f16) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }
}
