//! The binary, as a user meets it.
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{fails, golden, here, samples, stderr, stdout, vit};

/// Runs what has to succeed, and reads its JSON.
fn json(arguments: &[&str]) -> Value {
    let output = vit(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// 't-shirt-top-19.png' → 'tshirttop'.
fn slug(name: &str) -> String {
    name.to_lowercase().chars().filter(|c| c.is_alphabetic()).collect()
}

#[test]
fn classify_names_the_samples() {
    let answers = json(&["classify", samples().to_str().unwrap(), "--json", "--top", "2"]);
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 10);
    let right = answers.iter().filter(|answer| {
        let best = &answer["predictions"][0];
        let probability = best["probability"].as_f64().unwrap();
        assert!(probability > answer["predictions"][1]["probability"].as_f64().unwrap() && probability <= 1.0);
        let file = Path::new(answer["path"].as_str().unwrap()).file_stem().unwrap().to_string_lossy().into_owned();
        slug(&file) == slug(best["label"].as_str().unwrap())
    });
    assert!(right.count() >= 9);
}

#[test]
fn text_json_and_lines_say_the_same() {
    let sample = samples().join("ankle-boot-0.png");
    let sample = sample.to_str().unwrap();
    let text = stdout(&vit(&["classify", sample]));
    assert!(text.contains("Ankle boot") && text.contains('%'), "{text}");
    let array = json(&["classify", sample, sample, "--json"]);
    let output = vit(&["classify", sample, sample, "--jsonl"]);
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(array, Value::Array(lines));
    assert!(stderr(&output).is_empty(), "no progress bar without a terminal");
}

#[test]
fn the_same_answer_however_it_runs() {
    let folder = samples();
    let run = |more: &[&str]| json(&[&["classify", folder.to_str().unwrap(), "--json"], more].concat());
    let isa = std::env::var("VIT_ISA").ok().filter(|isa| !isa.is_empty());
    let want = run(&[]);
    for more in [&["--threads", "1"][..], &["--threads", "3"], &["--memory", "64K"]] {
        assert_eq!(run(more), want, "{more:?} (VIT_ISA {isa:?})");
    }
    assert_ne!(run(&["--precision", "f16"]), want);
    assert_ne!(run(&["--top", "10"]), want);
}

#[test]
fn paths_may_come_from_stdin() {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_vit"))
        .args(["classify", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sample = samples().join("bag-18.png");
    writeln!(child.stdin.take().unwrap(), "{}\n\n{}", sample.display(), sample.display()).unwrap();
    let output = child.wait_with_output().unwrap();
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.as_array().unwrap().len(), 2);
}

#[test]
fn bad_pictures_are_reported_and_the_rest_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let good = fs::read(samples().join("bag-18.png")).unwrap();
    fs::write(at("a-good.png"), &good).unwrap();
    fs::write(at("b-empty.png"), b"").unwrap();
    fs::write(at("c-cut.png"), &good[..good.len() / 2]).unwrap();
    fs::write(at("d-text.jpg"), b"hello").unwrap();
    image::RgbaImage::from_pixel(1, 1, image::Rgba([9, 9, 9, 0])).save(at("e-tiny.png")).unwrap();
    image::RgbImage::from_fn(301, 7, |x, y| image::Rgb([x as u8, y as u8, 3])).save(at("f-wide.jpg")).unwrap();
    image::GrayImage::new(40, 50).save(at("g-large.png")).unwrap();
    let missing = at("h-missing.png");
    let path = folder.path().to_str().unwrap();
    let output = vit(&["classify", path, missing.to_str().unwrap(), "--json", "--max-pixels", "2200"]);
    assert_eq!(output.status.code(), Some(1));
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    let good: Vec<bool> =
        answers.as_array().unwrap().iter().map(|answer| answer.get("predictions").is_some()).collect();
    assert_eq!(good, [true, false, false, false, true, true, true, false], "{}", stderr(&output));
    for (name, what) in [("b-empty", "picture"), ("d-text", "picture"), ("h-missing", "No such file")] {
        let text = stderr(&output);
        let line = text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        assert!(line.contains(what), "{line}");
    }
    fails(&["classify", at("g-large.png").to_str().unwrap(), "--max-pixels", "1999"], 1, "--max-pixels");
    fails(&["classify", missing.to_str().unwrap()], 1, "h-missing.png");
}

#[test]
fn usage_errors_exit_with_2_and_failures_with_1() {
    fails(&[], 2, "Usage");
    fails(&["classify"], 2, "IMAGE");
    fails(
        &["classify", "x.png", "--isa", "sse9"],
        2,
        "'portable', 'avx2', 'avx2-vnni', 'avx512', 'avx512-vnni', 'avx512-bf16', 'neon'",
    );
    fails(&["classify", "x.png", "--threads", "0"], 2, "at least 1");
    fails(&["classify", "x.png", "--memory", "lots"], 2, "200K");
    fails(&["classify", "x.png", "--precision", "int3"], 2, "f16");
    fails(&["eval"], 2, "--images");
    fails(&["eval", "--images", "x"], 2, "--labels");
    let sample = samples().join("bag-18.png");
    let sample = sample.to_str().unwrap();
    fails(&["classify", sample, "--memory", "1000"], 1, "needs at least");
    fails(&["classify", sample, "--model", "no/such/model"], 1, "no/such/model");
    fails(&["classify", sample, "--model", sample], 1, "not a valid safetensors file");
    fails(
        &["classify", sample, "--model", golden("vp-new-cls").to_str().unwrap()],
        1,
        "--mean, --std, --resize, --crop and --filter",
    );
    fails(&["bench", "--model", "vit-gigantic"], 1, "'vit_gigantic' is not supported");
    fails(&["bench", "--model", "vit-base-patch16-225"], 1, "similar names: vit_base_patch16_224,");
    fails(&["run", "--pixels", "x", "--out", "y", "--features", "layer:x"], 2, "layer:0");
    fails(&["run", "--pixels", "x", "--out", "y", "--features", "pooler"], 2, "embedding");
    let empty = tempfile::tempdir().unwrap();
    fails(&["classify", empty.path().to_str().unwrap()], 1, "no picture files");
    fails(&["eval", "--folder", empty.path().to_str().unwrap()], 1, "0 folders");
    fails(&["eval", "--images", sample, "--labels", sample], 1, "not an IDX file");
}

/// What PyTorch computes with a golden checkpoint: shapes and numbers by name.
struct Truth(BTreeMap<String, (Vec<u64>, Vec<f32>)>);

impl Truth {
    fn of(model: &Path) -> Self {
        let file = fs::read(model.join("golden.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        let entry = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
            let numbers = view.data().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
            (name, (view.shape().iter().map(|n| *n as u64).collect(), numbers))
        };
        Self(file.tensors().into_iter().map(entry).collect())
    }

    fn write(&self, path: &str, name: &str) {
        let (shape, numbers) = &self.0[name];
        write_npy(path, shape, numbers);
    }

    /// That a .npy file holds what PyTorch computes.
    fn agrees(&self, path: &str, name: &str) {
        let (shape, want) = &self.0[name];
        let file = fs::read(path).unwrap();
        let npy = npyz::NpyFile::new(&*file).unwrap();
        assert_eq!(npy.shape(), shape);
        let got = npy.into_vec::<f32>().unwrap();
        let largest = want.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() <= 1e-5 * largest), "{name}");
    }
}

