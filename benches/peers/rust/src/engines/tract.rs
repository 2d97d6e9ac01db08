//! tract, optimised for the fixed shape of the input.
use anyhow::{Context, Result};
use rayon::ThreadPoolBuilder;
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

use super::SHAPE;
use crate::Task;
use crate::protocol::{self, Ready, version};

pub(super) fn serve(task: &Task) -> Result<()> {
    if task.threads == 1 {
        return answer(task);
    }
    let pool = Arc::new(ThreadPoolBuilder::new().num_threads(task.threads).build()?);
    set_default_executor(Executor::MultiThread(pool.clone()));
    pool.install(|| answer(task))
}

fn answer(task: &Task) -> Result<()> {
    let model = onnx()
        .model_for_path(task.file("model.onnx"))?
        .with_input_fact(0, f32::fact(SHAPE).into())?
        .into_optimized()?
        .into_runnable()?;
    let pixels = Tensor::from_shape(&SHAPE, &task.pixels)?.into_tvalue();
    let ready = Ready { version: version("tract-onnx"), about: String::new(), flops: None };
    protocol::serve(&ready, |out| {
        let outputs = model.run(tvec![pixels.clone()])?;
        let logits = outputs.first().context("the model has no output")?.to_plain_array_view::<f32>()?;
        out.clear();
        out.extend(logits.iter());
        Ok(())
    })
}
