//! Finds the files of a checkpoint.
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::error::{LoadError, Problem};
use super::map;

/// The files of a checkpoint.
pub(super) struct Files {
    /// The config, if there is one.
    pub(super) config: Option<PathBuf>,
    pub(super) weights: Weights,
}

/// The files of the weights.
pub(super) enum Weights {
    One(PathBuf),
    /// An index; the files that it names are in the same folder.
    Sharded(PathBuf),
}

/// File names of the weights and of their config, in the order in which they are tried.
const NAMES: [(&str, &str); 3] = [
    ("model.safetensors", "config.json"),
    ("model.safetensors.index.json", "config.json"),
    ("open_clip_model.safetensors", "open_clip_config.json"),
];

impl Files {
    /// Finds the files for a path: a folder, a weights file, an index, or `org/name` in the local cache.
    pub(super) fn find(path: &Path) -> Result<Self, LoadError> {
        let at = |path: &Path, problem| LoadError { path: path.into(), problem };
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(error) => match super::hub::snapshot(path) {
                Ok(Some(snapshot)) => return Self::find(&snapshot),
                Ok(None) => return Err(at(path, Problem::Io(error))),
                Err(problem) => return Err(at(path, problem)),
            },
        };
        if !metadata.is_dir() {
            if is_pickle(path) {
                return Err(at(path, Problem::Pickle));
            }
            let folder = path.parent().unwrap_or(Path::new(""));
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let config = if name.starts_with("open_clip_") { "open_clip_config.json" } else { "config.json" };
            let config = Some(folder.join(config)).filter(|config| config.exists());
            let sharded = name.ends_with(".index.json");
            let weights = if sharded { Weights::Sharded(path.into()) } else { Weights::One(path.into()) };
            return Ok(Self { config, weights });
        }
        for (weights, config) in NAMES {
            let weights = path.join(weights);
            if weights.exists() {
                let configs = [config, "config.json", "open_clip_config.json"].map(|config| path.join(config));
                let config = configs.into_iter().find(|config| config.exists());
                let sharded = weights.extension().is_some_and(|extension| extension == "json");
                let weights = if sharded { Weights::Sharded(weights) } else { Weights::One(weights) };
                return Ok(Self { config, weights });
            }
        }
        let mut names = Vec::new();
        for entry in path.read_dir().map_err(|error| at(path, Problem::Io(error)))?.flatten() {
            if is_pickle(&entry.path()) {
                return Err(at(&entry.path(), Problem::Pickle));
            }
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        names.truncate(20);
        Err(at(path, Problem::NoWeights(names)))
    }
}

fn is_pickle(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["pth", "pt", "bin", "pkl", "ckpt"].iter().any(|pickle| extension == *pickle))
}

/// The index of a sharded checkpoint: which file each tensor is in.
#[derive(Deserialize)]
pub(super) struct Index {
    pub(super) weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Parses an index. Its files must be in the same folder.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Problem> {
        let index: Self = serde_json::from_slice(text).map_err(|error| Problem::Index(error.to_string()))?;
        for file in index.files() {
            let mut parts = Path::new(file).components();
            let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == file);
            if !plain || file.contains(['/', '\\', '\0']) {
                return Err(Problem::Index(format!("'{file}' is not a plain file name")));
            }
        }
        Ok(index)
    }

    /// The file names, each once.
    pub(super) fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// Reads a small file completely.
pub(super) fn read_small(path: &Path, most: u64) -> Result<Vec<u8>, Problem> {
    let size = map::regular(path).map_err(Problem::Io)?;
    if size > most {
        return Err(Problem::Json(format!("the file has {size} bytes, more than the limit of {most}")));
    }
    let mut text = Vec::new();
    // The file may grow meanwhile, and special files such as those in /proc report no size.
    File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut text)).map_err(Problem::Io)?;
    if text.len() as u64 > most {
        return Err(Problem::Json(format!("the file has more than the limit of {most} bytes")));
    }
    Ok(text)
}
