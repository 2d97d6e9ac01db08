//! `vit attend`, as a user meets it.
mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{fails, golden, here, stderr, stdout, text, vit};

/// How pictures are prepared for golden models, whose files do not say it.
const PREPARE: [&str; 6] = ["--mean", "0.5", "--std", "0.25", "--filter", "bilinear"];

/// A colourful picture of that width and height.
fn picture(folder: &Path, name: &str, size: [u32; 2]) -> String {
    let colour = |x: u32, y: u32| image::Rgb([(x * 37 % 256) as u8, (y * 53 % 256) as u8, ((x ^ y) * 11 % 256) as u8]);
    let path = folder.join(name);
    image::RgbImage::from_fn(size[0], size[1], colour).save(&path).unwrap();
    text(&path).to_owned()
}

/// Runs what has to succeed, on a golden model, and reads its JSON.
fn attend(model: &str, more: &[&str]) -> Value {
    let folder = golden(model);
    let output = vit(&[&["attend", "--json", "--model", text(&folder)], &PREPARE[..], more].concat());
    assert!(output.status.success(), "{more:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn map(report: &Value) -> Vec<f64> {
    let rows = report["map"].as_array().unwrap().iter();
    rows.flat_map(|row| row.as_array().unwrap()).map(|x| x.as_f64().unwrap()).collect()
}

fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6), "{got:?} {want:?}");
}

/// What `vit run` computes of the same picture; its shape is checked against PyTorch elsewhere.
fn features(folder: &Path, model: &str, picture: &str, kind: &str) -> Vec<f64> {
    let (model, pixels, out) = (golden(model), folder.join("x.npy"), folder.join("y.npy"));
    let resize = ["--resize", "12x12", "--model", text(&model)];
    let prepared = vit(&[&["preprocess", picture, "--out", text(&pixels)], &PREPARE[..], &resize].concat());
    assert!(prepared.status.success(), "{}", stderr(&prepared));
    let ran =
        vit(&["run", "--model", text(&model), "--pixels", text(&pixels), "--out", text(&out), "--features", kind]);
    assert!(ran.status.success(), "{}", stderr(&ran));
    let file = fs::read(&out).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    file[header..].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect()
}

/// 2 layers, 2 heads, a class token, 3 registers, 3 × 3 patches.
#[test]
fn maps_are_rows_of_the_attention() {
    let folder = tempfile::tempdir().unwrap();
    let picture = picture(folder.path(), "a.png", [30, 60]);
    let all = features(folder.path(), "dinov2-registers", &picture, "attention");
    let (heads, tokens, prefix) = (2, 13, 4);
    let row = |layer: usize, head: usize, query: usize| -> Vec<f64> {
        let start = ((layer * heads + head) * tokens + query) * tokens;
        all[start + prefix..start + tokens].to_vec()
    };
    let run = |more: &[&str]| attend("dinov2-registers", &[&[&*picture, "--resize", "12x12"], more].concat());
    let mean: Vec<f64> = row(1, 0, 0).iter().zip(row(1, 1, 0)).map(|(a, b)| (a + b) / 2.0).collect();
    close(&map(&run(&[])), &mean);
    close(&map(&run(&["--layer", "1", "--head", "2"])), &row(0, 1, 0));
    // 30 × 60 pixels are 3 × 3 patches of 10 × 20.
    let at = run(&["--at", "29,20", "--layer", "2", "--head", "1"]);
    close(&map(&at), &row(1, 0, prefix + 5));
    assert_eq!(at["from"], "the patch at 29,20");
    let patches: Vec<f64> =
        (0..9).map(|key| (0..9).map(|query| row(0, 0, prefix + query)[key] / 9.0).sum::<f64>()).collect();
    close(&map(&run(&["--from", "patches", "--layer", "1", "--head", "1"])), &patches);

    let report = run(&[]);
    let best = (0..9).max_by(|a, b| mean[*a].total_cmp(&mean[*b])).unwrap();
    assert_eq!((&report["peak"]["row"], &report["peak"]["column"]), (&(best / 3).into(), &(best % 3).into()));
    let near = |key: &str, want: f64| (report["peak"][key].as_f64().unwrap() - want).abs() < 1e-9;
    assert!(near("x", (best % 3) as f64 * 10.0 + 5.0) && near("y", (best / 3) as f64 * 20.0 + 10.0));
    assert_eq!(report["covered"], serde_json::json!([0.0, 0.0, 60.0, 30.0]));
}

