//! `vit plan`.
mod support;

use serde_json::Value;
use support::{stdout, vit};

fn json(arguments: &[&str]) -> (Value, bool) {
    let output = vit(&[&["plan", "--json"][..], arguments].concat());
    let text = stdout(&output);
    (serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")), output.status.success())
}

fn fails(arguments: &[&str], code: i32, message: &str) {
    support::fails(&[&["plan"][..], arguments].concat(), code, message);
}

/// The bytes of the buffers of a phase.
fn phase(report: &Value, phase: &str) -> u64 {
    let buffers = report["buffers"].as_array().unwrap().iter();
    buffers.filter(|buffer| buffer["phase"] == phase).map(|buffer| buffer["bytes"].as_u64().unwrap()).sum()
}

#[test]
fn buffers_add_up_to_the_arena() {
    for args in [&[][..], &["--precision", "int8", "--batch", "3"], &["--memory", "40K"], &["--chip", "nrf52840"]] {
        let (report, success) = json(args);
        let most = ["embed", "layers", "head"].map(|name| phase(&report, name)).into_iter().max().unwrap();
        assert!(success && report["arena_bytes"] == phase(&report, "pass") + most, "{args:?}: {report}");
    }
}

#[test]
fn a_chip_has_room_or_not() {
    let (report, success) = json(&["--chip", "nrf52840"]);
    assert!(success && report["precision"] == "int8" && report["chip"]["fits"] == true, "{report}");
    let [flash, ram] = ["flash_bytes", "ram_bytes"].map(|name| report["chip"][name].as_u64().unwrap());
    let weights = report["weight_bytes"].as_u64().unwrap();
    assert!(report["packed_bytes"].as_u64().unwrap() > weights);
    assert!(flash > weights && ram > report["arena_bytes"].as_u64().unwrap());

    // Fewer tokens at a time need less RAM: the block shrinks before the model is refused.
    let (small, success) = json(&["--chip", "nrf52840", "--ram", "40K"]);
    assert!(success && small["rows_per_block"].as_u64() < report["rows_per_block"].as_u64(), "{small}");
    let ram = small["chip"]["ram_bytes"].as_u64().unwrap();
    assert!(ram <= 40 * 1024 && ram > 30 * 1024, "{small}");

    let (report, success) = json(&["--chip", "nrf52840", "--ram", "10K"]);
    assert!(!success && report["chip"]["fits"] == false && report["rows_per_block"] == 1, "{report}");
}

#[test]
fn what_fits_instead_is_listed() {
    // Its weights are 7 MB in int8 and 4 MB in int4; at 224 × 224 pixels it needs more than 200 KB of RAM.
    let model = ["--model", "deit-tiny-patch16-224", "--flash", "5M", "--ram", "200K"];
    let (report, success) = json(&model);
    let alternatives = report["chip"]["alternatives"].as_array().unwrap();
    assert!(!success && alternatives.len() == 1, "{report}");
    let [precision, image] = ["precision", "image"].map(|name| alternatives[0][name].clone());
    let size = image[0].as_u64().unwrap();
    assert!(precision == "int4" && size < 224 && size > 100, "{report}");

    // What is listed does fit, and one more row of patches does not.
    let at = |size: u64| {
        let size = size.to_string();
        json(&[&model[..], &["--precision", "int4", "--image-size", &size]].concat()).1
    };
    assert!(at(size) && !at(size + 16));
}

#[test]
fn errors_say_what_to_do() {
    fails(&["--chip", "z80"], 2, "known are stm32f411");
    fails(&["--chip", "z80"], 2, "--ram");
    fails(&["--model", "no-such-model"], 1, "is not supported");
    fails(&["--chip", "rp2040", "--batch", "2"], 2, "--batch");
    fails(&["--memory", "1K"], 1, "needs at least");
}
