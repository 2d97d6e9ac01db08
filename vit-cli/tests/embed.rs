//! `vit embed`: files of embeddings, and what becomes of them when a run does not end well.
mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{fails, golden, samples, stderr, stdout, text, vit};

/// Runs what has to succeed.
fn embed(arguments: &[&str]) -> Value {
    let output = vit(&[&["embed"], arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The rows of a .npy file.
fn npy(path: &Path) -> Vec<f32> {
    npyz::NpyFile::new(&*fs::read(path).unwrap()).unwrap().into_vec().unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The paths and rows of a .jsonl file.
fn lines(path: &Path) -> Vec<(String, Vec<f32>)> {
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let row = line["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        (line["path"].as_str().unwrap().to_owned(), row)
    };
    fs::read_to_string(path).unwrap().lines().map(line).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn rows_are_what_run_computes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sample = samples().join("bag-18.png");
    vit(&["preprocess", text(&sample), "--out", text(&at("pixels.npy"))]);
    for features in ["embedding", "class", "logits"] {
        vit(&["run", "--pixels", text(&at("pixels.npy")), "--out", text(&at("want.npy")), "--features", features]);
        let report = embed(&[text(&sample), "--out", text(&at("x.npy")), "--features", features]);
        assert_eq!(npy(&at("x.npy")), npy(&at("want.npy")), "{features}");
        assert_eq!((&report["rows"], &report["features"]), (&1.into(), &features.into()));
    }
    let out = text(&at("y.npy")).to_owned();
    embed(&[text(&sample), "--out", &out, "--features", "logits", "--normalize"]);
    let (plain, normalised) = (npy(&at("x.npy")), npy(&at("y.npy")));
    let norm = plain.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    assert!(plain.iter().zip(&normalised).all(|(x, y)| (f64::from(*x) / norm - f64::from(*y)).abs() < 1e-7));
    fails(&["embed", text(&sample), "--out", &out, "--features", "patches"], 2, "one row for each picture");
    fails(&["embed", text(&sample), "--out", "x.csv"], 2, ".parquet, .npy or .jsonl");
    fails(&["embed", text(&sample), "--out", "/nowhere/x.npy"], 1, "/nowhere");
}

#[test]
fn formats_hold_the_same_and_say_how_it_was_made() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let pictures = samples();
    let mut reports = Vec::new();
    for (name, more) in [("x.npy", &["--batch", "3"][..]), ("x.jsonl", &["--threads", "1"]), ("x.parquet", &[])] {
        reports.push(embed(&[&[text(&pictures), "--out", text(&at(name))], more].concat()));
    }
    let lines = lines(&at("x.jsonl"));
    assert_eq!(lines.len(), 10);
    let beside = json(&at("x.npy.json"));
    let paths: Vec<&str> = beside["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    assert_eq!(paths, lines.iter().map(|(path, _)| &**path).collect::<Vec<_>>());
    assert!(paths[0].ends_with("ankle-boot-0.png"));
    assert_eq!(npy(&at("x.npy")), lines.iter().flat_map(|(_, row)| row.clone()).collect::<Vec<_>>());
    // Parquet begins and ends with its magic bytes; tests/embeddings/check.py reads it with pyarrow.
    let parquet = fs::read(at("x.parquet")).unwrap();
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
    for key in ["model_sha256", "features", "normalized", "precision", "preprocessing", "image_size", "dim"] {
        assert!(!beside[key].is_null(), "{key}");
        assert_eq!(beside[key], json(&at("x.jsonl.json"))[key]);
        assert!(reports.iter().all(|report| report[key] == beside[key]), "{key}");
    }
    assert_eq!(beside["preprocessing"]["mean"], serde_json::json!([0.286]));
    assert_eq!(names(folder.path()), ["x.jsonl", "x.jsonl.json", "x.npy", "x.npy.json", "x.parquet"]);

    // The hash is that of the packed file.
    vit(&["convert", "--out", text(&at("m.gguf"))]);
    let hash = Command::new("sha256sum").arg(at("m.gguf")).output().unwrap();
    assert!(stdout(&hash).starts_with(beside["model_sha256"].as_str().unwrap()));
    let packed = embed(&[text(&pictures), "--out", text(&at("y.npy")), "--model", text(&at("m.gguf"))]);
    assert_eq!(packed["model_sha256"], beside["model_sha256"]);
}

#[test]
fn bad_pictures_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("in")).unwrap();
    let good = fs::read(samples().join("bag-18.png")).unwrap();
    fs::write(at("in/a.png"), &good).unwrap();
    fs::write(at("in/b.png"), &good[..good.len() / 2]).unwrap();
    fs::write(at("in/c.png"), &good).unwrap();
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt;
        fs::write(at("in").join(std::ffi::OsStr::from_bytes(b"d\xff.png")), &good).unwrap();
    }
    let out = at("x.jsonl");
    let run = |more: &[&str]| vit(&[&["embed", text(&at("in")), "--out", text(&out)], more].concat());
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("b.png: "), "{}", stderr(&output));
    #[cfg(target_os = "linux")]
    assert!(stderr(&output).contains("not UTF-8"), "{}", stderr(&output));
    let paths = || lines(&out).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(paths(), [text(&at("in/a.png")), text(&at("in/c.png"))]);

    // Repaired, it is appended.
    fs::write(at("in/b.png"), &good).unwrap();
    run(&["--resume"]);
    assert_eq!(paths(), [text(&at("in/a.png")), text(&at("in/c.png")), text(&at("in/b.png"))]);
    assert_eq!(names(folder.path()), ["in", "x.jsonl", "x.jsonl.json"]);

    // Without any picture no file is written.
    fails(&["embed", text(&at("missing.png")), "--out", text(&at("y.npy"))], 1, "none of the pictures");
    assert_eq!(names(folder.path()), ["in", "x.jsonl", "x.jsonl.json"]);
}

