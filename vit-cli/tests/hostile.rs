//! What nobody means well with: broken models, files that are small and claim to be large, pipes, names that steer a
//! terminal, a stderr that nobody reads.
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fashion-vit")
}

fn sample() -> PathBuf {
    model().join("samples/bag-18.png")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vit"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs what has to come to an end: a program that waits for a pipe does not.
fn run(command: &mut Command) -> Output {
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    // Answers are shorter than a pipe's buffer, so that nobody has to read them meanwhile.
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{command:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn fails(arguments: &[&str], code: i32, message: &str) {
    let output = run(&mut command(arguments));
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(text.contains(message) && !text.contains("panicked"), "{arguments:?}: {text}");
}

/// fashion-vit in a folder, its config and its tensors changed.
fn changed(
    folder: &Path,
    config: impl FnOnce(&mut Value),
    tensor: impl Fn(&str, &mut Vec<f32>),
    extra: &[(&str, Vec<f32>)],
) {
    let mut json: Value = serde_json::from_slice(&fs::read(model().join("config.json")).unwrap()).unwrap();
    config(&mut json);
    fs::write(folder.join("config.json"), json.to_string()).unwrap();
    let file = fs::read(model().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, view) in file.tensors() {
        let mut numbers: Vec<f32> =
            view.data().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        tensor(&name, &mut numbers);
        tensors.push((name, view.shape().to_vec(), numbers.iter().flat_map(|x| x.to_le_bytes()).collect()));
    }
    for (name, numbers) in extra {
        tensors.push(((*name).into(), vec![numbers.len()], numbers.iter().flat_map(|x| x.to_le_bytes()).collect()));
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

fn idx(header: [u8; 4], sizes: &[u32], data: &[u8]) -> Vec<u8> {
    header.into_iter().chain(sizes.iter().flat_map(|size| size.to_be_bytes())).chain(data.iter().copied()).collect()
}

/// Sizes of an image whose positions alone take 10 GB are computed, and the positions are not.
#[test]
fn inspect_makes_no_positions() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vit-engine/tests/goldens/dinov2-model");
    let start = Instant::now();
    let mut inspect = command(&["inspect", "--json", "--image-size", "16000x160000", "--model", text(&model)]);
    let output = run(&mut inspect);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["table_bytes"].as_u64().unwrap() > 10_000_000_000, "{report}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// Finite weights whose products are not.
#[test]
fn a_model_that_overflows_is_not_perfect() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // The norm before the head gives infinities of both signs, and the head adds them up.
    let overflow = |name: &str, numbers: &mut Vec<f32>| {
        if name == "mlp_head.0.weight" {
            numbers.fill(3e38);
        }
    };
    changed(folder.path(), |_| {}, overflow, &[]);
    let broken = ["--model", text(folder.path())];
    let output = run(&mut command(&[&["classify", text(&sample()), "--json"][..], &broken].concat()));
    assert_eq!(output.status.code(), Some(1));
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answers[0].get("predictions").is_none(), "{answers}");
    assert!(answers[0]["error"].as_str().unwrap().starts_with("the logits are NaN: "), "{answers}");
    assert!(stderr(&output).contains("bag-18.png: the logits are NaN: "), "{}", stderr(&output));

    fs::create_dir_all(at("val/bag")).unwrap();
    fs::copy(sample(), at("val/bag/one.png")).unwrap();
    fs::write(at("val/bag/two.png"), "no picture").unwrap();
    fs::write(at("images"), idx([0, 0, 8, 3], &[2, 28, 28], &[7; 2 * 28 * 28])).unwrap();
    fs::write(at("labels"), idx([0, 0, 8, 1], &[2], &[0, 9])).unwrap();
    let (val, images, labels, predicted) = (at("val"), at("images"), at("labels"), at("p.npy"));
    let from_folder = ["eval", "--folder", text(&val)];
    let from_idx = ["eval", "--images", text(&images), "--labels", text(&labels)];
    for (data, counts, name) in
        [(&from_folder[..], [1, 1, 1], "one.png: the logits"), (&from_idx, [2, 0, 2], "images, picture 1: the logits")]
    {
        let output = run(&mut command(&[data, &broken, &["--json", "--predictions", text(&predicted)]].concat()));
        assert_eq!(output.status.code(), Some(1), "{data:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = ["images", "failed", "not_finite"].map(|key| report[key].as_u64().unwrap());
        assert_eq!((found, report["top1"].as_f64(), report["top5"].as_f64()), (counts, Some(0.0), Some(0.0)));
        assert!(stderr(&output).contains(name), "{}", stderr(&output));
        let numbers: Vec<i32> = npyz::NpyFile::new(&*fs::read(&predicted).unwrap()).unwrap().into_vec().unwrap();
        assert_eq!(numbers, [-1, -1]);
    }

    let (x, y) = (at("x.npy"), at("y.npy"));
    write_npy(&x, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 28, 28), }", &[0; 4 * 28 * 28]);
    let output = run(&mut command(&[&["run", "--pixels", text(&x), "--out", text(&y)][..], &broken].concat()));
    assert!(output.status.success() && stderr(&output).contains("10 of the 10 numbers are NaN or infinite"));
}

fn write_npy(path: &Path, header: &str, data: &[u8]) {
    let len = u16::try_from(header.len()).unwrap().to_le_bytes();
    fs::write(path, [b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), data].concat()).unwrap();
}

#[test]
fn small_files_are_cheap() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Each bracket more would double the time of a parser that looks twice.
    let npy = at("x.npy");
    write_npy(&npy, &"[".repeat(110), &[]);
    fails(&["run", "--pixels", text(&npy), "--out", "y.npy"], 1, "the header is not that of a plain array");
    // Fitted by its short side, a picture of 20000 pixels would be 15.7 million.
    let png = at("long.png");
    image::GrayImage::new(20_000, 1).save(&png).unwrap();
    let centre = |config: &mut Value| config["pretrained_cfg"]["crop_mode"] = "center".into();
    changed(folder.path(), centre, |_, _| {}, &[]);
    let arguments = ["classify", text(&png), "--model", text(folder.path()), "--max-pixels", "20000"];
    let output = run(&mut command(&arguments));
    assert!(output.status.success(), "{}", stderr(&output));
    // A gzipped file that holds 4 GB: what is more than was promised is an error at once.
    let zeros = idx([0, 0, 8, 3], &[1, 28, 28], &vec![0; 4 << 20]);
    let mut zipped = Vec::new();
    flate2::read::GzEncoder::new(&*zeros, flate2::Compression::fast()).read_to_end(&mut zipped).unwrap();
    let (images, labels) = (at("images.gz"), at("labels"));
    fs::write(&images, zipped).unwrap();
    fs::write(&labels, idx([0, 0, 8, 1], &[1], &[3])).unwrap();
    let data = ["eval", "--images", text(&images), "--labels", text(&labels)];
    fails(&data, 1, "more than the 1 items that the header promises");
    // A picture's size is looked at before the picture.
    fs::write(&images, idx([0, 0, 8, 3], &[1, u32::MAX, u32::MAX], &[])).unwrap();
    fails(&data, 1, "above the limit of 100000000 (--max-pixels)");
    fs::write(&images, idx([0, 0, 8, 3], &[1, 28, 28], &[0; 28 * 28])).unwrap();
    fs::write(&labels, idx([0, 0, 8, 1], &[1], &[10])).unwrap();
    fails(&data, 1, "labels: label 10, but the model has 10 classes");
}

#[test]
fn what_is_too_large_is_an_error() {
    fails(&["bench", "--batch", "1000000000000", "--seconds", "0"], 1, "3136000000000000 bytes for the pixels");
    fails(&["bench", "--batch", "18446744073709551615", "--seconds", "0"], 1, "error: ");
    for threads in [&["classify", text(&sample()), "--threads", "100000"][..], &["bench", "--threads", "1,100000"]] {
        fails(threads, 2, "must be at most ");
    }
}

/// A pipe whose reader is gone, and a device without room: the answers come all the same.
#[test]
fn nobody_has_to_read_the_errors() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut ends = vec![Stdio::from(writer)];
    if cfg!(target_os = "linux") {
        ends.push(fs::File::options().write(true).open("/dev/full").unwrap().into());
    }
    for end in ends {
        let sample = sample();
        let arguments = ["classify", "missing.png", text(&sample), "missing.jpg", "--json"];
        let output = run(command(&arguments).stderr(end));
        assert_eq!(output.status.code(), Some(1));
        let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answers.as_array().unwrap().len(), 3);
        assert_eq!(answers[1]["predictions"][0]["label"], "Bag");
    }
}

