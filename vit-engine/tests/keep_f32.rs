//! Matrices that are kept in f32 beside others in a lower precision.
mod support;

use support::{Golden, aligned, distance, golden, packed, run};
use vit_engine::file::{Checkpoint, LoadError, Loaded};
use vit_engine::{Config, Formats, Isa, KeepF32, LayerMatrix, Model, Output, PackedError, Precision, arena_bytes};

/// Models with every kind of matrix: fused and gated, with and without an output projection.
const NAMES: [&str; 3] = ["timm-token", "eva02-base", "dinov2-model"];

fn keep(config: &Config, which: impl Fn(&str) -> bool) -> KeepF32 {
    let kept = LayerMatrix::all(config).filter(|matrix| which(&matrix.to_string()));
    kept.fold(KeepF32::NONE, |keep, matrix| keep.with(matrix).unwrap())
}

/// A golden model whose layers keep some matrices.
fn load(golden: &Golden, precision: Precision, which: impl Fn(&str) -> bool) -> Loaded {
    let config = *golden.load(Precision::F32).config();
    golden.load(Formats::new(precision, keep(&config, which)))
}

/// int8 is for the layers' matrices alone: with all of them kept, the block of weights is that of f32.
#[test]
fn all_that_is_kept_is_f32() {
    for name in NAMES {
        let golden = golden(name);
        let (kept, f32) = (load(&golden, Precision::Int8, |_| true), golden.load(Precision::F32));
        assert!(kept.weights() == f32.weights(), "{name}");
        // In f32 there is nothing to keep.
        assert_eq!(load(&golden, Precision::F32, |_| true).formats(), Precision::F32.into());
    }
}

/// Each matrix that is kept changes its own place alone, and the bytes are those that were said.
#[test]
fn each_matrix_is_kept_for_itself() {
    for name in NAMES {
        let golden = golden(name);
        let pixels = golden.tensor("pixels").unwrap();
        let output = |loaded: &Loaded| run(&loaded.model(Isa::best()), Output::Patches, &pixels);
        let (exact, plain) = (golden.load(Precision::F32), golden.load(Precision::Int8));
        let config = exact.config();
        let matrices: Vec<_> = LayerMatrix::all(config).map(|matrix| matrix.to_string()).collect();
        let (want, low) = (output(&exact), output(&plain));
        let mut outputs = vec![low.clone()];
        let mut grown = 0;
        for matrix in &matrices {
            let kept = load(&golden, Precision::Int8, |name| name == matrix);
            assert_eq!(Model::bytes(config, kept.formats()).unwrap(), kept.weights().len());
            grown += kept.weights().len() - plain.weights().len();
            let out = output(&kept);
            assert!(distance(&out, &want) < 0.2, "{name} {matrix}");
            assert!(!outputs.contains(&out), "{name}: {matrix} makes a difference of its own");
            outputs.push(out);
        }
        assert_eq!(plain.weights().len() + grown, exact.weights().len(), "{name}");
        // All but the last layer's feed-forward: nearer to f32 than int8 alone.
        let most = load(&golden, Precision::Int8, |name| !name.contains(&format!("{}.ffn", config.depth - 1)));
        assert!(distance(&output(&most), &want) < distance(&low, &want), "{name}");
    }
}

/// The arena is that of the precision, whatever is kept.
#[test]
fn plans_depend_on_the_precision_alone() {
    let golden = golden("timm-token");
    let kept = load(&golden, Precision::Int8, |name| name.ends_with("attn_q"));
    let model = kept.model(Isa::best());
    let plan = model.plan(Output::Logits, 1, None).unwrap();
    let bytes = arena_bytes(kept.config(), Precision::Int8, plan.images(), plan.rows());
    assert_eq!((plan.precision(), Some(plan.arena_bytes())), (Precision::Int8, bytes));
    assert_eq!(golden.load(Precision::Int8).model(Isa::best()).plan(Output::Logits, 1, None), Ok(plan));
}

#[test]
fn a_packed_file_keeps_what_it_was_made_with() {
    for name in NAMES {
        let golden = golden(name);
        let pixels = golden.tensor("pixels").unwrap();
        for precision in Precision::ALL {
            let loaded = load(&golden, precision, |name| name.ends_with("ffn_down") || name.starts_with("blk.1."));
            let file = packed(&loaded);
            assert_eq!(&file[file.len() - loaded.weights().len()..], loaded.weights());
            let model = Model::from_packed(&file, Isa::best()).unwrap();
            assert_eq!(model.formats(), loaded.formats());
            let output = |model: &Model<'_>| run(model, Output::Patches, &pixels);
            assert!(output(&model) == output(&loaded.model(Isa::best())), "{name}");

            let checkpoint = Checkpoint::from_bytes(b"null", &file).unwrap();
            assert_eq!(checkpoint.formats().unwrap(), Some(loaded.formats()));
            assert!(checkpoint.load(loaded.formats()).unwrap().weights() == loaded.weights());
            if precision != Precision::F32 {
                let error = checkpoint.load(precision).err().unwrap().to_string();
                assert!(error.contains("other matrices kept in f32"), "{error}");
            }
        }
    }
}

#[test]
fn metadata_that_cannot_be_is_an_error() {
    let golden = golden("timm-token");
    let file = packed(&load(&golden, Precision::Int8, |name| name == "blk.1.attn_q"));
    let changed = |from: &[u8], to: &[u8]| {
        let at = file.windows(from.len()).position(|window| window == from).expect("it is in the file");
        let mut file = file.to_vec();
        file[at..at + to.len()].copy_from_slice(to);
        Model::from_packed(&aligned(&file), Isa::best()).map(|model| model.formats())
    };
    // The key's name is in metadata before the table of tensors.
    let key = Err(PackedError::Metadata("vit.keep_f32"));
    assert_eq!(changed(b"blk.1.attn_q", b"blk.1.attn_k"), key);
    assert_eq!(changed(b"blk.1.attn_q", b"blk.x.attn_q"), key);
    assert_eq!(changed(b"blk.1.attn_q", b"blk.1.\xff\xff\xff\xff_q"), key);
    assert_eq!(changed(b"blk.1.attn_q", b"blk.999999.q"), key);
    // The same bytes as an array of 20 numbers instead of one string.
    let strings = b"vit.keep_f32\x09\0\0\0\x08\0\0\0\x01";
    assert_eq!(changed(strings, b"vit.keep_f32\x09\0\0\0\x00\0\0\0\x14"), key);
    // A layer that the model does not have, and a matrix that the table has as int8.
    assert!(matches!(changed(b"blk.1.attn_q", b"blk.9.attn_q"), Err(PackedError::Config(_))));
    assert!(matches!(changed(b"blk.1.attn_q", b"blk.0.attn_q"), Err(PackedError::Tensor(_))));
    assert!(matches!(changed(b"vit.keep_f32", b"vit.keep_f33"), Err(PackedError::Tensor(_))));
}

#[test]
fn what_the_model_does_not_have_is_an_error() {
    let golden = golden("timm-token");
    for name in ["blk.2.attn_q", "blk.127.ffn_down", "blk.0.ffn_gate"] {
        let kept = KeepF32::NONE.with(name.parse().unwrap()).unwrap();
        let formats = Formats::new(Precision::Int8, kept);
        let error: LoadError = golden.try_load(&golden.config, &golden.weights, formats).err().unwrap();
        assert!(error.to_string().contains(&format!("the model has no {name}")), "{error}");
    }
}
