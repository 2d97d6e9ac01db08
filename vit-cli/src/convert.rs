//! `vit convert`: converts a checkpoint to a packed file.
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;
use vit_engine::file::Loaded;

use crate::options::{JsonOption, SourceOptions};
use crate::output::{self, bytes};
use crate::replace::Replacement;
use crate::{inputs, model};

/// Convert a checkpoint to a packed file, which loads at once
///
/// A packed file is a GGUF file that stores the weights as the engine uses them, with the metadata of the checkpoint.
/// Every command accepts it as --model: it is mapped, and nothing is computed or copied. The file gets its name only
/// when it is complete. An existing file is replaced.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit convert --model vit-base --out vit-base.gguf
  vit convert --model facebook/dinov2-base --out dinov2.gguf --precision f16
  vit convert --model vit-base --out m.gguf --precision int8 --keep-f32 'blk.0.*' --keep-f32 'blk.*.ffn_down'
  vit convert --out fashion-vit.gguf                 the built-in model
  vit classify photos/ --model vit-base.gguf")]
pub(crate) struct Args {
    /// The packed file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    source: SourceOptions,
}

#[derive(Serialize)]
struct Report {
    model: String,
    out: String,
    precision: &'static str,
    /// The matrices that are kept in f32.
    keep_f32: Vec<String>,
    bytes: u64,
    weight_bytes: usize,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let replacement = Replacement::of(&args.out)?;
    let loaded = model::load(&args.source)?;
    let bytes = write(&loaded, replacement).with_context(|| inputs::shown(&args.out))?;
    let report = Report {
        model: args.source.name(),
        out: args.out.display().to_string(),
        precision: loaded.precision().name(),
        keep_f32: model::kept(&loaded),
        bytes,
        weight_bytes: loaded.weights().len(),
    };
    if args.json.json {
        output::json(&report)?
    } else {
        report.show()?
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the file; on any error the old one stays.
fn write(loaded: &Loaded, mut replacement: Replacement) -> Result<u64> {
    let progress = output::byte_progress(loaded.weights().len());
    let written = loaded.write_packed(Counted { file: replacement.file(), progress: &progress });
    progress.finish_and_clear();
    written?;
    replacement.finish()
}

/// A file that shows its progress while it is written.
struct Counted<'a> {
    file: &'a mut File,
    progress: &'a ProgressBar,
}

impl Write for Counted<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        /// Writes in pieces, so that the bar moves: the weights arrive in one piece.
        const AT_ONCE: usize = 1 << 20;
        let written = self.file.write(&data[..data.len().min(AT_ONCE)])?;
        self.progress.inc(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Report {
    fn show(&self) -> Result<()> {
        let Self { out, precision, keep_f32, bytes: size, .. } = self;
        let kept = match keep_f32.len() {
            0 => String::new(),
            count => format!(" with {count} matrices in f32"),
        };
        output::text(format!("{}: {precision}{kept}, {size} bytes ({})", output::name(out), bytes(*size as usize)))
    }
}
