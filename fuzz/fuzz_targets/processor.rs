//! Any JSON as a model's files: {"config": …, "preprocessor": …, "processor": …}. What is understood prepares pictures.
#![no_main]
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use vit_image::{Picture, config};

/// Larger outputs are valid but slow.
const MOST: usize = 1 << 16;

fuzz_target!(|json: &[u8]| {
    let Ok(json) = serde_json::from_slice::<Value>(json) else { return };
    let files = config::Files {
        config: json["config"].clone(),
        preprocessor: json.get("preprocessor").cloned(),
        processor: json.get("processor").cloned(),
        image: None,
    };
    let how = match config::find(&files) {
        Ok(how) => how,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(how.is_valid());
    for how in [how.at([16, 24]), how] {
        for size in [[7, 5], [1, 60], [33, 20]] {
            let samples = (0..size[0] * size[1] * 3).map(|i| (i * 37 % 251) as u8).collect();
            let picture = Picture::new(size, 3, samples).expect("a sound picture");
            let Ok([height, width]) = how.output_size(size) else { continue };
            let len = 3 * height * width;
            if len <= MOST && how.fits(3) {
                let mut out = vec![f32::NAN; len];
                match how.apply(&picture, MOST as u64, &mut out) {
                    Ok(()) => assert!(out.iter().all(|x| !x.is_nan())),
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
            }
        }
    }
});
