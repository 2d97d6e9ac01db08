//! `vit inspect`: what a model is and what it will take.
use std::convert::Infallible;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use vit_engine::{Config, Features, Isa, Model, Plan, Precision, for_each_param};

use crate::options::{JsonOption, ModelOptions};
use crate::output::{self, bytes, number};
use crate::session::load;

/// Show a model's hyper-parameters, sizes and costs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit inspect
  vit inspect --model vit-base --json")]
pub(crate) struct Args {
    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    model: ModelOptions,
}

#[derive(Serialize)]
struct Report {
    model: String,
    config: Hyperparameters,
    labels: Vec<String>,
    parameters: u64,
    macs: u64,
    weight_bytes: Vec<WeightBytes>,
    /// What some budgets lead to, from the least to what is fastest.
    memory: Vec<Memory>,
    isa: &'static str,
    available: Vec<&'static str>,
}

#[derive(Serialize)]
struct WeightBytes {
    precision: &'static str,
    bytes: usize,
}

#[derive(Serialize)]
struct Memory {
    arena_bytes: usize,
    rows_per_block: usize,
    images_in_flight: usize,
}

#[derive(Serialize)]
struct Hyperparameters {
    channels: usize,
    image: [usize; 2],
    patch: [usize; 2],
    patch_order: String,
    patch_norm: bool,
    embed_norm: bool,
    class_token: bool,
    tokens: usize,
    dim: usize,
    depth: usize,
    heads: usize,
    head_dim: usize,
    mlp_dim: usize,
    qkv_bias: bool,
    out_proj: bool,
    attention_scale: f32,
    activation: String,
    norm_eps: f32,
    final_norm: bool,
    pool: String,
    head_norm: bool,
    classes: usize,
}

impl From<&Config> for Hyperparameters {
    fn from(c: &Config) -> Self {
        Self {
            channels: c.channels,
            image: c.image,
            patch: c.patch,
            patch_order: format!("{:?}", c.patch_order),
            patch_norm: c.patch_norm,
            embed_norm: c.embed_norm,
            class_token: c.class_token,
            tokens: c.tokens(),
            dim: c.dim,
            depth: c.depth,
            heads: c.heads,
            head_dim: c.head_dim,
            mlp_dim: c.mlp_dim,
            qkv_bias: c.bias.qkv,
            out_proj: c.out_proj,
            attention_scale: c.attention_scale,
            activation: format!("{:?}", c.activation),
            norm_eps: c.norm_eps,
            final_norm: c.final_norm,
            pool: format!("{:?}", c.pool),
            head_norm: c.head_norm,
            classes: c.classes,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let loaded = load(&args.model)?;
    let config = *loaded.config();
    let features = if config.classes > 0 { Features::Logits } else { Features::Patches };
    let fastest = Plan::new(&config, features, 1, args.model.how.memory)?;
    let name = args.model.model.as_ref().map_or("fashion-vit (built in)".into(), |path| path.display().to_string());
    let report = Report {
        model: name,
        config: (&config).into(),
        labels: loaded.labels.clone(),
        parameters: parameters(&config),
        macs: fastest.macs(),
        weight_bytes: weight_bytes(&config)?,
        memory: memory(&config, features, &fastest)?,
        isa: args.model.how.isa().name(),
        available: Isa::available().map(Isa::name).collect(),
    };
    if args.json.json {
        output::json(&report)?
    } else {
        report.show()?
    }
    Ok(ExitCode::SUCCESS)
}

fn parameters(config: &Config) -> u64 {
    let mut count = 0;
    let Ok(()) = for_each_param(config, |_, [rows, columns]| {
        count += (rows * columns) as u64;
        Ok::<(), Infallible>(())
    });
    count
}

fn weight_bytes(config: &Config) -> Result<Vec<WeightBytes>> {
    let of =
        |precision: Precision| Ok(WeightBytes { precision: precision.name(), bytes: Model::bytes(config, precision)? });
    Precision::ALL.into_iter().map(of).collect()
}

/// The least memory, and from there in doublings up to what `fastest` takes.
fn memory(config: &Config, features: Features, fastest: &Plan) -> Result<Vec<Memory>> {
    let least = Plan::minimum_bytes(config, features, 1)?;
    let mut plans = vec![Plan::new(config, features, 1, Some(least))?];
    let mut budget = least + least / 4;
    while budget < fastest.arena_bytes() {
        plans.push(Plan::new(config, features, 1, Some(budget))?);
        budget += budget / 2;
    }
    plans.push(*fastest);
    plans.dedup();
    Ok(plans.iter().map(Memory::from).collect())
}

impl From<&Plan> for Memory {
    fn from(plan: &Plan) -> Self {
        Self { arena_bytes: plan.arena_bytes(), rows_per_block: plan.rows(), images_in_flight: plan.images() }
    }
}

impl Report {
    fn show(&self) -> Result<()> {
        let c = &self.config;
        let fact = |name: &str, value: String| output::text(format!("{name:<12} {value}"));
        let [height, width] = c.image;
        fact("model", self.model.clone())?;
        fact("image", format!("{height}×{width}, {} channels; patches of {}×{}", c.channels, c.patch[0], c.patch[1]))?;
        fact("tokens", format!("{} of {}; pooled: {}", c.tokens, c.dim, c.pool))?;
        fact(
            "layers",
            format!("{}; {} heads of {}; mlp {}; {}", c.depth, c.heads, c.head_dim, c.mlp_dim, c.activation),
        )?;
        fact("norm eps", format!("{:e}; attention scale {}", c.norm_eps, c.attention_scale))?;
        fact("classes", format!("{} {}", c.classes, self.labels.join(", ")).trim_end().to_owned())?;
        fact("parameters", number(self.parameters as f64, ""))?;
        fact("MACs", format!("{} per image, as executed", number(self.macs as f64, "")))?;
        fact("level", format!("{}; this CPU has {}", self.isa, self.available.join(", ")))?;
        output::text("")?;
        let mut table = output::table(&["weights", "bytes", ""]);
        for weights in &self.weight_bytes {
            table.add_row([weights.precision.to_owned(), weights.bytes.to_string(), bytes(weights.bytes)]);
        }
        output::text(table)?;
        output::text("")?;
        let mut table = output::table(&["arena, batch 1", "bytes", "", "rows per block"]);
        for (i, memory) in self.memory.iter().enumerate() {
            let name = match i {
                0 => "least",
                i if i + 1 == self.memory.len() => "fastest",
                _ => "",
            };
            let Memory { arena_bytes, rows_per_block, .. } = memory;
            table.add_row([name.to_owned(), arena_bytes.to_string(), bytes(*arena_bytes), rows_per_block.to_string()]);
        }
        output::text(table)
    }
}
