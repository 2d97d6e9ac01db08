//! Any config.json over sound weights: a byte that says whose, the config.
#![no_main]
use libfuzzer_sys::fuzz_target;

macro_rules! weights {
    ($($file:literal),* $(,)?) => {
        [$(include_bytes!(concat!("../../vit-engine/tests/goldens/", $file, ".safetensors"))),*]
    };
}

/// One model of each family; `seeds/make.py` has the same list.
const WEIGHTS: [&[u8]; 12] = weights![
    "vp-new-gray/model",
    "timm-token/model",
    "vit-classes/model",
    "deit-teacher/model",
    "dinov2-registers-classes/model",
    "clip-vision/model",
    "siglip-vision/model",
    "dinov3-gated/model",
    "beit-relative/model",
    "timm-siglip/model",
    "eva02-tiny/model",
    "open_clip-native/open_clip_model",
];

fuzz_target!(|input: &[u8]| {
    if let Some((which, config)) = input.split_first() {
        vit_fuzz::load_and_run(config, WEIGHTS[usize::from(*which) % WEIGHTS.len()]);
    }
});
