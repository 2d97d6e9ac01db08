//! Any file as a picture, RGB and grey: decodes or says why not. What decodes is prepared.
#![no_main]
use libfuzzer_sys::fuzz_target;
use vit_image::{Picture, Preprocessing, config};

/// Larger pictures are valid but slow.
const MAX_PIXELS: u64 = 1 << 16;

fuzz_target!(|file: &[u8]| {
    for channels in [1, 3] {
        match Picture::decode(file, channels, MAX_PIXELS) {
            Ok(picture) => prepare(&picture),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});

fn prepare(picture: &Picture) {
    let processor = serde_json::json!({"image_processor_type": "CLIPImageProcessor", "size": 16, "crop_size": 14});
    let files = config::Files { preprocessor: Some(processor), ..Default::default() };
    let mut how: Preprocessing = config::find(&files).expect("a sound config");
    (how.mean, how.std) = (vec![0.5], vec![0.5]);
    let mut out = vec![f32::NAN; picture.channels() * 14 * 14];
    match how.apply(picture, MAX_PIXELS, &mut out) {
        Ok(()) => assert!(out.iter().all(|x| (-1.0..=1.0).contains(x))),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
