//! `vit compare`.
mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{golden, samples, stderr, text, vit};

/// What `vit compare` says, and its exit code.
fn compare(arguments: &[&str]) -> (Value, i32) {
    let output = vit(&[&["compare", "--seconds", "0", "--json"][..], arguments].concat());
    let report = serde_json::from_slice(&output.stdout);
    (report.unwrap_or_else(|_| panic!("{arguments:?}: {}", stderr(&output))), output.status.code().unwrap())
}

fn succeeds(arguments: &[&str]) -> Value {
    let (report, code) = compare(arguments);
    assert_eq!(code, 0, "{report}");
    report
}

fn fails(arguments: &[&str], code: i32, message: &str) {
    support::fails(&[&["compare", "--seconds", "0"][..], arguments].concat(), code, message);
}

fn numbers(list: &Value) -> Vec<Option<f64>> {
    list.as_array().unwrap().iter().map(Value::as_f64).collect()
}

fn write_npy(path: &Path, shape: &[u64], data: impl IntoIterator<Item = f32>) {
    use npyz::WriterBuilder;
    let file = fs::File::create(path).unwrap();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd().unwrap();
    writer.extend(data).unwrap();
    writer.finish().unwrap();
}

/// The sample pictures in a folder for each class.
fn class_folders(folder: &Path) {
    for sample in samples().read_dir().unwrap().map(|entry| entry.unwrap()) {
        let name = sample.file_name().into_string().unwrap();
        let class = folder.join(name.rsplit_once('-').unwrap().0);
        fs::create_dir_all(&class).unwrap();
        fs::copy(sample.path(), class.join(&name)).unwrap();
    }
}

#[test]
fn a_model_in_int8_with_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (val, plot) = (folder.path().join("val"), folder.path().join("plot.svg"));
    class_folders(&val);
    let report = succeeds(&["--precision", "int8", "--folder", text(&val), "--plot", text(&plot)]);
    assert_eq!((&report["pictures"], &report["failed"], &report["not_finite"]), (&10.into(), &0.into(), &0.into()));
    let [first, second] = [0, 1].map(|index| &report["models"][index]);
    assert_eq!((&first["precision"], &second["precision"]), (&"f32".into(), &"int8".into()));
    for key in ["file_bytes", "weight_bytes"] {
        assert!(first[key].as_u64().unwrap() > 2 * second[key].as_u64().unwrap(), "{key}");
    }
    assert!(first["accuracy"]["top1"].as_f64().unwrap() >= 0.9 && second["accuracy"]["top5"] == 1.0);
    assert!(report["agreement"]["top1"].as_f64().unwrap() >= 0.9 && report["agreement"]["top5"] == 1.0);
    // What goes into the layers is rounded alike; each layer adds its noise.
    let layers = numbers(&report["layers_snr_db"]);
    assert_eq!(layers.len(), 7);
    assert!(layers[0].unwrap() > 100.0 && layers[1].unwrap() < 60.0 && layers[6].unwrap() < layers[1].unwrap());
    assert_eq!(report["layers_snr_db"][6], report["tokens"]["snr_db"]);
    for part in ["logits", "embedding", "tokens"] {
        let cosine = &report[part]["cosine"];
        let [mean, worst] = ["mean", "worst"].map(|key| cosine[key].as_f64().unwrap());
        assert!(0.99 < worst && worst <= mean && mean < 1.0, "{part}: {cosine}");
        assert!(Path::new(cosine["worst_picture"].as_str().unwrap()).is_file());
        assert!((20.0..60.0).contains(&report[part]["snr_db"].as_f64().unwrap()));
    }
    let speed = &report["speed"];
    assert!(speed["ratio"].as_f64().unwrap() > 0.0 && speed["rounds"].as_u64().unwrap() >= 10);
    assert!(numbers(&speed["median_ms"]).iter().all(|ms| ms.unwrap() > 0.0));
    assert_eq!(report["loss"]["of"], "top-1 accuracy");

    let svg = fs::read_to_string(&plot).unwrap();
    assert!(svg.contains("int8 against f32") && svg.contains("prefers-color-scheme: dark"));
    assert_eq!(svg.matches("<circle").count(), 6, "above 100 dB there is nothing to see");

    // For a person, the same.
    let samples = samples();
    let arguments = ["compare", "--precision", "int8", "--images", text(&samples), "--seconds", "0"];
    let shown = String::from_utf8(vit(&arguments).stdout).unwrap();
    for part in ["int8", "packed file", "times as fast", "after layers", "signal to noise", "loss"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

/// In f32 nothing differs; in int8 the less, the more matrices are kept in f32.
#[test]
fn the_less_is_quantised_the_less_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("m.gguf");
    let converted = vit(&["convert", "--out", text(&packed), "--precision", "int8"]);
    assert!(converted.status.success(), "{}", stderr(&converted));
    let samples = samples();
    let at = |more: &[&str]| succeeds(&[&["--images", text(&samples)][..], more].concat());

    let same = at(&["--precision", "f32"]);
    assert!(numbers(&same["layers_snr_db"]).iter().all(Option::is_none), "null: no noise");
    assert!(same["logits"]["snr_db"].is_null() && same["logits"]["cosine"]["worst"].as_f64().unwrap() > 0.999_999_999);
    assert_eq!((&same["loss"]["percent"], &same["warnings"]), (&0.0.into(), &Value::Array(vec![])));

    let last = |report: &Value| report["layers_snr_db"][6].as_f64().unwrap();
    let int8 = at(&["--precision", "int8"]);
    let half = at(&["--precision", "int8", "--keep-f32", "blk.*.ffn_*"]);
    let all = at(&["--precision", "int8", "--keep-f32", "blk.*"]);
    assert!(last(&int8) + 1.0 < last(&half) && last(&half) + 1.0 < last(&all));
    assert_eq!(half["models"][1]["keep_f32"].as_array().unwrap().len(), 12);

    // A packed file is the same model.
    let packed = at(&["--against", text(&packed)]);
    assert_eq!(packed["layers_snr_db"], int8["layers_snr_db"]);
    assert_eq!(packed["models"][1]["file_bytes"], int8["models"][1]["file_bytes"]);
}

