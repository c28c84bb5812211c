//! The command line: arguments to the functions of the three crates, and their answers to text or JSON.
//!
//! Figures go to stdout, progress and errors to stderr; `--json` prints one JSON document and nothing else to stdout.

mod against;
mod capture;
mod chart;
mod columns;
mod compare;
mod demo;
mod examples;
mod explain;
mod export;
mod fit_own;
mod fix;
mod gains;
mod goal;
mod hardware;
mod import;
mod keys;
mod launch_file;
mod measured;
mod models;
mod page_table;
mod plan;
mod plan_page;
mod prices;
mod profiles;
mod progress;
mod report;
mod schema;
mod shells;
mod show;
mod size;
mod stack;
mod step_chart;
mod train;
mod usual_job;
mod validate;

use std::any::TypeId;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::answer;

/// Plans, simulates and runs transformer training on any accelerator.
#[derive(Parser)]
#[command(name = "meshwright", version, about, arg_required_else_help = true)]
struct Arguments {
    /// Say nothing but answers, warnings and errors: no notes, no progress
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Follow what takes long closely: every second of a search and every step of a run, also into a file, and how long it took
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure this machine, plan a small decoder for it, train it on text found here, compare with the prediction
    Demo(demo::Demo),
    /// Find the best plan for a model or job on a cluster, and say why the others lost
    #[command(after_help = examples::PLAN)]
    Plan(Box<plan::PlanCommand>),
    /// Predict what a plan does on a cluster
    #[command(after_help = examples::SIMULATE)]
    Simulate(plan::Simulate),
    /// Say where a plan's time and memory go, what binds, what more is worth, and why the nearest alternatives lose
    #[command(after_help = examples::EXPLAIN)]
    Explain(explain::ExplainCommand),
    /// Write a plan as a folder that another engine runs: Megatron-LM, torchtitan, DeepSpeed, MaxText, Accelerate
    Export(Box<export::ExportCommand>),
    /// Read launch files of Megatron-LM, DeepSpeed, torchtitan, MaxText, Accelerate and others as a plan
    Import(import::ImportCommand),
    /// Say every rule that a launch file breaks, with legal values near
    Check(import::CheckCommand),
    /// Read what a launch script would start, by running it among stubs
    Capture(capture::CaptureCommand),
    /// Train by a plan on this machine
    #[command(after_help = examples::RUN)]
    Run(train::RunCommand),
    /// Compare predicted, replayed and measured of a run
    Report(report::ReportCommand),
    /// Predict published runs again and say how far off
    Validate(validate::Validate),
    /// Search for better plans than published runs had, and say how much faster, both simulated
    Gains(gains::Gains),
    /// Plan scenarios of devices, software and prices, and lay time and cost side by side
    #[command(after_help = examples::COMPARE)]
    Compare(Box<compare::CompareCommand>),
    /// How large a model, on how many tokens, for how much compute or money, by published scaling laws
    #[command(after_help = examples::SIZE)]
    Size(Box<size::SizeCommand>),
    /// What devices cost, by cloud, region and term, each with its date and source
    #[command(subcommand)]
    Prices(prices::PricesCommand),
    /// Software stacks: on what runs their figures stand, how far off they are, where they are usual
    Stacks(stack::Stacks),
    /// Known accelerators and systems, and this machine
    #[command(subcommand, after_help = examples::HARDWARE)]
    Hardware(hardware::Hardware),
    /// Known models, and how large that of a file is
    Models(models::ModelsCommand),
    /// What files and answers hold, as JSON Schema
    Schema(schema::SchemaCommand),
    /// A script by which a shell completes commands, options and their values
    #[command(after_help = examples::COMPLETIONS)]
    Completions(shells::Completions),
    /// Manual pages
    Man(shells::ManCommand),
}

/// All commands with their arguments, as clap reads them: `-1` behind an option that takes a number is its value, and refused as such.
pub fn command() -> clap::Command {
    numbers(Arguments::command())
}

fn numbers(command: clap::Command) -> clap::Command {
    let of_arg = |arg: clap::Arg| {
        let kind = arg.get_value_parser().type_id();
        let words =
            [TypeId::of::<String>(), TypeId::of::<PathBuf>(), TypeId::of::<bool>()].iter().any(|word| kind == *word);
        let takes = matches!(arg.get_action(), clap::ArgAction::Set | clap::ArgAction::Append);
        if takes && !words && !arg.is_positional() { arg.allow_hyphen_values(true) } else { arg }
    };
    command.mut_args(of_arg).mut_subcommands(numbers)
}

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    let arguments = Arguments::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
    if arguments.quiet {
        answer::be_quiet();
    }
    if arguments.verbose {
        answer::be_verbose();
    }
    let started = std::time::Instant::now();
    let outcome = match arguments.command {
        Command::Demo(demo) => demo.run(),
        Command::Plan(plan) => plan.run(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Explain(explain) => explain.run(),
        Command::Export(export) => export.run(),
        Command::Import(import) => import.run(),
        Command::Check(check) => check.run(),
        Command::Capture(capture) => capture.run(),
        Command::Run(run) => run.run(),
        Command::Report(report) => report.run(),
        Command::Validate(validate) => validate.run(),
        Command::Gains(gains) => gains.run(),
        Command::Compare(compare) => compare.run(),
        Command::Size(size) => size.run(),
        Command::Prices(prices) => prices.run(),
        Command::Stacks(stacks) => stacks.run(),
        Command::Hardware(hardware) => hardware.run(),
        Command::Models(models) => models.run(),
        Command::Schema(schema) => schema.run(),
        Command::Completions(completions) => completions.run(command()),
        Command::Man(man) => man.run(command()),
    };
    if arguments.verbose {
        eprintln!("took {:.2} s", started.elapsed().as_secs_f64());
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // https://no-color.org
            let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            eprintln!("{}", failure.report(std::io::stderr().is_terminal() && !plain));
            failure.exit.into()
        }
    }
}

/// The help of `--device`.
fn devices(what: &str) -> String {
    let names = meshwright_executor::device::Backend::names();
    format!("{what}, as `hardware list` shows them: {names}")
}
