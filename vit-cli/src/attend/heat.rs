//! Attention maps.
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use vit_attend::{Canvas, Patches, Query, inferno, rollout};
use vit_engine::file::Loaded;
use vit_engine::{Config, Output};
use vit_image::View;

use super::Args;
use super::figure::{self, Legend};
use crate::options::positive;
use crate::picture::Preparer;
use crate::{inputs, memory, model, npy, output};

/// Which attention.
#[derive(clap::Args)]
#[command(next_help_heading = "Attention maps")]
pub(crate) struct MapOptions {
    /// The layer, or 'last'
    #[arg(long, value_name = "N|last", default_value = "last", value_parser = number_or("last"))]
    layer: Choice,

    /// The head, or 'mean' of all
    #[arg(long, value_name = "N|mean", default_value = "mean", value_parser = number_or("mean"))]
    head: Choice,

    /// Attention rollout instead of one layer: the product of all layers' mean attention, each with its residual
    /// connection
    #[arg(long, conflicts_with_all = ["layer", "head"])]
    rollout: bool,

    /// Whose attention: that of the class token, of the attention pool's query, or the mean of all patches [default:
    /// what the model pools]
    #[arg(long, value_name = "WHO", value_enum, conflicts_with = "at")]
    from: Option<From>,

    /// The attention of the patch at this pixel of the picture, counted from 0 at the upper left
    #[arg(long, value_name = "X,Y", value_parser = pixel)]
    at: Option<[usize; 2]>,

    /// Write the map to a .npy file: f32 [rows, columns] of patches
    #[arg(long, value_name = "FILE")]
    npy: Option<PathBuf>,
}

/// A number, or the option's word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice(Option<usize>);