#[test]
fn run_gives_pytorchs_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model = golden("timm-rect");
    let truth = Truth::of(&model);
    truth.write(&at("x.npy"), "pixels");
    let kinds = ["logits", "class", "patches", "embedding", "layer:0", "layer:2", "attention"];
    for features in kinds.into_iter().filter(|kind| truth.0.contains_key(*kind)) {
        let (x, y) = (at("x.npy"), at("y.npy"));
        let arguments = ["run", "--pixels", &x, "--out", &y, "--features", features, "--model"];
        let output = vit(&[&arguments[..], &[model.to_str().unwrap()]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        truth.agrees(&y, features);
    }

    let run = |x: &str| vec!["run".to_owned(), "--pixels".into(), at(x), "--out".into(), at("y.npy"), "--model".into()];
    let fails = |x: &str, message: &str| {
        let mut arguments = run(x);
        arguments.push(model.to_str().unwrap().into());
        fails(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), 1, message);
    };
    write_npy(&at("shape.npy"), &[1, 1, 8, 8], &[0.0; 64]);
    fails("shape.npy", "[B, 3, H, W]");
    write_npy(&at("odd.npy"), &[1, 3, 9, 8], &[0.0; 216]);
    fails("odd.npy", "not whole patches");
    write_npy(&at("empty.npy"), &[0, 3, 24, 40], &[]);
    fails("empty.npy", "B ≥ 1");
    fs::write(at("junk.npy"), b"junk").unwrap();
    fails("junk.npy", "not a .npy file");
    let whole = fs::read(at("x.npy")).unwrap();
    fs::write(at("cut.npy"), &whole[..whole.len() - 2]).unwrap();
    fails("cut.npy", "shorter");
    fails("missing.npy", "missing.npy");
}

