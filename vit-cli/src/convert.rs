//! `vit convert`: converts a checkpoint to a packed file.
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde::Serialize;
use tempfile::{Builder, NamedTempFile};
use vit_engine::file::Loaded;

use crate::options::{JsonOption, SourceOptions};
use crate::output::{self, bytes};
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
    // Links are followed: the target is replaced, not the link.
    let target = args.out.canonicalize().unwrap_or_else(|_| args.out.clone());
    // Checked before any work. A device must not be replaced by a file.
    if target.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        bail!("{}: is not a regular file, so it is not replaced", inputs::shown(&args.out));
    }
    let temporary = beside(&target).with_context(|| inputs::shown(&args.out))?;
    let loaded = model::load(&args.source)?;
    let bytes = write(&loaded, temporary, &target).with_context(|| inputs::shown(&args.out))?;
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

/// A temporary file in the folder of the target, with the permissions of a normal new file.
pub(crate) fn beside(target: &Path) -> Result<NamedTempFile> {
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    folder.metadata().with_context(|| format!("the folder {}", inputs::shown(folder)))?;
    let mut builder = Builder::new();
    builder.prefix(".vit-convert-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The library's error contains the name of the temporary file, which would confuse users.
    let created = builder.tempfile_in(folder).map_err(|error| io::Error::from(error.kind()));
    created.with_context(|| format!("cannot create a file in {}", inputs::shown(folder)))
}

/// Writes the temporary file, and renames it once it is on the disk. On any error it is removed.
fn write(loaded: &Loaded, mut temporary: NamedTempFile, target: &Path) -> Result<u64> {
    let progress = output::byte_progress(loaded.weights().len());
    let written = loaded.write_packed(Counted { file: temporary.as_file_mut(), progress: &progress });
    progress.finish_and_clear();
    written?;
    temporary.as_file().sync_all()?;
    let size = temporary.as_file().metadata()?.len();
    temporary.persist(target).map_err(|error| error.error)?;
    Ok(size)
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
