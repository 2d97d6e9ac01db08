//! The local cache of the Hugging Face hub. Nothing is ever downloaded.
//!
//! `<cache>/models--org--name/refs/main` names the commit whose files are in `snapshots/<commit>/`.
use std::env;
use std::path::{Path, PathBuf};

use super::error::Problem;
use super::folder::read_small;

/// The largest reference file that is read: a commit's hash has 40 bytes.
const LARGEST_REF: u64 = 1 << 10;

/// The folder of the cache: `HF_HUB_CACHE`, `HF_HOME/hub`, or `~/.cache/huggingface/hub`.
pub fn cache() -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HF_HUB_CACHE")
        .or_else(|| set("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .unwrap_or_else(|| set("HOME").unwrap_or_default().join(".cache/huggingface/hub"))
}

/// The folder with the files of a model named `org/name`; `None` if the name has another form.
pub(super) fn snapshot(name: &Path) -> Result<Option<PathBuf>, Problem> {
    let Some(text) = name.to_str().map(|text| text.trim_end_matches('/')) else { return Ok(None) };
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let Some((organisation, model)) = text.split_once('/').filter(|(a, b)| plain(a) && plain(b)) else {
        return Ok(None);
    };
    let missing = || Problem::NotInHub { name: text.into(), cache: cache() };
    let folder = cache().join(format!("models--{organisation}--{model}"));
    let commit = read_small(&folder.join("refs/main"), LARGEST_REF).map_err(|_| missing())?;
    let commit = str::from_utf8(&commit).map_err(|_| missing())?.trim();
    if !commit.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(missing());
    }
    let snapshot = folder.join("snapshots").join(commit);
    if commit.is_empty() || !snapshot.is_dir() { Err(missing()) } else { Ok(Some(snapshot)) }
}
