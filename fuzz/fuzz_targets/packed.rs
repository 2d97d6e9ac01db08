//! Packed files: any bytes, at an aligned address.
#![no_main]
use libfuzzer_sys::fuzz_target;
use vit_engine::packed::config_of;
use vit_engine::{AlignedBox, Isa, Model};

fuzz_target!(|file: &[u8]| {
    let mut memory = AlignedBox::new(file.len()).expect("as much as the input");
    memory.copy_from_slice(file);
    let header = config_of(&memory);
    match Model::from_packed(&memory, Isa::best()) {
        Ok(model) => assert_eq!(header, Ok(*model.config())),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // The config in the second file is not looked at: the packed file has its own.
    vit_fuzz::load_and_run(b"null", &memory);
});
