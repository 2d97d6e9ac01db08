//! Pictures and their classes: IDX files, folders of pictures, folders named after classes.
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use vit_image::Picture;

use crate::idx::Idx;
use crate::inputs::{self, Input};
use crate::picture::{self, Preparer};

/// How folders became classes, if they did by their names.
pub(crate) const NAMED: &str = "folders named like the labels";

/// Pictures from any source, with their classes if these are known.
pub(crate) enum Data {
    Idx { images: Box<Idx>, labels: Option<Box<Idx>>, classes: usize },
    Files(Vec<(PathBuf, Option<usize>)>),
}

impl Data {
    /// Pictures of an IDX file, and their labels from another.
    pub(crate) fn idx(images: &Path, labels: Option<&Path>, classes: usize, max_pixels: u64) -> Result<Self> {
        let images = Idx::open(images, 3)?;
        let labels = labels.map(|labels| Idx::open(labels, 1)).transpose()?;
        let name = &images.name;
        let &[found, height, width] = images.shape() else { bail!("{name}: no pictures") };
        let labelled = labels.as_ref().map_or(found, |labels| labels.shape()[0]);
        ensure!(found == labelled, "{found} pictures in {name}, but {labelled} labels");
        ensure!(found > 0, "{name}: no pictures");
        ensure!(height > 0 && width > 0, "{name}: pictures without pixels");
        picture::check_size(width as u64, height as u64, max_pixels).with_context(|| name.clone())?;
        Ok(Self::Idx { images: Box::new(images), labels: labels.map(Box::new), classes })
    }

    /// The pictures in a folder and the folders below it, without classes.
    pub(crate) fn pictures(folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        add(&mut files, folder, None)?;
        ensure!(!files.is_empty(), "{}: no picture files in this folder", inputs::shown(folder));
        Ok(Self::Files(files))
    }

    /// The pictures in the subfolders of a folder, one subfolder for each class, and how subfolders became classes.
    ///
    /// Class folders are matched to the model's label names if all of them have such names, and otherwise taken in
    /// sorted order.
    pub(crate) fn folder(folder: &Path, labels: &[String], classes: usize) -> Result<(Self, &'static str)> {
        let entries = inputs::entries(folder).with_context(|| inputs::shown(folder))?;
        let folders: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path).filter(|path| path.is_dir()).collect();
        // Of equal label names the first class is used.
        let classes_of: HashMap<String, usize> =
            labels.iter().enumerate().rev().map(|(class, label)| (slug(label), class)).collect();
        let position =
            |path: &PathBuf| classes_of.get(&slug(&path.file_name().unwrap_or_default().to_string_lossy())).copied();
        let matched: Option<Vec<usize>> = folders.iter().map(position).collect();
        let (order, how) = match matched {
            Some(order) if !order.is_empty() => (order, NAMED),
            _ => ((0..folders.len()).collect(), "folders in sorted order"),
        };
        if how == "folders in sorted order" && folders.len() != classes {
            bail!(
                "{}: {} folders, not all named like the model's labels; to match them in sorted order there must be {classes}",
                inputs::shown(folder),
                folders.len()
            );
        }
        let mut files = Vec::new();
        for (folder, class) in folders.iter().zip(order) {
            add(&mut files, folder, Some(class))?;
        }
        ensure!(!files.is_empty(), "{}: no picture files in its class folders", inputs::shown(folder));
        Ok((Self::Files(files), how))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Idx { images, .. } => images.shape()[0],
            Self::Files(files) => files.len(),
        }
    }

    /// The class of a picture, if it is known. It can be read only once, because labels are taken from their file.
    pub(crate) fn label(&self, index: usize) -> Result<Option<usize>> {
        match self {
            Self::Idx { labels: None, .. } => Ok(None),
            Self::Idx { labels: Some(labels), classes, .. } => {
                let name = &labels.name;
                let label = usize::from(labels.take(index).with_context(|| name.clone())?[0]);
                ensure!(label < *classes, "{name}: label {label}, but the model has {classes} classes");
                Ok(Some(label))
            }
            Self::Files(files) => Ok(files[index].1),
        }
    }

    /// The name of a picture in messages.
    pub(crate) fn name(&self, index: usize) -> String {
        match self {
            Self::Idx { images, .. } => format!("{}, picture {index}", images.name),
            Self::Files(files) => inputs::shown(&files[index].0),
        }
    }

    /// Reads a picture into the input of the model. It can be read only once.
    pub(crate) fn read(&self, index: usize, preparer: &Preparer, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Idx { images, .. } => {
                let &[_, height, width] = images.shape() else { bail!("not a whole picture") };
                let grey = images.take(index)?;
                let samples = match preparer.channels() {
                    1 => grey,
                    channels => grey.iter().flat_map(|level| std::iter::repeat_n(*level, channels)).collect(),
                };
                preparer.prepare(&Picture::new([height, width], preparer.channels(), samples)?, out)
            }
            Self::Files(files) => preparer.read(&files[index].0, out),
        }
    }
}

/// Adds the pictures below a folder, all of one class.
fn add(files: &mut Vec<(PathBuf, Option<usize>)>, folder: &Path, class: Option<usize>) -> Result<()> {
    for Input { path, problem } in inputs::pictures(folder) {
        // If a folder cannot be listed, the number of missing pictures is unknown, so the run ends.
        ensure!(problem.is_none(), "{}: {}", inputs::shown(&path), problem.unwrap_or_default());
        files.push((path, class));
    }
    Ok(())
}

/// The letters and digits of a name: the class 'T-shirt/top' matches a folder named 't-shirt-top'.
pub(crate) fn slug(name: &str) -> String {
    name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect()
}
