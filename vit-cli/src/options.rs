//! Options that several commands share.
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use glob::Pattern;
use vit_engine::{Config, Formats, Isa, KeepF32, LayerMatrix, Precision, ThreadPool};
use vit_image::Filter;

use crate::model::BUILT_IN_NAME;
use crate::output;

/// Which model, and how it runs.
#[derive(Args, Clone)]
pub(crate) struct ModelOptions {
    #[command(flatten)]
    pub(crate) source: SourceOptions,

    /// Threads [default: the cores this process may use]
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,

    #[command(flatten)]
    pub(crate) run: RunOptions,
}

impl ModelOptions {
    pub(crate) fn threads(&self) -> usize {
        self.threads.unwrap_or_else(ThreadPool::cores)
    }
}

/// Which model, and how it is loaded.
#[derive(Args, Clone)]
pub(crate) struct SourceOptions {
    /// A folder from a model hub (config.json and model.safetensors, sharded or not; OpenCLIP's two files), a safetensors
    /// file beside its config.json, a packed file (`vit convert`), or org/name in the local Hugging Face cache
    /// [default: the built-in fashion-vit]
    #[arg(long, value_name = "DIR|FILE|ORG/NAME")]
    pub(crate) model: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) how: LoadOptions,
}

impl SourceOptions {
    /// The name of the model in output.
    pub(crate) fn name(&self) -> String {
        self.model.as_ref().map_or(BUILT_IN_NAME.into(), |path| path.display().to_string())
    }
}

/// How a model is loaded.
#[derive(Args, Clone)]
pub(crate) struct LoadOptions {
    /// How weight matrices are stored and multiplied. Weights are rounded when loading. f16 takes half the memory of f32.
    /// For the layers' matrices bf16 takes half, with activations in bf16; int8 takes a quarter and int4 a seventh, with
    /// activations in int8
    /// [default: that of a packed file, else f32]
    #[arg(long, value_name = "FORMAT", value_parser = precision())]
    pub(crate) precision: Option<Precision>,

    /// Keep these matrices of the layers in f32, whatever the precision. PATTERN is a name in packed files, where *
    /// stands for any text: blk.3.ffn_down, 'blk.*.ffn_down', 'blk.0.*'. The matrices of a layer are attn_kv (keys and
    /// values), attn_q, attn_out, ffn_gate, ffn_up and ffn_down. The option can be repeated
    #[arg(long, value_name = "PATTERN", value_parser = Pattern::new)]
    pub(crate) keep_f32: Vec<Pattern>,

    /// Load the checkpoint as a model of this family, whatever its config says: a model_type, or an architecture of
    /// timm, which needs no config.json
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) family: Option<String>,

    /// Read weight files into memory instead of mapping them. The weights of a packed file are then copied into huge
    /// pages. If mapped, they are used in place, and the file must not change meanwhile
    #[arg(long)]
    pub(crate) no_mmap: bool,
}

impl LoadOptions {
    /// The formats of a model with these hyper-parameters.
    pub(crate) fn formats(&self, config: &Config) -> Result<Formats> {
        let precision = self.precision.unwrap_or(Precision::F32);
        let mut keep = KeepF32::NONE;
        for pattern in &self.keep_f32 {
            ensure!(
                precision != Precision::F32,
                "in f32 there is nothing to keep: --keep-f32 goes with another --precision"
            );
            let mut matching =
                LayerMatrix::all(config).filter(|matrix| pattern.matches(&matrix.to_string())).peekable();
            if matching.peek().is_none() {
                let there =
                    LayerMatrix::all(config).map_while(|matrix| (matrix.layer() == 0).then(|| matrix.to_string()));
                bail!(
                    "--keep-f32 {}: no matrix has such a name; there are {}, and the same up to blk.{}",
                    output::name(pattern),
                    there.collect::<Vec<_>>().join(", "),
                    config.depth - 1
                );
            }
            keep = matching.try_fold(keep, KeepF32::with)?;
        }
        Ok(Formats::new(precision, keep))
    }
}

/// Parses the name of a precision. The help lists the names.
fn precision() -> impl TypedValueParser<Value = Precision> {
    PossibleValuesParser::new(Precision::ALL.map(Precision::name)).try_map(|name| name.parse())
}

/// How a model runs, except for the threads.
#[derive(Args, Clone)]
pub(crate) struct RunOptions {
    /// Instruction-set level: portable, avx2, avx2-vnni, avx512, avx512-vnni, avx512-bf16; on Arm neon, neon-dotprod, neon-i8mm
    /// [default: the highest this CPU has]
    #[arg(long, value_name = "LEVEL", env = level_variable(), value_parser = level)]
    pub(crate) isa: Option<Isa>,

    /// The most bytes of working memory besides the weights, such as 200000, 200K, 4M or 1G [default: as much as is
    /// fastest]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) memory: Option<usize>,
}

impl RunOptions {
    pub(crate) fn isa(&self) -> Isa {
        self.isa.unwrap_or_else(Isa::best)
    }
}

