//! `vit convert`: a checkpoint to a packed file.
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tempfile::NamedTempFile;
use vit_engine::file::Loaded;

use crate::options::{JsonOption, RunOptions};
use crate::session::open;
use crate::{inputs, output};

/// Write a model as one packed file
///
/// The file is a GGUF that holds the weights as they are used, with the config, the class names and how pictures become
/// pixels. Every command takes it as --model: it is mapped and used where it is, so that it starts at once and that
/// processes share its memory.
#[derive(clap::Args)]
#[command(after_help = "\
The file is written beside its final place and renamed when it is complete.

Examples:
  vit convert --model google/vit-base-patch16-224 --out vit-base.gguf
  vit convert --model ./dinov2 --out dinov2-int8.gguf --precision int8
  vit classify cat.jpg --model vit-base.gguf")]
pub(crate) struct Args {
    /// The checkpoint: a folder, a safetensors file, or org/name in the local Hugging Face cache [default: the built-in
    /// fashion-vit]
    #[arg(long, value_name = "DIR|FILE|ORG/NAME")]
    model: Option<PathBuf>,

    /// The packed file; one that exists is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    how: RunOptions,
}

/// The result.
#[derive(Serialize)]
struct Report {
    file: String,
    precision: &'static str,
    weight_bytes: usize,
    file_bytes: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(!args.out.is_dir(), "{}: is a folder; name a file", inputs::shown(&args.out));
    let loaded = open(args.model.as_deref(), &args.how)?;
    let file_bytes = write(&loaded, &args.out).with_context(|| inputs::shown(&args.out))?;
    let weight_bytes = loaded.weights().len();
    let report =
        Report { file: inputs::shown(&args.out), precision: loaded.precision().name(), weight_bytes, file_bytes };
    if args.json.json {
        output::json(&report)?;
    } else {
        let Report { file, precision, .. } = report;
        output::text(format!("{file}: {precision}, {}", output::bytes(usize::try_from(file_bytes)?)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the file, and gives its bytes.
fn write(loaded: &Loaded, path: &Path) -> Result<u64> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Dropped on an error, it removes itself.
    let mut file = NamedTempFile::new_in(folder).context("cannot create a file there")?;
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left")?;
    let progress = ProgressBar::new(loaded.weights().len() as u64).with_style(style);
    loaded.write_packed(BufWriter::with_capacity(1 << 20, progress.wrap_write(file.as_file_mut())))?;
    progress.finish_and_clear();
    file.as_file().sync_all()?;
    let bytes = file.as_file().metadata()?.len();
    readable(file.as_file())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(bytes)
}

/// Temporary files are their owner's alone; this one gets the rights that a new file has.
#[cfg(unix)]
fn readable(file: &std::fs::File) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(file.set_permissions(std::fs::Permissions::from_mode(0o644))?)
}

#[cfg(not(unix))]
fn readable(_: &std::fs::File) -> Result<()> {
    Ok(())
}
