//! The names of the classes, where timm or transformers puts them.
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::{ZooError, fields};

/// The names of ImageNet-1k's classes in the order of its labels, which a nameless head of 1,000 classes is assumed to have.
pub fn imagenet_1k() -> impl Iterator<Item = &'static str> {
    // Lines with # say where the names come from.
    include_str!("imagenet-1k.txt").lines().filter(|line| !line.starts_with('#'))
}

/// Label names: a list, or an object of numbers and names, of which only one without gaps is a list.
#[derive(Deserialize)]
#[serde(untagged, expecting = "label names have to be a list of strings, or an object of numbers and strings")]
enum Labels {
    List(Vec<String>),
    ById(HashMap<String, String>),
}

impl Labels {
    fn list(self) -> Vec<String> {
        match self {
            Self::List(list) => list,
            Self::ById(mut names) => {
                let list: Option<Vec<_>> = (0..names.len()).map(|id| names.remove(&id.to_string())).collect();
                list.unwrap_or_default()
            }
        }
    }
}

/// Reads the names of the classes. `LABEL_n`, which transformers writes for a class without a name, is empty; without any
/// name there is no list.
pub(super) fn read(config: &Value) -> Result<Vec<String>, ZooError> {
    let cfg = config.get("pretrained_cfg");
    let names = cfg.and_then(|cfg| cfg.get("label_names")).or(config.get("label_names"));
    // timm's older format has them at the top, as `labels`.
    let names = names.or(config.get("id2label")).or(config.get("labels"));
    let mut labels = names.map(fields::<Option<Labels>>).transpose()?.flatten().map(Labels::list).unwrap_or_default();
    for (id, label) in labels.iter_mut().enumerate() {
        if *label == format!("LABEL_{id}") {
            label.clear();
        }
    }
    if labels.iter().all(String::is_empty) {
        labels.clear();
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_imagenet() {
        let names: Vec<&str> = imagenet_1k().collect();
        assert_eq!((names.len(), names[0], names[281], names[999]), (1000, "tench", "tabby", "toilet tissue"));
    }
}
