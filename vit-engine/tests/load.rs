//! Checkpoints that are damaged, contradict themselves or are merely unusual: an error that says what and where, or
//! the right model. Never a panic.
mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use support::{Golden, golden, goldens};
use tempfile::TempDir;
use vit_engine::file::{Access, Checkpoint, LoadError, Loaded, Problem, SizeError};
use vit_engine::{Isa, Output, Positions, Precision};
use vit_kernels::half::f16;

/// Models with a head whose every tensor is f32 and is used.
fn plain() -> impl Iterator<Item = Golden> {
    let timm =
        ["token", "avg", "rect", "in-chans", "mlp-ratio", "no-qkv-bias", "qk-norm", "distilled", "beit", "siglip"];
    let is_plain = move |name: &str| {
        name.starts_with("vp-") || name.strip_prefix("timm-").is_some_and(|name| timm.contains(&name))
    };
    goldens().into_iter().filter(move |golden| is_plain(&golden.name))
}

/// A tensor as it stands in a safetensors file.
#[derive(Clone)]
struct Entry {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// A safetensors file taken apart, its tensors in the order of their offsets.
#[derive(Clone)]
struct Weights(Vec<Entry>);

impl Weights {
    fn of(golden: &Golden) -> Self {
        let file = SafeTensors::deserialize(golden.weights.file()).unwrap();
        let mut views = file.tensors();
        views.sort_by_key(|(_, view)| view.data().as_ptr());
        let entry = |(name, view): (String, safetensors::tensor::TensorView<'_>)| Entry {
            name,
            dtype: "F32",
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        };
        Self(views.into_iter().map(entry).collect())
    }

    fn header(&self) -> Value {
        let mut end = 0;
        let fields = self.0.iter().map(|Entry { name, dtype, shape, data }| {
            let start = end;
            end += data.len();
            (name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}))
        });
        Value::Object(fields.collect())
    }

    fn data(&self) -> Vec<u8> {
        self.0.iter().flat_map(|entry| entry.data.clone()).collect()
    }

    fn file(&self) -> Vec<u8> {
        file(&self.header().to_string(), &self.data())
    }

    fn position(&self, name: &str) -> usize {
        self.0.iter().position(|entry| entry.name == name).unwrap_or_else(|| panic!("no tensor '{name}'"))
    }

    fn entry(&mut self, name: &str) -> &mut Entry {
        let position = self.position(name);
        &mut self.0[position]
    }

    fn without(mut self, name: &str) -> Self {
        let position = self.position(name);
        self.0.remove(position);
        self
    }

    /// With one element of a tensor replaced.
    fn with(mut self, name: &str, index: usize, value: f32) -> Self {
        self.entry(name).data[index * 4..][..4].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// With every element of every tensor in another type.
    fn converted(mut self, dtype: &'static str, bytes: impl Fn(f32) -> Vec<u8>) -> Self {
        for entry in &mut self.0 {
            let floats = entry.data.chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()));
            (entry.dtype, entry.data) = (dtype, floats.flat_map(&bytes).collect());
        }
        self
    }
}

/// Header length, header, data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// The golden's config with one field set; `pointer` is a JSON pointer.
fn config(golden: &Golden, pointer: &str, value: Value) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(&golden.config).unwrap();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap()[field] = value;
    config.to_string().into_bytes()
}

fn folder(config: &[u8], weights: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    fs::write(folder.path().join("model.safetensors"), weights).unwrap();
    folder
}

fn load(path: &Path, access: Access, precision: Precision) -> Result<Loaded, LoadError> {
    Checkpoint::open(path, access)?.load(precision)
}

/// Why a path cannot be loaded, which both ways of access agree on.
#[track_caller]
fn path_error(path: &Path, precision: Precision) -> LoadError {
    let error = |access| load(path, access, precision).err().expect("an error");
    let (mapped, read) = (error(Access::Map), error(Access::Read));
    assert_eq!(mapped.to_string(), read.to_string());
    mapped
}

/// Why a folder with these files cannot be loaded.
#[track_caller]
fn error(config: &[u8], weights: &[u8]) -> LoadError {
    path_error(folder(config, weights).path(), Precision::F32)
}

