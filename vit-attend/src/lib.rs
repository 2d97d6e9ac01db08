//! Where a Vision Transformer looks, and what its patches have in common: on the picture, at the place where the model's
//! preprocessing cut them out.
//!
//! - [`Query`] says whose attention is shown, [`rollout`] makes one number for each token of the attention probabilities.
//! - [`pca`] makes colours of the features of patches.
//! - [`Canvas`] paints either of them over the picture.
//!
//! It runs no model, opens no files and starts no threads.
#![forbid(unsafe_code)]

mod error;
mod overlay;
pub mod pca;
mod query;
pub mod rollout;

pub use error::Error;
pub use overlay::{Canvas, Patches, range};
pub use query::{Query, places};

/// The colour map of attention, inferno, from 0 to 1, as levels from 0 to 255.
pub fn inferno(share: f64) -> [f64; 3] {
    let colorous::Color { r, g, b } = colorous::INFERNO.eval_continuous(share.clamp(0.0, 1.0));
    [r, g, b].map(f64::from)
}