/// By the paper's formula with whole matrices.
#[test]
fn rollout_is_that_of_the_paper() {
    let folder = tempfile::tempdir().unwrap();
    let picture = picture(folder.path(), "a.png", [40, 30]);
    let all = features(folder.path(), "dinov2-registers", &picture, "attention");
    let (heads, tokens, prefix) = (2, 13, 4);
    let eye = |row: usize, column: usize| f64::from(row == column);
    let mut product: Vec<f64> = (0..tokens * tokens).map(|i| eye(i / tokens, i % tokens)).collect();
    for layer in all.chunks_exact(heads * tokens * tokens) {
        let mixed = |row: usize, column: usize| {
            let mean = (0..heads).map(|head| layer[(head * tokens + row) * tokens + column]).sum::<f64>() / 2.0;
            (mean + eye(row, column)) / 2.0
        };
        let entry = |i: usize| (0..tokens).map(|k| mixed(i / tokens, k) * product[k * tokens + i % tokens]).sum();
        product = (0..tokens * tokens).map(entry).collect();
    }
    let got = attend("dinov2-registers", &[&picture, "--resize", "12x12", "--rollout"]);
    close(&map(&got), &product[prefix..tokens]);
    let got = attend("dinov2-registers", &[&picture, "--resize", "12x12", "--rollout", "--at", "0,29"]);
    let row = (prefix + 6) * tokens;
    close(&map(&got), &product[row + prefix..row + tokens]);
}

#[test]
fn the_attention_pool_has_a_map() {
    let folder = tempfile::tempdir().unwrap();
    let picture = picture(folder.path(), "a.png", [30, 30]);
    let all = features(folder.path(), "siglip-vision", &picture, "pool-attention");
    let run = |more: &[&str]| attend("siglip-vision", &[&[&*picture, "--resize", "12x12"], more].concat());
    let mean: Vec<f64> = (0..9).map(|i| (all[i] + all[9 + i] + all[18 + i]) / 3.0).collect();
    let report = run(&[]);
    close(&map(&report), &mean);
    assert_eq!(report["from"], "the pool's query");
    close(&map(&run(&["--head", "3"])), &all[18..]);
    let rollout = map(&run(&["--rollout"]));
    assert!((rollout.iter().sum::<f64>() - 1.0).abs() < 1e-5 && rollout != mean);
}

/// Positions are those of the upright picture: `--at` and what is covered, with crop and EXIF orientation.
#[test]
fn places_are_those_of_the_upright_picture() {
    let folder = tempfile::tempdir().unwrap();
    let wide = picture(folder.path(), "wide.png", [48, 24]);
    // Resized to 24 × 12, cropped from column 6 on: patches of 8 pixels from column 12 on.
    let crop = ["--resize", "12", "--crop", "12"];
    let report = attend("dinov2-registers", &[&[&*wide, "--at", "12,0"], &crop[..]].concat());
    assert_eq!(report["covered"], serde_json::json!([0.0, 12.0, 24.0, 36.0]));
    let same = |a: &str, b: &str| {
        let run = |at| map(&attend("dinov2-registers", &[&[&*wide, "--at", at], &crop[..]].concat()));
        run(a) == run(b)
    };
    assert!(same("12,0", "19,7") && !same("19,7", "20,7") && !same("19,7", "19,8") && same("35,23", "28,16"));
    let model = golden("dinov2-registers");
    let run = |at: &str, message: &str| {
        let options = ["attend", &*wide, "--json", "--at", at, "--model", text(&model)];
        fails(&[&options, &PREPARE[..], &crop].concat(), 1, message);
    };
    run("11,0", "does not see this pixel; after the crop it sees x from 12 to 35 and y from 0 to 23");
    run("36,0", "does not see this pixel");
    run("48,0", "the picture has 48×24 pixels");

    let upright = here("../vit-image/tests/goldens/formats/oriented-6.jpg");
    let report = attend("dinov2-registers", &[text(&upright), "--resize", "12x12"]);
    let [height, width] = [0, 1].map(|axis| report["picture"][axis].as_u64().unwrap());
    let stored = image::image_dimensions(&upright).unwrap();
    assert_eq!((height, width), (stored.0.into(), stored.1.into()), "turned by a quarter");
}

