//! The results of a comparison.
use serde::Serialize;

use super::difference::{Agreement, Cosine};
use super::rank::Kept;
use super::speed::Speed;

/// The results. Decibels are null if nothing differs.
#[derive(Serialize)]
pub(super) struct Report {
    /// `--model`, and the second model.
    pub(super) models: [Model; 2],
    pub(super) pictures: usize,
    pub(super) failed: usize,
    /// The number of pictures for which a model computes NaN or infinite numbers.
    pub(super) not_finite: usize,
    /// Signal to noise of the tokens after 0, 1, … layers.
    pub(super) layers_snr_db: Vec<f64>,
    /// The tokens after the last layer.
    pub(super) tokens: Difference,
    pub(super) logits: Option<Difference>,
    pub(super) embedding: Option<Difference>,
    /// How often the best class of `--model` is the best of the second model, or among its best five.
    pub(super) agreement: Option<Agreement>,
    pub(super) speed: Speed,
    pub(super) loss: Loss,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ranking: Option<Vec<Kept>>,
    pub(super) warnings: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) precision: &'static str,
    pub(super) keep_f32: Vec<String>,
    /// The size as a packed file.
    pub(super) file_bytes: u64,
    pub(super) weight_bytes: usize,
    /// The arena for one picture at a time.
    pub(super) arena_bytes: usize,
    pub(super) accuracy: Option<Agreement>,
}

/// The difference in one output of the models.
#[derive(Serialize)]
pub(super) struct Difference {
    pub(super) snr_db: f64,
    pub(super) cosine: Cosine,
}

#[derive(Serialize)]
pub(super) struct Loss {
    pub(super) percent: f64,
    pub(super) most: f64,
    pub(super) of: &'static str,
}

impl Report {
    /// A warning if the second model is smaller and not faster.
    pub(super) fn slow(&self) -> Option<String> {
        let [first, second] = &self.models;
        let Speed { median_ms: [a, b], ratio, isa, threads, .. } = &self.speed;
        let lower = second.weight_bytes < first.weight_bytes;
        (lower && *ratio <= 1.0).then(|| {
            let (second, first) = (second.precision, first.precision);
            format!("{second} is not faster than {first} here: {b:.3} ms against {a:.3} ms ({isa}, {threads} threads)")
        })
    }

    /// A warning if the loss is above the limit.
    pub(super) fn lossy(&self) -> Option<String> {
        let Loss { percent, most, of } = &self.loss;
        let second = self.models[1].precision;
        (percent > most).then(|| format!("{second} loses {percent:.2} % ({of}), more than --max-loss {most} %"))
    }

    /// 'int8 against f32'.
    pub(super) fn title(&self) -> String {
        format!("{} against {}", self.models[1].precision, self.models[0].precision)
    }
}
