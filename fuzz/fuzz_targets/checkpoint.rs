//! Whole checkpoints: two bytes (little-endian) with the length of config.json, config.json, model.safetensors.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((len, rest)) = input.split_first_chunk() else { return };
    if let Some((config, weights)) = rest.split_at_checked(u16::from_le_bytes(*len).into()) {
        vit_fuzz::load_and_run(config, weights);
    }
});
