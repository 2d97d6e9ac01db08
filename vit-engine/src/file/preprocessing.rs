//! The files that describe the preprocessing.
use std::path::Path;

use serde_json::Value as Json;
use vit_image::Preprocessing;
use vit_image::config::{ConfigError, Files};

use super::folder;

/// transformers' files of a model's processor: those that are there, parsed.
#[derive(Default)]
pub(super) struct Processors {
    pub(super) preprocessor: Option<Json>,
    pub(super) processor: Option<Json>,
    /// What is wrong with one of them. It matters only to those who prepare pictures.
    problem: Option<String>,
}

impl Processors {
    /// Reads those beside a model's config.
    pub(super) fn beside(config: &Path, largest: u64) -> Self {
        let mut found = Self::default();
        let folder = config.parent().unwrap_or(Path::new(""));
        for name in ["preprocessor_config.json", "processor_config.json"] {
            let path = folder.join(name);
            if !path.exists() {
                continue;
            }
            let json = folder::read_small(&path, largest).and_then(|text| super::parse(&text));
            match (json, name) {
                (Ok(json), "processor_config.json") => found.processor = Some(json),
                (Ok(json), _) => found.preprocessor = Some(json),
                (Err(problem), _) => found.problem = Some(format!("{name}: {problem}")),
            }
        }
        found
    }

    /// How the pictures of a model are prepared, whose config is this and whose images have this height and width.
    pub(super) fn find(&self, config: &Json, image: [usize; 2]) -> Result<Preprocessing, ConfigError> {
        if let Some(problem) = &self.problem {
            return Err(ConfigError::Field(problem.clone()));
        }
        let (preprocessor, processor) = (self.preprocessor.clone(), self.processor.clone());
        vit_image::config::find(&Files { config: config.clone(), preprocessor, processor, image: Some(image) })
    }
}
