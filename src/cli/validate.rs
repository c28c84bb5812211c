//! `validate`: published runs predicted again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use clap::Args;
use meshwright_hardware::files::read_text;
use meshwright_hardware::input::{Fault, InputError};
use meshwright_hardware::profile::{Knobs, Stack, catalog};
use rayon::prelude::*;

use crate::failure::Failure;
use crate::out::{write_csv, write_whole};
use crate::validate::summary::{self, Summary};
use crate::validate::{Prediction, Run, Skip, Timing, fit, predict, row};

/// Arguments of `validate`.
#[derive(Args)]
pub struct Validate {
    /// Table of published runs (CSV)
    runs: PathBuf,
    /// One line a run: prediction, error, or why there is none (CSV)
    #[arg(short)]
    output: Option<PathBuf>,
    /// Print a JSON summary
    #[arg(long)]
    json: bool,
    /// Fit the knobs of stacks and devices to these runs and write them into this folder of profiles
    #[arg(long, value_name = "PROFILES")]
    fit: Option<PathBuf>,
    /// Predict what no fit has seen: every source, or every fifth of the rows, with knobs fitted without it
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "sources", value_name = "PARTS")]
    cross_validate: Option<HeldOut>,
}

/// What is held out at a time.
#[derive(Clone, Copy, clap::ValueEnum)]
enum HeldOut {
    /// One source
    Sources,
    /// A fifth of the rows, spread by their names
    Rows,
}

/// A line of the input and what became of it.
pub(super) struct Line {
    id: String,
    result: Result<usize, Skip>,
}

impl Validate {
    /// Reads, predicts, writes, prints.
    pub fn run(self) -> Result<(), Failure> {
        let (lines, runs) = read(&self.runs)?;
        if let Some(profiles) = &self.fit {
            let fitted = fit::fit(&runs.iter().collect::<Vec<_>>(), fit::FULL);
            write_profiles(profiles, &fitted, &runs, &self.runs)?;
            return self.show(&lines, &runs, runs.iter().map(|run| by(&fitted, run)).collect());
        }
        let predictions = match self.cross_validate {
            None => as_profiled(&runs),
            Some(HeldOut::Sources) => sources_held_out(&runs),
            Some(HeldOut::Rows) => rows_held_out(&runs),
        };
        self.show(&lines, &runs, predictions)
    }

    fn show(&self, lines: &[Line], runs: &[Run], predictions: Vec<Prediction>) -> Result<(), Failure> {
        if let Some(output) = &self.output {
            write_lines(output, lines, runs, &predictions)?;
        }
        let reasons = lines.iter().map(|line| line.result.err());
        let summary = Summary::of(reasons, runs, &predictions);
        if self.json {
            println!("{}", summary.json());
        } else {
            print!("{}", summary.table());
        }
        Ok(())
    }
}

fn as_profiled(runs: &[Run]) -> Vec<Prediction> {
    runs.iter().map(|run| predict(run, &run.stack.knobs, 1.0)).collect()
}

fn by(fitted: &fit::Fitted, run: &Run) -> Prediction {
    predict(run, &fitted.knobs(run), fitted.power(run))
}

