//! `vit convert`: a checkpoint into a packed file.
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

/// Convert a checkpoint into a packed file, which loads at once
///
/// A packed file is a GGUF file whose weights are stored as the engine uses them, with all that the checkpoint says beside
/// them. Every command takes it as --model: it is mapped, and nothing is computed or copied. The file appears under its
/// name only once it is whole; one of that name is replaced.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit convert --model vit-base --out vit-base.gguf
  vit convert --model facebook/dinov2-base --out dinov2.gguf --precision f16
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
    bytes: u64,
    weight_bytes: usize,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // Links are followed: what they lead to is replaced, not the link.
    let target = args.out.canonicalize().unwrap_or_else(|_| args.out.clone());
    // Before any work is done, and so that no device is ever replaced by a file.
    if target.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        bail!("{}: is not a regular file, which alone can be replaced", inputs::shown(&args.out));
    }
    let temporary = beside(&target).with_context(|| inputs::shown(&args.out))?;
    let loaded = model::load(&args.source)?;
    let bytes = write(&loaded, temporary, &target).with_context(|| inputs::shown(&args.out))?;
    let report = Report {
        model: args.source.name(),
        out: args.out.display().to_string(),
        precision: loaded.precision().name(),
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

/// A new file in the target's folder, with the rights of any new file.
fn beside(target: &Path) -> Result<NamedTempFile> {
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    folder.metadata().with_context(|| format!("the folder {}", inputs::shown(folder)))?;
    let mut builder = Builder::new();
    builder.prefix(".vit-convert-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // The library's error names the temporary file, which means nothing to anybody.
    let created = builder.tempfile_in(folder).map_err(|error| io::Error::from(error.kind()));
    created.with_context(|| format!("no file can be made in {}", inputs::shown(folder)))
}

/// Writes the temporary file, and gives it its name once it is on the disk. It is removed on any error.
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

/// A file that shows how much of it is written.
struct Counted<'a> {
    file: &'a mut File,
    progress: &'a ProgressBar,
}

impl Write for Counted<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        /// So that the bar moves: weights come in one piece.
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
        let Self { out, precision, bytes: size, .. } = self;
        output::text(format!("{}: {precision}, {size} bytes ({})", output::name(out), bytes(*size as usize)))
    }
}