fn number_or(word: &'static str) -> impl Fn(&str) -> Result<Choice, String> + Clone {
    move |text| match text {
        text if text == word => Ok(Choice(None)),
        text => positive(text).map(|number| Choice(Some(number))).map_err(|error| format!("{error}, or '{word}'")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, clap::ValueEnum)]
enum From {
    Class,
    Pool,
    Patches,
}

fn pixel(text: &str) -> Result<[usize; 2], String> {
    let both = text.split_once(',').and_then(|(x, y)| Some([x.trim().parse().ok()?, y.trim().parse().ok()?]));
    both.ok_or_else(|| "must be two whole numbers, X,Y".into())
}

#[derive(Serialize)]
struct Report {
    path: String,
    model: String,
    /// Height and width in pixels of the upright picture, and of the model's input.
    picture: [usize; 2],
    input: [usize; 2],
    /// Top, left, bottom, right of what the patches cover, in the picture's pixels. Outside of the picture is padding.
    covered: [f64; 4],
    from: String,
    attention: String,
    /// The attention that all patches get; the rest goes to the class token and registers.
    sum: f64,
    peak: Peak,
    /// \[rows\]\[columns\]
    map: Vec<Vec<f64>>,
}

#[derive(Serialize)]
struct Peak {
    row: usize,
    column: usize,
    value: f64,
    /// The centre of the patch in the picture's pixels.
    x: f64,
    y: f64,
}

pub(super) fn run(args: &Args, path: &Path) -> Result<ExitCode> {
    if let Some(out) = &args.out {
        figure::check(out)?;
        ensure!(!inputs::same_file(out, path), "{}: --out would replace the picture itself", inputs::shown(out));
    }
    let loaded = Arc::new(model::load(&args.model.source)?);
    let preparer = Preparer::new(&loaded, &args.picture)?;
    let shown = || inputs::shown(path);
    let picture = preparer.decode(path).with_context(shown)?;
    let view = preparer.view(&picture).with_context(shown)?;
    let mut pixels = memory::zeros("a picture", &[preparer.len()])?;
    preparer.prepare(&picture, &mut pixels).with_context(shown)?;

    let config = loaded.config().with_image(preparer.size());
    let query = query(&args.map, &config, &view)?;
    let map = attention(args, &loaded, &preparer, &query, &pixels)?;
    let map = map.get(config.prefix()..).unwrap_or_default();
    if let Some(path) = &args.map.npy {
        npy::write(path, &config.grid(), &map.iter().map(|x| *x as f32).collect::<Vec<_>>())?;
    }
    let report = report(args, path, (&config, &view), &query, map);
    if let Some(out) = &args.out {
        let (smooth, alpha) = (args.interpolation == "bilinear", args.alpha.unwrap_or(0.6));
        let patches = Patches { patch: config.patch, grid: config.grid(), smooth, alpha };
        let mark = if let Query::Patch(cell) = query { Some(cell) } else { None };
        let panel = Canvas::new(&picture, &view, args.size)?.heat(map, &patches, mark);
        let legend = Legend { title: "per patch", range: vit_attend::range(map), colour: &inferno };
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let rest = format!("; patches have {:.1} % of the attention", report.sum * 100.0);
        let caption = [output::name(name), format!("{} from {}{rest}", report.attention, report.from)];
        figure::save(&figure::with_legend(&panel, &legend, &caption), out)?;
    }
    if args.json.json {
        output::json(&report)?;
    } else {
        let Peak { value, x, y, .. } = report.peak;
        let percent = value * 100.0;
        let most = format!("most at {x:.0},{y:.0}: {percent:.3} % on one of {} patches", map.len());
        output::text(format!("{}: {} from {}, {most}", shown(), report.attention, report.from))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whose attention is shown.
fn query(options: &MapOptions, c: &Config, view: &View) -> Result<Query> {
    if let Some([x, y]) = options.at {
        let [height, width] = view.picture();
        ensure!(x < width && y < height, "--at {x},{y}: the picture has {width}×{height} pixels");
        return Query::patch_at(c, view, [y as f64 + 0.5, x as f64 + 0.5]).with_context(|| {
            let grid = c.grid();
            let [rows, columns] = view.covered([0, 1].map(|axis| grid[axis] * c.patch[axis]));
            let (top, left) = (rows.start.max(0.0).ceil(), columns.start.max(0.0).ceil());
            format!(
                "--at {x},{y}: the model does not see this pixel; after the crop it sees x from {left} to {:.0} and y \
                 from {top} to {:.0}",
                columns.end.min(width as f64).floor() - 1.0,
                rows.end.min(height as f64).floor() - 1.0
            )
        });
    }
    let query = match options.from {
        Some(From::Class) => Query::Class,
        Some(From::Pool) => Query::Pool,
        Some(From::Patches) => Query::Patches,
        None => Query::of_model(c),
    };
    match query {
        Query::Class => ensure!(c.class_token, "the model has no class token: use --from patches, or --at X,Y"),
        Query::Pool => {
            ensure!(c.attention_pool.is_some(), "the model has no attention pool: use --from class, or --at X,Y");
            let given = options.layer.0.is_some();
            ensure!(!given, "the attention pool comes after the last layer: --layer goes with --from or --at");
        }
        Query::Patches | Query::Patch(_) => {}
    }
    Ok(query)
}

/// What each token gets, \[tokens\].
fn attention(
    args: &Args,
    loaded: &Arc<Loaded>,
    preparer: &Preparer,
    query: &Query,
    pixels: &[f32],
) -> Result<Vec<f64>> {
    let c = loaded.config().with_image(preparer.size());
    let compute = |output: Output| -> Result<Vec<f32>> {
        let image = (1, preparer.other_size(loaded.config()));
        let (mut session, _) = model::session(Arc::clone(loaded), &args.model, output, image)?;
        let out = model::output(&mut session, pixels)?;
        ensure!(out.iter().all(|x| x.is_finite()), "the model's attention is NaN or infinite");
        Ok(out)
    };
    let (tokens, MapOptions { layer, head, rollout, .. }) = (c.tokens(), &args.map);
    let mut weights = query.weights(&c);
    if *query == Query::Pool {
        let pool = c.attention_pool.context("the model has no attention pool")?;
        check_head(*head, pool.heads, "the attention pool")?;
        let range = pool.tokens(&c);
        let maps = compute(Output::PoolAttention)?;
        weights[range.clone()].copy_from_slice(&rollout::of_heads(&maps, range.len(), head.0));
        if !rollout {
            return Ok(weights);
        }
    }
    ensure!(c.depth > 0, "the model has no layers");
    let map = tokens * tokens;
    if *rollout {
        let all = compute(Output::Attention)?;
        let means: Vec<Vec<f64>> =
            all.chunks_exact(c.heads * map).map(|layer| rollout::of_heads(layer, map, None)).collect();
        return Ok(rollout::rollout(&weights, &means));
    }
    let number = layer.0.unwrap_or(c.depth);
    ensure!(number <= c.depth, "--layer {number}: the model has {} layers", c.depth);
    check_head(*head, c.heads, "the model")?;
    let maps = compute(Output::AttentionOfLayer(number))?;
    Ok(rollout::attended(&weights, &rollout::of_heads(&maps, map, head.0)))
}

fn check_head(Choice(head): Choice, heads: usize, what: &str) -> Result<()> {
    let number = head.unwrap_or(1);
    ensure!(number <= heads, "--head {number}: {what} has {heads} heads");
    Ok(())
}

fn report(args: &Args, path: &Path, (c, view): (&Config, &View), query: &Query, map: &[f64]) -> Report {
    let MapOptions { layer, head, rollout, .. } = &args.map;
    let grid = c.grid();
    let best = (0..map.len()).fold(0, |best, i| if map[i] > map[best] { i } else { best });
    let (row, column) = (best / grid[1], best % grid[1]);
    let centre = [row, column].map(|index| index as f64 + 0.5);
    let [y, x] = view.to_picture([0, 1].map(|axis| centre[axis] * c.patch[axis] as f64));
    let [rows, columns] = view.covered([0, 1].map(|axis| grid[axis] * c.patch[axis]));
    let pool = matches!(query, Query::Pool);
    let heads = match head.0 {
        Some(head) => format!("head {head}"),
        None => format!("mean of {} heads", if pool { c.attention_pool.map_or(0, |pool| pool.heads) } else { c.heads }),
    };
    let attention = match layer.0 {
        _ if *rollout => format!("rollout over {} layers", c.depth),
        _ if pool => format!("attention pool, {heads},"),
        layer => format!("layer {} of {}, {heads},", layer.unwrap_or(c.depth), c.depth),
    };
    let from = match query {
        Query::Class => "the class token".into(),
        Query::Pool => "the pool's query".into(),
        Query::Patches => "all patches".into(),
        Query::Patch(_) => args.map.at.map_or_else(String::new, |[x, y]| format!("the patch at {x},{y}")),
    };
    Report {
        path: path.display().to_string(),
        model: args.model.source.name(),
        picture: view.picture(),
        input: view.input(),
        covered: [rows.start, columns.start, rows.end, columns.end],
        from,
        attention,
        sum: map.iter().sum(),
        peak: Peak { row, column, value: map[best], x, y },
        map: map.chunks_exact(grid[1]).map(<[f64]>::to_vec).collect(),
    }
}
