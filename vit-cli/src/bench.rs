//! `vit bench`: how fast a model runs, and how close that is to what the CPU can do.
use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region};
use vit_engine::file::Loaded;
use vit_engine::{AlignedBox, Executor, Features, Images, Isa, Model, Plan, Precision, zoo::timm};
use vit_kernels::peak::multiply_adds;

use crate::options::{JsonOption, RunOptions, default_threads, positive};
use crate::output::{self, bytes};
use crate::random::Random;
use crate::session::{Workers, image_shape, open};

/// Time a model: normalised f32 pixels in memory to logits
///
/// 'efficiency' is 2·MACs ÷ median time ÷ the peak, which is measured in the same run on the same threads by independent
/// chains of multiply-adds. MACs are those that are executed.
#[derive(clap::Args)]
#[command(after_help = "\
NAME is one of timm's plain Vision Transformers, with seeded random weights: vit-tiny-patch16-224,
vit-small-patch16-224, vit-base-patch16-224, vit-large-patch16-224, …

Examples:
  vit bench --model vit-base-patch16-224
  vit bench --model vit-base-patch16-224 --threads 1,2 --batch 1,8 --json
  vit bench --model ./my-checkpoint --precision f16 --isa avx2")]
pub(crate) struct Args {
    /// A checkpoint, or the NAME of an architecture [default: the built-in fashion-vit]
    #[arg(long, value_name = "DIR|FILE|NAME")]
    model: Option<String>,

    /// Threads, one measurement each [default: the cores this process may use]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = positive)]
    threads: Vec<usize>,

    /// Images at a time, one measurement each
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = positive, default_value = "1")]
    batch: Vec<usize>,

    /// Measure for at least this long
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,

    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    how: RunOptions,
}

#[derive(Serialize)]
struct Measurement {
    model: String,
    precision: &'static str,
    isa: &'static str,
    threads: usize,
    batch: usize,
    median_ms: f64,
    min_ms: f64,
    p95_ms: f64,
    macs: u64,
    gflops: f64,
    peak_gflops: f64,
    efficiency: f64,
    arena_bytes: usize,
    weight_bytes: usize,
    allocations: usize,
}

/// A model from a checkpoint, or random weights under an architecture's name.
enum Subject {
    Checkpoint(Loaded),
    Random(vit_engine::Config, AlignedBox),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let precision = args.how.precision.into();
    let subject = Subject::new(args.model.as_deref(), &args.how)?;
    let model = match &subject {
        Subject::Checkpoint(loaded) => loaded.model(args.how.isa()),
        Subject::Random(config, memory) => Model::new(config, precision, args.how.isa(), memory)?,
    };
    let threads = if args.threads.is_empty() { vec![default_threads()] } else { args.threads.clone() };
    let mut measurements = Vec::new();
    for &threads in &threads {
        let workers = Workers::new(threads)?;
        for &batch in &args.batch {
            let plan = Plan::new(model.config(), Features::Logits, batch, args.how.memory)?;
            let name = args.model.clone().unwrap_or_else(|| "fashion-vit".into());
            measurements.push(measure(name, &model, &plan, &workers, args.seconds)?);
        }
    }
    if args.json.json {
        output::json(&measurements)?
    } else {
        show(&measurements)?
    }
    Ok(ExitCode::SUCCESS)
}

impl Subject {
    fn new(model: Option<&str>, how: &RunOptions) -> Result<Self> {
        let path = model.map(Path::new);
        let architecture = model.filter(|name| !Path::new(name).exists()).and_then(|name| {
            let name = name.replace('-', "_");
            timm::architecture(&name)
        });
        let Some(config) = architecture else {
            return open(path, how).map(Self::Checkpoint).with_context(|| {
                let names: Vec<String> = timm::architectures().map(|name| name.replace('_', "-")).collect();
                format!("no such checkpoint or architecture; the architectures are {}", names.join(", "))
            });
        };
        let precision: Precision = how.precision.into();
        let len = Model::bytes(&config, precision)?;
        let mut memory = AlignedBox::new(len).with_context(|| format!("the system does not give {len} bytes"))?;
        Model::fill(&config, precision, &Random { seed: 1 }, &mut memory)?;
        Ok(Self::Random(config, memory))
    }
}