/// How results are printed.
#[derive(Args, Clone, Copy)]
pub(crate) struct JsonOption {
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// How pictures are prepared, where it is not as the model's files say; and how large they may be.
#[derive(Args, Clone)]
pub(crate) struct PictureOptions {
    /// Refuse pictures with more pixels than this
    #[arg(long, value_name = "N", default_value_t = 100_000_000)]
    pub(crate) max_pixels: u64,

    /// Prepare and compute at another size; what pictures are resized to keeps its ratio to the crop
    #[arg(long, value_name = "N|HxW", value_parser = image_size)]
    pub(crate) image_size: Option<[usize; 2]>,

    /// Mean that is subtracted, a number for each channel or one for all [default: what the model's files say, here and
    /// below]
    #[arg(long, value_name = "X,…", value_delimiter = ',', allow_negative_numbers = true)]
    pub(crate) mean: Option<Vec<f32>>,

    /// Standard deviation that is divided by, as many numbers
    #[arg(long, value_name = "X,…", value_delimiter = ',')]
    pub(crate) std: Option<Vec<f32>>,

    /// Resize the shorter side to N pixels, or both sides to HxW
    #[arg(long, value_name = "N|HxW", value_parser = resize)]
    pub(crate) resize: Option<ResizeTo>,

    /// Cut N×N or H×W pixels out of the centre
    #[arg(long, value_name = "N|HxW", value_parser = image_size)]
    pub(crate) crop: Option<[usize; 2]>,

    /// Filter for resizing: nearest, box, bilinear, hamming, bicubic, lanczos
    #[arg(long, value_name = "NAME", value_parser = filter())]
    pub(crate) filter: Option<Filter>,
}

/// The size to resize pictures to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ResizeTo {
    /// The shorter side.
    Shortest(usize),
    /// Height and width.
    Exact([usize; 2]),
}

fn resize(text: &str) -> Result<ResizeTo, String> {
    if text.contains(['x', '×']) {
        image_size(text).map(ResizeTo::Exact)
    } else {
        positive(text).map(ResizeTo::Shortest)
    }
}

/// Parses a filter's name; the help lists the values.
fn filter() -> impl TypedValueParser<Value = Filter> {
    PossibleValuesParser::new(Filter::ALL.map(|(_, name)| name)).try_map(|name| Filter::by_name(&name).ok_or("unknown"))
}

/// The environment variable that selects a level. An empty value counts as unset.
fn level_variable() -> Option<&'static str> {
    let empty = std::env::var_os("VIT_ISA").is_some_and(|value| value.is_empty());
    (!empty).then_some("VIT_ISA")
}

fn level(name: &str) -> Result<Isa, String> {
    Isa::by_name(name).map_err(|error| error.to_string())
}

/// A whole number above 0.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(_) => Err("not a whole number".into()),
    }
}

/// A number of threads, limited by the cores.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    let cores = ThreadPool::cores();
    let most = ThreadPool::most_threads(cores);
    match positive(text)? {
        number if number <= most => Ok(number),
        _ => Err(format!("must be at most {most} on the {cores} cores that this process may use")),
    }
}

/// An image size: '224', or height and width, '480x640'.
pub(crate) fn image_size(text: &str) -> Result<[usize; 2], String> {
    let (height, width) = text.split_once(['x', '×']).unwrap_or((text, text));
    Ok([positive(height)?, positive(width)?])
}

/// A number of bytes, with K, M or G for 1024, 1024² or 1024³.
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let unit = match text.bytes().last() {
        Some(b'k' | b'K') => 1 << 10,
        Some(b'm' | b'M') => 1 << 20,
        Some(b'g' | b'G') => 1 << 30,
        _ => 1,
    };
    let digits = if unit == 1 { text } else { &text[..text.len() - 1] };
    let number: usize = digits.parse().map_err(|_| "not a number of bytes: write 200000, 200K, 4M or 1G".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "more bytes than this machine can address".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_sizes() {
        assert_eq!((image_size("224"), image_size("480x640")), (Ok([224, 224]), Ok([480, 640])));
        assert!(["", "0", "x", "3x", "x3", "3x0", "3x4x5", "-3"].iter().all(|text| image_size(text).is_err()));
    }

    #[test]
    fn threads_are_limited_by_the_cores() {
        assert_eq!((threads("1"), threads("64")), (Ok(1), Ok(64)));
        for text in ["0", "", "x", "-1", "100000", "18446744073709551615", "99999999999999999999"] {
            assert!(threads(text).is_err(), "{text}");
        }
    }

    #[test]
    fn byte_counts() {
        assert_eq!(bytes("200000"), Ok(200_000));
        assert_eq!(bytes("200K"), Ok(204_800));
        assert_eq!(bytes("1g"), Ok(1 << 30));
        assert!(
            ["", "K", "-1", "1T", "1.5M", "99999999999999999999", "18446744073709551615K", "é"]
                .iter()
                .all(|text| bytes(text).is_err())
        );
    }
}