#[test]
fn figures_are_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (golden("dinov2-registers"), folder.path().join("heat.png"));
    for (name, size) in [("tiny.png", [1, 1]), ("long.png", [1, 10_000]), ("high.png", [3000, 40])] {
        let picture = picture(folder.path(), name, size);
        for how in [&["--resize", "12", "--crop", "12"][..], &["--resize", "12x12"]] {
            let options = ["attend", &picture, "--out", text(&out), "--model", text(&model)];
            let output = vit(&[&options, &PREPARE[..], how].concat());
            assert!(output.status.success(), "{}", stderr(&output));
            assert!(stdout(&output).contains("one of 9 patches"));
            let image = image::open(&out).unwrap().to_rgb8();
            assert!(image.width() < 1500 && image.height() < 1500);
            assert!(image.pixels().any(|pixel| pixel.0 == [252, 255, 164]), "inferno ends with yellow, in the legend");
            fs::remove_file(&out).unwrap();
        }
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn what_cannot_be_shown_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let picture = picture(folder.path(), "a.png", [20, 20]);
    let (dinov2, siglip) = (golden("dinov2-registers"), golden("siglip-vision"));
    let out = folder.path().join("heat.png");
    let run = |model: &Path, more: &[&str], code: i32, message: &str| {
        let options = ["attend", &picture, "--model", text(model), "--resize", "12x12"];
        fails(&[&options, &PREPARE[..], more].concat(), code, message);
    };
    run(&dinov2, &[], 2, "--out");
    run(&dinov2, &["--json", "--layer", "3"], 1, "--layer 3: the model has 2 layers");
    run(&dinov2, &["--json", "--layer", "0"], 2, "or 'last'");
    run(&dinov2, &["--json", "--head", "3"], 1, "--head 3: the model has 2 heads");
    run(&dinov2, &["--json", "--from", "pool"], 1, "no attention pool");
    run(&dinov2, &["--json", "--at", "3"], 2, "X,Y");
    run(&dinov2, &["--json", "--rollout", "--layer", "1"], 2, "cannot be used with");
    run(&dinov2, &["--json", "--pca", "--at", "1,1"], 2, "cannot be used with");
    run(&siglip, &["--json", "--from", "class"], 1, "no class token");
    run(&siglip, &["--json", "--layer", "1"], 1, "comes after the last layer");
    run(&siglip, &["--json", "--head", "4"], 1, "the attention pool has 3 heads");
    run(&dinov2, &["--out", "heat.jpg"], 1, ".png");
    run(&dinov2, &["--out", &picture], 1, "replace the picture itself");
    run(&dinov2, &["--out", text(&folder.path().join("missing/heat.png"))], 1, "missing");
    run(&dinov2, &["--out", text(&out), "--alpha", "2"], 2, "from 0 to 1");
    run(&dinov2, &["--out", text(&out), "--pca", "--threshold", "99"], 1, "lower --threshold");
    let missing = folder.path().join("missing.png");
    fails(
        &[&["attend", text(&missing), "--json", "--model", text(&dinov2)], &PREPARE[..], &["--resize", "12"]].concat(),
        1,
        "No such file",
    );
    assert!(!out.exists());
}

