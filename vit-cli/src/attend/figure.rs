//! Figures: panels with captions and a colour bar, as PNG files.
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage, imageops};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::inputs;
use crate::replace::{self, Replacement};

const WEIGHT: FontWeight = FontWeight::Regular;
const WHITE: Rgb<u8> = Rgb([255; 3]);
const BLACK: Rgb<u8> = Rgb([20; 3]);

/// A colour bar: what a colour stands for.
pub(crate) struct Legend<'a> {
    /// What the numbers are.
    pub(crate) title: &'a str,
    /// The numbers at the bottom and the top.
    pub(crate) range: [f64; 2],
    /// The colour of a number between 0, the bottom, and 1.
    pub(crate) colour: &'a dyn Fn(f64) -> [f64; 3],
}

/// The height of text that suits a panel.
fn text_height(panel: &RgbImage) -> RasterHeight {
    match panel.width().max(panel.height()) {
        0..800 => RasterHeight::Size16,
        800..1600 => RasterHeight::Size24,
        _ => RasterHeight::Size32,
    }
}

/// Draws text with its upper left corner at `[y, x]`, cut at the image's edge. What the font lacks becomes '?'.
fn write_text(image: &mut RgbImage, [top, left]: [u32; 2], height: RasterHeight, text: &str) {
    let width = get_raster_width(WEIGHT, height) as u32;
    for (x, c) in (left..).step_by(width as usize).zip(text.chars()) {
        let Some(glyph) = get_raster(c, WEIGHT, height).or_else(|| get_raster('?', WEIGHT, height)) else { continue };
        for (y, row) in (top..).zip(glyph.rows()) {
            for (x, ink) in (x..).zip(row) {
                if let Some(pixel) = image.get_pixel_mut_checked(x, y) {
                    let mix = |paper: u8, ink_colour: u8| {
                        let ink = u32::from(*ink);
                        ((u32::from(paper) * (255 - ink) + u32::from(ink_colour) * ink) / 255) as u8
                    };
                    pixel.0 = [0, 1, 2].map(|i| mix(pixel.0[i], BLACK.0[i]));
                }
            }
        }
    }
}

fn text_width(height: RasterHeight, text: &str) -> u32 {
    (text.chars().count() * get_raster_width(WEIGHT, height)) as u32
}

/// Breaks text between words into lines of at most `most` characters; longer words are cut.
fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let word: String = match word.chars().count() {
            length if length > most => word.chars().take(most.saturating_sub(1)).chain(['~']).collect(),
            _ => word.into(),
        };
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= most => *line = format!("{line} {word}"),
            _ => lines.push(word),
        }
    }
    lines
}

/// A panel with a colour bar to its right and a caption below.
pub(crate) fn with_legend(panel: &RgbImage, legend: &Legend<'_>, caption: &[String]) -> RgbImage {
    let height = text_height(panel);
    let (line, glyph) = (height.val() as u32, get_raster_width(WEIGHT, height) as u32);
    let (margin, bar) = (line, line + line / 4);
    let ticks: Vec<String> = (0..5).map(|i| number(at(legend.range, f64::from(i) / 4.0), legend.range)).collect();
    let widest = ticks.iter().map(|tick| text_width(height, tick)).max().unwrap_or(0);
    let area = [panel.height().max(8 * line), panel.width().max(8 * line)];
    let side = (bar + line / 2 + widest).max(text_width(height, legend.title));
    let width = margin * 3 + area[1] + side;
    let most = ((width - 2 * margin) / glyph) as usize;
    let lines: Vec<String> = caption.iter().flat_map(|text| wrapped(text, most)).collect();
    let below = line / 2 + lines.len() as u32 * (line + line / 4);
    let mut image = RgbImage::from_pixel(width, margin * 2 + area[0] + below, WHITE);
    let centred = [0, 1].map(|axis| margin + (area[axis] - [panel.height(), panel.width()][axis]) / 2);
    imageops::replace(&mut image, panel, centred[1].into(), centred[0].into());

    let left = margin * 2 + area[1];
    write_text(&mut image, [margin, left], height, legend.title);
    let (top, bottom) = (margin + 2 * line, margin + area[0] - line / 2);
    for y in top..bottom {
        let share = 1.0 - f64::from(y - top) / f64::from((bottom - top).max(2) - 1);
        let colour = Rgb((legend.colour)(share).map(|x| x.round() as u8));
        (left..left + bar).for_each(|x| image.put_pixel(x, y, colour));
    }
    for (i, tick) in (0..).zip(&ticks) {
        let y = bottom - 1 - (bottom - top - 1) * i / 4;
        (left + bar..left + bar + line / 4).for_each(|x| image.put_pixel(x, y, BLACK));
        write_text(&mut image, [y.saturating_sub(line / 2), left + bar + line / 2], height, tick);
    }
    for (i, text) in (0..).zip(&lines) {
        write_text(&mut image, [margin + area[0] + line / 2 + i * (line + line / 4), margin], height, text);
    }
    image
}

