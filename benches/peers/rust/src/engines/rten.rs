//! rten, with the weights packed when they are loaded.
use std::sync::Arc;

use anyhow::{Context, Result};
use rten::{ModelOptions, RunOptions, ThreadPool};
use rten_tensor::NdTensorView;

use super::SHAPE;
use crate::Task;
use crate::protocol::{self, Ready, version};

pub(super) fn serve(task: &Task) -> Result<()> {
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(task.file("model.onnx"))?;
    let pool = Arc::new(ThreadPool::with_num_threads(task.threads));
    let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
    let pixels = NdTensorView::from_data(SHAPE, &task.pixels[..]);
    let ready = Ready { version: version("rten"), about: String::new(), flops: None };
    pool.run(|| {
        protocol::serve(&ready, |out| {
            let logits = model.run_one(pixels.into(), Some(options.clone()))?;
            let logits = logits.as_tensor_view::<f32>().context("the output is not f32")?;
            out.clear();
            out.extend(logits.iter());
            Ok(())
        })
    })
}
