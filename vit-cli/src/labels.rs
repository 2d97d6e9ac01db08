//! The names of a model's classes.
use std::path::Path;

use anyhow::{Context, Result, ensure};
use vit_engine::file::Loaded;
use vit_engine::zoo::imagenet_1k;

use crate::{inputs, output};

/// The names: those of a file, else the model's own, else ImageNet-1k's for a nameless head of 1,000, which is said
/// aloud.
pub(crate) fn of(loaded: &Loaded, file: Option<&Path>) -> Result<Vec<String>> {
    let classes = loaded.config().classes;
    if let Some(path) = file {
        return of_file(path, classes);
    }
    if classes == 1000 && loaded.labels.is_empty() {
        output::warning(
            "the model names none of its 1000 classes: assumed to be ImageNet-1k's (--labels FILE names them)",
        );
        return Ok(imagenet_1k().map(str::to_owned).collect());
    }
    Ok(loaded.labels.clone())
}

/// The names of a file, one a line, as many as there are classes.
pub(crate) fn of_file(path: &Path, classes: usize) -> Result<Vec<String>> {
    read(path, classes).with_context(|| inputs::shown(path))
}

/// Where the names of the classes come from.
#[derive(Clone, Copy)]
pub(crate) enum Names<'a> {
    /// A file, or the model itself.
    Of(Option<&'a Path>),
    /// Nobody will read them.
    Unused,
}

/// The name of a class, if it has one.
pub(crate) fn name(labels: &[String], class: usize) -> String {
    labels.get(class).filter(|label| !label.is_empty()).cloned().unwrap_or_else(|| format!("class {class}"))
}

/// One name a line.
fn read(path: &Path, classes: usize) -> Result<Vec<String>> {
    /// Names of 200 characters for 100,000 classes.
    const MOST: u64 = 20 << 20;
    let file = inputs::open_file(path)?;
    ensure!(file.metadata()?.len() <= MOST, "too long for a list of names");
    let text = std::io::read_to_string(file)?;
    let labels: Vec<String> = text.lines().map(str::to_owned).collect();
    ensure!(labels.len() == classes, "{} names, one a line, but there are {classes} classes", labels.len());
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_name_is_none() {
        let labels = ["cat".to_owned(), String::new()];
        assert_eq!([0, 1, 2].map(|class| name(&labels, class)), ["cat", "class 1", "class 2"]);
    }
}
