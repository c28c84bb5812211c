//! `validate`: published runs predicted again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Args;
use meshwright_hardware::files::{FileError, read_text};
use meshwright_hardware::profile::Stack;
use rayon::prelude::*;

use super::progress::ProgressLine;
use crate::answer;
use crate::failure::Failure;
use crate::out::{write_csv, write_whole};
use crate::validate::ranking::Ranking;
use crate::validate::summary::{self, Summary};
use crate::validate::table::{Line, count, nothing, read_table};
use crate::validate::{Prediction, Run, Skip, chosen, predict, row};

mod fitting;

/// Arguments of `validate`.
#[derive(Args)]
pub struct Validate {
    /// Table of published runs (CSV)
    #[arg(required_unless_present = "columns")]
    runs: Option<PathBuf>,
    /// One line a run: prediction, error, or why there is none (CSV)
    #[arg(short)]
    output: Option<PathBuf>,
    /// Write every run's plan and cluster into this folder, as `simulate` takes them
    #[arg(long, value_name = "FOLDER")]
    plans: Option<PathBuf>,
    /// Price all runs with this stack (`meshwright stacks`), whatever ran them
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    /// Print a JSON summary
    #[arg(long)]
    json: bool,
    /// Fit the overheads of stacks to the measured steps and write them into this folder of profiles
    #[arg(long, value_name = "PROFILES")]
    fit: Option<PathBuf>,
    /// Fit what stacks' allocators add, alone, and write it into this folder of profiles
    #[arg(long, value_name = "PROFILES")]
    fit_memory: Option<PathBuf>,
    /// Predict what no fit has seen: every fifth of the rows, and every publisher, by fits without it
    #[arg(long)]
    cross_validate: bool,
    /// List the columns that a table may have
    #[arg(long)]
    columns: bool,
}

impl Validate {
    /// Reads, predicts, writes, prints.
    pub fn run(self) -> Result<(), Failure> {
        let Some(runs) = self.runs.as_deref().filter(|_| !self.columns) else {
            row::COLUMNS.iter().for_each(|column| println!("{column}"));
            return Ok(());
        };
        for folder in self.fit.iter().chain(&self.fit_memory) {
            fitting::holds_stacks(folder)?;
        }
        let mut lines = read(runs)?;
        if let Some(name) = &self.stack {
            let stack = Stack::named(name)?;
            lines.iter_mut().filter_map(|line| line.run.as_mut().ok()).for_each(|run| run.set_stack(&stack));
        }
        if let Some(folder) = &self.plans {
            write_plans(folder, &lines)?;
        }
        let runs_of = || lines.iter().filter_map(|line| line.run.as_ref().ok()).collect::<Vec<&Run>>();
        if let Some(folder) = &self.fit_memory {
            return fitting::allocators(&runs_of(), folder);
        }
        if self.fit.is_some() || self.cross_validate {
            return fitting::overheads(&runs_of(), self.fit.as_deref(), self.output.as_deref());
        }
        let found = each(&lines, predict);
        let outcomes: Vec<_> = lines.iter().zip(&found).map(|(line, found)| outcome(line, found)).collect();
        let reasons = count(outcomes.iter().filter_map(|of| of.as_ref().err().copied()));
        if outcomes.iter().all(Result::is_err) {
            return Err(nothing(&runs.display().to_string(), "predicted", &reasons));
        }
        if let Some(output) = &self.output {
            let records = lines.iter().zip(&outcomes).map(|(line, of)| csv_record(&line.id, of));
            write_csv(output, &COLUMNS, records)?;
        }
        let summary = Summary::of(&outcomes);
        let ranking = Ranking::of(outcomes.iter().flatten().copied());
        if self.json {
            let mut all = summary.json();
            all["ranking"] = ranking.json();
            answer::print("validate", all);
        } else {
            print!("{}", summary.table());
            ranking.line().iter().for_each(|line| println!("\n{line}"));
        }
        Ok(())
    }
}

fn outcome<'a, T>(line: &'a Line, found: &'a Result<T, Skip>) -> Result<(&'a Run, &'a T), &'a Skip> {
    Ok((line.run.as_ref()?, found.as_ref()?))
}

