//! `vit inspect`: hyper-parameters, sizes and costs of a model.
use std::convert::Infallible;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;
use vit_engine::file::Loaded;
use vit_engine::packed::keys::LAYOUT_VERSION;
use vit_engine::{Biases, Config, Isa, Model, Output, Plan, Precision, for_each_param};

use crate::options::{JsonOption, ModelOptions, image_size};
use crate::output::{self, bytes, number};
use crate::{inputs, model};

/// Show a model's hyper-parameters, sizes and costs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  vit inspect
  vit inspect --model facebook/dinov2-base --image-size 480x640
  vit inspect --model vit-base.gguf
  vit inspect --model vit-base --json")]
pub(crate) struct Args {
    /// Another image size, in pixels
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
    /// Facts about a packed file.
    #[serde(skip_serializing_if = "Option::is_none")]
    packed: Option<Packed>,
    /// Includes `table_bytes` for positions and rotations, which depend on the image size.
    weight_bytes: Vec<WeightBytes>,
    table_bytes: usize,
    /// Plans for several budgets, from the smallest to the fastest.
    memory: Vec<Memory>,
    isa: &'static str,
    available: Vec<&'static str>,
}

#[derive(Serialize)]
struct Packed {
    layout_version: u32,
    precision: &'static str,
    /// The matrices that are kept in f32.
    keep_f32: Vec<String>,
    file_bytes: u64,
    /// Whether the weights are used directly in the mapped file.
    mapped: bool,
}

impl Packed {
    /// `None` if the model is not a packed file.
    fn of(loaded: &Loaded, path: Option<&Path>) -> Result<Option<Self>> {
        let Some(path) = path.filter(|_| loaded.is_packed()) else { return Ok(None) };
        Ok(Some(Self {
            layout_version: LAYOUT_VERSION,
            precision: loaded.precision().name(),
            keep_f32: model::kept(loaded),
            file_bytes: path.metadata().with_context(|| inputs::shown(path))?.len(),
            mapped: loaded.is_mapped(),
        }))
    }
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

/// The fields of [`Config`], and values computed from them.
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
    /// The linear layers that have biases.
    biases: Vec<&'static str>,
    norm_eps: f32,
    final_norm: bool,
    attention_pool: Option<AttentionPool>,
    embedding: Option<Readout>,
    /// Width of the embedding's projection; 0 without one.
    projection: usize,
    logits: Option<Readout>,
    distillation_head: bool,
    classes: usize,
}

#[derive(Serialize)]
struct AttentionPool {
    heads: usize,
    mlp_dim: usize,
    all_tokens: bool,
}

/// How the tokens become one vector.
#[derive(Serialize)]
struct Readout {
    pool: String,
    norm: bool,
    len: usize,
}

