//! Patch features as colours.
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use vit_attend::pca::{self, Foreground, Patch};
use vit_attend::{Canvas, Patches};
use vit_engine::{Config, Output, Session};

use super::Args;
use super::figure::{self, Row};
use crate::inputs::Input;
use crate::picture::Preparer;
use crate::{inputs, memory, model, output};

/// How features become colours.
#[derive(clap::Args)]
#[command(next_help_heading = "Patch features as colours")]
pub(crate) struct ColourOptions {
    /// Show the features of patches as colours
    #[arg(long, conflicts_with_all = ["layer", "head", "rollout", "from", "at", "npy"])]
    pub(super) pca: bool,

    /// The foreground is where the first component is above this many standard deviations
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, requires = "pca")]
    threshold: f64,

    /// Exchange foreground and background, which are told apart by the pictures' borders
    #[arg(long, requires = "pca")]
    invert: bool,

    /// Colour all patches, background too
    #[arg(long, requires = "pca", conflicts_with_all = ["threshold", "invert"])]
    all_patches: bool,
}

/// The longest side of a picture on a sheet.
const LONGEST: usize = 320;

/// A picture whose features are known.
struct Known {
    path: PathBuf,
    canvas: Canvas,
    /// \[patches, dim\]
    features: Vec<f32>,
    /// Whether each patch is on the picture, not on padding; and whether it is at the border of those that are.
    places: Vec<Option<bool>>,
}

#[derive(Serialize)]
struct Report {
    model: String,
    /// The share of the foreground's variance in red, green and blue.
    variance: Vec<f64>,
    pictures: Vec<PictureReport>,
}

#[derive(Serialize)]
struct PictureReport {
    path: String,
    /// The share of its patches that are foreground.
    foreground: f64,
    /// \[rows\]\[columns\], red, green and blue from 0 to 1; null for the background and for padding.
    colours: Vec<Vec<Option<[f64; 3]>>>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let folder = args.out.as_deref().filter(|out| is_folder(out));
    match (&args.out, folder) {
        (_, Some(folder)) => std::fs::create_dir_all(folder).with_context(|| inputs::shown(folder))?,
        (Some(out), None) => figure::check(out)?,
        (None, _) => {}
    }
    ensure!(args.colours.threshold.is_finite(), "--threshold must be a number");
    let inputs = inputs::expand(&args.images)?;
    let loaded = Arc::new(model::load(&args.model.source)?);
    let preparer = Preparer::new(&loaded, &args.picture)?;
    let image = (1, preparer.other_size(loaded.config()));
    let (mut session, _) = model::session(Arc::clone(&loaded), &args.model, Output::Patches, image)?;
    let config = *session.config();