/// Other sizes, weights without a config, a model hub's cache.
#[test]
fn run_takes_what_people_have() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model = golden("dinov2-registers");
    let truth = Truth::of(&model);
    let agrees = |model: &str, home: &str, x: &str, name: &str| {
        truth.write(&at("x.npy"), x);
        let kind = name.split('@').next().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_vit"))
            .args(["run", "--model", model, "--features", kind, "--pixels", &at("x.npy"), "--out", &at("y.npy")])
            .env("HF_HOME", home)
            .env_remove("HF_HUB_CACHE")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        truth.agrees(&at("y.npy"), name);
        stderr(&output)
    };
    let path = model.to_str().unwrap();
    for pixels in truth.0.keys().filter(|name| name.starts_with("pixels")) {
        for kind in ["patches", "embedding"] {
            let name = pixels.replacen("pixels", kind, 1);
            assert_eq!(agrees(path, "", pixels, &name), "", "no warnings");
        }
    }

    // In a local cache of a model hub.
    let snapshot = folder.path().join("hub/models--some--dinov2/snapshots/0123abc");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder.path().join("hub/models--some--dinov2/refs")).unwrap();
    fs::write(folder.path().join("hub/models--some--dinov2/refs/main"), "0123abc\n").unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(model.join(name), snapshot.join(name)).unwrap();
    }
    agrees("some/dinov2", &at(""), "pixels", "embedding");
    fails(&["inspect", "--model", "some/other"], 1, "nothing is ever downloaded");

    // A warning names what is not used; without a config the tensors say what is missing.
    fails(
        &["inspect", "--model", golden("timm-token").join("model.safetensors").to_str().unwrap(), "--as", "vit"],
        1,
        "missing",
    );
    fs::remove_file(snapshot.join("config.json")).unwrap();
    fails(&["inspect", "--model", snapshot.to_str().unwrap()], 1, "by its tensors this is a 'dinov2_with_registers'");
    fails(&["inspect", "--model", path, "--as", "vit_tiny_patch16_225"], 1, "vit_tiny_patch16_224");
}

fn write_npy(path: &str, shape: &[u64], data: &[f32]) {
    use npyz::WriterBuilder;
    let file = fs::File::create(path).unwrap();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd().unwrap();
    writer.extend(data).unwrap();
    writer.finish().unwrap();
}