/// Each kind of matrix and each layer by itself, the best first; its bytes are those of the model that keeps it.
#[test]
fn what_to_keep_is_ranked() {
    let samples = samples();
    let arguments = ["--precision", "int8", "--images", text(&samples)];
    let report = succeeds(&[&arguments[..], &["--rank"]].concat());
    let ranking = report["ranking"].as_array().unwrap();
    assert_eq!(ranking.len(), 5 + 6, "five kinds of matrices, six layers");
    let gains: Vec<_> = ranking.iter().map(|kept| kept["gain_db"].as_f64().unwrap()).collect();
    assert!(gains.is_sorted_by(|a, b| a >= b) && gains[0] > 1.0, "{gains:?}");
    let best = &ranking[0];
    let kept = succeeds(&[&arguments[..], &["--keep-f32", best["keep_f32"].as_str().unwrap()]].concat());
    let bytes = |report: &Value| report["models"][1]["weight_bytes"].as_u64().unwrap();
    assert_eq!(Value::from(bytes(&kept) - bytes(&report)), best["more_weight_bytes"]);
    let close = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-9;
    assert!(close(&kept["logits"]["snr_db"], &best["snr_db"]), "ten pictures are all in the sample");
    // What is kept already is not ranked again.
    let more = succeeds(&[&arguments[..], &["--rank", "--keep-f32", "blk.0.*", "--keep-f32", "*.ffn_down"]].concat());
    let names: Vec<_> = more["ranking"].as_array().unwrap().iter().map(|kept| kept["keep_f32"].clone()).collect();
    assert_eq!(names.len(), 4 + 5, "{names:?}");
    assert!(!names.contains(&"blk.0.*".into()) && !names.contains(&"blk.*.ffn_down".into()));
}

