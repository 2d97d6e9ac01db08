//! Shared by the tests that run the binary.
#![allow(dead_code, unreachable_pub)] // Each test binary uses a part.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A path within this crate.
pub fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The built-in model's pictures.
pub fn samples() -> PathBuf {
    here("models/fashion-vit/samples")
}

/// A golden checkpoint of the engine.
pub fn golden(name: &str) -> PathBuf {
    here("../vit-engine/tests/goldens").join(name)
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs the binary without input.
pub fn vit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vit")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs what has to fail with an exit code and a message.
pub fn fails(arguments: &[&str], code: i32, message: &str) {
    let output = vit(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(text.contains(message), "{arguments:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
}
