//! The contact sheet: a page that needs nothing but itself, with the pictures in it as small JPEGs.
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use vit_engine::ThreadPool;

use super::{Answer, Similar};
use crate::replace::Replacement;
use crate::{inputs, output, picture};

/// The longer side of a small picture.
const SIDE: u32 = 200;

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vit similar</title>
<style>
:root { color-scheme: light dark; }
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; background: Canvas; color: CanvasText; }
section { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1rem; margin-bottom: 3rem; }
figure { margin: 0; }
figure.query { outline: 2px solid; outline-offset: 6px; }
img, .none { width: 200px; height: 200px; object-fit: contain; background: color-mix(in srgb, CanvasText 8%, Canvas); }
.none { display: grid; place-items: center; text-align: center; overflow: hidden; }
figcaption { overflow-wrap: anywhere; }
b { font-variant-numeric: tabular-nums; }
</style>
"#;

/// Creates the page's file, before any work.
pub(super) fn create(path: &Path) -> Result<Replacement> {
    Replacement::of(path)
}

/// Writes the page. A picture that cannot be read any more leaves a place that says so.
pub(super) fn write(
    mut file: Replacement,
    path: &Path,
    answers: &[Answer],
    pool: &ThreadPool,
    max_pixels: u64,
) -> Result<()> {
    let similar = answers.iter().flat_map(|answer| answer.similar.iter().flatten());
    let queries = answers.iter().filter(|answer| answer.similar.is_some()).map(|answer| &answer.query);
    let mut small: BTreeMap<&str, Result<String>> =
        queries.chain(similar.map(|similar| &similar.path)).map(|path| (&**path, Ok(String::new()))).collect();
    let mut work: Vec<_> = small.iter_mut().collect();
    pool.for_each(&mut work, |_, (path, small)| **small = shrunk(Path::new(path), max_pixels));

    let write = || -> Result<()> {
        let mut out = BufWriter::new(file.file());
        out.write_all(HEAD.as_bytes())?;
        for answer in answers {
            writeln!(out, "<section>\n{}", figure(&answer.query, None, answer.error.as_deref(), &small))?;
            for Similar { path, score } in answer.similar.iter().flatten() {
                writeln!(out, "{}", figure(path, Some(*score), None, &small))?;
            }
            writeln!(out, "</section>")?;
        }
        out.flush()?;
        drop(out);
        file.finish()?;
        Ok(())
    };
    write().with_context(|| inputs::shown(path))
}

/// A picture with its name; without a score it is the query.
fn figure(path: &str, score: Option<f64>, error: Option<&str>, small: &BTreeMap<&str, Result<String>>) -> String {
    let name = escaped(&output::name(path));
    let picture = match (error, small.get(path)) {
        (None, Some(Ok(data))) => format!("<img alt=\"{name}\" src=\"data:image/jpeg;base64,{data}\">"),
        (None, Some(Err(error))) => format!("<div class=\"none\">{}</div>", escaped(&output::message(error))),
        (error, _) => format!("<div class=\"none\">{}</div>", escaped(error.unwrap_or_default())),
    };
    match score {
        None => format!("<figure class=\"query\">{picture}<figcaption>{name}</figcaption></figure>"),
        Some(score) => format!("<figure>{picture}<figcaption><b>{score:.4}</b> {name}</figcaption></figure>"),
    }
}

/// A picture as a small JPEG, in base64.
fn shrunk(path: &Path, max_pixels: u64) -> Result<String> {
    let picture = picture::decode(path, 3, max_pixels)?;
    let [height, width] = picture.size();
    let (width, height) = (u32::try_from(width)?, u32::try_from(height)?);
    let whole = RgbImage::from_raw(width, height, picture.samples().to_vec()).context("not a whole picture")?;
    let longer = f64::from(width.max(height).max(SIDE));
    let side = |side: u32| ((f64::from(side) * f64::from(SIDE) / longer).round() as u32).max(1);
    let small = image::imageops::thumbnail(&whole, side(width), side(height));
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 80).encode_image(&small)?;
    Ok(BASE64_STANDARD.encode(jpeg))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