/// Checks that an error names its file and says all of `parts`.
#[track_caller]
fn says(error: &LoadError, file: &str, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.path.file_name().unwrap(), file, "{text}");
    for part in [file].iter().chain(parts) {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

/// A model's logits for the golden's pixels.
fn logits(golden: &Golden, loaded: &Loaded) -> Vec<f32> {
    support::run(&loaded.model(Isa::best()), Output::Logits, &golden.tensor("pixels").unwrap())
}

#[test]
fn a_truncated_file() {
    let golden = golden("vp-new-identity");
    for len in (0..golden.weights.file().len()).step_by(97).chain([golden.weights.file().len() - 1]) {
        let error = error(&golden.config, &golden.weights.file()[..len]);
        assert!(matches!(error.problem, Problem::Safetensors(_)), "{len} bytes: {error}");
        says(&error, "model.safetensors", &["not a valid safetensors file"]);
    }
}

#[test]
fn a_header_that_is_none() {
    let golden = golden("vp-new-identity");
    let weights = Weights::of(&golden);
    let (header, data) = (weights.header().to_string(), weights.data());
    let length = |len: u64| [&len.to_le_bytes(), header.as_bytes(), &data].concat();
    let mut files = vec![Vec::new(), vec![0; 7], vec![0; 8], b"PK\x03\x04 a zip archive, say".to_vec()];
    files.extend(
        [golden.weights.file().len() as u64 - 7, 100_000_001, u64::MAX - 8, u64::MAX - 7, u64::MAX].map(length),
    );
    files.extend(["", "{", "[]", "null", "7", "\"\"", "{}", "{\"a\": 1}", "{\"a\": {}}"].map(|json| file(json, &data)));
    files.push([&2u64.to_le_bytes(), &b"\xff\xff"[..], &data].concat());
    files.push(length(header.len() as u64 - 1));
    files.push(file(&"[".repeat(100_000), &data));
    for file in files {
        let error = error(&golden.config, &file);
        assert!(matches!(error.problem, Problem::Safetensors(_)), "{error}");
        says(&error, "model.safetensors", &["not a valid safetensors file"]);
    }
}

/// Offsets of one tensor that cannot be: they overlap others, leave a gap, run backwards or lead outside.
#[test]
fn offsets_that_cannot_be() {
    let golden = golden("vp-new-identity");
    let weights = Weights::of(&golden);
    let (header, data) = (weights.header(), weights.data());
    let name = "transformer.layers.0.1.net.4.weight";
    let place = |i: usize| header[name]["data_offsets"][i].as_u64().unwrap();
    let (start, end, len) = (place(0), place(1), data.len() as u64);
    let cases = [
        [start - 4, end - 4],
        [start + 4, end + 4],
        [start, end + 4],
        [start, end - 4],
        [end, start],
        [0, end - start],
        [len, len + end - start],
        [u64::MAX - 8, u64::MAX],
        [start, u64::MAX],
        [u64::MAX, u64::MAX],
        [u64::MAX, 0],
    ];
    for offsets in cases {
        let mut header = header.clone();
        header[name]["data_offsets"] = json!(offsets);
        let error = error(&golden.config, &file(&header.to_string(), &data));
        assert!(matches!(error.problem, Problem::Safetensors(_)), "{offsets:?}: {error}");
        says(&error, "model.safetensors", &["not a valid safetensors file"]);
    }
    for offsets in [json!([start]), json!([-4, end]), json!([0.5, end]), json!([start, 1e30]), json!("0")] {
        let mut header = header.clone();
        header[name]["data_offsets"] = offsets;
        let error = error(&golden.config, &file(&header.to_string(), &data));
        says(&error, "model.safetensors", &["not a valid safetensors file"]);
    }
}

/// Where one tensor is at fault, its name helps more than that something is.
#[test]
fn offsets_that_cannot_be_name_their_tensor() {
    let golden = golden("vp-new-identity");
    let weights = Weights::of(&golden);
    let name = &weights.0.last().unwrap().name;
    let start = (weights.data().len() - weights.0.last().unwrap().data.len()) as u64;
    for offsets in [[start - 4, start], [start, start + 4], [start, u64::MAX], [u64::MAX - 8, u64::MAX]] {
        let mut header = weights.header();
        header[name]["data_offsets"] = json!(offsets);
        let error = error(&golden.config, &file(&header.to_string(), &weights.data()));
        says(&error, "model.safetensors", &[name]);
    }
}

/// Every tensor fits its own offsets, which follow each other and end just below 2⁶⁴.
#[test]
fn offsets_whose_end_overflows() {
    let golden = golden("vp-new-identity");
    let eighth = (1u64 << 61) - 1;
    for last in 0..=7 {
        let ranges = (0..8).map(|i| (i * eighth, (i + 1) * eighth)).chain([(8 * eighth, 8 * eighth + last)]);
        let fields = ranges.enumerate().map(|(i, (start, end))| {
            (format!("t{i}"), json!({"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}))
        });
        let header = Value::Object(fields.collect()).to_string();
        says(&error(&golden.config, &file(&header, &[])), "model.safetensors", &["not a valid safetensors file"]);
    }
}

#[test]
fn shapes_whose_product_overflows() {
    let golden = golden("vp-new-identity");
    let weights = Weights::of(&golden);
    for shape in [json!([u64::MAX, 2]), json!([1u64 << 32, 1u64 << 32]), json!([u64::MAX]), json!([1u64 << 62, 24])] {
        let mut header = weights.header();
        header["pos_embedding"]["shape"] = shape;
        let error = error(&golden.config, &file(&header.to_string(), &weights.data()));
        says(&error, "model.safetensors", &["not a valid safetensors file"]);
    }
}

#[test]
fn a_dtype_that_weights_cannot_have() {
    for (golden, name) in [
        (golden("vp-new-cls"), "transformer.layers.1.0.to_qkv.weight"),
        (golden("vp-old-mean"), "mlp_head.1.bias"),
        (golden("timm-token"), "pos_embed"),
    ] {
        for (dtype, size) in [("I64", 8), ("F64", 8), ("U16", 2), ("F8_E4M3", 1), ("BOOL", 1)] {
            let mut weights = Weights::of(&golden);
            let entry = weights.entry(name);
            (entry.dtype, entry.data) = (dtype, vec![0; entry.data.len() / 4 * size]);
            let error = error(&golden.config, &weights.file());
            says(&error, "model.safetensors", &[&format!("'{name}'"), "expected F32, F16 or BF16", "found", dtype]);
        }
    }
}

/// What comes of taking away one tensor or another; those without elements are not needed.
fn each_missing() -> Vec<(String, String, Result<Loaded, LoadError>)> {
    let mut results = Vec::new();
    for golden in plain() {
        let weights = Weights::of(&golden);
        for Entry { name, .. } in weights.0.iter().filter(|entry| !entry.data.is_empty()) {
            let file = weights.clone().without(name).file();
            let result = Checkpoint::from_bytes(&golden.config, &file).unwrap().load(Precision::F32);
            results.push((format!("{} without {name}", golden.name), format!("'{name}'"), result));
        }
    }
    results
}

#[test]
fn no_tensor_is_dispensable() {
    let loaded = each_missing().into_iter().filter_map(|(case, _, result)| result.is_ok().then_some(case));
    let loaded: Vec<String> = loaded.collect();
    assert!(loaded.is_empty(), "loaded:\n{}", loaded.join("\n"));
}

#[test]
fn a_missing_tensor_is_named() {
    let mut unclear = Vec::new();
    for (case, name, result) in each_missing() {
        let error = result.err().map(|error| error.to_string()).unwrap_or_default();
        if !(error.contains("model.safetensors") && error.contains(&name)) {
            unclear.push(format!("{case}: {error}"));
        }
    }
    assert!(unclear.is_empty(), "{}", unclear.join("\n"));
}

#[test]
fn two_missing_tensors_are_both_named() {
    let golden = golden("vp-new-cls");
    let (one, other) = ("pos_embedding", "transformer.layers.2.0.norm.bias");
    let weights = Weights::of(&golden).without(one).without(other);
    says(&error(&golden.config, &weights.file()), "model.safetensors", &["missing: ", "'pos_embedding'", other]);
}

/// Queries, keys and values share a tensor; it is missing once.
#[test]
fn a_missing_tensor_is_named_once() {
    let golden = golden("vp-new-cls");
    let names = [0, 1, 2].map(|layer| format!("transformer.layers.{layer}.0.to_qkv.weight"));
    let weights = names.iter().fold(Weights::of(&golden), |weights, name| weights.without(name));
    let list = names.map(|name| format!("'{name}'")).join(", ");
    let error = error(&golden.config, &weights.file()).to_string();
    assert!(error.ends_with(&format!("missing: {list}")), "{error}");
}

#[test]
fn a_misshapen_tensor() {
    let (vp, timm) = (golden("vp-new-cls"), golden("timm-token"));
    let cases: [(&Golden, &str, &[usize]); 7] = [
        (&vp, "pos_embedding", &[16, 24]),
        (&vp, "transformer.layers.1.0.to_qkv.weight", &[24, 90]),
        (&vp, "transformer.layers.1.0.to_out.0.weight", &[30, 24]),
        (&vp, "mlp_head.bias", &[7, 1]),
        (&timm, "patch_embed.proj.weight", &[24, 8, 8, 3]),
        (&timm, "patch_embed.proj.weight", &[24, 192]),
        (&timm, "blocks.1.attn.qkv.bias", &[71]),
    ];
    for (golden, name, shape) in cases {
        let mut weights = Weights::of(golden);
        let entry = weights.entry(name);
        let expected = format!("{:?}", entry.shape.iter().skip_while(|size| **size == 1).collect::<Vec<_>>());
        (entry.shape, entry.data) = (shape.to_vec(), vec![0; shape.iter().product::<usize>() * 4]);
        let error = error(&golden.config, &weights.file());
        says(&error, "model.safetensors", &[&format!("'{name}'"), &expected, &format!("has {shape:?}")]);
    }
}

/// Leading dimensions of 1 come and go between releases.
#[test]
fn leading_ones_do_not_matter() {
    for (golden, name) in [(golden("vp-new-cls"), "pos_embedding"), (golden("timm-token"), "cls_token")] {
        let want = logits(&golden, &golden.load(Precision::F32));
        let mut weights = Weights::of(&golden);
        weights.entry(name).shape.insert(0, 1);
        assert_eq!(
            logits(&golden, &golden.load_weights(&support::Weights::One(weights.file()), Precision::F32)),
            want,
            "{name}"
        );
    }
}

#[test]
fn a_config_that_contradicts_the_tensors() {
    let (vp, timm) = (golden("vp-new-cls"), golden("timm-token"));
    let cases: [(&Golden, &str, Value, &[&str]); 16] = [
        (&vp, "/dim", json!(25), &["'to_patch_embedding.2.weight'", "[25, 108]", "[24, 108]"]),
        (&vp, "/dim_head", json!(9), &["'transformer.layers.0.0.to_qkv.weight'", "[81, 24]", "[90, 24]"]),
        (&vp, "/heads", json!(4), &["'transformer.layers.0.0.to_qkv.weight'", "[120, 24]", "[90, 24]"]),
        (&vp, "/mlp_dim", json!(41), &["'transformer.layers.0.1.net.1.weight'", "[41, 24]", "[40, 24]"]),
        (&vp, "/depth", json!(4), &["missing: 'transformer.layers.3.0.norm.weight'"]),
        (
            &vp,
            "/depth",
            json!(5),
            &["missing: 'transformer.layers.3.0.norm.weight'", "'transformer.layers.4.1.net.4.bias'"],
        ),
        (&vp, "/num_classes", json!(8), &["'mlp_head.weight'", "[8, 24]", "[7, 24]"]),
        (&vp, "/image_size", json!(30), &["'pos_embedding'", "[26, 24]", "[17, 24]"]),
        (&vp, "/channels", json!(1), &["'to_patch_embedding.1.weight'", "[36]", "[108]"]),
        (&timm, "/model_args/embed_dim", json!(27), &["'patch_embed.proj.weight'", "[27, 3, 8, 8]", "[24, 3, 8, 8]"]),
        (&timm, "/model_args/depth", json!(3), &["missing: 'blocks.2.norm1.weight'"]),
        (&timm, "/model_args/num_classes", json!(12), &["'head.weight'", "[12, 24]", "[11, 24]"]),
        (&timm, "/model_args/img_size", json!(32), &["'pos_embed'", "[17, 24]", "[1, 10, 24]"]),
        (
            &timm,
            "/model_args/patch_size",
            json!([8, 4]),
            &["'patch_embed.proj.weight'", "[24, 3, 8, 4]", "[24, 3, 8, 8]"],
        ),
        (&timm, "/model_args/reg_tokens", json!(4), &["missing: 'reg_token'"]),
        (&timm, "/model_args/global_pool", json!("map"), &["missing: 'attn_pool.latent'", "'attn_pool.mlp.fc2.bias'"]),
    ];
    for (golden, field, value, parts) in cases {
        says(&error(&config(golden, field, value), golden.weights.file()), "model.safetensors", parts);
    }
}

#[test]
fn a_weight_that_is_not_finite() {
    let (vp, old, timm) = (golden("vp-new-cls"), golden("vp-old-cls"), golden("timm-token"));
    // 24 columns a row; the qkv's rows 60 to 89 are the values'.
    let cases = [
        (&vp, "transformer.layers.1.0.to_qkv.weight", 61 * 24 + 3, "[61, 3]"),
        (&vp, "transformer.layers.2.1.net.1.weight", 39 * 24 + 23, "[39, 23]"),
        (&vp, "transformer.layers.0.1.net.4.weight", 40 + 39, "[1, 39]"),
        (&vp, "transformer.layers.0.0.norm.weight", 5, "[0, 5]"),
        (&vp, "transformer.norm.bias", 0, "[0, 0]"),
        (&vp, "to_patch_embedding.1.weight", 107, "[0, 107]"),
        (&vp, "mlp_head.bias", 6, "[0, 6]"),
        (&vp, "cls_token", 23, "[0, 23]"),
        (&vp, "pos_embedding", 16 * 24 + 1, "[16, 1]"),
        (&old, "pos_embedding", 3 * 24 + 7, "[3, 7]"),
        (&old, "mlp_head.1.weight", 6 * 24, "[6, 0]"),
        (&timm, "patch_embed.proj.weight", 23 * 192 + 191, "[23, 191]"),
        (&timm, "blocks.1.attn.qkv.bias", 3, "[0, 3]"),
        (&timm, "head.weight", 10 * 24 + 23, "[10, 23]"),
    ];
    for (golden, name, index, at) in cases {
        for (value, found) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
            let weights = Weights::of(golden).with(name, index, value).file();
            let folder = folder(&golden.config, &weights);
            for precision in Precision::ALL {
                let parts = [&*format!("'{name}' at {at}"), "expected a finite number", &format!("found {found}")];
                says(&path_error(folder.path(), precision), "model.safetensors", &parts);
            }
        }
    }
}

/// In a bias that queries, keys and values share, the place is the one in the file too.
#[test]
fn a_shared_bias_that_is_not_finite() {
    let golden = golden("timm-token");
    for index in [0, 23, 24, 29, 48, 71] {
        let weights = Weights::of(&golden).with("blocks.1.attn.qkv.bias", index, f32::NAN).file();
        let place = format!("'blocks.1.attn.qkv.bias' at [0, {index}]");
        says(&error(&golden.config, &weights), "model.safetensors", &[&place]);
    }
}

#[test]
fn a_weight_too_large_for_f16() {
    let golden = golden("vp-new-cls");
    let name = "transformer.layers.1.0.to_out.0.weight";
    // 65,519 rounds to f16's largest; 65,520 does not.
    for (value, fits) in [(1e6, false), (-1e6, false), (65_519.0, true), (65_520.0, false)] {
        let folder = folder(&golden.config, &Weights::of(&golden).with(name, 2 * 30 + 4, value).file());
        assert!(load(folder.path(), Access::Map, Precision::F32).is_ok(), "{value}");
        if fits {
            assert!(load(folder.path(), Access::Map, Precision::F16).is_ok(), "{value}");
        } else {
            let parts = [&*format!("'{name}' at [2, 4]"), &value.to_string(), "too large for f16; load it as f32"];
            says(&path_error(folder.path(), Precision::F16), "model.safetensors", &parts);
        }
    }
    // Norms, biases and positions stay f32.
    for name in ["transformer.layers.1.0.norm.weight", "transformer.layers.1.0.to_out.0.bias", "pos_embedding"] {
        golden.load_weights(&support::Weights::One(Weights::of(&golden).with(name, 3, 1e6).file()), Precision::F16);
    }
}

#[test]
fn a_config_that_is_none() {
    let golden = golden("vp-new-cls");
    let family = "neither 'model_type' nor 'architecture'";
    for (text, part) in [
        ("", "not a valid config"),
        ("{", "not a valid config"),
        ("not JSON", "not a valid config"),
        ("{\"model_type\": \"vit-pytorch\"", "not a valid config"),
        ("\u{feff}{}", "not a valid config"),
        ("{} {}", "not a valid config"),
        (&"[".repeat(100_000), "not a valid config"),
        ("[]", family),
        ("null", family),
        ("7", family),
        ("\"vit-pytorch\"", family),
        ("{}", family),
        ("{\"model_type\": 7, \"architecture\": null}", family),
        ("{\"model_type\": \"vit-pytorch\"}", "image_size"),
    ] {
        says(&error(text.as_bytes(), golden.weights.file()), "config.json", &[part]);
    }
    says(&error(b"\xff\xfe{}", golden.weights.file()), "config.json", &["not a valid config"]);
}

#[test]
fn invalid_configs_are_refused() {
    let (vp, timm) = (golden("vp-new-cls"), golden("timm-token"));
    let whole = |size: u64, patch: u64| {
        format!("an image of {size}×{size} is not a whole number of patches of {patch}×{patch}")
    };
    let whole_vp = whole(25, 6);
    let space = "address space";
    let cases: [(&Golden, &str, Value, &str); 36] = [
        (&vp, "/model_type", json!("bert"), "model_type 'bert' is not supported"),
        (&vp, "/heads", json!(0), "heads is 0"),
        (&vp, "/dim_head", json!(0), "head_dim is 0"),
        (&vp, "/dim", json!(0), "dim is 0"),
        (&vp, "/patch_size", json!(0), "patch height is 0"),
        (&vp, "/image_size", json!([24, 0]), "image width is 0"),
        (&vp, "/image_size", json!(25), &whole_vp),
        (&vp, "/image_size", json!(1_000_000_000_000u64), space),
        (&vp, "/image_size", json!(u64::MAX), space),
        (&vp, "/patch_size", json!(u64::MAX), space),
        (&vp, "/channels", json!(u64::MAX), space),
        (&vp, "/depth", json!(1_000_000_000), space),
        (&vp, "/num_classes", json!(u64::MAX), space),
        (&vp, "/mlp_dim", json!(1u64 << 63), space),
        (&vp, "/heads", json!(1e300), "invalid"),
        (&vp, "/depth", json!(-1), "invalid"),
        (&vp, "/depth", json!("3"), "invalid"),
        (&vp, "/depth", json!(null), "invalid"),
        (&vp, "/pool", json!("max"), "max"),
        (&vp, "/layer_norm_eps", json!(-1e-5), "eps"),
        (&vp, "/layer_norm_eps", json!(1e39), "eps"),
        (&timm, "/model_type", json!("bert"), "model_type 'bert' is not supported"),
        (&timm, "/architecture", json!("vit_enormous_patch1_9000"), "'vit_enormous_patch1_9000' is not supported"),
        (&timm, "/architecture", json!("vit_tiny_patch16_225"), "similar names: vit_tiny_patch16_224,"),
        (&timm, "/architecture", json!(""), "'' is not supported"),
        (&timm, "/model_args/reg_token", json!(4), "model_args: 'reg_token'"),
        (&timm, "/model_args/norm_layer", json!("rmsnorm"), "the norm 'rmsnorm' is not supported"),
        (&timm, "/model_args/block_fn", json!("ResPostBlock"), "block_fn 'ResPostBlock' is not supported"),
        (&timm, "/model_args/num_heads", json!(0), "embed_dim 24 is not a multiple of num_heads 0"),
        (&timm, "/model_args/embed_dim", json!(25), "embed_dim 25 is not a multiple of num_heads 3"),
        (&timm, "/model_args/embed_dim", json!(0), "dim is 0"),
        (&timm, "/model_args/mlp_ratio", json!(-4.0), "mlp_ratio -4 of 24 is not a valid width"),
        (&timm, "/model_args/img_size", json!(7), "an image of 7×7 is smaller than a patch of 8×8"),
        (&timm, "/model_args/img_size", json!(1_000_000_000_000u64), space),
        (&timm, "/model_args/depth", json!(1_000_000_000), space),
        (&timm, "/model_args/global_pool", json!("prr"), "global_pool 'prr' is not supported"),
    ];
    for (golden, field, value, part) in cases {
        says(&error(&config(golden, field, value), golden.weights.file()), "config.json", &[part]);
    }
}

/// What a config asks for is not believed before the tensors are there.
#[test]
fn a_huge_config_costs_nothing() {
    let (vp, timm) = (golden("vp-new-cls"), golden("timm-token"));
    let start = Instant::now();
    for size in [1u64 << 24, 1 << 30, 1 << 40, u64::MAX / 2, u64::MAX] {
        for field in ["image_size", "num_classes", "dim", "depth", "heads", "dim_head", "mlp_dim", "channels"] {
            error(&config(&vp, &format!("/{field}"), json!(size)), vp.weights.file());
        }
        for field in ["img_size", "num_classes", "embed_dim", "depth", "num_heads", "in_chans"] {
            error(&config(&timm, &format!("/model_args/{field}"), json!(size)), timm.weights.file());
        }
    }
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// Rotary positions are in no tensor: their size is the config's alone.
#[test]
fn a_huge_table_of_rotations_is_an_error_with_its_bytes() {
    for (name, field) in [("dinov3-plain", "/image_size"), ("eva02-base", "/model_args/img_size")] {
        let golden = golden(name);
        let own = golden.load(Precision::F32);
        // Learned positions are found too few before anything is allocated.
        let learned = own.config().positions != Positions::Absent;
        let error = error(&config(&golden, field, json!(1 << 24)), golden.weights.file());
        if !learned {
            assert!(matches!(error.problem, Problem::OutOfMemory { bytes } if bytes > 1 << 40), "{error}");
        }
        says(&error, "model.safetensors", &[if learned { "'pos_embed'" } else { "bytes" }]);
        let error = own.model_at(Isa::best(), [1 << 24; 2]).unwrap_err();
        assert!(matches!(error, SizeError::OutOfMemory { bytes } if bytes > 1 << 40), "{error}");
    }
}

/// The JSON pointers of all numbers and lists of numbers.
fn numbers(json: &Value, pointer: &str, found: &mut Vec<String>) {
    match json {
        Value::Number(_) => found.push(pointer.to_owned()),
        Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_number) => found.push(pointer.to_owned()),
        Value::Object(map) => map.iter().for_each(|(name, x)| numbers(x, &format!("{pointer}/{name}"), found)),
        _ => {}
    }
}

/// Whatever number of whatever config is huge: an error, or a model that does not need it; at once.
#[test]
fn any_number_of_any_config_may_be_huge() {
    let start = Instant::now();
    let mut errors = 0;
    for golden in goldens() {
        let json: Value = serde_json::from_slice(&golden.config).unwrap();
        let mut pointers = Vec::new();
        numbers(&json, "", &mut pointers);
        for pointer in pointers {
            for size in [1u64 << 24, 1 << 32, 1 << 63, u64::MAX] {
                let mut json = json.clone();
                let value = json.pointer_mut(&pointer).unwrap();
                *value = match value.as_array() {
                    Some(list) => json!(vec![size; list.len()]),
                    None => json!(size),
                };
                let result = golden.try_load(json.to_string().as_bytes(), &golden.weights, Precision::F32);
                errors += usize::from(result.is_err());
            }
        }
    }
    assert!(errors > 1000, "{errors}");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// Resampling overshoots: half-precision positions that are finite can become infinite at another size.
#[test]
fn positions_that_overflow_at_another_size() {
    let golden = golden("timm-half");
    let mut weights = golden.weights.clone();
    let file = &mut weights.files_mut()[0];
    let range = {
        let tensors = SafeTensors::deserialize(file).unwrap();
        let data = tensors.tensor("pos_embed").unwrap().data();
        let start = data.as_ptr().addr() - file.as_ptr().addr();
        start..start + data.len()
    };
    // An edge between nothing and the largest number.
    let (largest, half) = (f16::MAX.to_le_bytes(), range.len() / 4);
    file[range].chunks_exact_mut(2).enumerate().for_each(|(i, x)| {
        x.copy_from_slice(if i < half { &[0; 2] } else { &largest });
    });
    let loaded = golden.load_weights(&weights, Precision::F32);
    let mut errors = (1..8).map(|patches| {
        let size = loaded.config().patch.map(|side| side * patches);
        loaded.model_at(Isa::best(), size).err()
    });
    assert!(errors.any(|error| matches!(error, Some(SizeError::NotFinite { .. }))));
}

#[test]
fn labels_and_preprocessing_that_do_not_fit() {
    let golden = golden("timm-token");
    let names = |count: usize| json!((0..count).map(|i| format!("class {i}")).collect::<Vec<_>>());
    for field in ["/label_names", "/pretrained_cfg/label_names"] {
        for count in [1, 10, 12] {
            let error = error(&config(&golden, field, names(count)), golden.weights.file());
            says(&error, "config.json", &[&format!("{count} label names"), "11 classes"]);
        }
        says(&error(&config(&golden, field, json!([1, 2])), golden.weights.file()), "config.json", &["string"]);
        let folder = folder(&config(&golden, field, names(11)), golden.weights.file());
        let loaded = load(folder.path(), Access::Map, Precision::F32).unwrap();
        assert_eq!((loaded.labels.len(), &*loaded.labels[10]), (11, "class 10"), "{field}");
    }

    // What is wrong with the preprocessing matters only to those who prepare pictures.
    for (field, value) in [
        ("mean", json!([0.5, 0.5])),
        ("mean", json!([])),
        ("mean", json!([1e39, 0.0, 0.0])),
        ("std", json!([0.5, 0.5, 0.0])),
        ("std", json!([0.5, 0.5, -1.0])),
        ("crop_pct", json!(1e-9)),
        ("interpolation", json!("best")),
    ] {
        let folder = folder(&config(&golden, &format!("/pretrained_cfg/{field}"), value), golden.weights.file());
        let loaded = load(folder.path(), Access::Map, Precision::F32).unwrap();
        assert!(loaded.preprocessing.is_err(), "{field}");
    }
}

/// Label names do not need preprocessing beside them.
/// The scale and bias of CLIP and SigLIP, as PyTorch reads them from the same files.
#[test]
fn scales_of_contrastive_models() {
    let contrast = |name: &str| golden(name).load(Precision::F32).contrast;
    for (name, scale, bias) in [
        ("clip-model", 1.2630427, None),
        ("siglip-model", 1.1320013, Some(-0.15007617)),
        ("open_clip-native", 1.1853065, None),
    ] {
        let contrast = contrast(name).unwrap();
        assert_eq!((contrast.logit_scale, contrast.logit_bias), (scale, bias), "{name}");
        let want = f64::from(scale).exp() * 0.5 + bias.map_or(0.0, f64::from);
        assert_eq!(contrast.logit(0.5), want);
    }
    assert_eq!(contrast("clip-vision"), None);
    assert_eq!(contrast("timm-token"), None);
}

#[test]
fn labels_of_a_bare_config() {
    let golden = golden("vp-new-cls");
    let error = error(&config(&golden, "/label_names", json!(["cat", "dog"])), golden.weights.file());
    says(&error, "config.json", &["2 label names", "7 classes"]);
    let folder =
        folder(&config(&golden, "/label_names", json!(["a", "b", "c", "d", "e", "f", "g"])), golden.weights.file());
    let loaded = load(folder.path(), Access::Map, Precision::F32).unwrap();
    assert_eq!(loaded.labels.concat(), "abcdefg");
}

#[test]
fn files_that_are_not_there() {
    let golden = golden("vp-new-cls");
    let good = folder(&golden.config, golden.weights.file());
    says(&path_error(&good.path().join("elsewhere"), Precision::F32), "elsewhere", &[]);

    let no_weights = tempfile::tempdir().unwrap();
    fs::write(no_weights.path().join("config.json"), &golden.config).unwrap();
    let error = path_error(no_weights.path(), Precision::F32);
    says(
        &error,
        no_weights.path().file_name().unwrap().to_str().unwrap(),
        &["no model.safetensors", "it contains config.json"],
    );

    let no_config = tempfile::tempdir().unwrap();
    fs::write(no_config.path().join("model.safetensors"), golden.weights.file()).unwrap();
    for path in [no_config.path(), &no_config.path().join("model.safetensors")] {
        let error = path_error(path, Precision::F32);
        assert!(matches!(error.problem, Problem::Zoo(_)), "{error}");
        says(&error, "model.safetensors", &["neither 'model_type' nor 'architecture'", "this looks like vit-pytorch"]);
    }
}

#[test]
fn directories_where_files_are_meant() {
    let golden = golden("vp-new-cls");
    let weights = tempfile::tempdir().unwrap();
    fs::write(weights.path().join("config.json"), &golden.config).unwrap();
    fs::create_dir(weights.path().join("model.safetensors")).unwrap();
    says(&path_error(weights.path(), Precision::F32), "model.safetensors", &["not a regular file"]);

    let config = tempfile::tempdir().unwrap();
    fs::write(config.path().join("model.safetensors"), golden.weights.file()).unwrap();
    fs::create_dir(config.path().join("config.json")).unwrap();
    says(&path_error(config.path(), Precision::F32), "config.json", &["directory"]);
}

#[test]
fn pickles_are_not_read() {
    let golden = golden("vp-new-cls");
    let conversion = ["can run any code", "safetensors.torch.save_file(torch.load("];
    for name in ["model.pth", "model.pt", "pytorch_model.bin", "last.ckpt"] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), &golden.config).unwrap();
        fs::write(folder.path().join(name), b"\x80\x02cposix\nsystem").unwrap();
        let error = path_error(&folder.path().join(name), Precision::F32);
        assert!(matches!(error.problem, Problem::Pickle), "{error}");
        says(&error, name, &conversion);
        // A folder with nothing else; beside a safetensors file a pickle does not matter.
        let error = path_error(folder.path(), Precision::F32);
        says(&error, name, &conversion);
        fs::write(folder.path().join("model.safetensors"), golden.weights.file()).unwrap();
        assert!(load(folder.path(), Access::Map, Precision::F32).is_ok(), "{name}");
    }
}

#[test]
fn both_ways_of_access_and_both_kinds_of_path() {
    for golden in plain() {
        let folder = folder(&golden.config, golden.weights.file());
        fs::copy(folder.path().join("model.safetensors"), folder.path().join("another.name")).unwrap();
        for precision in Precision::ALL {
            let want = logits(&golden, &golden.load(precision));
            for access in [Access::Map, Access::Read] {
                for path in [folder.path(), &folder.path().join("another.name")] {
                    let loaded = load(path, access, precision).unwrap();
                    assert!(logits(&golden, &loaded) == want, "{} {access:?} {path:?}", golden.name);
                }
            }
        }
    }
}

/// Nothing in the format aligns the data: behind a header padded with spaces it starts at any address.
#[test]
fn data_at_odd_addresses() {
    for golden in [golden("vp-old-cls"), golden("timm-token")] {
        let weights = Weights::of(&golden);
        let (header, data) = (weights.header().to_string(), weights.data());
        for precision in Precision::ALL {
            let want = logits(&golden, &golden.load(precision));
            for padding in 0..8 {
                let folder = folder(&golden.config, &file(&format!("{header}{}", " ".repeat(padding)), &data));
                for access in [Access::Map, Access::Read] {
                    let loaded = load(folder.path(), access, precision).unwrap();
                    assert!(logits(&golden, &loaded) == want, "{} {access:?} {padding}", golden.name);
                }
            }
        }
    }
}

/// Half the bytes, at odd addresses as well, and the same model as the rounded values in f32.
#[test]
fn narrow_tensors() {
    let f16_bytes = |x: f32| f16::from_f32(x).to_le_bytes().to_vec();
    let f16_value = |x: f32| f16::from_f32(x).to_f32().to_le_bytes().to_vec();
    let bf16_bytes = |x: f32| x.to_le_bytes()[2..].to_vec();
    let bf16_value = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000).to_le_bytes().to_vec();
    for golden in plain() {
        let weights = || Weights::of(&golden);
        for (narrow, rounded) in [
            (weights().converted("F16", f16_bytes), weights().converted("F32", f16_value)),
            (weights().converted("BF16", bf16_bytes), weights().converted("F32", bf16_value)),
        ] {
            let odd = file(&format!("{} ", narrow.header()), &narrow.data());
            for precision in Precision::ALL {
                let want = logits(&golden, &golden.load_weights(&support::Weights::One(rounded.file()), precision));
                assert!(want != logits(&golden, &golden.load(Precision::F32)), "{}: nothing was rounded", golden.name);
                for file in [&narrow.file(), &odd] {
                    let loaded = golden.load_weights(&support::Weights::One(file.clone()), precision);
                    assert!(logits(&golden, &loaded) == want, "{} {}", golden.name, narrow.0[0].dtype);
                }
            }
        }
    }
}

