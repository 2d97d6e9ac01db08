//! Output to stdout and stderr.
use std::fmt::Display;
use std::io::{self, Write};

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Prints a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    Ok(writeln!(out)?)
}

/// Prints a value as one line of JSON and flushes it.
pub(crate) fn json_line(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Prints text.
pub(crate) fn text(text: impl Display) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Reports an error on stderr.
pub(crate) fn error(message: impl Display) {
    report(io::stderr().lock(), "error", message);
}

/// Reports a warning on stderr.
pub(crate) fn warning(message: impl Display) {
    report(io::stderr().lock(), "warning", message);
}

/// An error with its causes: 'photo.png: cannot be read: No such file'. A cause that the message already contains is
/// not repeated.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

/// Writes a line to stderr. A full or closed stderr is ignored; `eprintln!` would panic.
fn report(mut to: impl Write, kind: &str, message: impl Display) {
    // Line breaks are only the program's own: those in names have been escaped.
    let message = message.to_string();
    let lines = message.split('\n').map(|line| printable(line, LONGEST_LINE)).collect::<Vec<_>>();
    let _ = writeln!(to, "{kind}: {}", lines.join("\n"));
}

/// The longest line on stderr, in characters: enough for the names of hundreds of tensors.
const LONGEST_LINE: usize = 20_000;

/// The longest name, in characters.
const LONGEST_NAME: usize = 500;

/// How many names are listed. Of further names only the number is stated.
const LONGEST_LIST: usize = 10;

/// A name from a file or the file system, for display. Characters that could control the terminal are escaped, and long
/// names are cut.
pub(crate) fn name(text: impl Display) -> String {
    printable(&text.to_string(), LONGEST_NAME)
}

/// The first few names of a list, for display.
pub(crate) fn names(names: &[String]) -> String {
    let shown = names.iter().take(LONGEST_LIST).map(name).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LONGEST_LIST) {
        0 => shown,
        more => format!("{shown}, … and {more} more"),
    }
}

/// Escapes control characters and those that reorder text, and cuts after `most` characters.
fn printable(text: &str, most: usize) -> String {
    let reorders =
        |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::new();
    for (i, c) in text.chars().enumerate() {
        match c {
            _ if i == most => {
                shown.push('…');
                break;
            }
            c if c.is_control() || reorders(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// A table: the first column is aligned left, the others right.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A progress bar on stderr. It draws nothing if stderr is not a terminal.
pub(crate) fn progress(len: usize, unit: &str) -> ProgressBar {
    let template = format!("{{bar:30}} {{pos}}/{{len}} {unit} {{per_sec}} {{eta}} left");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len as u64).with_style(style)
}

/// A progress bar for bytes.
pub(crate) fn byte_progress(len: usize) -> ProgressBar {
    let template = "{bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len as u64).with_style(style)
}

/// '151 KB': decimal units, three digits.
pub(crate) fn bytes(bytes: usize) -> String {
    number(bytes as f64, "B")
}

/// A number like '17.6 G': decimal prefixes, three digits.
pub(crate) fn number(x: f64, unit: &str) -> String {
    let (scaled, prefix) = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")]
        .into_iter()
        .find(|(size, _)| x >= *size)
        .map_or((x, ""), |(size, prefix)| (x / size, prefix));
    let digits = if prefix.is_empty() || scaled >= 99.95 {
        0
    } else if scaled >= 9.995 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$} {prefix}{unit}").trim_end().to_owned()
}

pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_do_not_steer_the_terminal() {
        assert_eq!(name("Ankle boot, 'é' – 靴"), "Ankle boot, 'é' – 靴");
        assert_eq!(name("a\u{1b}[31mb\nc\u{9b}d\u{202e}e\u{7f}"), "a\\u{1b}[31mb\\nc\\u{9b}d\\u{202e}e\\u{7f}");
        assert_eq!(name("é".repeat(1000)), "é".repeat(500) + "…");
        let many: Vec<String> = (0..13).map(|i| format!("{i}\r")).collect();
        assert!(names(&many).starts_with("0\\r, 1\\r,") && names(&many).ends_with("9\\r, … and 3 more"));
        assert_eq!(names(&many[..2]), "0\\r, 1\\r");
    }

    #[test]
    fn causes_are_said_once() {
        use anyhow::Context;
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        let complete = || Err::<(), _>(io::Error::new(io::ErrorKind::InvalidData, "weights: no such file"));
        assert_eq!(message(&anyhow::Error::new(missing()).context("photo.png")), "photo.png: no such file");
        assert_eq!(message(&complete().context("no such file").unwrap_err()), "no such file: weights: no such file");
        let twice = anyhow::Error::new(missing()).context("weights: no such file").context("model");
        assert_eq!(message(&twice), "model: weights: no such file");
    }

    #[test]
    fn three_digits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1000), "1.00 KB");
        assert_eq!(bytes(151_296), "151 KB");
        assert_eq!(number(17_563_060_224.0, ""), "17.6 G");
    }
}
