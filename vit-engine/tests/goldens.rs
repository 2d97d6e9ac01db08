//! Agreement with PyTorch: transformers, timm, OpenCLIP, and vit-pytorch in all its layouts. `goldens/README.md` says how the
//! files were made.
mod support;

use safetensors::SafeTensors;
use support::{Golden, distance, golden, goldens, levels_for, model, output, parse, run};
use vit_engine::file::Loaded;
use vit_engine::{Isa, Precision};

const BOUND: f32 = 1e-5;

#[test]
fn every_output_of_every_model_agrees() {
    let mut wrong = Vec::new();
    for golden in goldens() {
        let loaded = golden.load(Precision::F32);
        assert!(loaded.unused.is_empty(), "{}: {:?}", golden.name, loaded.unused);
        let names = golden.truths();
        let has = |kind: &str| names.iter().any(|name| name == kind);
        let c = loaded.config();
        assert!(has("pixels") && has("patches") && has("class") == c.class_token, "{}", golden.name);
        assert!(has("logits") == (c.classes > 0), "{}", golden.name);
        for name in &names {
            let (kind, size) = parse(name);
            if kind == "pixels" {
                continue;
            }
            let pixels = golden.tensor(&name.replacen(kind, "pixels", 1)).unwrap();
            let want = golden.tensor(name).unwrap();
            for isa in levels_for(Precision::F32) {
                let got = run(&model(&loaded, isa, size), output(kind), &pixels);
                if got.len() != want.data.len() {
                    wrong.push(format!("{} {name}: {} elements, not {:?}", golden.name, got.len(), want.shape));
                    continue;
                }
                let distance = distance(&got, &want.data);
                if distance.is_nan() || distance > BOUND {
                    wrong.push(format!("{} {name} on {isa}: {distance:e}", golden.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What of a model is compared where one number has to do.
fn main_kind(golden: &Golden) -> &'static str {
    if golden.truths().iter().any(|name| name == "logits") { "logits" } else { "patches" }
}

/// Half precisions are the f32 path with rounded weights: far from exact, unless they were rounded already, and far from
/// wrong. bf16 has three bits less than f16.
#[test]
fn half_precision_weights_are_close() {
    for golden in goldens() {
        let kind = main_kind(&golden);
        let (pixels, want) = (golden.tensor("pixels").unwrap(), golden.tensor(kind).unwrap());
        for (precision, most) in [(Precision::F16, 5e-3), (Precision::Bf16, 4e-2)] {
            let loaded = golden.load(precision);
            for isa in levels_for(precision) {
                let distance = distance(&run(&loaded.model(isa), output(kind), &pixels), &want.data);
                let exact = golden.is_stored_as(precision.name()) && distance <= BOUND;
                let close = (1e-6..most).contains(&distance);
                assert!(exact || close, "{} in {precision} on {isa}: {distance:e}", golden.name);
            }
        }
    }
}

/// 10·log₁₀(Σ want² / Σ (got − want)²): decibels of signal above noise.
fn signal_to_noise(got: &[f32], want: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let noise: f64 = got.iter().zip(want).map(|(got, want)| square(got - want)).sum();
    10.0 * (want.iter().map(|want| square(*want)).sum::<f64>() / noise).log10()
}

/// bf16, int8 and int4 against PyTorch's f32. These models are tiny, with widths of 24 to 64 and random weights, so little of
/// the rounding averages out.
#[test]
fn low_precisions_are_within_their_signal_to_noise() {
    for (precision, worst, median) in
        [(Precision::Bf16, 30.0, 45.0), (Precision::Int8, 20.0, 35.0), (Precision::Int4, 3.0, 16.0)]
    {
        let mut ratios = Vec::new();
        for golden in goldens() {
            let kind = main_kind(&golden);
            let (pixels, want) = (golden.tensor("pixels").unwrap(), golden.tensor(kind).unwrap());
            let loaded = golden.load(precision);
            let ratio = signal_to_noise(&run(&loaded.model(Isa::best()), output(kind), &pixels), &want.data);
            ratios.push((ratio, golden.name));
        }
        ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
        let middle = ratios[ratios.len() / 2].0;
        println!("{precision}: worst {:?}, median {middle}", &ratios[..5]);
        assert!(ratios[0].0 >= worst && middle >= median, "{precision}: {:?}, median {middle}", &ratios[..5]);
    }
}

/// Parameters that no output depends on: what is added to every key adds the same to all scores of a query, which softmax
/// does not see. Where keys are rotated, it does, and so it does where they are normalised afterwards.
fn invisible(loaded: &Loaded, tensor: &str, fused_key: bool) -> bool {
    let c = loaded.config();
    let ends = |ends: &[&str]| ends.iter().any(|end| tensor.ends_with(end));
    let of_keys = ends(&["key.bias", "k_proj.bias"]) || fused_key && ends(&["bias"]);
    !c.rope && (ends(&["k_norm.bias"]) || of_keys && !c.qk_norm)
}

/// How far zeroing elements of a tensor, a part out of `of`, moves the logits, patches or embedding.
fn effect_of_zeroing(golden: &Golden, tensor: &str, part: usize, of: usize) -> f32 {
    let mut weights = golden.weights.clone();
    for file in weights.files_mut() {
        let range = {
            let parsed = SafeTensors::deserialize(file).unwrap();
            let Ok(view) = parsed.tensor(tensor) else { continue };
            let start = view.data().as_ptr().addr() - file.as_ptr().addr();
            start + view.data().len() * part / of..start + view.data().len() * (part + 1) / of
        };
        file[range].fill(0);
    }
    let loaded = golden.load_weights(&weights, Precision::F32);
    let pixels = golden.tensor("pixels").unwrap();
    let moved = ["logits", "patches", "embedding"].into_iter().filter_map(|kind| {
        let want = golden.tensor(kind)?;
        Some(distance(&run(&loaded.model(Isa::best()), output(kind), &pixels), &want.data))
    });
    moved.fold(0.0, f32::max)
}

#[test]
fn zeroing_any_parameter_is_noticed() {
    let mut wrong = Vec::new();
    for mut golden in goldens() {
        let loaded = golden.load(Precision::F32);
        let mut tensors = Vec::new();
        for file in golden.weights.files_mut() {
            let file = SafeTensors::deserialize(file).unwrap();
            let used = file.names().into_iter().filter(|name| loaded.uses(name));
            tensors.extend(used.filter(|name| !file.tensor(name).unwrap().data().is_empty()).map(str::to_owned));
        }
        assert!(!tensors.is_empty());
        for tensor in tensors {
            // Queries, keys and values may stand in one tensor.
            let fused =
                ["qkv.weight", "qkv.bias", "in_proj_weight", "in_proj_bias"].iter().any(|end| tensor.ends_with(end));
            let parts = if fused { 3 } else { 1 };
            for part in 0..parts {
                let effect = effect_of_zeroing(&golden, &tensor, part, parts);
                if (effect > 1e-3) == invisible(&loaded, &tensor, fused && part == 1) {
                    wrong.push(format!("{} {tensor} {part}: {effect:e}", golden.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Another activation, another eps are noticed: for every model whose config names them.
#[test]
fn another_activation_or_eps_is_noticed() {
    let (mut activations, mut epses) = (0, 0);
    for golden in goldens() {
        let json: serde_json::Value = serde_json::from_slice(&golden.config).unwrap();
        let with = |field: &str, value: serde_json::Value| {
            let mut json = json.clone();
            let object = if json["vision_config"].is_object() { &mut json["vision_config"] } else { &mut json };
            object[field] = value;
            let config = serde_json::to_vec(&json).unwrap();
            let changed = Golden {
                config,
                weights: golden.weights.clone(),
                name: golden.name.clone(),
                truth: golden.truth.clone(),
            };
            let loaded = changed.load(Precision::F32);
            let kind = main_kind(&golden);
            let got = run(&loaded.model(Isa::best()), output(kind), &golden.tensor("pixels").unwrap());
            distance(&got, &golden.tensor(kind).unwrap().data)
        };
        let own = if json["vision_config"].is_object() { &json["vision_config"] } else { &json };
        if let Some(own) = own["hidden_act"].as_str().filter(|_| json["use_swiglu_ffn"] != true) {
            for other in ["gelu", "gelu_pytorch_tanh", "quick_gelu"] {
                let same = own == other || own == "gelu_new" && other == "gelu_pytorch_tanh";
                if !same {
                    let moved = with("hidden_act", other.into());
                    assert!(moved > 3.0 * BOUND, "{}: {own} and {other} differ by {moved:e}", golden.name);
                    activations += 1;
                }
            }
        }
        if let Some(eps) = own["layer_norm_eps"].as_f64() {
            let other = if eps < 1e-9 { 1e-6 } else { eps * 10.0 };
            let moved = with("layer_norm_eps", other.into());
            assert!(moved > 3.0 * BOUND, "{}: eps {eps} and {other} differ by {moved:e}", golden.name);
            epses += 1;
        }
    }
    // Exactly as many as the goldens' configs name: none is passed over.
    assert_eq!((activations, epses), (85, 43));
}

#[test]
fn sizes_are_computed_once_and_refused_with_a_reason() {
    let loaded = golden("timm-token").load(Precision::F32);
    let (isa, own) = (Isa::best(), loaded.config().image);
    assert_eq!(loaded.model_at(isa, own).unwrap().config().image, own);
    let at = |size| loaded.model_at(isa, size).map(|model| model.positions().unwrap().as_ptr());
    assert_eq!(at([48, 32]), at([48, 32]));
    assert_ne!(at([48, 32]), at([32, 48]));
    for (size, reason) in [([25, 24], "whole patches"), ([4, 24], "smaller than a patch"), ([0, 0], "is 0")] {
        let error = at(size).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let loaded = golden("timm-beit").load(Precision::F32);
    let error = loaded.model_at(isa, loaded.config().image.map(|side| 2 * side)).unwrap_err().to_string();
    assert!(error.contains("unsupported"), "{error}");
}
