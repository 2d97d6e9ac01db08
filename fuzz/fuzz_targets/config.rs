//! Any config.json over sound weights of each family.
#![no_main]
use libfuzzer_sys::fuzz_target;

const VIT_PYTORCH: &[u8] = include_bytes!("../../vit-engine/tests/goldens/vp-new-gray/model.safetensors");
const TIMM: &[u8] = include_bytes!("../../vit-engine/tests/goldens/timm-token/model.safetensors");

fuzz_target!(|config: &[u8]| {
    vit_fuzz::load_and_run(config, VIT_PYTORCH);
    vit_fuzz::load_and_run(config, TIMM);
});