/// A model without classes, at another size than its own.
#[test]
fn pixels_and_features() {
    let folder = tempfile::tempdir().unwrap();
    let pixels = folder.path().join("x.npy");
    write_npy(&pixels, &[3, 3, 20, 20], (0..3 * 3 * 400).map(|i| (i as f32 * 0.37).sin()));
    let model = golden("dinov2-model");
    let report = succeeds(&["--model", text(&model), "--precision", "int8", "--pixels", text(&pixels)]);
    assert_eq!((&report["pictures"], &report["logits"], &report["agreement"]), (&3.into(), &Value::Null, &Value::Null));
    assert_eq!(report["loss"]["of"], "1 − mean cosine of the embedding");
    let loss = 100.0 * (1.0 - report["embedding"]["cosine"]["mean"].as_f64().unwrap());
    assert!((report["loss"]["percent"].as_f64().unwrap() - loss).abs() < 1e-9);
    assert!(report["embedding"]["cosine"]["worst_picture"].as_str().unwrap().contains("x.npy, image "));

    // A budget that nothing keeps.
    let arguments = ["--model", text(&model), "--precision", "int8", "--pixels", text(&pixels), "--max-loss", "0"];
    let warnings = succeeds(&arguments)["warnings"].to_string();
    assert!(warnings.contains("more than --max-loss 0 %"), "{warnings}");
}

#[test]
fn numbers_that_are_not_finite_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (some, all) = (folder.path().join("some.npy"), folder.path().join("all.npy"));
    let image = |value: f32| (0..784).map(move |i| if i == 300 { value } else { (i as f32 * 0.1).cos() });
    write_npy(&some, &[3, 1, 28, 28], image(0.5).chain(image(f32::NAN)).chain(image(-0.5)));
    write_npy(&all, &[1, 1, 28, 28], image(f32::INFINITY));
    for precision in ["f16", "int8"] {
        let (report, code) = compare(&["--precision", precision, "--pixels", text(&some)]);
        assert_eq!((code, &report["pictures"], &report["not_finite"]), (1, &2.into(), &1.into()));
        assert!(report["logits"]["cosine"]["mean"].as_f64().unwrap() > 0.99);
        let arguments = ["--precision", precision, "--pixels", text(&some)];
        fails(&arguments, 1, "some.npy, image 1: the tokens that --model computes are NaN or infinite");
        fails(&["--precision", precision, "--pixels", text(&all)], 1, "no picture is left");
    }
}

#[test]
fn what_cannot_be_compared_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, packed) = (folder.path().join("empty"), folder.path().join("m.gguf"));
    fs::create_dir(&empty).unwrap();
    let samples = samples();
    let samples = text(&samples);
    fails(&["--images", samples], 2, "--against");
    fails(&["--precision", "int8"], 2, "--images");
    fails(&["--precision", "int8", "--images", samples, "--folder", samples], 2, "cannot be used with");
    fails(&["--precision", "int8", "--images", samples, "--max-loss", "nan"], 2, "finite");
    fails(&["--precision", "int8", "--images", text(&empty)], 1, "no picture files");
    fails(&["--precision", "int8", "--images", "no/such/folder"], 1, "no/such/folder");
    fails(&["--precision", "int8", "--images", samples, "--labels", "x"], 1, "for a folder of classes use --folder");
    let other = golden("timm-token");
    fails(&["--against", text(&other), "--images", samples], 1, "of different shapes, channels: 1 and 3");
    fails(&["--precision", "f32", "--images", samples, "--rank"], 1, "every matrix of the layers is f32 already");
    assert!(vit(&["convert", "--out", text(&packed), "--precision", "f16"]).status.success());
    fails(&["--model", text(&packed), "--precision", "int8", "--images", samples], 1, "packed in f16");
    fails(&["--model", text(&packed), "--precision", "f16", "--images", samples, "--rank"], 1, "give its checkpoint");
    fs::write(empty.join("broken.png"), "no picture").unwrap();
    fails(&["--precision", "int8", "--images", text(&empty)], 1, "broken.png");
}
