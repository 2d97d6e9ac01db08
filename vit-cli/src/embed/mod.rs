//! `vit embed`: computes a vector for each picture, and stores them.
mod journal;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use vit_engine::{Output, pipeline};

use crate::embeddings::{self, Description, Format};
use crate::inputs::Input;
use crate::options::{JsonOption, ModelOptions, PictureOptions, positive};
use crate::picture::Preparer;

use crate::{inputs, model, output, replace};
use journal::Journal;
use report::Report;

/// Compute embeddings of pictures, and store them with their paths
///
/// Parquet has the columns 'path' (string) and 'embedding' (a fixed-size list of f32), and its metadata says under
/// the key 'vit' how they were made: model, SHA-256 of its packed file, features, normalisation, precision,
/// preprocessing. Beside .npy and .jsonl there is FILE.json with the same, and for .npy with the paths.
///
/// The file appears when it is complete. Until then what is computed is in FILE.part. After Ctrl-C or a crash
/// --resume goes on with it; it also adds new pictures to a complete file. Rows are in the order of the pictures,
/// except that --resume appends.
///
/// A picture that cannot be read, or whose embedding is NaN or infinite, is reported and left out, and the exit code
/// is 1. Pictures are decoded on a thread beside --threads.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit embed photos/ --model facebook/dinov2-base --out photos.parquet
  vit embed photos/ --model facebook/dinov2-base --out photos.parquet --resume
  vit embed a.jpg b.jpg --model clip/ --out x.npy --normalize
  find . -name '*.jpg' | vit embed - --model vit-base --out x.jsonl --features class
  vit similar cat.jpg --model facebook/dinov2-base --in photos.parquet

From Python:
  pyarrow.parquet.read_table('photos.parquet')['embedding'].combine_chunks().values.to_numpy().reshape(-1, 768)
  numpy.load('x.npy'), json.load(open('x.npy.json'))['paths']")]
pub(crate) struct Args {
    /// PNG, JPEG, WebP, GIF, BMP or TIFF files, folders of them, or - for paths on stdin
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,

    /// The file to write: its name ends with .parquet, .npy or .jsonl
    #[arg(long, value_name = "FILE", value_parser = out)]
    out: PathBuf,

    /// What to compute; 'vit run --help' says what these are
    #[arg(long, value_name = "KIND", default_value = "embedding", value_parser = features)]
    features: Output,

    /// Divide each row by its Euclidean norm
    #[arg(long)]
    normalize: bool,

    /// Pictures in a batch [default: 8, or twice the threads]
    #[arg(long, value_name = "N", value_parser = positive)]
    batch: Option<usize>,

    /// Go on with an unfinished run, or add pictures to a complete file
    #[arg(long)]
    resume: bool,

    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    picture: PictureOptions,
    #[command(flatten)]
    model: ModelOptions,
}

fn out(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    Format::of(&path).map(|_| path).map_err(|error| error.to_string())
}

/// The outputs that are one row for each picture.
fn features(text: &str) -> Result<Output, String> {
    match text.parse() {
        Ok(output @ (Output::Embedding | Output::Class | Output::Logits)) => Ok(output),
        _ => Err("expected embedding, class or logits, which have one row for each picture".into()),
    }
}

