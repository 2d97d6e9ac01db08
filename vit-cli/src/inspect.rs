//! `vit inspect`: what a model is and what it will take.
use std::convert::Infallible;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use vit_engine::{Config, Features, Isa, Model, Plan, Precision, for_each_param};

use crate::options::{JsonOption, ModelOptions, image_size};
use crate::output::{self, bytes, number};
use crate::session::load;

/// Show a model's hyper-parameters, sizes and costs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit inspect
  vit inspect --model facebook/dinov2-base --image-size 480x640
  vit inspect --model vit-base --json")]
pub(crate) struct Args {
    /// Another size of image, in pixels
    #[arg(long, value_name = "N|HxW", value_parser = image_size)]
    image_size: Option<[usize; 2]>,

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
    distillation_token: bool,
    registers: usize,
    positions: String,
    rope: bool,
    relative_bias: bool,
    pre_norm: bool,
    tokens: usize,
    dim: usize,
    depth: usize,
    heads: usize,
    head_dim: usize,
    attention_scale: f32,
    qk_norm: bool,
    context_norm: bool,
    out_proj: bool,
    layer_scale: bool,
    mlp_dim: usize,
    gated: bool,
    hidden_norm: bool,
    activation: String,
    /// Linear layers that have biases.
    biases: Vec<&'static str>,
    norm_eps: f32,
    final_norm: bool,
    embedding: Option<Readout>,
    logits: Option<Readout>,
    distillation_head: bool,
    classes: usize,
}

/// How tokens become a vector.
#[derive(Serialize)]
struct Readout {
    pool: String,
    norm: bool,
    len: usize,
}

impl From<&Config> for Hyperparameters {
    fn from(c: &Config) -> Self {
        let b = c.bias;
        let biases = [
            (b.patch, "patch"),
            (b.query, "query"),
            (b.key, "key"),
            (b.value, "value"),
            (b.out, "out"),
            (b.mlp, "mlp"),
            (b.projection && c.projection > 0, "projection"),
            (b.head && c.classes > 0, "head"),
        ];
        let readout = |readout: vit_engine::Readout, len| Readout {
            pool: format!("{:?}", readout.pool),
            norm: readout.norm,
            len,
        };
        Self {
            channels: c.channels,
            image: c.image,
            patch: c.patch,
            patch_order: format!("{:?}", c.patch_order),
            patch_norm: c.patch_norm,
            embed_norm: c.embed_norm,
            class_token: c.class_token,
            distillation_token: c.distillation_token,
            registers: c.registers,
            positions: format!("{:?}", c.positions),
            rope: c.rope,
            relative_bias: c.relative_bias,
            pre_norm: c.pre_norm,
            tokens: c.tokens(),
            dim: c.dim,
            depth: c.depth,
            heads: c.heads,
            head_dim: c.head_dim,
            attention_scale: c.attention_scale,
            qk_norm: c.qk_norm,
            context_norm: c.context_norm,
            out_proj: c.out_proj,
            layer_scale: c.layer_scale,
            mlp_dim: c.mlp_dim,
            gated: c.gated,
            hidden_norm: c.hidden_norm,
            activation: format!("{:?}", c.activation),
            biases: biases.iter().filter(|bias| bias.0).map(|bias| bias.1).collect(),
            norm_eps: c.norm_eps,
            final_norm: c.final_norm,
            embedding: c.embedding.zip(c.embedding_len()).map(|(embedding, len)| readout(embedding, len)),
            logits: (c.classes > 0).then(|| readout(c.logits, c.classes)),
            distillation_head: c.distillation_head,
            classes: c.classes,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let loaded = load(&args.model)?;
    let size = args.image_size.unwrap_or(loaded.config().image);
    let config = loaded.config_at(size)?;
    let features = match (config.classes, config.embedding) {
        (0, None) => Features::Patches,
        (0, Some(_)) => Features::Embedding,
        _ => Features::Logits,
    };
    let precision = loaded.precision();
    let fastest = Plan::new(&config, precision, features, 1, args.model.how.memory)?;
    let name = args.model.model.as_ref().map_or("fashion-vit (built in)".into(), |path| path.display().to_string());
    let report = Report {
        model: name,
        config: (&config).into(),
        labels: loaded.labels.clone(),
        parameters: parameters(&config),
        macs: fastest.macs(),
        weight_bytes: weight_bytes(&config)?,
        memory: memory(&config, precision, features, &fastest)?,
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
fn memory(config: &Config, precision: Precision, features: Features, fastest: &Plan) -> Result<Vec<Memory>> {
    let least = Plan::minimum_bytes(config, precision, features, 1)?;
    let mut plans = vec![Plan::new(config, precision, features, 1, Some(least))?];
    let mut budget = least + least / 4;
    while budget < fastest.arena_bytes() {
        plans.push(Plan::new(config, precision, features, 1, Some(budget))?);
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

impl Hyperparameters {
    /// '1 class, 4 registers, 256 patches; positions: All'.
    fn kinds(&self) -> String {
        let special = usize::from(self.class_token) + usize::from(self.distillation_token);
        let counts = [
            (usize::from(self.class_token), "class"),
            (usize::from(self.distillation_token), "distillation"),
            (self.registers, "registers"),
            (self.tokens - special - self.registers, "patches"),
        ];
        let there = counts.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}"));
        let how = if self.rope { " and rotary" } else { "" };
        format!("{}; positions: {}{how}", there.collect::<Vec<_>>().join(", "), self.positions)
    }

    /// What not every Vision Transformer has.
    fn parts(&self) -> Option<String> {
        let parts = [
            (self.patch_norm, "norm of patches"),
            (self.embed_norm, "norm of projected patches"),
            (self.pre_norm, "norm before the layers"),
            (self.qk_norm, "norm of queries and keys"),
            (self.relative_bias, "relative position bias"),
            (self.context_norm, "norm of what the heads give"),
            (self.layer_scale, "layer scale"),
            (self.gated, "gated feed-forward"),
            (self.hidden_norm, "norm of the hidden layer"),
            (self.distillation_head, "two heads"),
        ];
        let there: Vec<_> = parts.iter().filter(|part| part.0).map(|part| part.1).collect();
        (!there.is_empty()).then(|| there.join(", "))
    }
}

impl Report {
    fn show(&self) -> Result<()> {
        let c = &self.config;
        let fact = |name: &str, value: String| output::text(format!("{name:<12} {value}"));
        let [height, width] = c.image;
        fact("model", output::name(&self.model))?;
        fact("image", format!("{height}×{width}, {} channels; patches of {}×{}", c.channels, c.patch[0], c.patch[1]))?;
        fact("tokens", format!("{} of {}: {}", c.tokens, c.dim, c.kinds()))?;
        fact(
            "layers",
            format!("{}; {} heads of {}; mlp {}; {}", c.depth, c.heads, c.head_dim, c.mlp_dim, c.activation),
        )?;
        if let Some(parts) = c.parts() {
            fact("parts", parts)?;
        }
        fact("norm eps", format!("{:e}; attention scale {}", c.norm_eps, c.attention_scale))?;
        let readout = |name: &str, readout: &Option<Readout>| match readout {
            Some(Readout { pool, norm, len }) => {
                fact(name, format!("{len} of {pool}{}", if *norm { ", normalised after" } else { "" }))
            }
            None => fact(name, "none".into()),
        };
        readout("embedding", &c.embedding)?;
        readout("logits", &c.logits)?;
        if !self.labels.is_empty() {
            fact("classes", output::names(&self.labels))?;
        }
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
