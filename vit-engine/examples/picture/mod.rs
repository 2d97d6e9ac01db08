//! What the examples share: a picture as a model's input.
use std::error::Error;
use std::path::Path;

use image::imageops::FilterType;
use vit_engine::file::Loaded;

/// A picture's pixels as the model takes them, \[channels, height, width\]: resized to the model's size whatever the
/// picture's aspect ratio, and normalised with the checkpoint's mean and standard deviation. (`vit classify` also crops
/// and resamples as timm does.)
pub(crate) fn pixels(path: &Path, loaded: &Loaded) -> Result<Vec<f32>, Box<dyn Error>> {
    let prepare = loaded.preprocessing.as_ref().ok_or("the checkpoint does not say how pictures become pixels")?;
    let [height, width] = loaded.config().image;
    let picture = image::open(path)?.resize_exact(width.try_into()?, height.try_into()?, FilterType::CatmullRom);
    // [height, width, channels], 0 to 1.
    let interleaved = match loaded.config().channels {
        1 => picture.to_luma32f().into_raw(),
        3 => picture.to_rgb32f().into_raw(),
        channels => return Err(format!("the model takes {channels} channels, and pictures have 1 or 3").into()),
    };
    let channels = prepare.mean.iter().zip(&prepare.std).enumerate();
    let normalised = channels.flat_map(|(channel, (mean, std))| {
        let values = interleaved.iter().skip(channel).step_by(prepare.mean.len());
        values.map(move |x| (x - mean) / std)
    });
    Ok(normalised.collect())
}