#[test]
fn other_models_and_settings_are_not_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sample = samples().join("bag-18.png");
    let other = golden("timm-token");
    for name in ["x.npy", "x.jsonl", "x.parquet"] {
        let out = at(name);
        let run = |more: &[&str], message: &str| {
            let arguments = [&["embed", text(&sample), "--out", text(&out), "--resume"], more].concat();
            fails(&arguments, 1, message);
        };
        embed(&[text(&sample), "--out", text(&out)]);
        let before = fs::read(&out).unwrap();
        run(&["--normalize"], "--normalize");
        run(&["--features", "class"], "--features");
        run(&["--precision", "int8"], "--precision");
        run(&["--mean", "0.5"], "--mean");
        let prepared = ["--mean", "0.5", "--std", "0.5", "--resize", "16x16", "--filter", "box"];
        run(&[&["--model", text(&other)], &prepared[..]].concat(), "another model");
        assert_eq!(fs::read(&out).unwrap(), before, "{name}");
        // What is there is not computed again, and the file is not touched.
        assert_eq!(embed(&[text(&sample), "--out", text(&out), "--resume"])["resumed"], 1);
        assert_eq!(fs::read(&out).unwrap(), before);
        // The same picture twice is two rows.
        assert_eq!(embed(&[text(&sample), text(&sample), "--out", text(&out), "--resume"])["rows"], 2);
    }
    assert_eq!(names(folder.path()), ["x.jsonl", "x.jsonl.json", "x.npy", "x.npy.json", "x.parquet"]);
}

/// A run over so many pictures that it can be stopped on its way.
#[cfg(unix)]
fn long_run(out: &Path, signal: Option<&str>, more: &[&str]) -> std::process::Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vit"))
        .args(["embed", "-", "--threads", "1", "--out", text(out)])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let sample = samples().join("bag-18.png");
    let list = format!("{}\n", sample.display()).repeat(3000);
    child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    if let Some(signal) = signal {
        let mut part = out.as_os_str().to_owned();
        part.push(".part");
        let start = Instant::now();
        while fs::metadata(&part).map_or(0, |metadata| metadata.len()) < 5000 {
            assert!(start.elapsed() < Duration::from_secs(60), "nothing was written");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap().success());
    }
    child.wait_with_output().unwrap()
}

#[test]
#[cfg(unix)]
fn a_stopped_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(long_run(&at("whole.parquet"), None, &[]).status.success());
    for signal in ["-INT", "-KILL"] {
        let out = at("x.parquet");
        let output = long_run(&out, Some(signal), &[]);
        if signal == "-INT" {
            assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
            assert!(stderr(&output).contains("--resume"), "{}", stderr(&output));
        } else {
            assert_eq!(output.status.code(), None);
        }
        assert!(!out.exists() && at("x.parquet.part").exists());
        let output = long_run(&out, None, &[]);
        assert!(!output.status.success() && stderr(&output).contains("unfinished run"), "{}", stderr(&output));
        let output = long_run(&out, None, &["--resume", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let resumed = report["resumed"].as_u64().unwrap();
        assert!(resumed > 0 && resumed < 3000 && report["rows"] == 3000, "{report}");
        assert_eq!(fs::read(&out).unwrap(), fs::read(at("whole.parquet")).unwrap());
        fs::remove_file(out).unwrap();
    }
    assert_eq!(names(folder.path()), ["whole.parquet"]);
}

/// `ulimit -f` limits files to so many blocks of 512 bytes, as a full disk would.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let limited = |blocks: u32, out: &Path| {
        let vit = env!("CARGO_BIN_EXE_vit");
        let script = format!(
            "trap '' XFSZ; ulimit -f {blocks}; exec {vit} embed {} --out {}",
            samples().display(),
            out.display()
        );
        Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().unwrap()
    };
    for name in ["x.npy", "x.jsonl", "x.parquet"] {
        // Two blocks hold the description and no row; with more, the rows fit, and not the file that is made of them.
        for blocks in [2, 8, 9, 10, 12, 14, 16, 18, 20] {
            let output = limited(blocks, &at(name));
            let (code, error) = (output.status.code(), stderr(&output));
            assert!(!error.contains("panicked"), "{error}");
            if code != Some(0) {
                assert!(code == Some(1) && error.contains("File too large"), "{name}, {blocks} blocks: {error}");
                assert!(!at(name).exists(), "{name}, {blocks} blocks");
            }
            let report = embed(&[text(&samples()), "--out", text(&at(name)), "--resume"]);
            assert_eq!(report["rows"], 10, "{name}, {blocks} blocks");
            fs::remove_file(at(name)).unwrap();
        }
    }
    std::os::unix::fs::symlink("/dev/full", at("full.npy")).unwrap();
    let full = at("full.npy");
    fails(&["embed", text(&samples()), "--out", text(&full)], 1, "not a regular file");
    let output = Command::new(env!("CARGO_BIN_EXE_vit"))
        .args(["embed", text(&samples()), "--json", "--out", text(&at("y.npy"))])
        .stdout(fs::File::create("/dev/full").unwrap())
        .output()
        .unwrap();
    assert!(output.status.code() == Some(1) && stderr(&output).contains("No space left"));
}
