//! Agreement with PyTorch: vit-pytorch in all its layouts, and timm. `goldens/README.md` says how the files were made.
mod support;

use safetensors::SafeTensors;
use support::{Golden, distance, golden, goldens, levels, run};
use vit_engine::{Features, Isa, Precision};

const BOUND: f32 = 1e-5;
const KINDS: [(&str, Features); 3] =
    [("logits", Features::Logits), ("class", Features::Class), ("patches", Features::Patches)];

#[test]
fn every_output_of_every_model_agrees() {
    for golden in goldens() {
        let loaded = golden.load(Precision::F32);
        let pixels = golden.tensor("pixels").unwrap();
        let mut kinds = 0;
        for (name, features) in KINDS {
            let Some(want) = golden.tensor(name) else { continue };
            kinds += 1;
            for isa in levels() {
                let got = run(&loaded.model(isa), features, &pixels);
                let distance = distance(&got, &want.data);
                assert!(distance <= BOUND, "{} {name} on {isa}: {distance:e}", golden.name);
            }
        }
        assert!(kinds == 3 || !loaded.config().class_token && kinds == 2, "{}", golden.name);
    }
}

/// The f16 path is the f32 path with rounded weights: far from exact, and far from wrong.
#[test]
fn f16_weights_are_close() {
    for golden in goldens() {
        let (pixels, want) = (golden.tensor("pixels").unwrap(), golden.tensor("logits").unwrap());
        for isa in levels() {
            let loaded = golden.load(Precision::F16);
            let distance = distance(&run(&loaded.model(isa), Features::Logits, &pixels), &want.data);
            assert!((1e-6..5e-3).contains(&distance), "{} on {isa}: {distance:e}", golden.name);
        }
    }
}

/// Zeroes a part of a tensor, in eighths of its length, and returns how far that moves the logits or patches.
fn effect_of_zeroing(golden: &Golden, tensor: &str, part: std::ops::Range<usize>, of: usize) -> f32 {
    let mut weights = golden.weights.clone();
    let file = SafeTensors::deserialize(&golden.weights).unwrap();
    let data = file.tensor(tensor).unwrap().data();
    let start = data.as_ptr().addr() - golden.weights.as_ptr().addr();
    weights[start + data.len() * part.start / of..start + data.len() * part.end / of].fill(0);
    let loaded = golden.load_weights(&weights, Precision::F32);
    let pixels = golden.tensor("pixels").unwrap();
    let moved = |name, features| {
        let got = run(&loaded.model(Isa::best()), features, &pixels);
        distance(&got, &golden.tensor(name).unwrap().data)
    };
    moved("logits", Features::Logits).max(moved("patches", Features::Patches))
}

#[test]
fn zeroing_any_parameter_is_noticed() {
    for golden in goldens() {
        let file = SafeTensors::deserialize(&golden.weights).unwrap();
        for tensor in file.names() {
            if file.tensor(tensor).unwrap().data().is_empty() {
                continue; // The class token of a model without one.
            }
            let effect = effect_of_zeroing(&golden, tensor, 0..1, 1);
            assert!(effect > 1e-3, "{} {tensor}: {effect:e}", golden.name);
            if tensor.contains("qkv") {
                for (part, name) in ["q", "k", "v"].into_iter().enumerate() {
                    let effect = effect_of_zeroing(&golden, tensor, part..part + 1, 3);
                    // A bias of the keys adds the same to all scores of a row, and softmax does not see it.
                    let invisible = name == "k" && tensor.ends_with("bias");
                    assert!((effect > 1e-3) != invisible, "{} {name} of {tensor}: {effect:e}", golden.name);
                }
            }
        }
    }
}

#[test]
fn another_gelu_is_noticed() {
    let golden = golden("vp-new-cls");
    let json: serde_json::Value = serde_json::from_slice(&golden.config).unwrap();
    for other in ["gelu_tanh", "quick_gelu"] {
        let mut json = json.clone();
        json["hidden_act"] = other.into();
        let config = serde_json::to_vec(&json).unwrap();
        let golden = Golden { config, ..support::golden("vp-new-cls") };
        let loaded = golden.load(Precision::F32);
        let got = run(&loaded.model(Isa::best()), Features::Logits, &golden.tensor("pixels").unwrap());
        assert!(distance(&got, &golden.tensor("logits").unwrap().data) > 3.0 * BOUND, "{other}");
    }
}
