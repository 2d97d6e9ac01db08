//! Requests and answers, one per line; `worker.py` implements the same protocol.
//!
//! ```text
//! request         answer
//!                 {"version": "…", "about": "…", "flops": …}    when ready; "flops": executed per inference, or null
//! run 20          {"ms": [20 times]}                            runs 20 inferences
//! output PATH     {}                                            writes the last output as a .npy
//! quit
//! ```
//! After the answer `{"error": "…"}` the worker ends.
use std::fs::File;
use std::io::{BufWriter, stdin};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use npyz::WriterBuilder;
use serde_json::{Value, json};

/// The first answer of an engine, when it is ready to run.
pub(crate) struct Ready {
    pub(crate) version: &'static str,
    /// How it runs; may be empty.
    pub(crate) about: String,
    /// Floating-point operations executed in an inference, if known.
    pub(crate) flops: Option<u64>,
}

/// Answers requests until `quit` or the end of stdin. `infer` runs one inference and writes its output.
pub(crate) fn serve(ready: &Ready, mut infer: impl FnMut(&mut Vec<f32>) -> Result<()>) -> Result<()> {
    let mut output = Vec::new();
    say(&json!({ "version": ready.version, "about": ready.about, "flops": ready.flops }));
    for line in stdin().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("run", count) => {
                let count: usize = count.parse().with_context(|| format!("'{line}': not a number of runs"))?;
                let mut times = Vec::with_capacity(count);
                for _ in 0..count {
                    let start = Instant::now();
                    infer(&mut output)?;
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
                say(&json!({ "ms": times }));
            }
            ("output", path) => {
                write(path, &output).with_context(|| path.to_owned())?;
                say(&json!({}));
            }
            ("quit", "") => break,
            _ => bail!("unknown request '{line}'"),
        }
    }
    Ok(())
}

pub(crate) fn say(answer: &Value) {
    println!("{answer}");
}

fn write(path: &str, output: &[f32]) -> Result<()> {
    let file = BufWriter::new(File::create(path)?);
    let mut npy = npyz::WriteOptions::new().default_dtype().shape(&[output.len() as u64]).writer(file).begin_nd()?;
    npy.extend(output)?;
    Ok(npy.finish()?)
}

/// The version of a crate in this program's Cargo.lock.
pub(crate) fn version(name: &str) -> &'static str {
    const LOCK: &str = include_str!("../Cargo.lock");
    let package = LOCK.split("[[package]]").find(|package| field(package, "name") == Some(name));
    package.and_then(|package| field(package, "version")).unwrap_or("unknown")
}

/// The value of `key = "value"`, on a line of its own.
fn field<'a>(toml: &'a str, key: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"');
    toml.lines().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        assert_eq!(version("peers"), env!("CARGO_PKG_VERSION"));
        assert_eq!(version("no-such-crate"), "unknown");
    }
}
