//! `vit similar`: the pictures of a file of embeddings that are nearest to others.
mod sheet;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use vit_engine::pipeline;

use crate::embeddings::{self, Description, Index};
use crate::inputs::Input;
use crate::options::{JsonOption, ModelOptions, PictureOptions, positive};
use crate::picture::Preparer;
use crate::{inputs, model, output};

/// Find the pictures nearest to others, by cosine
///
/// The file is one of 'vit embed', by the same model with the same options. What its rows are (--features) it says
/// itself. Every row is compared, so that the result is exact.
///
/// A query that cannot be read is reported. The others are still answered, and the exit code is 1.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit embed photos/ --model facebook/dinov2-base --out photos.parquet
  vit similar cat.jpg --model facebook/dinov2-base --in photos.parquet --top 5
  vit similar cat.jpg dog.jpg --model facebook/dinov2-base --in photos.parquet --html page.html
  vit similar queries/ --model clip/ --in x.npy --json")]
pub(crate) struct Args {
    /// Pictures to compare with: files, folders of them, or - for paths on stdin
    #[arg(required = true, value_name = "QUERY")]
    queries: Vec<PathBuf>,

    /// A file of 'vit embed': .parquet, .npy or .jsonl
    #[arg(long = "in", value_name = "FILE")]
    file: PathBuf,

    /// Pictures to show for each query
    #[arg(long, value_name = "K", default_value = "10", value_parser = positive)]
    top: usize,

    /// Write a page with small copies of the pictures in it
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    picture: PictureOptions,
    #[command(flatten)]
    model: ModelOptions,
}

/// What is near a query.
#[derive(Serialize)]
struct Answer {
    query: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    similar: Option<Vec<Similar>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Similar {
    path: String,
    /// The cosine.
    score: f64,
}

/// The number of queries in a batch.
const BATCH: usize = 8;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let inputs = inputs::expand(&args.queries)?;
    ensure!(!inputs.is_empty(), "no queries: stdin was empty");
    let page = args.html.as_deref().map(sheet::create).transpose()?;
    let (description, _) = embeddings::describe(&args.file)?;
    let loaded = Arc::new(model::load(&args.model.source)?);
    let preparer = Preparer::new(&loaded, &args.picture)?;
    let batch = (BATCH.min(inputs.len()), preparer.other_size(loaded.config()));
    let (mut session, pool) = model::session(loaded, &args.model, description.output()?, batch)?;
    let own = Description::of(session.loaded(), description.output()?, &preparer, args.model.source.name())?;
    let index = Index::read(&args.file, &own)?;

    let mut answers = Vec::new();
    let read = |position: usize, pixels: &mut [f32]| match &inputs[position] {
        Input { problem: Some(problem), .. } => bail!("{problem}"),
        Input { path, .. } => preparer.read(path, pixels),
    };
    pipeline::run(&pool, (inputs.len(), BATCH, preparer.len()), read, |batch| {
        let range = batch.range.clone();
        let rows = model::finite_rows(&mut session, batch)?;
        let mut found: Vec<_> = rows.into_iter().map(|row| row.map(|row| (row, Vec::new()))).collect();
        pool.for_each(&mut found, |_, query| {
            if let Ok((row, hits)) = query {
                *hits = index.nearest(row, args.top);
            }
        });
        for (position, found) in range.zip(found) {
            let similar = |hit: embeddings::Hit| Similar { path: index.paths[hit.row].clone(), score: hit.similarity };
            let query = inputs[position].path.display().to_string();
            answers.push(match found {
                Ok((_, hits)) => Answer { query, similar: Some(hits.into_iter().map(similar).collect()), error: None },
                Err(error) => Answer { query, similar: None, error: Some(output::message(&error)) },
            });
        }
        anyhow::Ok(())
    })?;
    let failed = answers.iter().any(|answer| answer.error.is_some());
    for (query, error) in answers.iter().filter_map(|answer| Some((&answer.query, answer.error.as_ref()?))) {
        output::error(format_args!("{}: {error}", output::name(query)));
    }
    if let (Some(page), Some(path)) = (page, &args.html) {
        sheet::write(page, path, &answers, &pool, args.picture.max_pixels)?;
    }
    if args.json.json {
        output::json(&answers)?;
    } else {
        answers.iter().try_for_each(show)?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints an answer as text.
fn show(answer: &Answer) -> Result<()> {
    let Some(similar) = &answer.similar else { return Ok(()) };
    output::text(output::name(&answer.query))?;
    for Similar { path, score } in similar {
        output::text(format!("  {score:7.4}  {}", output::name(path)))?;
    }
    Ok(())
}