impl From<&Config> for Hyperparameters {
    fn from(c: &Config) -> Self {
        // All fields are named, so the compiler reports a new field that is missing here.
        let Config {
            channels,
            image,
            patch,
            patch_order,
            patch_norm,
            embed_norm,
            class_token,
            distillation_token,
            registers,
            positions,
            pre_norm,
            dim,
            depth,
            heads,
            head_dim,
            attention_scale,
            qk_norm,
            rope,
            relative_bias,
            context_norm,
            out_proj,
            layer_scale,
            mlp_dim,
            gated,
            hidden_norm,
            activation,
            bias: Biases { patch: patch_bias, query, key, value, out, mlp, projection: projection_bias, head },
            norm_eps,
            final_norm,
            attention_pool,
            embedding,
            projection,
            logits,
            distillation_head,
            classes,
        } = *c;
        let biases = [
            (patch_bias, "patch"),
            (query, "query"),
            (key, "key"),
            (value, "value"),
            (out, "out"),
            (mlp, "mlp"),
            (projection_bias && projection > 0, "projection"),
            (head && classes > 0, "head"),
        ];
        let readout = |vit_engine::Readout { pool, norm }, len| Readout { pool: format!("{pool:?}"), norm, len };
        let pool =
            |vit_engine::AttentionPool { heads, mlp_dim, all_tokens }| AttentionPool { heads, mlp_dim, all_tokens };
        Self {
            channels,
            image,
            patch,
            patch_order: format!("{patch_order:?}"),
            patch_norm,
            embed_norm,
            class_token,
            distillation_token,
            registers,
            positions: format!("{positions:?}"),
            rope,
            relative_bias,
            pre_norm,
            tokens: c.tokens(),
            dim,
            depth,
            heads,
            head_dim,
            attention_scale,
            qk_norm,
            context_norm,
            out_proj,
            layer_scale,
            mlp_dim,
            gated,
            hidden_norm,
            activation: format!("{activation:?}"),
            biases: biases.iter().filter(|bias| bias.0).map(|bias| bias.1).collect(),
            norm_eps,
            final_norm,
            attention_pool: attention_pool.map(pool),
            embedding: embedding.zip(c.embedding_len()).map(|(embedding, len)| readout(embedding, len)),
            projection,
            logits: (classes > 0).then(|| readout(logits, classes)),
            distillation_head,
            classes,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let loaded = model::load(&args.model.source)?;
    let size = args.image_size.unwrap_or(loaded.config().image);
    // Computes only sizes: the positions for a large image take gigabytes.
    let config = loaded.config_at(size)?;
    let output = match (config.classes, config.embedding) {
        (0, None) => Output::Patches,
        (0, Some(_)) => Output::Embedding,
        _ => Output::Logits,
    };
    let precision = loaded.precision();
    let fastest = Plan::new(&config, precision, output, 1, args.model.run.memory)?;
    let report = Report {
        model: args.model.source.name(),
        config: (&config).into(),
        labels: loaded.labels.clone(),
        parameters: parameters(&config),
        macs: fastest.macs(),
        packed: Packed::of(&loaded, args.model.source.model.as_deref())?,
        weight_bytes: weight_bytes(&config)?,
        table_bytes: Model::table_bytes(&config)?,
        memory: memory(&config, precision, output, &fastest)?,
        isa: args.model.run.isa().name(),
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

/// The smallest arena, and budgets that double from there up to the arena of `fastest`.
fn memory(config: &Config, precision: Precision, output: Output, fastest: &Plan) -> Result<Vec<Memory>> {
    let least = Plan::minimum_bytes(config, precision, output, 1)?;
    let mut plans = vec![Plan::new(config, precision, output, 1, Some(least))?];
    let mut budget = least + least / 4;
    while budget < fastest.arena_bytes() {
        plans.push(Plan::new(config, precision, output, 1, Some(budget))?);
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

    /// The parts that not every Vision Transformer has.
    fn parts(&self) -> Option<String> {
        let parts = [
            (self.patch_norm, "norm of patches"),
            (self.embed_norm, "norm of projected patches"),
            (self.pre_norm, "norm before the layers"),
            (self.qk_norm, "norm of queries and keys"),
            (self.relative_bias, "relative position bias"),
            (self.context_norm, "norm of the context"),
            (self.layer_scale, "layer scale"),
            (self.gated, "gated feed-forward"),
            (self.hidden_norm, "norm of the hidden layer"),
            (self.distillation_head, "two heads"),
        ];
        let pool = self
            .attention_pool
            .as_ref()
            .map(|AttentionPool { heads, mlp_dim, .. }| format!("attention pool with {heads} heads and mlp {mlp_dim}"));
        let there = parts.iter().filter(|part| part.0).map(|part| part.1.to_owned());
        let there: Vec<_> = there.chain(pool).collect();
        (!there.is_empty()).then(|| there.join(", "))
    }
}

impl Report {
    fn show(&self) -> Result<()> {
        let c = &self.config;
        let fact = |name: &str, value: String| output::text(format!("{name:<12} {value}"));
        let [height, width] = c.image;
        fact("model", output::name(&self.model))?;
        if let Some(Packed { layout_version, precision, keep_f32, file_bytes, mapped }) = &self.packed {
            let size = number(*file_bytes as f64, "B");
            let how = if *mapped { "mapped" } else { "read" };
            fact("packed", format!("{precision}, layout version {layout_version}; a file of {size}, {how}"))?;
            if !keep_f32.is_empty() {
                fact("kept in f32", output::names(keep_f32))?;
            }
        }
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
        table.add_row(["of which positions".into(), self.table_bytes.to_string(), bytes(self.table_bytes)]);
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