#[test]
#[cfg(unix)]
fn pipes_are_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let pipe = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    fs::create_dir(at("pictures")).unwrap();
    fs::copy(sample(), at("pictures/a.png")).unwrap();
    let fifo = at("pictures/b.png");
    pipe(&fifo);
    let output = run(&mut command(&["classify", text(&at("pictures")), "--json"]));
    assert_eq!(output.status.code(), Some(1));
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answers[0].get("predictions").is_some());
    assert_eq!(answers[1]["error"], "is not a regular file");
    fails(&["run", "--pixels", text(&fifo), "--out", "y"], 1, "b.png: is not a regular file");
    fails(&["eval", "--images", text(&fifo), "--labels", text(&fifo)], 1, "b.png: is not a regular file");

    let refs = at("hub/models--some--model/refs");
    fs::create_dir_all(&refs).unwrap();
    pipe(&refs.join("main"));
    let mut inspect = command(&["inspect", "--model", "some/model"]);
    let output = run(inspect.env("HF_HOME", folder.path()).env_remove("HF_HUB_CACHE"));
    assert!(stderr(&output).contains("no 'some/model' in the local cache"), "{}", stderr(&output));
}

/// What is open already waits for nobody: `vit run --pixels <(…)`.
#[test]
#[cfg(target_os = "linux")]
fn stdin_may_be_a_file_of_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let y = folder.path().join("y.npy");
    let x = folder.path().join("x.npy");
    write_npy(&x, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 28, 28), }", &[0; 4 * 28 * 28]);
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&fs::read(&x).unwrap()).unwrap();
    drop(writer);
    let output = run(command(&["run", "--pixels", "/dev/stdin", "--out", text(&y)]).stdin(reader));
    assert!(output.status.success() && y.exists(), "{}", stderr(&output));
}

