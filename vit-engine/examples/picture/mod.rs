//! What the examples share: a picture as a model's input.
use std::error::Error;
use std::path::Path;

use vit_engine::file::Loaded;
use vit_image::Picture;

/// Pictures with more pixels are refused.
const MAX_PIXELS: u64 = 100_000_000;

/// A picture's pixels as the model takes them, \[channels, height, width\], prepared as the model's files say.
pub(crate) fn pixels(path: &Path, loaded: &Loaded) -> Result<Vec<f32>, Box<dyn Error>> {
    let config = loaded.config();
    let preprocessing = loaded.preprocessing.clone()?.at(config.image);
    let picture = Picture::decode(&std::fs::read(path)?, config.channels, MAX_PIXELS)?;
    let mut pixels = vec![0.0; config.channels * config.image[0] * config.image[1]];
    preprocessing.apply(&picture, MAX_PIXELS, &mut pixels)?;
    Ok(pixels)
}
