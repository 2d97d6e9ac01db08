//! `vit convert`, and its files as models of every other command.
mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::{here, stderr, text, vit};

fn succeeds(arguments: &[&str]) -> Output {
    let output = vit(arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {}", stderr(&output));
    output
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_slice(&succeeds(&[arguments, &["--json"]].concat()).stdout).unwrap()
}

fn fails(arguments: &[&str], message: &str) {
    support::fails(arguments, 1, message);
}

/// What a folder holds, by name.
fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn classify_eval_inspect_and_bench_take_packed_files() {
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("fashion-vit.gguf");
    let (packed, samples) = (text(&packed), here("models/fashion-vit/samples"));
    let val = folder.path().join("val");
    for sample in listing(&samples) {
        let class = val.join(sample.rsplit_once('-').unwrap().0);
        fs::create_dir_all(&class).unwrap();
        fs::copy(samples.join(&sample), class.join(&sample)).unwrap();
    }
    for precision in ["f32", "f16", "bf16", "int8", "int4"] {
        let report = json(&["convert", "--out", packed, "--precision", precision]);
        assert_eq!((&report["precision"], &report["model"]), (&precision.into(), &"fashion-vit (built in)".into()));
        assert_eq!(report["bytes"], fs::metadata(packed).unwrap().len());

        // The file's own precision counts where none is asked for.
        for more in [&["--model", packed][..], &["--model", packed, "--no-mmap"]] {
            let classify = ["classify", text(&samples)];
            let own = ["--precision", precision];
            assert_eq!(json(&[&classify[..], more].concat()), json(&[&classify[..], &own].concat()), "{more:?}");
            let eval = |more: &[&str]| {
                let report = json(&[&["eval", "--folder", text(&val)][..], more].concat());
                ["correct", "images", "precision", "classes_from"].map(|key| report[key].clone())
            };
            assert_eq!(eval(more), eval(&own));

            let (report, checkpoint) = (json(&[&["inspect"][..], more].concat()), json(&["inspect"]));
            let facts = &report["packed"];
            assert_eq!(
                (&facts["precision"], &facts["layout_version"], &facts["mapped"], &facts["file_bytes"]),
                (&precision.into(), &1.into(), &(more.len() == 2).into(), &fs::metadata(packed).unwrap().len().into())
            );
            for key in ["config", "labels", "parameters", "weight_bytes"] {
                assert_eq!(report[key], checkpoint[key]);
            }
            let bench = ["bench", "--seconds", "0.01", "--threads", "1"];
            let report = &json(&[&bench[..], more].concat())[0];
            assert!(report["precision"] == precision && report["load_ms"].is_f64() && report["allocations"] == 0);
        }
        let shown = succeeds(&["inspect", "--model", packed]).stdout;
        assert!(String::from_utf8(shown).unwrap().contains(&format!("{precision}, layout version 1; a file of")));

        // Packed once, it is what it is.
        let other = if precision == "f32" { "f16" } else { "f32" };
        let message = format!("packed in {precision} and cannot become {other}");
        fails(&["classify", text(&samples), "--model", packed, "--precision", other], &message);
        let (before, again) = (listing(folder.path()), folder.path().join("again.gguf"));
        fails(&["convert", "--model", packed, "--precision", other, "--out", text(&again)], &message);
        assert_eq!(listing(folder.path()), before);
        fails(&["inspect", "--model", packed, "--as", "vit"], "leave --as out");
        succeeds(&["convert", "--model", packed, "--out", packed]);
    }
}

#[test]
fn matrices_are_kept_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name)).to_owned();
    let samples = here("models/fashion-vit/samples");
    let keep = ["--precision", "int8", "--keep-f32", "blk.*.ffn_down", "--keep-f32", "blk.0.*"];
    let plain = json(&["convert", "--out", &at("plain.gguf"), "--precision", "int8"]);
    let kept = json(&[&["convert", "--out", &at("kept.gguf")][..], &keep].concat());
    let names = kept["keep_f32"].as_array().unwrap();
    assert_eq!(names.len(), 6 + 4, "all down-projections and the other four matrices of the first layer");
    assert!(names.contains(&"blk.0.attn_kv".into()) && names.contains(&"blk.5.ffn_down".into()));
    assert_eq!(plain["keep_f32"], Value::Array(vec![]));
    let bytes = |report: &Value| report["weight_bytes"].as_u64().unwrap();
    // Four times the bytes of what is kept, 64·128 in each layer and 64·(2·64 + 64 + 64 + 128) in the first, but for scales.
    let more = 3 * (6 * 64 * 128 + 64 * 384) - 8 * (6 * 64 + 64 * 4 + 128);
    assert_eq!(bytes(&kept) - bytes(&plain), more);

    // The file keeps what the options keep, for every command.
    let inspected = json(&["inspect", "--model", &at("kept.gguf")]);
    assert_eq!(inspected["packed"]["keep_f32"], kept["keep_f32"]);
    let classify = ["classify", text(&samples)];
    let from_options = json(&[&classify[..], &keep].concat());
    for more in [&["--model", &at("kept.gguf")][..], &["--model", &at("kept.gguf"), "--precision", "int8"]] {
        assert_eq!(json(&[&classify[..], more].concat()), from_options);
    }
    assert_ne!(json(&[&classify[..], &["--precision", "int8"]].concat()), from_options);
    let bench = json(&[&["bench", "--seconds", "0.01", "--threads", "1"][..], &keep].concat());
    assert_eq!(bench[0]["weight_bytes"], kept["weight_bytes"]);

    let out = at("m.gguf");
    let convert = |keep: &[&str], message: &str| fails(&[&["convert", "--out", &out][..], keep].concat(), message);
    let there = "blk.*.ffn_gate: no matrix has such a name; there are blk.0.attn_kv, blk.0.attn_q, blk.0.attn_out, \
                 blk.0.ffn_up, blk.0.ffn_down, and the same up to blk.5";
    convert(&["--precision", "int8", "--keep-f32", "blk.*.ffn_gate"], there);
    convert(&["--keep-f32", "blk.0.*"], "in f32 there is nothing to keep");
    convert(&["--model", &at("kept.gguf"), "--keep-f32", "blk.0.*"], "leave --keep-f32 out");
    let usage = vit(&["convert", "--out", &out, "--precision", "int8", "--keep-f32", "blk.[0.*"]);
    assert_eq!(usage.status.code(), Some(2), "{}", stderr(&usage));
}

