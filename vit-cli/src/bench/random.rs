//! Models without a checkpoint: seeded random weights for speed measurements.
use std::convert::Infallible;

use vit_engine::{Param, Part, PoolSite, Site, Source, Values};

/// Weights that keep activations near 1: matrices are uniform with variance 1/inputs, norms near 1, the rest small. The
/// same seed gives the same weights in any order of reading.
pub(crate) struct Random {
    pub(crate) seed: u64,
}

impl Source for Random {
    type Error = Infallible;

    fn open(&self, param: Param, [rows, columns]: [usize; 2]) -> Result<impl Values, Infallible> {
        let token = [Site::ClassToken, Site::DistillationToken, Site::Registers, Site::Pool(PoolSite::Probe)];
        let is_token = token.contains(&param.site);
        let is_norm = rows == 1 && param.part == Part::Weight && !is_token;
        let (centre, spread) = match (is_norm, param.part, param.site) {
            (true, ..) => (1.0, 0.1),
            (_, Part::Bias, _) | (_, _, Site::Positions) => (0.0, 0.1),
            _ if is_token => (0.0, 0.1),
            _ => (0.0, (3.0 / columns as f32).sqrt()),
        };
        let seed = self.seed ^ hash(param);
        Ok(move |row: usize, start: usize, into: &mut [f32]| {
            // A row may be read in pieces, so each piece has its own generator.
            let piece = ((row as u64) << 32 | start as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut rng = fastrand::Rng::with_seed(seed ^ piece);
            into.iter_mut().for_each(|x| *x = centre + spread * (2.0 * rng.f32() - 1.0));
        })
    }
}

/// A seed for a parameter, the same on every machine.
fn hash(param: Param) -> u64 {
    // FNV-1a over its name.
    format!("{param:?}")
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
