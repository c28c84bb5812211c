//! `report`: a run's folder to its table, CSV and page; another engine's log beside its plan.

use std::path::{Path, PathBuf};

use clap::Args;
use meshwright_executor::metrics::{self, StepMetrics};
use meshwright_hardware::exit::Exit;
use meshwright_hardware::replay::durations;
use meshwright_hardware::simulate::simulate;
use meshwright_hardware::trace::{Origin, Trace};
use meshwright_hardware::units::{Bytes, FlopRate};
use meshwright_planner::predict::{Figures, idle, predict};

use super::measured::MeasuredArguments;
use crate::answer;
use crate::failure::Failure;
use crate::out::write_whole;
use crate::report::{self, Inputs, StepCurve};
use crate::runs::RunDir;

/// Arguments of `report`.
#[derive(Args)]
pub struct ReportCommand {
    /// A run's folder; with --measured a plan or launch file
    dir: PathBuf,
    #[command(flatten)]
    measured: MeasuredArguments,
    /// Exit with code 5 if step time is predicted further off than this many per cent
    #[arg(long)]
    within: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ReportCommand {
    /// Compares and prints; writes `figures.csv`, `report.csv` and `report.html` beside the run.
    pub fn run(self) -> Result<(), Failure> {
        if let Some(within) = self.within.filter(|within| !(within.is_finite() && *within >= 0.0)) {
            return Err(Failure::input(format!("--within is {within}: it must be a number of per cent from 0 on")));
        }
        if self.measured.report(&self.dir.to_string_lossy(), self.within, self.json)? {
            return Ok(());
        }
        let report = of_run(&self.dir)?;
        if self.json {
            answer::print("report", report.json());
        } else {
            print!("{}", report.table());
            println!("\nreport: {}", self.dir.join("report.html").display());
        }
        match self.within {
            Some(most) if report.step_error_pct().abs() > most => {
                let off = report.step_error_pct();
                Err(Failure::new(
                    Exit::Inaccurate,
                    format!("step time is predicted {off:+.1} % off, more than {most} %"),
                ))
            }
            _ => Ok(()),
        }
    }
}

/// The report of a run's folder, written into it.
pub fn of_run(path: &Path) -> Result<report::Report, Failure> {
    let dir = RunDir::open(path)?;
    let (plan, cluster) = (dir.plan()?, dir.cluster()?);
    let predicted = predict(&plan, &cluster)?;
    let program = &predicted.lowered.program;
    let measured = dir.measured(program)?;
    let device = &cluster.pools[0].device;
    let durations = durations(program, &measured.trace);
    let replayed = simulate(program, &durations, device.overlap, Origin::Replayed)?;
    let of_step = |trace: &Trace, peak_memory_bytes: u64| {
        let step = trace.step_time().seconds();
        let idle = idle(&predicted.lowered.program, &durations, step);
        predicted.figures.of_step(step, idle, Bytes(peak_memory_bytes))
    };
    let figures = [
        predicted.figures.clone(),
        of_step(&replayed, predicted.figures.peak_memory_bytes),
        of_step(&measured.trace, measured.peak_memory_bytes),
    ];
    let steps = metrics::read(&dir.file("metrics.jsonl"))?;
    let losses: Vec<(u64, f64)> = steps.iter().map(|line| (line.step as u64, line.loss)).collect();
    let curves = curves(&steps, &figures);
    let ranks = plan.mesh.ranks();
    // `predict` asked for it too.
    let peak = device.peak_in(plan.job.precision).map_or(f64::NAN, |peak| peak.0);
    let kind = if device.calibrated.is_some() { "the fastest product measured on it" } else { "its profile's peak" };
    let emulated = if measured.emulated { " (emulated: ranks share what they run on)" } else { "" };
    let report = report::Report::of(&Inputs {
        program,
        predicted: &predicted.trace,
        replayed: &replayed,
        measured: &measured.trace,
        figures,
        losses: &losses,
        step_times_s: steps.iter().map(|line| line.step_time_s).collect(),
        unigram_entropy: Some(measured.unigram_entropy),
        curves,
        plan: plan.to_toml(),
        title: &format!("{} on {ranks} rank(s){emulated}", plan.job.model.name),
        subtitle: [
            ("plan".to_owned(), plan.summary()),
            ("device".to_owned(), measured.device.clone()),
            ("peak".to_owned(), format!("{} a rank, {kind}: what MFU is of", FlopRate(peak))),
            (
                "job".to_owned(),
                format!(
                    "{} sequences of {} tokens a step, {}",
                    plan.job.global_batch, plan.job.seq, plan.job.precision
                ),
            ),
        ]
        .into_iter()
        .chain(measured.busy.map(|busy| ("machine".to_owned(), busy.to_string())))
        .chain(troubles(plan.job.steps, &steps))
        .collect(),
    });
    let table = |file: &str, written: csv::Result<()>, rows: Vec<u8>| {
        written.map_err(|error| Failure::new(Exit::Failed, format!("{file}: {error}")))?;
        write_whole(&dir.file(file), &String::from_utf8_lossy(&rows))
    };
    let (mut instructions, mut figures) = (Vec::new(), Vec::new());
    table("report.csv", report.csv(&mut instructions), instructions)?;
    table("figures.csv", report.figures_csv(&mut figures), figures)?;
    write_whole(&dir.file("report.html"), &report.html())?;
    Ok(report)
}

/// What the page shows by step beside the loss, each with what was predicted of it.
fn curves(steps: &[StepMetrics], [predicted, _, measured]: &[Figures; 3]) -> Vec<StepCurve> {
    let of = |title, level: Option<f64>, value: &dyn Fn(&StepMetrics) -> f64| StepCurve {
        title,
        points: steps.iter().map(|line| (line.step as u64, value(line))).collect(),
        level: level.map(|level| ("predicted", level)),
    };
    // A step's share of the peak is to its rate as those of the median step are.
    let share = measured.mfu / measured.tokens_per_s;
    vec![
        of("learning rate", None, &|line| line.lr),
        of("gradient norm, before clipping", None, &|line| line.grad_norm),
        of("tokens a second", Some(predicted.tokens_per_s), &|line| line.tokens_per_s),
        of("MFU, %", Some(100.0 * predicted.mfu), &|line| 100.0 * share * line.tokens_per_s),
        of("peak memory a rank, bytes", Some(predicted.peak_memory_bytes as f64), &|line| {
            line.peak_memory_bytes as f64
        }),
    ]
}

/// What a run's figures do not tell by themselves: steps that updated nothing, and steps whose lines are lost.
fn troubles(all: usize, steps: &[StepMetrics]) -> Vec<(String, String)> {
    let skipped = steps.last().map_or(0, |line| line.skipped);
    let skipped = (skipped > 0).then(|| format!("{skipped} of {all} updated nothing: their gradient was not finite"));
    let diverged = steps.last().is_some_and(|line| !line.loss.is_finite());
    let diverged = diverged.then(|| "the last one's loss is not finite: training diverged".to_owned());
    let lost = all.saturating_sub(steps.len());
    let lost = (lost > 0).then(|| format!("{lost} of {all} have no line in metrics.jsonl"));
    [skipped, diverged, lost].into_iter().flatten().map(|text| ("steps".to_owned(), text)).collect()
}