#[test]
fn features_of_many_pictures_are_colours() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (a, b) = (picture(folder.path(), "a.png", [60, 30]), picture(folder.path(), "b.png", [24, 60]));
    fs::write(at("bad.png"), b"no picture").unwrap();
    let (model, sheet) = (golden("dinov2-registers"), at("sheet.png"));
    let run = |out: &str, more: &[&str]| {
        let options = ["attend", "--pca", &a, &b, "--json", "--model", text(&model), "--out", out, "--resize", "12x12"];
        vit(&[&options, &PREPARE[..], more].concat())
    };
    let output = run(text(&sheet), &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.stdout, run(text(&sheet), &["--threads", "1"]).stdout, "the same again");
    let colours = |report: &Value| -> Vec<Value> {
        let pictures = report["pictures"].as_array().unwrap().iter();
        pictures
            .flat_map(|picture| picture["colours"].as_array().unwrap())
            .flat_map(|row| row.as_array().unwrap().clone())
            .collect()
    };
    let found = colours(&report);
    let foreground = found.iter().filter(|colour| !colour.is_null()).count();
    assert!(found.len() == 18 && (1..18).contains(&foreground), "{found:?}");
    let inverted: Value = serde_json::from_slice(&run(text(&sheet), &["--invert"]).stdout).unwrap();
    let opposite = colours(&inverted).iter().zip(&found).all(|(a, b)| a.is_null() != b.is_null());
    assert!(opposite, "{inverted}");
    assert!(image::open(&sheet).unwrap().width() > 640);

    // One file each, and what cannot be read is reported.
    let output = run(text(&at("out/")), &[text(&at("bad.png")), "--all-patches"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("bad.png"));
    assert!(image::open(at("out/a.png")).is_ok() && image::open(at("out/b.png")).is_ok());
    assert!(!at("out/bad.png").exists());
    let options = ["attend", "--pca", &a, "--model", text(&model), "--out", text(folder.path()), "--resize", "12x12"];
    fails(&[&options, &PREPARE[..]].concat(), 1, "replace the picture itself");
}

/// PyTorch's and NumPy's numbers, by `goldens/attend.py`.
#[test]
fn maps_rollout_and_colours_are_those_of_pytorch() {
    let folder = tempfile::tempdir().unwrap();
    let want: Value = serde_json::from_str(include_str!("goldens/attend.json")).unwrap();
    let wide = picture(folder.path(), "wide.png", [60, 30]);
    let high = picture(folder.path(), "high.png", [24, 60]);
    let numbers =
        |value: &Value| -> Vec<f64> { value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
    for (model, name, options) in [
        ("dinov2-registers", "last", &[][..]),
        ("dinov2-registers", "layer 1, head 2", &["--layer", "1", "--head", "2"]),
        ("dinov2-registers", "rollout", &["--rollout"]),
        ("dinov2-registers", "rollout from patch 5", &["--rollout", "--at", "40,10"]),
        ("siglip-vision", "pool", &[]),
        ("siglip-vision", "pool, head 3", &["--head", "3"]),
        ("siglip-vision", "pool, rollout", &["--rollout"]),
    ] {
        let got = map(&attend(model, &[&[&*wide, "--resize", "12x12"], options].concat()));
        close(&got, &numbers(&want[name]));
    }
    let report = attend("dinov2-registers", &["--pca", &wide, &high, "--resize", "12x12"]);
    let pictures = report["pictures"].as_array().unwrap().iter();
    let rows = pictures.flat_map(|picture| picture["colours"].as_array().unwrap());
    let got: Vec<&Value> = rows.flat_map(|row| row.as_array().unwrap()).collect();
    let want = want["colours"].as_array().unwrap();
    assert_eq!(got.len(), want.len());
    for (got, want) in got.into_iter().zip(want) {
        assert_eq!(got.is_null(), want.is_null());
        if !want.is_null() {
            let (got, want) = (numbers(got), numbers(want));
            assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-4), "{got:?} {want:?}");
        }
    }
}