#[test]
fn eval_reads_class_folders() {
    let folder = tempfile::tempdir().unwrap();
    for sample in fs::read_dir(samples()).unwrap() {
        let sample = sample.unwrap().path();
        let name = sample.file_stem().unwrap().to_string_lossy().into_owned();
        let class = folder.path().join(name.rsplit_once('-').unwrap().0);
        fs::create_dir(&class).unwrap();
        fs::copy(&sample, class.join("one.png")).unwrap();
    }
    let path = folder.path().to_str().unwrap();
    let report = json(&["eval", "--folder", path, "--json"]);
    assert_eq!((report["images"].as_u64(), report["failed"].as_u64()), (Some(10), Some(0)));
    assert!(report["correct"].as_u64().unwrap() >= 9 && report["top5"].as_f64() == Some(1.0));
    assert_eq!(report["classes_from"], "folders named like the labels");
    // With other names the sorted order counts, and it says so.
    fs::rename(folder.path().join("bag"), folder.path().join("z")).unwrap();
    let report = json(&["eval", "--folder", path, "--json"]);
    assert_eq!(report["classes_from"], "folders in sorted order");
    fs::remove_dir_all(folder.path().join("z")).unwrap();
    assert_eq!(json(&["eval", "--folder", path, "--json"])["classes_from"], "folders named like the labels");
    fs::create_dir(folder.path().join("z")).unwrap();
    fs::remove_dir_all(folder.path().join("coat")).unwrap();
    fails(&["eval", "--folder", path], 1, "there must be 10");
}

#[test]
fn inspect_and_bench_have_their_keys() {
    let report = json(&["inspect", "--json"]);
    assert_eq!(report["parameters"], 204_810);
    assert_eq!(report["config"]["tokens"], 50);
    let memory = report["memory"].as_array().unwrap();
    assert!(memory.len() > 2 && memory[0]["rows_per_block"] == 1);
    assert!(stdout(&vit(&["inspect", "--model", golden("timm-avg").to_str().unwrap()])).contains("MeanPatches"));
    let pool = &json(&["inspect", "--json", "--model", golden("siglip-model").to_str().unwrap()])["config"];
    assert_eq!(pool["attention_pool"]["heads"], pool["heads"]);
    assert_eq!(report["config"]["attention_pool"], Value::Null);

    let report = json(&["bench", "--seconds", "0.01", "--threads", "1,2", "--batch", "1,3", "--json"]);
    let report = report.as_array().unwrap();
    assert_eq!(report.len(), 4);
    for measurement in report {
        let number = |key: &str| measurement[key].as_f64().unwrap_or_else(|| panic!("{key}: {measurement}"));
        assert_eq!(number("allocations"), 0.0);
        assert!(number("min_ms") <= number("median_ms") && number("median_ms") <= number("p95_ms"));
        let gflops = 2.0 * number("macs") / number("median_ms") / 1e6;
        assert!((number("gflops") / gflops - 1.0).abs() < 1e-6);
        assert!((number("efficiency") - number("gflops") / number("peak_gflops")).abs() < 1e-6);
        assert!(number("arena_bytes") > 0.0 && number("weight_bytes") > 800_000.0);
        for key in ["model", "precision", "isa"] {
            assert!(measurement[key].is_string(), "{key}");
        }
    }
}

/// Pictures and labels come out of their files in order, whatever the threads.
#[test]
fn eval_reads_idx_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut samples: Vec<_> = fs::read_dir(samples()).unwrap().map(|sample| sample.unwrap().path()).collect();
    samples.sort();
    let pictures: Vec<u8> =
        samples.iter().flat_map(|path| image::open(path).unwrap().into_luma8().into_raw()).collect();
    // More than two batches, the last one not full.
    const COUNT: usize = 150;
    let header = |rank: u8| [&[0, 0, 8, rank][..], &u32::try_from(COUNT).unwrap().to_be_bytes()].concat();
    let sizes = [0, 0, 0, 28, 0, 0, 0, 28];
    fs::write(at("images"), [&header(3)[..], &sizes, &pictures.repeat(COUNT / 10)].concat()).unwrap();
    let classes = |threads: &str, labels: &[u8]| {
        fs::write(at("labels"), [&header(1), labels].concat()).unwrap();
        let (images, labels, out) = (at("images"), at("labels"), at("predictions.npy"));
        let eval = ["eval", "--images", &images, "--labels", &labels, "--json", "--threads", threads];
        let report = json(&[&eval[..], &["--predictions", &out]].concat());
        let classes: Vec<i32> = npyz::NpyFile::new(&*fs::read(&out).unwrap()).unwrap().into_vec().unwrap();
        (classes, report["correct"].as_u64().unwrap(), report["images"].as_u64().unwrap())
    };
    let (first, ..) = classes("1", &[0; COUNT]);
    assert!(first[0] != first[1] && first.iter().enumerate().all(|(i, class)| *class == first[i % 10]));
    let labels: Vec<u8> = first.iter().map(|class| *class as u8).collect();
    for threads in ["1", "2", "5"] {
        assert_eq!(classes(threads, &labels), (first.clone(), COUNT as u64, COUNT as u64), "{threads} threads");
    }
}