#[test]
fn tensors_that_are_not_used_do_not_matter() {
    for golden in [golden("vp-old-mean"), golden("vp-new-cls"), golden("timm-avg")] {
        let want = logits(&golden, &golden.load(Precision::F32));
        let mut weights = Weights::of(&golden);
        let nan = [f32::NAN.to_le_bytes(), f32::INFINITY.to_le_bytes()].concat();
        weights.0.insert(0, Entry { name: "aux.weight".into(), dtype: "F32", shape: vec![2], data: nan });
        weights.0.push(Entry { name: "steps".into(), dtype: "I64", shape: vec![], data: vec![0xff; 8] });
        weights.0.push(Entry { name: "none".into(), dtype: "F64", shape: vec![0, 5], data: vec![] });
        assert_eq!(
            logits(&golden, &golden.load_weights(&support::Weights::One(weights.file()), Precision::F32)),
            want,
            "{}",
            golden.name
        );
    }
}

#[test]
fn metadata_in_the_header_does_not_matter() {
    let golden = golden("timm-token");
    let weights = Weights::of(&golden);
    let mut header = weights.header();
    header["__metadata__"] = json!({"format": "pt"});
    let loaded =
        golden.load_weights(&support::Weights::One(file(&header.to_string(), &weights.data())), Precision::F32);
    assert_eq!(logits(&golden, &loaded), logits(&golden, &golden.load(Precision::F32)));
}

