//! Any model.safetensors.index.json over sound shards.
#![no_main]
use libfuzzer_sys::fuzz_target;
use vit_engine::Precision;
use vit_engine::file::Checkpoint;

macro_rules! shard {
    ($file:literal) => {
        ($file, include_bytes!(concat!("../../vit-engine/tests/goldens/vit-sharded/", $file)))
    };
}

const CONFIG: &[u8] = include_bytes!("../../vit-engine/tests/goldens/vit-sharded/config.json");
const SHARDS: [(&str, &[u8]); 3] = [
    shard!("model-00001-of-00003.safetensors"),
    shard!("model-00002-of-00003.safetensors"),
    shard!("model-00003-of-00003.safetensors"),
];

fuzz_target!(|index: &[u8]| {
    let checkpoint = Checkpoint::from_shards(CONFIG, index, &SHARDS);
    if let Err(error) = checkpoint.and_then(|checkpoint| checkpoint.load(Precision::F32)) {
        assert!(!error.to_string().is_empty());
    }
});
