//! This engine, with its own thread pool.
use anyhow::{Context, Result};
use vit_engine::file::{Access, Checkpoint};
use vit_engine::{AlignedBox, Executor, Output, Images, Isa, Model, Plan, ThreadPool};

use super::SHAPE;
use crate::Task;
use crate::protocol::{self, Ready, version};

pub(super) fn serve(task: &Task, output: Output) -> Result<()> {
    let loaded = Checkpoint::open(&task.folder, Access::Map)?.load(task.precision)?;
    let model = loaded.model(Isa::best());
    let plan = model.plan(output, SHAPE[0], None)?;
    answer(task, &model, &plan, &ThreadPool::new(task.threads)?)
}

fn answer(task: &Task, model: &Model<'_>, plan: &Plan, executor: &dyn Executor) -> Result<()> {
    let mut arena = AlignedBox::new(plan.arena_bytes()).context("cannot allocate the working memory")?;
    let mut images = Images::new(&task.pixels, [SHAPE[1], SHAPE[2], SHAPE[3]]).context("not whole images")?;
    let ready =
        Ready { version: version("vit-engine"), about: model.isa().name().into(), flops: Some(2 * plan.macs()) };
    protocol::serve(&ready, |out| {
        out.resize(plan.output_len(), 0.0);
        Ok(model.forward(plan, &mut images, &mut arena, executor, out)?)
    })
}
