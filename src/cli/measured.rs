//! `report PLAN --measured LOG`: a run of another engine beside what was predicted of its plan.
//!
//! In: a plan or launch file, its engine's log, a cluster. Out: a table, or JSON.
//!
//! Invariant: what is measured comes from the log alone; warm-up and pauses are left out and counted.

use clap::Args;
use meshwright_engines::log::{Logged, Steady, StepSize, read};
use meshwright_hardware::exit::Exit;
use meshwright_hardware::files::{FileError, read_bytes};
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::{Bytes, Seconds};
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::{Figures, predict_figures};
use serde_json::json;

use super::launch_file::{KnownArguments, plan_of};
use super::stack::{StackArgument, stack_line};
use crate::answer;
use crate::failure::Failure;

/// What a report of another engine's run needs.
#[derive(Args)]
pub struct MeasuredArguments {
    /// Log of another engine's run by the plan: Megatron-LM, torchtitan, DeepSpeed, MaxText, nanotron, NeMo, Hugging Face, or a CSV
    #[arg(long, value_name = "LOG", requires = "cluster")]
    measured: Option<String>,
    /// The cluster that the log is of
    #[arg(long, requires = "measured")]
    cluster: Option<String>,
    #[command(flatten)]
    stack: StackArgument,
    #[command(flatten)]
    known: KnownArguments,
}

impl MeasuredArguments {
    /// Compares a log with what is predicted of a plan, where a log was given; whether one was.
    pub fn report(&self, path: &str, within: Option<f64>, as_json: bool) -> Result<bool, Failure> {
        let (Some(log), Some(cluster)) = (&self.measured, &self.cluster) else { return Ok(false) };
        let cluster = Cluster::parse(cluster)?;
        let (plan, _) = plan_of(path, &self.known, &cluster)?;
        let cluster = self.stack.on(cluster, &plan.job)?;
        let figures = predict_figures(&plan, &cluster)?;
        let text = text_of(log)?;
        let logged = read(&text).map_err(|problem| Failure::input(format!("{log}: {problem}")))?;
        let size = size_of(&plan);
        let steady = logged.steady(size).ok_or_else(|| {
            Failure::input(format!(
                "{log}: no line of {}'s tells how long a step took, nor tokens or samples a second",
                logged.engine
            ))
        })?;
        let off = 100.0 * (figures.step_time_s / steady.seconds - 1.0);
        if as_json {
            answer::print("report", json_of(&plan, &figures, &logged, &steady));
        } else {
            println!(
                "{} on {}\n{}\n{}\n",
                plan.job.model.name,
                self.cluster.as_deref().unwrap_or(""),
                plan.summary(),
                stack_line(&cluster)
            );
            print!("{}", table(&figures, &logged, &steady, size));
        }
        match within {
            Some(most) if off.abs() > most => Err(Failure::new(
                Exit::Inaccurate,
                format!("step time is predicted {off:+.1} % off, more than {most} %"),
            )),
            _ => Ok(true),
        }
    }
}

/// A log's text: larger than other files, and not all of it text.
fn text_of(path: &str) -> Result<String, FileError> {
    const MOST_BYTES: u64 = 256 << 20;
    Ok(String::from_utf8_lossy(&read_bytes(path, MOST_BYTES)?).into_owned())
}

fn size_of(plan: &Plan) -> StepSize {
    StepSize {
        tokens: plan.job.tokens_per_step() as f64,
        samples: plan.job.global_batch as f64,
        devices: (plan.mesh.ranks() * plan.site_count()) as f64,
    }
}

fn table(figures: &Figures, logged: &Logged, steady: &Steady, size: StepSize) -> String {
    let mut text = format!("{:<26}{:>14}{:>14}{:>10}\n", "", "predicted", "measured", "error");
    let mut row = |name: &str, predicted: String, measured: Option<(String, f64)>| {
        let (measured, error) = match measured {
            Some((text, ratio)) => (text, format!("{:+.1} %", 100.0 * (ratio - 1.0))),
            None => ("–".to_owned(), String::new()),
        };
        text += &format!("{name:<26}{predicted:>14}{measured:>14}{error:>10}\n");
    };
    let ratio = figures.step_time_s / steady.seconds;
    let rate = size.tokens / steady.seconds;
    row("step time", Seconds(figures.step_time_s).to_string(), Some((Seconds(steady.seconds).to_string(), ratio)));
    row("tokens/s", format!("{:.0}", figures.tokens_per_s), Some((format!("{rate:.0}"), figures.tokens_per_s / rate)));
    let each = rate / size.devices;
    let predicted = figures.tokens_per_s_per_device;
    row("tokens/s a device", format!("{predicted:.0}"), Some((format!("{each:.0}"), predicted / each)));
    row(
        "MFU",
        format!("{:.1} %", 100.0 * figures.mfu),
        Some((format!("{:.1} %", 100.0 * figures.mfu * ratio), 1.0 / ratio)),
    );
    let peak = memory_of(figures);
    let measured = logged.peak_memory().map(|bytes| (Bytes(bytes as u64).to_string(), peak as f64 / bytes));
    row("peak memory of a device", Bytes(peak).to_string(), measured);
    text += &format!(
        "\nof {}'s log {} steps are counted: the middle one took {}, nine in ten {} to {}\n",
        logged.engine,
        steady.counted,
        Seconds(steady.seconds),
        Seconds(steady.range[0]),
        Seconds(steady.range[1])
    );
    if steady.warmup + steady.pauses > 0 {
        text += &format!(
            "left out: {} of warm-up, {} far from the others (checkpoints, evaluations)\n",
            steady.warmup, steady.pauses
        );
    }
    if let Some([first, last]) = logged.losses() {
        text += &format!("loss: {first:.4} at first, {last:.4} at last\n");
    }
    if let Some(tflops) = logged.tflops() {
        text += &format!("by the engine's own count: {tflops:.1} TFLOP/s a device\n");
    }
    text
}

/// What a device's peak is compared with: what libraries allocate too, where the stack says so.
fn memory_of(figures: &Figures) -> u64 {
    figures.device_memory.map_or(figures.peak_memory_bytes, |memory| memory.allocated_bytes)
}

fn json_of(plan: &Plan, figures: &Figures, logged: &Logged, steady: &Steady) -> serde_json::Value {
    let size = size_of(plan);
    json!({
        "version": env!("CARGO_PKG_VERSION"), "engine": logged.engine, "summary": plan.summary(),
        "predicted": { "step_time_s": figures.step_time_s, "tokens_per_s": figures.tokens_per_s, "peak_memory_bytes": memory_of(figures), "mfu": figures.mfu },
        "measured": {
            "step_time_s": steady.seconds, "tokens_per_s": size.tokens / steady.seconds, "peak_memory_bytes": logged.peak_memory().map(|bytes| bytes as u64),
            "range_s": steady.range, "steps": steady.counted, "warmup": steady.warmup, "pauses": steady.pauses,
            "loss": logged.losses(), "tflops": logged.tflops(),
        },
        "error": figures.step_time_s / steady.seconds - 1.0,
    })
}