#[test]
fn run_gives_the_same_bits_at_every_size() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name)).to_owned();
    let model = here("../vit-engine/tests/goldens/dinov2-model");
    let golden = fs::read(model.join("golden.safetensors")).unwrap();
    let golden = safetensors::SafeTensors::deserialize(&golden).unwrap();
    succeeds(&["convert", "--model", text(&model), "--out", &at("m.gguf")]);
    for name in ["pixels", "pixels@20x20", "pixels@22x17"] {
        let view = golden.tensor(name).unwrap();
        let shape: Vec<u64> = view.shape().iter().map(|size| *size as u64).collect();
        let numbers = view.data().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        write_npy(&at("x.npy"), &shape, numbers);
        let run = |model: &str, out: &str| {
            let arguments = ["run", "--pixels", &at("x.npy"), "--features", "patches", "--model", model, "--out", out];
            succeeds(&arguments);
            fs::read(out).unwrap()
        };
        assert!(run(&at("m.gguf"), &at("packed.npy")) == run(text(&model), &at("checkpoint.npy")), "{name}");
    }
}

fn write_npy(path: &str, shape: &[u64], data: impl IntoIterator<Item = f32>) {
    use npyz::WriterBuilder;
    let file = fs::File::create(path).unwrap();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd().unwrap();
    writer.extend(data).unwrap();
    writer.finish().unwrap();
}

/// A file of that name is replaced by a whole one, or left alone.
#[test]
fn nothing_half_written_takes_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let out = at("m.gguf");
    fs::write(&out, "old").unwrap();
    fails(&["convert", "--model", "no/such/model", "--out", text(&out)], "no/such/model");
    assert_eq!(fs::read(&out).unwrap(), b"old");
    fails(&["convert", "--out", text(&at("missing/m.gguf"))], "missing: No such file");
    fails(&["convert", "--out", text(&at("m.gguf/m.gguf"))], "m.gguf");
    fails(&["convert", "--out", text(folder.path())], "is not a regular file");
    assert_eq!(listing(folder.path()), ["m.gguf"]);

    succeeds(&["convert", "--out", text(&out)]);
    let whole = fs::read(&out).unwrap();
    assert!(whole.starts_with(b"GGUF"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
        fails(&["convert", "--out", "/dev/null"], "is not a regular file");
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());

        fs::write(at("plain"), "").unwrap();
        let rights = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode();
        assert_eq!(rights("m.gguf"), rights("plain"), "those of any new file");
        fs::remove_file(at("plain")).unwrap();

        // What a link leads to is replaced.
        fs::write(&out, "old").unwrap();
        symlink(&out, at("link.gguf")).unwrap();
        succeeds(&["convert", "--out", text(&at("link.gguf"))]);
        assert!(at("link.gguf").is_symlink() && fs::read(&out).unwrap() == whole);
        fs::remove_file(at("link.gguf")).unwrap();

        // A disk that is full at 400 KB, half of the model.
        fs::write(&out, "old").unwrap();
        let limited = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 800; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_vit")])
            .args(["convert", "--out", text(&out)])
            .output()
            .unwrap();
        assert_eq!(limited.status.code(), Some(1), "{}", stderr(&limited));
        assert!(stderr(&limited).contains("m.gguf: File too large"), "{}", stderr(&limited));
        assert_eq!((listing(folder.path()), fs::read(&out).unwrap()), (vec!["m.gguf".into()], b"old".to_vec()));
    }
    #[cfg(target_os = "linux")]
    fails(&["convert", "--out", "/proc/m.gguf"], "cannot create a file in /proc");
}
