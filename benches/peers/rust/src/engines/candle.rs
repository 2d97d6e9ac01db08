//! candle's Vision Transformer, with the names and config of Hugging Face's transformers.
use anyhow::{Context, Result, ensure};
use candle_core::utils::{get_num_threads, with_threadpool};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::vit::{Config, Model};
use serde_json::Value;

use super::SHAPE;
use crate::Task;
use crate::protocol::{self, Ready, version};

pub(super) fn serve(task: &Task) -> Result<()> {
    // candle reads the number of threads only from the environment.
    let (threads, set) = (task.threads, get_num_threads());
    ensure!(set == threads, "candle uses {set} threads: RAYON_NUM_THREADS must be {threads}");
    let config: Value = serde_json::from_slice(&std::fs::read(task.file("hf/config.json"))?)?;
    let classes = config["num_labels"].as_u64().context("hf/config.json has no num_labels")?;
    let config: Config = serde_json::from_value(config)?;
    let weights = std::fs::read(task.file("hf/model.safetensors"))?;
    let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
    let model = Model::new(&config, classes as usize, weights)?;
    let pixels = Tensor::from_slice(&task.pixels, &SHAPE, &Device::Cpu)?;
    let ready = Ready { version: version("candle-core"), about: String::new(), flops: None };
    with_threadpool(|| {
        protocol::serve(&ready, |out| {
            *out = model.forward(&pixels)?.flatten_all()?.to_vec1()?;
            Ok(())
        })
    })
}
