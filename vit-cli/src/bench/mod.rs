//! `vit bench`: how fast a model runs, and how close that is to the peak of the CPU.
mod peak;
mod profile;
mod random;
mod show;
mod subject;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region};
use vit_engine::{AlignedBox, Images, Model, Output, Plan, ThreadPool};

use crate::model::{image_shape, pinned_pool};
use crate::options::{JsonOption, LoadOptions, RunOptions, image_size, positive, threads};
use crate::{memory, output};
use peak::Window;
use profile::Profile;
use subject::Subject;

/// Time a model: normalised f32 pixels in memory to logits
///
/// 'efficiency' is 2·MACs ÷ median time ÷ peak. MACs are the executed ones. The peak is the median of short windows of
/// independent multiply-adds on the same threads, between the forward passes, so that both see the same machine; in
/// int8 they are multiply-adds of 8-bit numbers.
#[derive(clap::Args)]
#[command(after_help = "\
NAME is an architecture of timm's, with seeded random weights: vit-tiny-patch16-224, vit-small-patch16-224,
vit-base-patch16-224, vit-large-patch16-224, eva02-base-patch14-448, vit-base-patch16-dinov3, …

Every thread is pinned to a core of its own. 'load' is the time from opening a checkpoint to a model that can run, and
'first' that of the first forward pass, caches cold; together they are the cold start.

Examples:
  vit bench --model vit-base-patch16-224
  vit bench --model vit-base-patch16-224 --threads 1,2 --batch 1,8 --json
  vit bench --model vit-tiny-patch16-224 --threads 1 --profile
  vit bench --model vit-tiny-patch16-224 --image-size 1024
  vit bench --model ./my-checkpoint --precision f16 --isa avx2")]
pub(crate) struct Args {
    /// A checkpoint, a packed file, or the NAME of an architecture [default: the built-in fashion-vit]
    #[arg(long, value_name = "DIR|FILE|NAME")]
    model: Option<String>,

    /// Another image size, in pixels: 1024 gives 4097 tokens with patch 16
    #[arg(long, value_name = "N|HxW", value_parser = image_size)]
    image_size: Option<[usize; 2]>,

    /// Threads, one measurement each [default: the cores this process may use]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = threads)]
    threads: Vec<usize>,

    /// Batch sizes, one measurement each
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = positive, default_value = "1")]
    batch: Vec<usize>,

    /// What the model computes: logits, class, patches, registers, embedding, layer:N, layers, attention
    #[arg(long, value_name = "KIND", default_value = "logits")]
    features: Output,

    /// Measure for at least this long
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,

    /// Show where the time goes: milliseconds, GFLOP/s and share of each stage
    #[arg(long)]
    profile: bool,

    /// Let the system move threads from core to core
    #[arg(long)]
    no_pin: bool,

    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    how: LoadOptions,
    #[command(flatten)]
    run: RunOptions,
}

#[derive(Serialize)]
struct Measurement {
    model: String,
    image: [usize; 2],
    tokens: usize,
    cpu: Option<String>,
    precision: &'static str,
    isa: &'static str,
    features: String,
    threads: usize,
    pinned: bool,
    batch: usize,
    passes: usize,
    median_ms: f64,
    min_ms: f64,
    p95_ms: f64,
    images_per_s: f64,
    macs: u64,
    gflops: f64,
    peak_gflops: f64,
    efficiency: f64,
    load_ms: Option<f64>,
    first_ms: f64,
    arena_bytes: usize,
    weight_bytes: usize,
    /// Peak memory of the process so far, including mapped files, if the system reports it.
    peak_rss_bytes: Option<u64>,
    allocations: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let subject = Subject::new(args.model.as_deref(), args.image_size, &args.how)?;
    let model = subject.model(args.run.isa())?;
    let threads = if args.threads.is_empty() { vec![ThreadPool::cores()] } else { args.threads.clone() };
    // Read here, before this thread is pinned: afterwards it sees only its own core.
    let cores = core_affinity::get_core_ids().filter(|_| !args.no_pin).unwrap_or_default();
    let mut measurements = Vec::new();
    for &threads in &threads {
        let (pool, pinned) = pinned_pool(threads, &cores)?;
        for &batch in &args.batch {
            let plan = model.plan(args.features, batch, args.run.memory)?;
            let mut measured = measure(&model, &plan, &pool, args)?;
            measured.model = args.model.clone().unwrap_or_else(|| "fashion-vit".into());
            (measured.load_ms, measured.pinned) = (subject.load_ms(), pinned);
            measurements.push(measured);
        }
    }
    if args.json.json {
        output::json(&measurements)?
    } else {
        show::show(&measurements)?
    }
    Ok(ExitCode::SUCCESS)
}