/// Warms up, measures the peak, times forward passes, measures the peak again.
fn measure(name: String, model: &Model<'_>, plan: &Plan, workers: &Workers, seconds: f64) -> Result<Measurement> {
    let mut rng = fastrand::Rng::with_seed(7);
    let shape = image_shape(model.config());
    let pixels: Vec<f32> = (0..plan.batch() * shape.iter().product::<usize>()).map(|_| 2.0 * rng.f32() - 1.0).collect();
    let mut images = Images::new(&pixels, shape).context("not whole images")?;
    let arena_bytes = plan.arena_bytes();
    let mut arena =
        AlignedBox::new(arena_bytes).with_context(|| format!("the system does not give {arena_bytes} bytes"))?;
    let mut logits = vec![0.0; plan.output_len()];
    let mut times = Vec::with_capacity(1 << 16);

    let before = peak_gflops(model.isa(), workers);
    // The pool is entered once around all: what is timed is the forward pass alone.
    let allocations = workers.enter(|| -> Result<usize> {
        let mut forward = || model.forward(plan, &mut images, &mut arena, workers, &mut logits);
        let start = Instant::now();
        forward()?;
        while start.elapsed() < Duration::from_millis(300) {
            forward()?;
        }
        let region = Region::new(&INSTRUMENTED_SYSTEM);
        let start = Instant::now();
        while (times.len() < 10 || start.elapsed().as_secs_f64() < seconds) && times.len() < times.capacity() {
            let start = Instant::now();
            forward()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let change = region.change();
        Ok(change.allocations + change.reallocations)
    })?;
    black_box(&logits);
    let peak_gflops = before.max(peak_gflops(model.isa(), workers));

    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let gflops = 2.0 * plan.macs() as f64 / at(0.5) / 1e6;
    let efficiency = gflops / peak_gflops;
    if efficiency > 1.0 {
        bail!(
            "measured {gflops:.1} GFLOP/s, above the peak of {peak_gflops:.1}: the machine's speed changed meanwhile"
        );
    }
    Ok(Measurement {
        model: name,
        precision: model.precision().name(),
        isa: model.isa().name(),
        threads: workers.threads(),
        batch: plan.batch(),
        median_ms: at(0.5),
        min_ms: times[0],
        p95_ms: at(0.95),
        macs: plan.macs(),
        gflops,
        peak_gflops,
        efficiency,
        arena_bytes,
        weight_bytes: model.weight_bytes(),
        allocations,
    })
}

/// The most multiply-adds that the workers' threads do together: each thread's best of seven windows of 10 ms or more.
fn peak_gflops(isa: Isa, workers: &Workers) -> f64 {
    let best = || {
        let gflops = |steps: usize| {
            let start = Instant::now();
            let (flops, sum) = multiply_adds(isa, black_box(steps));
            black_box(sum);
            (flops as f64 / start.elapsed().as_secs_f64() / 1e9, start.elapsed())
        };
        let mut steps = 10_000;
        while gflops(steps).1 < Duration::from_millis(12) {
            steps += steps / 2;
        }
        let windows = (0..7).map(|_| gflops(steps)).filter(|(_, time)| *time >= Duration::from_millis(10));
        windows.map(|(gflops, _)| gflops).fold(0.0, f64::max)
    };
    match workers {
        Workers::One => best(),
        Workers::Pool(pool) => pool.broadcast(|_| best()).into_iter().sum(),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("has to be a number of seconds, at most 3600".into()),
    }
}

fn show(measurements: &[Measurement]) -> Result<()> {
    let Some(first) = measurements.first() else { return Ok(()) };
    let weights = bytes(first.weight_bytes);
    output::text(format!("{}, {}, {}, weights {weights}", first.model, first.precision, first.isa))?;
    let mut table = output::table(&[
        "threads",
        "batch",
        "median ms",
        "min",
        "p95",
        "images/s",
        "GFLOP/s",
        "peak",
        "efficiency",
        "arena",
        "allocations",
    ]);
    for m in measurements {
        table.add_row([
            m.threads.to_string(),
            m.batch.to_string(),
            format!("{:.3}", m.median_ms),
            format!("{:.3}", m.min_ms),
            format!("{:.3}", m.p95_ms),
            format!("{:.1}", m.batch as f64 / m.median_ms * 1e3),
            format!("{:.1}", m.gflops),
            format!("{:.1}", m.peak_gflops),
            format!("{:.1} %", 100.0 * m.efficiency),
            bytes(m.arena_bytes),
            m.allocations.to_string(),
        ]);
    }
    output::text(table)
}