/// The run was stopped by Ctrl-C.
#[derive(Debug)]
struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// The exit code of a program that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // A device is refused before any work.
    let out = replace::target(&args.out).with_context(|| inputs::shown(&args.out))?;
    let mut inputs = inputs::expand(&args.images)?;
    ensure!(!inputs.is_empty(), "no pictures: stdin was empty");
    for input in &mut inputs {
        if input.path.to_str().is_none() {
            input.problem.get_or_insert("the name is not UTF-8, as names in a file of embeddings have to be".into());
        }
    }
    let loaded = Arc::new(model::load(&args.model.source)?);
    let preparer = Preparer::new(&loaded, &args.picture)?;
    let size = args.batch.unwrap_or_else(|| 8.max(2 * args.model.threads()));
    let batch = (size.min(inputs.len()), preparer.other_size(loaded.config()));
    let (mut session, pool) = model::session(loaded, &args.model, args.features, batch)?;
    let description = Description::of(session.loaded(), args.features, &preparer, args.model.source.name())?;
    let description = Description { normalized: args.normalize, ..description };
    let (mut journal, complete) = open(args, &out, &description)?;
    let before = journal.rows;
    if before > 0 {
        let mut done = journal.done()?;
        inputs.retain(|input| match input.path.to_str().and_then(|path| done.get_mut(path)) {
            Some(count @ 1..) => {
                *count -= 1;
                false
            }
            _ => true,
        });
    }

    let stop = Arc::new(AtomicBool::new(false));
    listen(&stop)?;
    let mut failed = 0;
    let progress = output::progress(inputs.len(), "images");
    let read = |index: usize, pixels: &mut [f32]| match &inputs[index] {
        _ if stop.load(Ordering::Relaxed) => Err(Interrupted.into()),
        Input { problem: Some(problem), .. } => bail!("{problem}"),
        Input { path, .. } => preparer.read(path, pixels),
    };
    let mut finished = 0;
    let times: Result<_> = pipeline::run(&pool, (inputs.len(), size, preparer.len()), read, |batch| {
        let range = batch.range.clone();
        let interrupted =
            batch.results.iter().any(|result| result.as_ref().is_err_and(anyhow::Error::is::<Interrupted>));
        if interrupted {
            return Err(Interrupted.into());
        }
        let rows = model::finite_rows(&mut session, batch)?;
        let rows = range.zip(rows).filter_map(|(index, row)| {
            progress.inc(1);
            let path = inputs[index].path.to_str().unwrap_or_default();
            match row {
                Ok(row) => Some((
                    path,
                    if args.normalize { embeddings::unit(&row).into_iter().map(|x| x as f32).collect() } else { row },
                )),
                Err(error) => {
                    failed += 1;
                    let name = inputs::shown(&inputs[index].path);
                    progress.suspend(|| output::error(format_args!("{name}: {}", output::message(&error))));
                    None
                }
            }
        });
        let rows: Vec<_> = rows.collect();
        journal.append(rows.iter().map(|(path, row)| (*path, &**row)))?;
        finished = batch.range.end;
        if stop.load(Ordering::Relaxed) && finished < inputs.len() { Err(Interrupted.into()) } else { Ok(()) }
    });
    progress.finish_and_clear();
    let kept = || format!("{} pictures are kept in {}: --resume goes on", journal.rows, inputs::shown(&journal.path));
    let times = match times {
        Err(error) if error.is::<Interrupted>() => {
            if journal.rows > 0 {
                output::error(format_args!("interrupted: {}", kept()));
            } else {
                output::error("interrupted: nothing was computed yet");
                journal.remove()?;
            }
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Err(error) if journal.rows > before => return Err(error.context(kept())),
        other => other?,
    };
    if journal.rows == 0 {
        journal.remove()?;
        bail!("none of the pictures could be read: no file is written");
    }
    // A complete file to which nothing was added stays as it is.
    if journal.rows > before || !complete {
        let written = embeddings::write(&out, &description, journal.rows, &|row| journal.each(row));
        written.with_context(kept).with_context(|| inputs::shown(&args.out))?;
    }
    let report = Report::new(args, &description, (journal.rows, before, failed), times);
    journal.remove()?;
    if args.json.json {
        output::json(&report)?
    } else {
        report.show()?
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Opens the file of an unfinished run. To resume a complete file, its rows are where the run begins; also returns
/// whether that is so.
fn open(args: &Args, out: &Path, description: &Description) -> Result<(Journal, bool)> {
    let mut journal = Journal::open(out, description, args.resume)?;
    let complete = args.resume && journal.rows == 0 && out.exists();
    if complete {
        let found = embeddings::describe(out).and_then(|(found, _)| found.check(description));
        let seeded = found.with_context(|| inputs::shown(&args.out)).and_then(|()| journal.seed(description, out));
        if let Err(error) = seeded {
            journal.remove()?;
            return Err(error);
        }
    }
    Ok((journal, complete))
}

/// Sets a flag at Ctrl-C. A second one ends the process at once.
fn listen(stop: &Arc<AtomicBool>) -> Result<()> {
    let stop = Arc::clone(stop);
    let handler = move || {
        if stop.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    };
    ctrlc::set_handler(handler).context("cannot listen to Ctrl-C")
}
