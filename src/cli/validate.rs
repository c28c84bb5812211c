//! `validate`: published runs predicted again.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Args;
use meshwright_hardware::files::read_text;
use meshwright_hardware::input::{Fault, InputError, near};
use meshwright_hardware::profile::catalog;
use rayon::prelude::*;

use super::progress::ProgressLine;
use crate::failure::Failure;
use crate::out::{write_csv, write_whole};
use crate::validate::ranking::Ranking;
use crate::validate::summary::{self, Summary};
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

/// A line of the input: its name, and its run or why there is none.
pub(super) struct Line {
    pub(super) id: String,
    pub(super) run: Result<Run, Skip>,
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
            let stack = catalog().stack(name)?;
            lines.iter_mut().filter_map(|line| line.run.as_mut().ok()).for_each(|run| run.set_stack(stack));
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
            println!("{all}");
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
        line.say(&format!("{} of {} plans", done.fetch_add(1, Ordering::Relaxed) + 1, distinct.len()));
        found
    };
    let found: Vec<_> = distinct.par_iter().map(one).collect();
    places.into_iter().map(|place| found[place?].clone()).collect()
}

/// Every line of the file: at least one has a run.
pub(super) fn read(path: &Path) -> Result<Vec<Line>, Failure> {
    let what = path.display().to_string();
    let text = read_text(path).map_err(Failure::io(path))?;
    let mut rows = rows(&what, &text)?;
    row::complete(&mut rows);
    let line = |columns: &HashMap<String, String>| Line {
        id: columns.get("id").cloned().unwrap_or_default(),
        run: row::read(columns),
    };
    let lines: Vec<Line> = rows.iter().map(line).collect();
    if lines.iter().all(|line| line.run.is_err()) {
        return Err(nothing(&what, "predicted", &count(lines.iter().filter_map(|line| line.run.as_ref().err()))));
    }
    Ok(lines)
}

/// Every row of a table of runs by column, whose numbers are such.
fn rows(what: &str, text: &str) -> Result<Vec<HashMap<String, String>>, Failure> {
    let fault = |error: csv::Error| Failure::input(format!("{what}: {error}; a table of runs is CSV with a header"));
    let body = text.trim_start_matches('\u{feff}'); // spreadsheets write it
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(body.as_bytes());
    let header: Vec<String> = reader.headers().map_err(fault)?.iter().map(str::to_owned).collect();
    for column in row::COLUMNS.iter().filter(|column| column.needed) {
        if !header.iter().any(|name| name == column.name) {
            let (name, columns) = (column.name, header.len());
            return Err(Failure::input(format!(
                "{what}: column `{name}` is missing; the header has {columns} columns, `validate --columns` lists all"
            )));
        }
    }
    unread(what, &header);
    let columns: Vec<_> = header.iter().map(|name| row::column(name)).collect();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(fault)?;
        for (at, value) in record.iter().map(str::trim).enumerate().filter(|(_, value)| !value.is_empty()) {
            if let Some(problem) = columns.get(at).and_then(|column| column.as_ref()?.problem(value)) {
                let start = record.position().map_or(0, |position| position.byte() as usize);
                let fault = Fault::new(&header[at], value, problem);
                return Err(InputError::of_csv_fault(what, body, (start, at), &fault).into());
            }
        }
        rows.push(header.iter().zip(&record).map(|(name, value)| (name.clone(), value.to_owned())).collect());
    }
    Ok(rows)
}

/// Says which columns of a table are not read, and what they may have been meant to be.
fn unread(what: &str, header: &[String]) {
    let strange = header.iter().filter(|name| row::column(name).is_none());
    let (mut misspelt, mut others) = (Vec::new(), Vec::new());
    for name in strange {
        let absent = row::COLUMNS
            .iter()
            .map(|column| column.name)
            .filter(|known| known.len() > 2 && !header.iter().any(|h| h == known));
        match near(name, absent).first() {
            Some(meant) => misspelt.push(format!("`{name}` (did you mean `{meant}`?)")),
            None => others.push(format!("`{name}`")),
        }
    }
    misspelt.extend(others);
    if !misspelt.is_empty() {
        eprintln!("note: {what}: columns that are not read: {}", misspelt.join(", "));
    }
}

/// How often each reason stands there.
pub(super) fn count<'a>(skips: impl Iterator<Item = &'a Skip>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for skip in skips {
        *counts.entry(skip.reason).or_default() += 1;
    }
    counts
}

/// Of a table of which nothing can be said.
pub(super) fn nothing(what: &str, done: &str, reasons: &BTreeMap<&str, usize>) -> Failure {
    let rows: usize = reasons.values().sum();
    let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    Failure::input(match rows {
        0 => format!("{what}: nothing can be {done}: below its header there is no row"),
        _ => format!("{what}: nothing can be {done}, of {rows} rows: {}", reasons.join("; ")),
    })
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
    "predicted_bubble",
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
        figures.bubble_fraction.to_string(),
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
    std::fs::create_dir_all(folder).map_err(Failure::io(folder))?;
    for Line { id, run } in lines {
        let Ok(run) = run else { continue };
        let name: String = id.chars().map(safe).collect();
        write_whole(&folder.join(format!("{name}.plan.toml")), &chosen(run).to_toml())?;
        write_whole(&folder.join(format!("{name}.cluster.toml")), &run.cluster.pools[0].to_toml())?;
    }
    Ok(())
}
