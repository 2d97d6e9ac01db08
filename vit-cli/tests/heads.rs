//! Classification without the model's own head: by neighbours, and by embeddings of texts.
mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{fails, golden, here, samples, stderr, stdout, text, vit};

/// Runs what has to succeed, and reads its JSON.
fn json(arguments: &[&str]) -> Value {
    let output = vit(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn write_npy(path: &Path, rows: &[Vec<f32>]) {
    use npyz::WriterBuilder;
    let shape = [rows.len() as u64, rows[0].len() as u64];
    let file = fs::File::create(path).unwrap();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd().unwrap();
    writer.extend(rows.concat()).unwrap();
    writer.finish().unwrap();
}

/// Every sample in a folder named after its class: 'ankle-boot-0.png' in 'ankle-boot'.
fn by_class(folder: &Path) {
    for entry in samples().read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Some((class, _)) = name.strip_suffix(".png").and_then(|name| name.rsplit_once('-')) {
            fs::create_dir_all(folder.join(class)).unwrap();
            fs::copy(&path, folder.join(class).join(name)).unwrap();
        }
    }
}

#[test]
fn neighbours_name_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    by_class(&at("train"));
    let (train, file) = (at("train"), at("x.parquet"));
    json(&["embed", text(&train), "--out", text(&file)]);
    let sample = samples().join("bag-18.png");
    // Alone, the picture itself decides; together, the shares follow from the cosines.
    let near = ["classify", text(&sample), "--neighbours", text(&file)];
    let alone = json(&[&near[..], &["--k", "1"]].concat());
    let best = &alone[0]["predictions"][0];
    // The folders are named like the model's classes, and so have their numbers and names.
    assert_eq!((&best["label"], &best["class"], &best["probability"]), (&"Bag".into(), &8.into(), &1.0.into()));
    let three = json(&[&near[..], &["--k", "3"]].concat());
    let similar = json(&["similar", text(&sample), "--in", text(&file), "--top", "3"]);
    let weights: Vec<f64> =
        (0..3).map(|i| (similar[0]["similar"][i]["score"].as_f64().unwrap() / 0.07).exp()).collect();
    let share = three[0]["predictions"][0]["probability"].as_f64().unwrap();
    assert!((share - weights[0] / weights.iter().sum::<f64>()).abs() < 1e-6, "{three} {weights:?}");

    let report = json(&["eval", "--folder", text(&train), "--neighbours", text(&file), "--k", "1"]);
    assert_eq!((&report["top1"], &report["images"]), (&1.0.into(), &10.into()));
    let report = json(&["eval", "--folder", text(&train), "--neighbours", text(&file)]);
    assert!(report["top1"].as_f64().unwrap() >= 0.9, "{report}");

    // Other names have numbers in sorted order; folders to be evaluated have to be among them.
    fs::rename(at("train/bag"), at("train/a-sack")).unwrap();
    json(&["embed", text(&train), "--out", text(&file)]);
    let found = json(&[&near[..], &["--k", "1"]].concat());
    assert_eq!(
        (&found[0]["predictions"][0]["label"], &found[0]["predictions"][0]["class"]),
        (&"a-sack".into(), &0.into())
    );
    fs::rename(at("train/a-sack"), at("train/b-sack")).unwrap();
    fails(&["eval", "--folder", text(&train), "--neighbours", text(&file)], 1, "not all named");
    fails(&[&near[..], &["--precision", "int8"]].concat(), 1, "--precision");
    fails(&[&near[..], &["--labels", "x"]].concat(), 2, "--labels");
    fails(&["classify", text(&sample), "--k", "3"], 2, "--neighbours");
}

/// tests/goldens/make.py: PyTorch's logits of a picture and three texts, in transformers and OpenCLIP.
#[test]
fn zero_shot_as_in_pytorch() {
    let goldens: Value = serde_json::from_slice(&fs::read(here("tests/goldens/heads.json")).unwrap()).unwrap();
    let picture = here("tests/goldens/picture.png");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("names.txt"), "a cat\na dog\na boat\n").unwrap();
    let (texts, names) = (at("t.npy"), at("names.txt"));
    for case in goldens["zero_shot"].as_array().unwrap() {
        let name = case["model"].as_str().unwrap();
        let rows: Vec<Vec<f32>> = serde_json::from_value(case["texts"].clone()).unwrap();
        let want: Vec<f64> = serde_json::from_value(case["probabilities"].clone()).unwrap();
        write_npy(&texts, &rows);
        let packed = at("model.gguf");
        let model = golden(name);
        json(&["convert", "--model", text(&model), "--out", text(&packed)]);
        let prepared = ["--mean", "0.5", "--std", "0.5", "--resize", "16x16", "--filter", "bicubic", "--crop", "16"];
        for model in [&model, &packed] {
            let arguments = ["classify", text(&picture), "--model", text(model), "--class-embeddings", text(&texts)];
            let answers = json(&[&arguments[..], &["--labels", text(&names)], &prepared].concat());
            let predictions = answers[0]["predictions"].as_array().unwrap();
            assert_eq!(predictions.len(), 3);
            for prediction in predictions {
                let class = prediction["class"].as_u64().unwrap() as usize;
                assert_eq!(prediction["label"], ["a cat", "a dog", "a boat"][class]);
                let probability = prediction["probability"].as_f64().unwrap();
                assert!((probability - want[class]).abs() < 1e-5, "{name}: {probability} {}", want[class]);
            }
            let sum: f64 = want.iter().sum();
            assert_eq!((sum - 1.0).abs() < 1e-5, !name.starts_with("siglip"), "a sigmoid does not sum to 1");
        }
        let arguments = ["classify", text(&picture), "--model", text(&model)];
        fails(&[&arguments[..], &prepared].concat(), 1, "--class-embeddings");
        write_npy(&texts, &[vec![1.0; 3]]);
        let arguments = [&arguments[..], &["--class-embeddings", text(&texts)], &prepared].concat();
        fails(&arguments, 1, "[classes, ");
    }
    fails(&["classify", text(&picture), "--class-embeddings", text(&texts)], 1, "no logit_scale");
}

#[test]
fn the_help_names_them() {
    for command in ["classify", "eval"] {
        let help = stdout(&vit(&[command, "--help"]));
        assert!(help.contains("--neighbours") && help.contains("--class-embeddings"), "{help}");
    }
}
