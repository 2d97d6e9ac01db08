//! Packed files: the same model as the checkpoint that they were made of, and errors for all that is no such file.
mod support;

use support::{aligned, golden, goldens, model, output, packed, parse, run};
use vit_engine::file::{Access, Checkpoint, LoadError, Loaded};
use vit_engine::packed::{config_of, file_len};
use vit_engine::{Isa, Model, PackedError, Precision};

/// The length that is known before anything is loaded is the file's, but for what a checkpoint has besides: class names,
/// preprocessing, rotary parameters, how positions are resampled.
#[test]
fn length_is_known_before() {
    for golden in goldens() {
        for precision in Precision::ALL {
            let loaded = golden.load(precision);
            let (len, known) = (packed(&loaded).len(), file_len(loaded.config(), precision).unwrap());
            let names: usize = loaded.labels.iter().map(|label| label.len() + 8).sum();
            assert!((known..known + names + 2048).contains(&len), "{} {precision}: {len}, not {known}", golden.name);
        }
    }
}

/// Where the section of data begins.
fn data_start(file: &[u8], loaded: &Loaded) -> usize {
    file.len() - loaded.weights().len()
}

#[test]
fn every_golden_model_gives_the_same_bits_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    for golden in goldens() {
        for precision in Precision::ALL {
            let loaded = golden.load(precision);
            let file = packed(&loaded);
            assert_eq!(&file[data_start(&file, &loaded)..], loaded.weights(), "{}: the engine's block", golden.name);
            assert_eq!(config_of(&file), Ok(*loaded.config()), "{}", golden.name);
            let in_memory = Model::from_packed(&file, Isa::best()).unwrap();
            assert_eq!((in_memory.config(), in_memory.precision()), (loaded.config(), precision));
            let path = folder.path().join(format!("{}-{precision}.gguf", golden.name));
            std::fs::write(&path, &*file).unwrap();
            assert!(!loaded.is_packed() && !loaded.is_mapped());
            let reopened = [Access::Map, Access::Read].map(|access| {
                let checkpoint = Checkpoint::open(&path, access).unwrap();
                assert_eq!(checkpoint.formats().unwrap(), Some(precision.into()));
                assert_eq!(checkpoint.config().unwrap(), *loaded.config());
                let loaded = checkpoint.load(precision).unwrap();
                assert!(loaded.is_packed() && loaded.is_mapped() == (access == Access::Map));
                loaded
            });
            for name in golden.truths().iter().filter(|name| !name.starts_with("pixels")) {
                let (kind, size) = parse(name);
                let pixels = golden.tensor(&name.replacen(kind, "pixels", 1)).unwrap();
                let outputs = |model: &Model<'_>| run(model, output(kind), &pixels);
                let want = outputs(&model(&loaded, Isa::best(), size));
                for reopened in &reopened {
                    assert!(outputs(&model(reopened, Isa::best(), size)) == want, "{} {name}", golden.name);
                }
                assert!(size.is_some() || outputs(&in_memory) == want, "{} {name}", golden.name);
            }
            for reopened in &reopened {
                assert_eq!(reopened.labels, loaded.labels);
                assert_eq!(reopened.contrast, loaded.contrast);
                assert_eq!(reopened.preprocessing, loaded.preprocessing);
            }
        }
    }
}

#[test]
fn another_precision_than_the_files_is_an_error() {
    let golden = golden("timm-token");
    let file = packed(&golden.load(Precision::F16));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, &*file).unwrap();
    let error = Checkpoint::open(&path, Access::Map).unwrap().load(Precision::F32).err().unwrap();
    assert!(error.to_string().contains("packed in f16 and cannot become f32"), "{error}");
}

/// Every prefix of the header and of the data, and every damaged byte: an error or the same kind of model, never a panic.
#[test]
fn damaged_files_are_errors() {
    for name in ["timm-token", "timm-siglip-tanh", "eva02-base"] {
        let loaded = golden(name).load(Precision::F32);
        let file = packed(&loaded);
        let start = data_start(&file, &loaded);
        for len in (0..start).chain([start + 1, file.len() - 64, file.len() - 1]) {
            let cut = aligned(&file[..len]);
            assert!(Model::from_packed(&cut, Isa::best()).is_err(), "{name}: {len} of {} bytes", file.len());
            assert!(config_of(&cut).is_err() || len >= start, "{name}: {len} bytes");
        }
        let mut damaged = aligned(&file);
        for at in 0..start {
            for bit in 0..8 {
                damaged[at] ^= 1 << bit;
                // What no key of the model says may be damaged unseen.
                if let Ok(model) = Model::from_packed(&damaged, Isa::best()) {
                    assert_eq!(model.weight_bytes(), loaded.weights().len());
                }
                let _ = open_bytes(&damaged);
                damaged[at] ^= 1 << bit;
            }
        }
        let longer = aligned(&[&*file, &[0; 64]].concat());
        assert!(matches!(Model::from_packed(&longer, Isa::best()), Err(PackedError::Data { .. })));
        let shifted = aligned(&[&[0; 4], &*file].concat());
        let error = Model::from_packed(&shifted[4..], Isa::best()).err();
        assert!(matches!(error, Some(PackedError::Memory(_))), "{error:?}");
    }
}

fn open_bytes(file: &[u8]) -> Result<Loaded, LoadError> {
    let checkpoint = Checkpoint::from_bytes(b"null", file)?;
    let formats = checkpoint.formats()?.unwrap_or(Precision::F32.into());
    checkpoint.load(formats)
}

#[test]
fn errors_say_what_is_wrong() {
    let loaded = golden("timm-token").load(Precision::F32);
    let file = packed(&loaded);
    let says = |file: &[u8], text: &str| {
        let error = Model::from_packed(&aligned(file), Isa::best()).err().unwrap().to_string();
        assert!(error.contains(text), "{error}");
    };
    says(b"", "not a GGUF file");
    says(b"PK\x03\x04 and so on", "not a GGUF file");
    says(b"GGUF\x02\0\0\0", "version 2");
    says(&file[..100], "truncated");
    let replaced = |from: &[u8], to: &[u8]| {
        let at = file.windows(from.len()).position(|window| window == from).expect("it is in the file");
        let mut file = file.to_vec();
        file[at..at + to.len()].copy_from_slice(to);
        file
    };
    says(&replaced(b"vit.layout_version\x04\0\0\0\x01", b"vit.layout_version\x04\0\0\0\x09"), "layout version 9");
    says(&replaced(b"vit.block_count", b"vit.block_c0unt"), "'vit.block_count' is missing");
    says(&replaced(b"channel_row_column", b"channel_row_colymn"), "'vit.patch_order'");
    says(&replaced(b"blk.0.attn_q.weight", b"blk.1.attn_q.weight"), "is not the one");
    says(&replaced(b"vit.class_count\x04\0\0\0", b"vit.class_count\x05\0\0\0"), "'vit.class_count'");
}

/// The macro takes any file: here one that has no reason to be aligned.
#[test]
fn included_files_are_aligned() {
    static FILE: &[u8] = vit_engine::include_model!("goldens/names.txt");
    assert_eq!(FILE, include_bytes!("goldens/names.txt"));
    assert!(FILE.as_ptr().addr().is_multiple_of(vit_engine::ALIGN));
}