/// Bytes to overwrite: digits, which keep JSON what it is, as often as any others.
fn damage(most: usize) -> impl Strategy<Value = Vec<(Index, u8)>> {
    vec((any::<Index>(), prop_oneof![any::<u8>(), b'0'..=b'9']), 0..=most)
}

proptest! {
    #[test]
    fn random_damage_does_not_panic(
        old in any::<bool>(),
        in_config in damage(2),
        in_length in damage(1),
        in_header in damage(4),
        in_data in damage(8),
    ) {
        let mut golden = golden(if old { "vp-old-identity" } else { "timm-in-chans" });
        let mut files = golden.weights.files_mut();
        let (length, rest) = files[0].split_at_mut(8);
        let (header, data) = rest.split_at_mut(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        for (bytes, damage) in [(&mut *golden.config, in_config), (length, in_length), (header, in_header), (data, in_data)] {
            for (index, byte) in damage {
                bytes[index.index(bytes.len())] = byte;
            }
        }
        let folder = folder(&golden.config, golden.weights.file());
        for (access, precision) in [(Access::Map, Precision::F32), (Access::Read, Precision::F16)] {
            match load(folder.path(), access, precision) {
                Ok(loaded) => prop_assert!(loaded.config().validate().is_ok()),
                Err(error) => prop_assert!(error.path.starts_with(folder.path())),
            }
        }
    }
}