    let mut known = Vec::new();
    let progress = output::progress(inputs.len(), "pictures");
    for input in &inputs {
        match features(args, input, &preparer, &mut session) {
            Ok(picture) => known.push(picture),
            Err(error) => {
                let (name, message) = (inputs::shown(&input.path), output::message(&error));
                progress.suspend(|| output::error(format_args!("{name}: {message}")));
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    ensure!(!known.is_empty(), "no picture could be read");

    let patches: Vec<Patch<'_>> = known.iter().flat_map(|picture| picture.patches(config.dim)).collect();
    let ColourOptions { threshold, invert, all_patches: everything, .. } = args.colours;
    let found = pca::colours(&patches, Foreground { threshold, invert, everything });
    let found = found.map_err(|error| match error {
        vit_attend::Error::NoForeground => anyhow!("{error}: choose a lower --threshold, or --all-patches"),
        error => error.into(),
    })?;
    let mut of_patches = found.of_patches.iter();
    let colours: Vec<Vec<Option<[f64; 3]>>> = known
        .iter()
        .map(|picture| {
            let colour = |place: &Option<bool>| place.and_then(|_| of_patches.next().copied().flatten());
            picture.places.iter().map(colour).collect()
        })
        .collect();
    let report = report(args, &config, &known, &colours, found.shares);
    if let Some(out) = &args.out {
        draw(args, (out, folder), &config, &known, &colours)?;
    }
    if args.json.json {
        output::json(&report)?;
    } else {
        for PictureReport { path, foreground, .. } in &report.pictures {
            output::text(format!("{}: {:.0} % foreground", output::name(path), foreground * 100.0))?;
        }
    }
    Ok(if known.len() < inputs.len() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A folder that exists, or is named as one.
fn is_folder(out: &Path) -> bool {
    out.is_dir() || out.to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR])
}

fn features(args: &Args, input: &Input, preparer: &Preparer, session: &mut Session) -> Result<Known> {
    if let Some(problem) = &input.problem {
        bail!("{problem}");
    }
    let picture = preparer.decode(&input.path)?;
    let view = preparer.view(&picture)?;
    let mut pixels = memory::zeros("a picture", &[preparer.len()])?;
    preparer.prepare(&picture, &mut pixels)?;
    let features = model::output(session, &pixels)?;
    ensure!(features.iter().all(|x| x.is_finite()), "the model's features are NaN or infinite");
    let canvas = Canvas::new(&picture, &view, Some(args.size.unwrap_or(LONGEST)))?;
    Ok(Known { path: input.path.clone(), canvas, features, places: vit_attend::places(session.config(), &view) })
}

impl Known {
    /// The patches that are on the picture.
    fn patches(&self, dim: usize) -> impl Iterator<Item = Patch<'_>> {
        let patches = self.features.chunks_exact(dim).zip(&self.places);
        patches.filter_map(|(features, place)| place.map(|border| Patch { features, border }))
    }
}

fn report(args: &Args, c: &Config, known: &[Known], colours: &[Vec<Option<[f64; 3]>>], variance: Vec<f64>) -> Report {
    let pictures = known.iter().zip(colours).map(|(picture, colours)| {
        let on_picture = picture.places.iter().flatten().count().max(1);
        PictureReport {
            path: picture.path.display().to_string(),
            foreground: colours.iter().flatten().count() as f64 / on_picture as f64,
            colours: colours.chunks_exact(c.grid()[1]).map(<[_]>::to_vec).collect(),
        }
    });
    Report { model: args.model.source.name(), variance, pictures: pictures.collect() }
}

/// Writes one sheet, or one file for each picture.
fn draw(
    args: &Args,
    (out, folder): (&Path, Option<&Path>),
    c: &Config,
    known: &[Known],
    colours: &[Vec<Option<[f64; 3]>>],
) -> Result<()> {
    let smooth = args.interpolation == "bilinear";
    let mut rows = Vec::new();
    for (picture, colours) in known.iter().zip(colours) {
        let patches = Patches { patch: c.patch, grid: c.grid(), smooth, alpha: args.alpha.unwrap_or(1.0) };
        let painted = picture.canvas.colours(colours, &patches);
        let name = picture.path.file_name().unwrap_or(picture.path.as_os_str()).to_string_lossy().into_owned();
        rows.push(Row { panels: vec![picture.canvas.plain(), painted], caption: output::name(name) });
    }
    let Some(folder) = folder else {
        // About as wide as high.
        let columns = ((rows.len() as f64 / 2.0).sqrt().ceil() as usize).clamp(1, 4);
        return figure::save(&figure::sheet(&rows, columns), out);
    };
    let mut names = std::collections::HashSet::new();
    for (row, picture) in rows.into_iter().zip(known) {
        let stem = picture.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // Pictures of the same name in different folders get numbers.
        let mut name = format!("{stem}.png");
        let mut number = 2;
        while !names.insert(name.clone()) {
            name = format!("{stem}-{number}.png");
            number += 1;
        }
        let file = folder.join(name);
        ensure!(
            !inputs::same_file(&file, &picture.path),
            "{}: this would replace the picture itself; choose another folder",
            inputs::shown(&file)
        );
        figure::save(&figure::sheet(&[row], 1), &file)?;
    }
    Ok(())
}