/// Every line of a file: at least one has a run.
pub(super) fn read(path: &Path) -> Result<Vec<Line>, Failure> {
    let file = path.display().to_string();
    let (lines, note) = read_table(&file, &read_text(path)?)?;
    note.iter().for_each(|note| answer::note(&format!("{file}: {note}")));
    Ok(lines)
}

/// What is found of every line's run; equal plans on equal clusters are looked at once.
pub(super) fn each<T: Clone + Send>(
    lines: &[Line],
    find: impl Fn(&Run) -> Result<T, Skip> + Sync,
) -> Vec<Result<T, Skip>> {
    let mut distinct: Vec<&Run> = Vec::new();
    let same = |a: &Run, b: &Run| a.plans == b.plans && a.cluster == b.cluster && a.last_rank == b.last_rank;
    let places = lines.iter().map(|line| {
        let run = line.run.as_ref().map_err(Skip::clone)?;
        Ok(distinct.iter().position(|other| same(other, run)).unwrap_or_else(|| {
            distinct.push(run);
            distinct.len() - 1
        }))
    });
    let places: Vec<Result<usize, Skip>> = places.collect();
    let (line, done) = (ProgressLine::new(), AtomicUsize::new(0));
    let one = |run: &&Run| {
        let found = find(run);
        line.count(done.fetch_add(1, Ordering::Relaxed) + 1, distinct.len(), "plans");
        found
    };
    let found: Vec<_> = distinct.par_iter().map(one).collect();
    places.into_iter().map(|place| found[place?].clone()).collect()
}

/// Columns of the output, in the order of [`csv_record`].
const COLUMNS: [&str; 19] = [
    "id",
    "status",
    "reason",
    "device",
    "stack",
    "predicted_step_time_s",
    "predicted_tokens_per_s_per_device",
    "predicted_tflops_per_device",
    "predicted_mfu",
    "predicted_idle",
    "predicted_peak_mem_gb",
    "predicted_oom",
    "measured_step_time_s",
    "measured_mfu",
    "measured_peak_mem_gb",
    "step_error_pct",
    "memory_error_pct",
    "plan",
    "assumed",
];

fn csv_record(id: &str, outcome: &Result<(&Run, &Prediction), &Skip>) -> Vec<String> {
    let (run, p) = match outcome {
        Ok(both) => *both,
        Err(skip) => {
            let mut record = vec![id.to_owned(), "skipped".to_owned(), skip.to_string()];
            record.resize(COLUMNS.len(), String::new());
            return record;
        }
    };
    let some = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let figures = &p.figures;
    let flops = figures.tokens_per_s_per_device * p.flops_per_token(run);
    vec![
        id.to_owned(),
        "predicted".to_owned(),
        String::new(),
        run.device().name.clone(),
        run.stack().name.clone(),
        figures.step_time_s.to_string(),
        figures.tokens_per_s_per_device.to_string(),
        (flops / 1e12).to_string(),
        figures.mfu.to_string(),
        figures.idle_fraction.to_string(),
        p.memory_gb.to_string(),
        u8::from(!figures.fits).to_string(),
        some(summary::measured_step_s(run, &p.plan)),
        some(summary::measured_step_s(run, &p.plan).map(|step| figures.mfu * figures.step_time_s / step)),
        some(run.measured.memory_gb),
        some(summary::step_error(run, p)),
        some(summary::memory_error(run, p)),
        p.plan.summary(),
        run.assumed.join(" "),
    ]
}

/// Writes what each run is predicted from: `ID.plan.toml` and `ID.cluster.toml`.
fn write_plans(folder: &Path, lines: &[Line]) -> Result<(), Failure> {
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let mut named: HashMap<String, &str> = HashMap::new();
    for Line { id, .. } in lines.iter().filter(|line| line.run.is_ok()) {
        if let Some(other) = named.insert(id.chars().map(safe).collect(), id) {
            return Err(Failure::input(format!(
                "--plans names files by `id`: the rows `{other}` and `{id}` would have the same; give them ids that differ"
            )));
        }
    }
    std::fs::create_dir_all(folder).map_err(FileError::write(folder))?;
    for Line { id, run } in lines {
        let Ok(run) = run else { continue };
        let name: String = id.chars().map(safe).collect();
        write_whole(&folder.join(format!("{name}.plan.toml")), &chosen(run).to_toml())?;
        write_whole(&folder.join(format!("{name}.cluster.toml")), &run.cluster.pools[0].to_toml())?;
    }
    Ok(())
}
