//! `vit plan`: the memory and the work of a forward pass, before it runs; whether a microcontroller has room for it.
mod chips;
mod fit;
mod show;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use vit_engine::file::Loaded;
use vit_engine::packed::file_len;
use vit_engine::{Config, Formats, Model, Output, Plan, Precision, zoo::timm};

use crate::options::{JsonOption, LoadOptions, bytes, image_size, positive};
use crate::{model, output};
use chips::Chip;
use fit::Fit;

/// Show what a forward pass needs before it runs, and whether a chip has room for it
///
/// The bytes of the arena and of the weights are exact. With --chip (or --ram and --flash) the pass takes the most tokens at
/// a time that the RAM allows, in int8 unless --precision or a packed file says otherwise. If the model does not fit, what
/// would is listed: lower precisions and smaller images.
#[derive(clap::Args)]
#[command(after_help = format!("\
NAME is an architecture of timm's; it needs no weights: deit-tiny-patch16-224, vit-small-patch32-224, …

Chips: {}.

Examples:
  vit plan                                            the built-in model on this machine
  vit plan --chip nrf52840
  vit plan --model deit-tiny-patch16-224 --chip stm32h743
  vit plan --model m.gguf --ram 96K --flash 512K      any other chip
  vit plan --model vit-base-patch16-224 --batch 8 --memory 16M --json", chips::names()))]
pub(crate) struct Args {
    /// A checkpoint, a packed file, or the NAME of an architecture [default: the built-in fashion-vit]
    #[arg(long, value_name = "DIR|FILE|NAME")]
    model: Option<String>,

    /// Another image size, in pixels
    #[arg(long, value_name = "N|HxW", value_parser = image_size)]
    image_size: Option<[usize; 2]>,

    /// What the model computes: logits, class, patches, registers, embedding, layer:N, attention [default: logits, or what
    /// a model without classes has]
    #[arg(long, value_name = "KIND")]
    features: Option<Output>,

    /// Images at a time
    #[arg(long, value_name = "N", value_parser = positive, default_value = "1")]
    batch: usize,

    /// The most bytes of arena, such as 200000, 200K, 4M or 1G [default: as much as is fastest]
    #[arg(long, value_name = "BYTES", value_parser = bytes, conflicts_with_all = ["chip", "ram"])]
    memory: Option<usize>,

    /// A microcontroller
    #[arg(long, value_name = "NAME", value_parser = chips::by_name, conflicts_with = "batch")]
    chip: Option<&'static Chip>,

    /// Bytes of RAM for arena and stack, instead of a chip's [default with --flash: no limit]
    #[arg(long, value_name = "BYTES", value_parser = bytes, conflicts_with = "batch")]
    ram: Option<usize>,

    /// Bytes of flash for weights and code, instead of a chip's [default with --ram: no limit]
    #[arg(long, value_name = "BYTES", value_parser = bytes, conflicts_with = "batch")]
    flash: Option<usize>,

    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    how: LoadOptions,
}

impl Args {
    fn for_chip(&self) -> bool {
        self.chip.is_some() || self.ram.is_some() || self.flash.is_some()
    }
}

/// What a pass needs.
#[derive(Serialize)]
struct Needs {
    precision: &'static str,
    image: [usize; 2],
    tokens: usize,
    rows_per_block: usize,
    images_in_flight: usize,
    macs: u64,
    weight_bytes: usize,
    /// Bytes of a packed file, without the names of classes and how pictures are prepared.
    packed_bytes: usize,
    arena_bytes: usize,
}

impl Needs {
    fn of(plan: &Plan, formats: Formats) -> Result<Self> {
        Ok(Self {
            precision: formats.precision().name(),
            image: plan.config().image,
            tokens: plan.config().tokens(),
            rows_per_block: plan.rows(),
            images_in_flight: plan.images(),
            macs: plan.macs(),
            weight_bytes: Model::bytes(plan.config(), formats)?,
            packed_bytes: file_len(plan.config(), formats)?,
            arena_bytes: plan.arena_bytes(),
        })
    }
}

#[derive(Serialize)]
struct Report {
    model: String,
    features: String,
    batch: usize,
    #[serde(flatten)]
    needs: Needs,
    buffers: Vec<Buffer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chip: Option<Fit>,
}

/// A buffer of the arena. Those of the phases 'embed', 'layers' and 'head' share their place.
#[derive(Serialize)]
struct Buffer {
    phase: String,
    name: &'static str,
    bytes: usize,
}

/// A model's hyper-parameters, also at other image sizes.
enum Subject {
    Loaded(Box<Loaded>),
    Architecture(Box<Config>),
}

impl Subject {
    fn new(args: &Args) -> Result<(Self, Formats)> {
        let default = if args.for_chip() { Precision::Int8 } else { Precision::F32 };
        let how = LoadOptions { precision: Some(args.how.precision.unwrap_or(default)), ..args.how.clone() };
        let name = args.model.as_deref().filter(|name| !name.contains('/') && !Path::new(name).exists());
        if let Some(name) = name {
            let config = timm::architecture(&name.replace('-', "_"))?;
            let formats = how.formats(&config)?;
            return Ok((Self::Architecture(Box::new(config)), formats));
        }
        let path = args.model.as_deref().map(Path::new);
        // A packed file has its own precision.
        let loaded = model::open(path, if path.is_some_and(is_packed) { &args.how } else { &how })?;
        let formats = loaded.formats();
        Ok((Self::Loaded(Box::new(loaded)), formats))
    }

    fn config(&self) -> &Config {
        match self {
            Self::Loaded(loaded) => loaded.config(),
            Self::Architecture(config) => config,
        }
    }

    /// The hyper-parameters at another image size, if the model can have it.
    fn config_at(&self, size: [usize; 2]) -> Result<Config> {
        Ok(match self {
            Self::Loaded(loaded) => loaded.config_at(size)?,
            Self::Architecture(config) => {
                let config = Config { image: size, ..**config };
                config.validate()?;
                config
            }
        })
    }
}

/// Whether it is a file that begins as packed files do.
fn is_packed(path: &Path) -> bool {
    let mut magic = [0; 4];
    std::fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok()) && magic == *b"GGUF"
}

/// What a model computes if nobody says.
fn usual_output(config: &Config) -> Output {
    match (config.classes, config.embedding) {
        (0, None) => Output::Patches,
        (0, Some(_)) => Output::Embedding,
        _ => Output::Logits,
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (subject, formats) = Subject::new(args)?;
    let config = subject.config_at(args.image_size.unwrap_or(subject.config().image))?;
    let features = args.features.unwrap_or_else(|| usual_output(&config));
    let chip = args.for_chip().then(|| Chip::of(args.chip, args.ram, args.flash));
    let (plan, fit) = match chip {
        None => (Plan::new(&config, formats.precision(), features, args.batch, args.memory)?, None),
        Some(chip) => {
            let (plan, fit) = Fit::new(&chip, &subject, &config, formats, features)?;
            (plan, Some(fit))
        }
    };
    let mut buffers = Vec::new();
    plan.for_each_buffer(&mut |phase, name, bytes| {
        buffers.push(Buffer { phase: format!("{phase:?}").to_lowercase(), name, bytes });
    });
    let report = Report {
        model: args.model.clone().unwrap_or_else(|| model::BUILT_IN_NAME.into()),
        features: features.to_string(),
        batch: plan.batch(),
        needs: Needs::of(&plan, formats)?,
        buffers,
        chip: fit,
    };
    if args.json.json {
        output::json(&report)?;
    } else {
        show::show(&report)?;
    }
    let fits = report.chip.as_ref().is_none_or(|fit| fit.fits);
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
