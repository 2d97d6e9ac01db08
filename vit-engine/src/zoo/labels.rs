//! The names of the classes, where timm or transformers puts them.
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::{ZooError, fields};

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