/// PyTorch's predictions for all 10,000 test images. Fashion-MNIST is Debian's package dataset-fashion-mnist;
/// `VIT_REQUIRE_DATA` makes its absence a failure.
#[test]
fn eval_agrees_with_pytorch_on_every_test_image() {
    let data = Path::new("/usr/share/datasets/fashion-mnist");
    if !data.exists() {
        let required = std::env::var("VIT_REQUIRE_DATA").is_ok_and(|value| !value.is_empty());
        assert!(!required, "{} is missing: apt-get install dataset-fashion-mnist", data.display());
        eprintln!("skipped: {} is not there", data.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let predictions = folder.path().join("predictions.npy");
    let file = |name: &str| data.join(name).to_str().unwrap().to_owned();
    let (images, labels) = (file("t10k-images-idx3-ubyte.gz"), file("t10k-labels-idx1-ubyte.gz"));
    let eval = ["eval", "--images", &images, "--labels", &labels, "--json", "--predictions"];
    let report = json(&[&eval[..], &[predictions.to_str().unwrap()]].concat());
    let file = fs::read(&predictions).unwrap();
    let npy = npyz::NpyFile::new(&*file).unwrap();
    let ours: Vec<i32> = npy.into_vec().unwrap();
    let pytorchs = fs::read(here("models/fashion-vit/predictions.bin")).unwrap();
    assert_eq!((ours.len(), pytorchs.len()), (10_000, 10_000));
    let different = ours.iter().zip(&pytorchs).filter(|(ours, theirs)| **ours != i32::from(**theirs)).count();
    assert!(different <= 2, "{different} predictions differ from PyTorch's");
    let metrics: Value = serde_json::from_slice(&fs::read(here("models/fashion-vit/metrics.json")).unwrap()).unwrap();
    let (got, want) = (report["correct"].as_f64().unwrap(), metrics["correct"].as_f64().unwrap());
    assert!((got - want).abs() <= 2.0, "{got} right, PyTorch has {want}");
    assert!(want >= 9000.0);
}

/// A golden checkpoint in a folder of its own, with a file of preprocessing.
fn with_preprocessor(name: &str, preprocessor: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    fs::write(folder.path().join("preprocessor_config.json"), preprocessor).unwrap();
    folder
}

/// The numbers of a .npy file.
fn npy(path: &str) -> (Vec<u64>, Vec<f32>) {
    let file = fs::read(path).unwrap();
    let npy = npyz::NpyFile::new(&*file).unwrap();
    (npy.shape().to_vec(), npy.into_vec().unwrap())
}

/// What `preprocess` shows is what the files say, in a packed file too, and what `classify` gives to the model.
#[test]
fn pictures_are_prepared_as_the_models_files_say() {
    let processor = r#"{"image_processor_type": "ViTImageProcessorFast", "size": 32, "image_mean": [0.25, 0.5, 0.75]}"#;
    let model = with_preprocessor("vit-classes", processor);
    let at = |name: &str| model.path().join(name).to_str().unwrap().to_owned();
    let path = model.path().to_str().unwrap();
    // Without resizing to another size, levels are what they were: (level / 255 - mean) / 0.5.
    let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8, 255]));
    picture.save(at("x.png")).unwrap();
    let run = |arguments: &[&str]| {
        let output = vit(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        output
    };
    run(&["preprocess", &at("x.png"), "--model", path, "--out", &at("x.npy")]);
    let (shape, pixels) = npy(&at("x.npy"));
    assert_eq!(shape, [1, 3, 32, 32]);
    for (i, x) in pixels.iter().enumerate() {
        let (channel, y, column) = (i / 1024, i / 32 % 32, i % 32);
        let level = [column as f32 * 8.0, y as f32 * 8.0, 255.0][channel];
        let want = (level / 255.0 - [0.25, 0.5, 0.75][channel]) / 0.5;
        assert!((x - want).abs() < 1e-6, "{i}: {x}, {want}");
    }
    let packed = at("m.gguf");
    run(&["convert", "--model", path, "--out", &packed]);
    run(&["preprocess", &at("x.png"), "--model", &packed, "--out", &at("y.npy")]);
    assert_eq!(npy(&at("y.npy")), (shape, pixels));
    // 'classify' gives the model the same: as 'run' on the tensor.
    run(&["run", "--model", path, "--pixels", &at("x.npy"), "--out", &at("logits.npy")]);
    let (shape, logits) = npy(&at("logits.npy"));
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
    let names: Vec<String> = (0..shape[1]).map(|class| format!("thing {class}")).collect();
    fs::write(at("names.txt"), names.join("\n")).unwrap();
    let answers = json(&["classify", &at("x.png"), "--model", path, "--labels", &at("names.txt"), "--json"]);
    assert_eq!(answers[0]["predictions"][0]["label"], format!("thing {best}"));
    fails(&["classify", &at("x.png"), "--model", path, "--labels", &at("config.json")], 1, "names, one a line");
    // Options change what the files say.
    run(&[
        "preprocess",
        &at("x.png"),
        "--model",
        path,
        "--out",
        &at("x.npy"),
        "--image-size",
        "48x64",
        "--mean",
        "0.5",
    ]);
    assert_eq!(npy(&at("x.npy")).0, [1, 3, 48, 64]);
    fs::write(at("preprocessor_config.json"), r#"{"image_processor_type": "FooImageProcessor"}"#).unwrap();
    fails(&["classify", &at("x.png"), "--model", path], 1, "'FooImageProcessor' is not supported");
    run(&["inspect", "--model", path]);
    let how = ["--mean", "0.5", "--std", "0.5", "--resize", "32x32", "--filter", "bilinear"];
    run(&[&["classify", &at("x.png"), "--model", path][..], &how].concat());
}

/// Formats by what they begin with, not by their names; what is no picture is reported.
#[test]
fn formats_and_what_only_looks_like_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let formats = here("../vit-image/tests/goldens/formats");
    for name in ["cmyk.jpg", "lossy.webp", "transparent.gif", "palette.bmp", "palette-lzw.tif", "rgba-16.png"] {
        let bytes = fs::read(formats.join(name)).unwrap();
        fs::write(at(name), &bytes).unwrap();
        fs::write(at(&format!("cut-{name}")), &bytes[..bytes.len() * 2 / 3]).unwrap();
    }
    fs::copy(formats.join("420.jpg"), at("mislabelled.png")).unwrap();
    fs::write(at("notes.txt"), "no picture").unwrap();
    let mut bomb = fs::read(formats.join("rgb.png")).unwrap();
    bomb[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    fs::write(at("bomb.png"), bomb).unwrap();
    image::GrayImage::new(1, 1).save(at("one.png")).unwrap();
    image::GrayImage::new(10_000, 1).save(at("long.png")).unwrap();
    let output = vit(&["classify", folder.path().to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut good = 0;
    for answer in answers.as_array().unwrap() {
        let path = Path::new(answer["path"].as_str().unwrap()).file_name().unwrap().to_string_lossy().into_owned();
        let bad = path.starts_with("cut-") || path == "bomb.png";
        assert_eq!(answer.get("error").is_some(), bad, "{answer}");
        good += usize::from(!bad);
    }
    assert_eq!(good, 9);
}
