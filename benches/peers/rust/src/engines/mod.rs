//! The engines. Each enters its thread pool once, before anything is timed.
#[cfg(feature = "candle")]
mod candle;
mod peak;
#[cfg(feature = "rten")]
mod rten;
#[cfg(feature = "tract")]
mod tract;
mod vit;

use anyhow::{Result, bail};
use vit_engine::Output;

use crate::Task;

/// The engines that [`serve`] accepts.
pub(crate) const NAMES: [&str; 6] = ["vit", "vit-all", "rten", "tract", "candle", "peak"];

/// \[batch, channels, height, width\].
pub(crate) const SHAPE: [usize; 4] = [1, 3, 224, 224];

/// Loads the model into an engine and answers requests.
pub(crate) fn serve(engine: &str, task: &Task) -> Result<()> {
    match engine {
        "vit" => vit::serve(task, Output::Logits),
        "vit-all" => vit::serve(task, Output::Patches),
        #[cfg(feature = "rten")]
        "rten" => rten::serve(task),
        #[cfg(feature = "tract")]
        "tract" => tract::serve(task),
        #[cfg(feature = "candle")]
        "candle" => candle::serve(task),
        "peak" => peak::serve(task),
        _ if NAMES.contains(&engine) => bail!("this worker was built without '{engine}'"),
        _ => bail!("unknown engine '{engine}'; engines: {}", NAMES.join(", ")),
    }
}