/// The number at a share of a range.
fn at(range: [f64; 2], share: f64) -> f64 {
    range[0] + (range[1] - range[0]) * share
}

/// A number in percent, with the digits that tell the ticks of a range apart.
fn number(x: f64, range: [f64; 2]) -> String {
    let step = (range[1] - range[0]).abs() * 100.0 / 4.0;
    let digits = if step > 0.0 { (1.0 - step.log10().floor()).clamp(0.0, 8.0) as usize } else { 3 };
    format!("{:.digits$} %", x * 100.0)
}

/// Pictures beside each other with a caption below.
pub(crate) struct Row {
    pub(crate) panels: Vec<RgbImage>,
    pub(crate) caption: String,
}

/// A sheet of rows, in `columns` columns.
pub(crate) fn sheet(rows: &[Row], columns: usize) -> RgbImage {
    let height = RasterHeight::Size16;
    let (line, glyph, gap) = (16, get_raster_width(WEIGHT, height), 8);
    let width = |row: &Row| row.panels.iter().map(|panel| panel.width() + gap).sum::<u32>() - gap;
    let cell_width = rows.iter().map(width).max().unwrap_or(0).max(8 * line);
    let most = cell_width as usize / glyph;
    let lines: Vec<Vec<String>> = rows.iter().map(|row| wrapped(&row.caption, most)).collect();
    let cell_height = |i: usize| {
        let panels = rows[i].panels.iter().map(RgbImage::height).max().unwrap_or(0);
        panels + gap / 2 + lines[i].len() as u32 * (line + 4) + line
    };
    let indices: Vec<usize> = (0..rows.len()).collect();
    let heights: Vec<u32> =
        indices.chunks(columns).map(|of| of.iter().map(|i| cell_height(*i)).max().unwrap_or(0)).collect();
    let across = columns.min(rows.len()) as u32;
    let mut image =
        RgbImage::from_pixel(line + across * (cell_width + line), line + heights.iter().sum::<u32>(), WHITE);
    let mut top = line;
    for (of, height_of_row) in indices.chunks(columns).zip(heights) {
        for (column, i) in (0..).zip(of) {
            let mut left = line + column * (cell_width + line);
            let tallest = rows[*i].panels.iter().map(RgbImage::height).max().unwrap_or(0);
            let first = left;
            for panel in &rows[*i].panels {
                imageops::replace(&mut image, panel, left.into(), top.into());
                left += panel.width() + gap;
            }
            for (n, text) in (0..).zip(&lines[*i]) {
                write_text(&mut image, [top + tallest + gap / 2 + n * (line + 4), first], height, text);
            }
        }
        top += height_of_row;
    }
    image
}

/// Refuses names of other formats, and outputs that cannot be replaced.
pub(crate) fn check(path: &Path) -> Result<()> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    if extension.as_deref() != Some("png") {
        bail!("{}: pictures are written as PNG: the name has to end with .png", inputs::shown(path));
    }
    replace::target(path).with_context(|| inputs::shown(path))?;
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    folder.metadata().with_context(|| format!("the folder {}", inputs::shown(folder)))?;
    Ok(())
}

/// Writes a PNG file whole or not at all: into a temporary file, which is then renamed.
pub(crate) fn save(image: &RgbImage, path: &Path) -> Result<()> {
    let write = || -> Result<()> {
        let mut replacement = Replacement::of(path)?;
        let mut file = io::BufWriter::new(replacement.file());
        let encoder = PngEncoder::new_with_quality(&mut file, CompressionType::Best, FilterType::Adaptive);
        encoder.write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)?;
        file.flush()?;
        drop(file);
        replacement.finish()?;
        Ok(())
    };
    write().with_context(|| inputs::shown(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefghij k", 5), ["abcd~", "k"]);
        assert_eq!(wrapped("", 5), [""]);
    }

    #[test]
    fn ticks_tell_apart() {
        assert_eq!(number(0.01234, [0.0, 0.04]), "1.2 %");
        assert_eq!(number(0.00391, [0.0039, 0.00394]), "0.3910 %");
        assert_eq!(number(0.5, [0.5, 0.5]), "50.000 %");
    }

    #[test]
    fn figures_of_tiny_panels_have_room_for_their_text() {
        let colour = |share: f64| [share * 255.0; 3];
        let legend = Legend { title: "attention", range: [0.0, 1.0], colour: &colour };
        for (width, height) in [(1, 1), (1, 1000), (1000, 1)] {
            let image = with_legend(&RgbImage::new(width, height), &legend, &["a caption".into()]);
            assert!(image.width() >= 128 && image.height() >= 128);
        }
    }
}