/// Forward passes, and windows of the peak between them.
fn measure(model: &Model<'_>, plan: &Plan, pool: &ThreadPool, args: &Args) -> Result<Measurement> {
    /// Time between two windows of the peak.
    const STRETCH: Duration = Duration::from_millis(150);
    let mut rng = fastrand::Rng::with_seed(7);
    let shape = image_shape(model.config());
    let [channels, height, width] = shape;
    let mut pixels = memory::zeros("the pixels of a batch", &[plan.batch(), channels, height, width])?;
    pixels.fill_with(|| 2.0 * rng.f32() - 1.0);
    let mut images = Images::new(&pixels, shape)?;
    let mut arena = AlignedBox::new(plan.arena_bytes())?;
    let mut out = memory::zeros("the output", &[plan.output_len()])?;
    let (mut times, mut peaks) = (Vec::with_capacity(1 << 16), Vec::with_capacity(1 << 12));

    let start = Instant::now();
    model.forward(plan, &mut images, &mut arena, pool, &mut out)?;
    let first_ms = start.elapsed().as_secs_f64() * 1e3;
    let window = Window::new(model.isa(), model.precision());
    let mut forward = || model.forward(plan, &mut images, &mut arena, pool, &mut out);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        forward()?;
    }
    let mut allocations = 0;
    let start = Instant::now();
    while (times.len() < 10 || start.elapsed().as_secs_f64() < args.seconds) && peaks.len() < peaks.capacity() {
        peaks.push(window.measure(pool));
        let region = Region::new(&INSTRUMENTED_SYSTEM);
        let stretch = Instant::now();
        while stretch.elapsed() < STRETCH && times.len() < times.capacity() {
            let start = Instant::now();
            forward()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let change = region.change();
        allocations += change.allocations + change.reallocations;
    }
    peaks.push(window.measure(pool));
    let profile = args.profile.then(|| {
        profile::profile(pool, model.isa(), plan, args.seconds, |timed| {
            model.forward(plan, &mut images, &mut arena, timed, &mut out)
        })
    });
    let profile = profile.transpose()?;
    black_box(&out);

    let (median_ms, peak_gflops) = (median(&mut times), median(&mut peaks));
    let gflops = 2.0 * plan.macs() as f64 / median_ms / 1e6;
    Ok(Measurement {
        model: String::new(),
        image: model.config().image,
        tokens: model.config().tokens(),
        cpu: cpu_name(),
        precision: model.precision().name(),
        isa: model.isa().name(),
        features: args.features.to_string(),
        threads: pool.threads(),
        pinned: false,
        batch: plan.batch(),
        passes: times.len(),
        median_ms,
        min_ms: times[0],
        p95_ms: times[(times.len() - 1) * 95 / 100],
        images_per_s: plan.batch() as f64 / median_ms * 1e3,
        macs: plan.macs(),
        gflops,
        peak_gflops,
        efficiency: gflops / peak_gflops,
        load_ms: None,
        first_ms,
        arena_bytes: plan.arena_bytes(),
        weight_bytes: model.weight_bytes(),
        peak_rss_bytes: peak_rss(),
        allocations,
        profile,
    })
}

/// The median; sorts the values.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The model name of the CPU, on Linux.
fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// The peak memory of this process, on Linux.
fn peak_rss() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be a number of seconds, at most 3600".into()),
    }
}
