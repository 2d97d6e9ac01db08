//! `vit`: Vision Transformers on the CPU, from the command line.
#![forbid(unsafe_code)]
// Doc comments in this crate are also help texts; [B,C,H,W] in them is a shape, not a link.
#![allow(rustdoc::broken_intra_doc_links)]

mod attend;
mod bench;
mod classify;
mod compare;
mod convert;
mod data;
mod embed;
mod embeddings;
mod eval;
mod head;
mod idx;
mod inputs;
mod inspect;
mod labels;
mod memory;
mod model;
mod npy;
mod options;
mod output;
mod picture;
mod plan;
mod preprocess;
mod replace;
mod run;
mod similar;

use std::alloc::System;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts allocations, so that `bench` can show that a forward pass allocates nothing.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Vision Transformers on the CPU.
///
/// Without --model it uses the built-in model: fashion-vit, which classifies ten kinds of clothing.
#[derive(Parser)]
#[command(name = "vit", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  vit classify boot.png                       what is on the picture, by the built-in model
  vit classify photos/ --model vit-base --json
  vit embed photos/ --model vit-base --out photos.parquet    a vector for each picture
  vit similar cat.jpg --model vit-base --in photos.parquet    the nearest of them
  vit eval --folder val/ --model vit-base     top-1 and top-5 over folders named after classes
  vit run --model vit-base --pixels x.npy --out y.npy --features patches
  vit convert --model vit-base --out vit-base.gguf    a file that loads at once, for every command
  vit compare --model vit-base --precision int8 --images photos/    speed and accuracy in int8
  vit attend cat.jpg --model vit-base --out heat.png    where the model looks, on the picture
  vit preprocess cat.jpg --model vit-base --out x.npy    the tensor that the model is given
  vit inspect --model vit-base                sizes, bytes and multiply-accumulates
  vit plan --chip nrf52840                    whether it fits a microcontroller
  vit bench --model vit-base-patch16-224      how fast, and how close to this CPU's limit";

#[derive(Subcommand)]
enum Command {
    Attend(attend::Args),
    Classify(classify::Args),
    Compare(compare::Args),
    Convert(convert::Args),
    Embed(embed::Args),
    Eval(eval::Args),
    Preprocess(preprocess::Args),
    Run(run::Args),
    Similar(similar::Args),
    Inspect(inspect::Args),
    Plan(plan::Args),
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Attend(args) => attend::run(&args),
        Command::Classify(args) => classify::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Preprocess(args) => preprocess::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Similar(args) => similar::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(code) => code,
        // The reader of the output has closed it (`vit … | head`). That is not an error.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(output::message(&error));
            ExitCode::FAILURE
        }
    }
}