/// Every source's runs with knobs that no run of it was fitted to.
fn sources_held_out(runs: &[Run]) -> Vec<Prediction> {
    let sources: Vec<&str> = runs.iter().map(|run| run.group.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    let rows: Vec<&Run> = runs.iter().collect();
    let full = fit::fit(&rows, fit::QUICK);
    let held_out = |source: &&str| ((*source).to_owned(), fit::without_source(&rows, source, &full));
    let all: BTreeMap<String, fit::Fitted> = sources.par_iter().map(held_out).collect();
    runs.iter().map(|run| by(&all[&run.group], run)).collect()
}

/// Every fifth of the runs with knobs fitted to the others.
fn rows_held_out(runs: &[Run]) -> Vec<Prediction> {
    const PARTS: u64 = 5;
    let without = |part: u64| {
        let others: Vec<&Run> = runs.iter().filter(|run| fit::part_of(run, PARTS) != part).collect();
        fit::fit(&others, fit::QUICK)
    };
    let all: Vec<fit::Fitted> = (0..PARTS).map(without).collect();
    runs.iter().map(|run| by(&all[fit::part_of(run, PARTS) as usize], run)).collect()
}

/// Every line of the file, and the runs that can be predicted: one at least.
pub(super) fn read(path: &Path) -> Result<(Vec<Line>, Vec<Run>), Failure> {
    let what = path.display().to_string();
    let text = read_text(path).map_err(Failure::io(path))?;
    let mut rows = rows(&what, &text)?;
    row::complete(&mut rows);
    let (mut lines, mut runs) = (Vec::new(), Vec::new());
    for columns in rows {
        let id = columns.get("id").cloned().unwrap_or_default();
        let result = row::read(&columns).map(|run| {
            runs.push(run);
            runs.len() - 1
        });
        lines.push(Line { id, result });
    }
    if runs.is_empty() {
        return Err(nothing(&what, "predicted", &count(lines.iter().filter_map(|line| line.result.err()))));
    }
    Ok((lines, runs))
}

/// Every row of a table of runs by column, whose numbers are such.
fn rows(what: &str, text: &str) -> Result<Vec<HashMap<String, String>>, Failure> {
    let fault = |error: csv::Error| Failure::input(format!("{what}: {error}; a table of runs is CSV with a header"));
    let body = text.trim_start_matches('\u{feff}'); // spreadsheets write it
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(body.as_bytes());
    let header: Vec<String> = reader.headers().map_err(fault)?.iter().map(str::to_owned).collect();
    for column in ["id", "accelerator", "n_devices", "layers", "hidden", "seq_len"] {
        if !header.iter().any(|name| name == column) {
            let columns = header.len();
            return Err(Failure::input(format!(
                "{what}: column `{column}` is missing; the header has {columns} columns"
            )));
        }
    }
    let (numeric, mut rows) = (row::numeric(&header), Vec::new());
    for record in reader.records() {
        let record = record.map_err(fault)?;
        for &at in &numeric {
            let value = record.get(at).unwrap_or("").trim();
            if !value.is_empty() && !value.parse().is_ok_and(f64::is_finite) {
                let start = record.position().map_or(0, |position| position.byte() as usize);
                let fault = Fault::new(&header[at], value, "it must be a number, or be left empty");
                return Err(InputError::of_csv_fault(what, body, (start, at), &fault).into());
            }
        }
        rows.push(header.iter().zip(&record).map(|(name, value)| (name.clone(), value.to_owned())).collect());
    }
    Ok(rows)
}

/// How often each reason stands there.
pub(super) fn count(reasons: impl Iterator<Item = Skip>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for Skip(reason) in reasons {
        *counts.entry(reason).or_default() += 1;
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
const COLUMNS: [&str; 24] = [
    "id",
    "status",
    "reason",
    "device",
    "stack",
    "predicted_step_time_s",
    "predicted_tokens_per_s_per_device",
    "predicted_tflops_per_device",
    "predicted_mfu",
    "predicted_peak_mem_gb",
    "predicted_oom",
    "measured_tokens_per_s_per_device",
    "measured_peak_mem_gb",
    "throughput_error_pct",
    "memory_error_pct",
    "compute_s",
    "recompute_s",
    "layer_traffic_s",
    "dp_s",
    "pipeline_s",
    "optimizer_s",
    "micro_batch",
    "recompute",
    "assumed",
];

fn write_lines(path: &Path, lines: &[Line], runs: &[Run], predictions: &[Prediction]) -> Result<(), Failure> {
    let record = |line: &Line| match line.result {
        Err(Skip(reason)) => {
            let mut record = vec![line.id.clone(), "skipped".to_owned(), reason.to_owned()];
            record.resize(COLUMNS.len(), String::new());
            record
        }
        Ok(index) => csv_record(&runs[index], &predictions[index]).to_vec(),
    };
    write_csv(path, &COLUMNS, lines.iter().map(record))
}

fn csv_record(run: &Run, p: &Prediction) -> [String; COLUMNS.len()] {
    let some = |value: Option<f64>| value.map(|value| format!("{value:.6}")).unwrap_or_default();
    let number = |value: f64| format!("{value:.6}");
    let Timing { layout, estimate, tokens_per_s, flops_per_token } = &p.timing;
    let flops = tokens_per_s * flops_per_token;
    [
        run.id.clone(),
        "predicted".to_owned(),
        String::new(),
        run.device.name.clone(),
        run.stack.name.clone(),
        number(estimate.step_time),
        number(*tokens_per_s),
        number(flops / 1e12),
        number(flops / summary::peak(run)),
        number(p.memory.gb),
        u8::from(!p.memory.fits).to_string(),
        some(summary::measured_tokens_per_s(run, &p.timing)),
        some(run.measured.memory_gb),
        some(summary::throughput_error(run, &p.timing)),
        some(summary::memory_error(run, &p.memory)),
        number(estimate.compute),
        number(estimate.recompute),
        number(estimate.layer_traffic),
        number(estimate.dp),
        number(estimate.pipeline),
        number(estimate.optimizer),
        layout.micro.to_string(),
        format!("{:?}", layout.recompute).to_lowercase(),
        run.assumed.join(" "),
    ]
}

/// Writes fitted knobs into the profiles they are from.
fn write_profiles(folder: &Path, fitted: &fit::Fitted, runs: &[Run], from: &Path) -> Result<(), Failure> {
    let name = from.file_name().map_or_else(|| from.display().to_string(), |name| name.to_string_lossy().into_owned());
    let round = |value: f64| (value * 1e4).round() / 1e4;
    for (stack, knobs) in &fitted.stacks {
        let rows: Vec<&Run> = runs.iter().filter(|run| run.stack.name == *stack).collect();
        let sources: BTreeSet<&str> = rows.iter().map(|run| run.group.as_str()).collect();
        let mut knobs = knobs.clone();
        (0..Knobs::ALL.len()).for_each(|index| *knobs.at(index) = round(*knobs.at(index)));
        let sources = sources.into_iter().collect::<Vec<_>>().join(", ");
        let source = match rows.len() {
            few if few < fit::FEW => {
                format!("as its family, {}: {few} runs of {sources} are too few", rows[0].stack.family)
            }
            count => format!("meshwright validate {name} --fit: {count} runs of {sources}"),
        };
        let profile = Stack { source, knobs, ..rows[0].stack.clone() };
        write_stack(folder, &profile)?;
    }
    for (device, power) in &fitted.power {
        let count = runs.iter().filter(|run| run.device.name == *device).count();
        let Some(gemm) = &catalog().device(device)?.gemm else { continue };
        let sustained = round(gemm.sustained.value * power);
        let line = format!(
            "sustained = {{ value = {sustained:?}, source = \"meshwright validate {name} --fit: {count} runs\" }}"
        );
        let path = folder.join("devices").join(format!("{device}.toml"));
        let text = std::fs::read_to_string(&path).map_err(Failure::io(&path))?;
        let lines = text.lines().map(|old| if old.starts_with("sustained = ") { line.as_str() } else { old });
        write_whole(&path, &lines.map(|line| format!("{line}\n")).collect::<String>())?;
    }
    Ok(())
}

/// Writes a stack into its file of a folder of profiles.
pub(super) fn write_stack(folder: &Path, stack: &Stack) -> Result<(), Failure> {
    let text = toml::to_string(stack).expect("a stack is tables of strings and numbers");
    write_whole(&folder.join("stacks").join(format!("{}.toml", stack.name)), &text)
}