/// A path of more than 4096 bytes cannot be listed, whoever asks, root included.
#[test]
#[cfg(target_os = "linux")]
fn a_folder_that_cannot_be_listed_leaves_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(sample(), folder.path().join("z.png")).unwrap();
    let deep = "a".repeat(250);
    let script = format!("for i in $(seq 18); do mkdir {deep} && cd -P {deep} || exit 1; done");
    assert!(Command::new("bash").args(["-c", &script]).current_dir(folder.path()).status().unwrap().success());
    let output = run(&mut command(&["classify", text(folder.path()), "--json"]));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.as_array().unwrap().len(), 2, "{answers}");
    assert!(answers[0]["error"].as_str().unwrap().contains("name too long"), "{answers}");
    assert_eq!(answers[1]["predictions"][0]["label"], "Bag");

    // An empty folder is one input of several.
    let empty = tempfile::tempdir().unwrap();
    let output = run(&mut command(&["classify", text(empty.path()), text(&sample())]));
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("Bag") && stderr(&output).contains("no picture files in this folder"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_list_may_hold_names_that_are_not_utf_8() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let name = [folder.path().as_os_str().as_bytes(), b"/b\xff.png"].concat();
    fs::copy(sample(), std::ffi::OsStr::from_bytes(&name)).unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[text(&sample()).as_bytes(), b"\n", &name, b"\n"].concat()).unwrap();
    drop(writer);
    let output = run(command(&["classify", "-", "--json"]).stdin(reader));
    assert!(output.status.success(), "{}", stderr(&output));
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers[0]["predictions"], answers[1]["predictions"]);
}

#[test]
#[cfg(unix)]
fn names_do_not_steer_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let escape = "\u{1b}[2J\u{1b}]0;title\u{7}";
    let long = format!("{escape}{}", "x".repeat(1 << 20));
    let labels = |config: &mut Value| {
        for i in 0..10 {
            config["pretrained_cfg"]["label_names"][i] = long.as_str().into();
        }
    };
    changed(folder.path(), labels, |_, _| {}, &[(&format!("{escape}\ntensor"), vec![1.0])]);
    let picture = folder.path().join(format!("{escape}.png"));
    fs::copy(sample(), &picture).unwrap();
    let missing = folder.path().join(format!("{escape}\n.jpg"));
    let classify = ["classify", text(&picture), text(&missing)];
    for arguments in [&classify[..], &["inspect"], &["bench", "--seconds", "0"], &["run", "--pixels", text(&missing)]] {
        let out = ["--out", "y.npy"].into_iter().filter(|_| arguments[0] == "run");
        let arguments: Vec<&str> =
            arguments.iter().copied().chain(out).chain(["--model", text(folder.path())]).collect();
        let output = run(&mut command(&arguments));
        let all = stdout(&output) + &stderr(&output);
        let steers = |c: char| c.is_control() && c != '\n';
        assert!(!all.contains(steers), "{arguments:?}: {all:.2000}");
        assert!(all.contains(r"\u{1b}[2J\u{1b}]0;title\u{7}\ntensor"), "the warning: {all:.2000}");
        assert!(all.len() < 20_000, "{} bytes", all.len());
    }
}

/// A shell's `VIT_ISA= vit …` asks for nothing.
#[test]
fn an_empty_variable_is_not_set() {
    for (value, code) in [("", 0), ("portable", 0), ("sse9", 2)] {
        let output = run(command(&["inspect"]).env("VIT_ISA", value));
        assert_eq!(output.status.code(), Some(code), "'{value}': {}", stderr(&output));
    }
    fails(&["inspect", "--isa", ""], 2, "--isa");
}
