//! `vit similar`: the nearest pictures of a file of embeddings.
mod support;

use std::fs;

use serde_json::Value;
use support::{fails, golden, samples, stderr, stdout, text, vit};

#[test]
fn the_nearest_by_cosine() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let pictures = samples();
    let rows = |name: &str, more: &[&str]| {
        let output = vit(&[&["embed", text(&pictures), "--out", text(&at(name))], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        npyz::NpyFile::new(&*fs::read(at("x.npy")).unwrap()).unwrap().into_vec::<f32>().unwrap()
    };
    let rows = rows("x.npy", &[]);
    let beside: Value = serde_json::from_slice(&fs::read(at("x.npy.json")).unwrap()).unwrap();
    let row = |i: usize| rows[64 * i..64 * (i + 1)].iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let query = row(3);
    let score = |i| dot(&query, &row(i)) / (dot(&query, &query) * dot(&row(i), &row(i))).sqrt();
    let mut want: Vec<(f64, &str)> = (0..10).map(|i| (score(i), beside["paths"][i].as_str().unwrap())).collect();
    want.sort_by(|a, b| b.0.total_cmp(&a.0));

    let path = want[0].1;
    let similar = |more: &[&str]| vit(&[&["similar", path], more].concat());
    for (name, embed) in [
        ("x.npy", &[][..]),
        ("x.jsonl", &[]),
        ("x.parquet", &["--normalize"]),
        ("y.parquet", &["--features", "logits"]),
    ] {
        let output = vit(&[&["embed", text(&pictures), "--out", text(&at(name))], embed].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let output = similar(&["--in", text(&at(name)), "--top", "4", "--json"]);
        let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = answers[0]["similar"].as_array().unwrap();
        assert_eq!((found.len(), found[0]["path"].as_str()), (4, Some(path)));
        if name != "y.parquet" {
            for (found, want) in found.iter().zip(&want) {
                assert_eq!(found["path"], want.1, "{name}");
                assert!((found["score"].as_f64().unwrap() - want.0).abs() < 1e-6, "{found} {}", want.0);
            }
        }
    }
    let shown = stdout(&similar(&["--in", text(&at("x.npy")), "--top", "2"]));
    assert!(shown.contains(&format!("   1.0000  {path}")) && shown.contains(want[1].1), "{shown}");

    fails(&["similar", path, "--in", text(&at("x.npy")), "--precision", "int8"], 1, "--precision");
    let other = golden("timm-token");
    let prepared = ["--mean", "0.5", "--std", "0.5", "--resize", "16x16", "--filter", "box", "--model", text(&other)];
    fails(&[&["similar", path, "--in", text(&at("x.npy"))], &prepared[..]].concat(), 1, "another model");
    fs::write(at("other.npy"), fs::read(at("x.npy")).unwrap()).unwrap();
    fails(&["similar", path, "--in", text(&at("other.npy"))], 1, "other.npy.json");
    fails(&["similar", path, "--in", text(&at("missing.parquet"))], 1, "missing.parquet");
}

#[test]
fn a_page_needs_nothing_but_itself() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("in")).unwrap();
    let names = ["a.png", "<b> & \"c\".png", "gone.png"];
    for (name, sample) in names.iter().zip(["bag-18.png", "coat-6.png", "dress-13.png"]) {
        fs::copy(samples().join(sample), at("in").join(name)).unwrap();
    }
    vit(&["embed", text(&at("in")), "--out", text(&at("x.parquet"))]);
    fs::remove_file(at("in/gone.png")).unwrap();
    let page = at("page.html");
    let query = at("in/a.png");
    let missing = at("missing.png");
    let output = vit(&["similar", text(&query), text(&missing), "--in", text(&at("x.parquet")), "--html", text(&page)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("missing.png: No such file"), "{}", stderr(&output));
    let html = fs::read_to_string(&page).unwrap();
    assert_eq!(html.matches("<section>").count(), 2);
    // The query, itself among the hits, and one more; what is gone has a place that says so.
    assert_eq!(html.matches("src=\"data:image/jpeg;base64,").count(), 3);
    assert!(html.contains("color-scheme: light dark") && !html.contains("http"));
    assert!(html.contains("&lt;b&gt; &amp; &quot;c&quot;.png") && !html.contains("<b> &"));
    assert!(html.contains("No such file") && html.contains("gone.png"));
    fails(&["similar", text(&query), "--in", text(&at("x.parquet")), "--html", "/nowhere/x.html"], 1, "/nowhere");
}
