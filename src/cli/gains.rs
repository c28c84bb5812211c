//! `gains`: published plans beside those that the search finds, both simulated.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use meshwright_hardware::profile::{FitErrors, Stack, catalog};
use rayon::prelude::*;
use serde_json::json;
use statrs::statistics::{Data, OrderStatistics};

use super::validate::{count, nothing, read, write_stack};
use crate::failure::Failure;
use crate::out::write_csv;
use crate::validate::gain::{Gain, SimulatedRun, gain, published, simulated};
use crate::validate::summary::Stats;
use crate::validate::{Run, Skip, overheads};

/// Arguments of `gains`.
#[derive(Args)]
pub struct Gains {
    /// Table of published runs (CSV)
    runs: PathBuf,
    /// One line a run: both plans and steps, or why there is none (CSV)
    #[arg(short)]
    output: Option<PathBuf>,
    /// Only simulate the published plans, and compare their steps with the measured ones
    #[arg(long)]
    no_search: bool,
    /// Fit the overheads of stacks to the measured steps and write them into this folder of profiles
    #[arg(long, requires = "no_search", value_name = "FOLDER")]
    fit: Option<PathBuf>,
    /// Print a JSON summary
    #[arg(long)]
    json: bool,
}

/// Columns of the output.
const COLUMNS: [&str; 10] = [
    "id",
    "published_step_s",
    "fits",
    "found_step_s",
    "ratio",
    "gap",
    "search_s",
    "published_plan",
    "found_plan",
    "reason",
];

/// Columns where nothing is searched for.
const SIMULATED: [&str; 7] = ["id", "simulated_step_s", "measured_step_s", "ratio", "fits", "plan", "reason"];

impl Gains {
    /// Reads, simulates, searches, writes, prints.
    pub fn run(self) -> Result<(), Failure> {
        let (_, runs) = read(&self.runs)?;
        match &self.fit {
            Some(folder) => write_overheads(&runs, folder),
            None if self.no_search => self.simulate(&runs),
            None => self.search(&runs),
        }
    }

    fn simulate(&self, runs: &[Run]) -> Result<(), Failure> {
        let all = each(runs, published);
        let reasons = self.some(&all)?;
        if let Some(output) = &self.output {
            write_csv(output, &SIMULATED, runs.iter().zip(&all).map(|(run, of)| simulated_record(run, of)))?;
        }
        let simulated = all.iter().flatten().count();
        let mut ratios = Data::new(all.iter().flatten().filter_map(ratio).collect::<Vec<f64>>());
        let errors = all.iter().flatten().filter_map(ratio).map(|ratio| 100.0 * (ratio - 1.0)).collect::<Vec<f64>>();
        let errors = Stats::of(&errors);
        let (compared, [least, median, most]) = (ratios.len(), [10, 50, 90].map(|part| ratios.percentile(part)));
        if self.json {
            let runs = runs.len();
            println!(
                "{}",
                json!({ "runs": runs, "simulated": simulated, "compared": compared, "median_of_measured": median,
                "p10_of_measured": least, "p90_of_measured": most, "error_median": errors.median / 100.0,
                "error_p90": errors.p90 / 100.0, "skipped": reasons })
            );
            return Ok(());
        }
        println!("{} runs, {simulated} simulated, {compared} compared with the measured step", runs.len());
        if compared > 0 {
            println!("simulated over measured step: {median:.2} in the median, 80 % from {least:.2} to {most:.2}");
            println!("off by {:.1} % in the median, {:.1} % at the 90th percentile", errors.median, errors.p90);
        }
        print_reasons(&reasons);
        Ok(())
    }

    fn search(&self, runs: &[Run]) -> Result<(), Failure> {
        let found = each(runs, gain);
        let reasons = self.some(&found)?;
        if let Some(output) = &self.output {
            write_csv(output, &COLUMNS, runs.iter().zip(&found).map(|(run, found)| record(run, found)))?;
        }
        let compared: Vec<&Gain> = found.iter().flatten().filter(|gain| gain.published.fits).collect();
        let worse = compared.iter().filter(|gain| gain.ratio() < 1.0).count();
        let logs: f64 = compared.iter().map(|gain| gain.ratio().ln()).sum();
        let mean_gain = (!compared.is_empty()).then(|| (logs / compared.len() as f64).exp() - 1.0);
        let unfit = found.iter().flatten().filter(|gain| !gain.published.fits).count();
        if self.json {
            let (runs, compared) = (runs.len(), compared.len());
            println!(
                "{}",
                json!({ "runs": runs, "compared": compared, "worse": worse, "mean_gain": mean_gain,
                "do_not_fit": unfit, "skipped": reasons })
            );
            return Ok(());
        }
        let faster = mean_gain
            .map_or_else(String::new, |gain| format!(": on average the found plan is {:.1} % faster", 100.0 * gain));
        println!("{} runs, {} compared{faster}", runs.len(), compared.len());
        println!("slower than the published one: {worse}");
        println!("published plans that do not fit as simulated: {unfit}");
        print_reasons(&reasons);
        Ok(())
    }

    /// How many runs there is no answer for, by reason; a refusal where there is one for none.
    fn some<T>(&self, all: &[Result<T, Skip>]) -> Result<BTreeMap<&'static str, usize>, Failure> {
        let reasons = count(all.iter().filter_map(|of| of.as_ref().err().copied()));
        match all.iter().any(Result::is_ok) {
            true => Ok(reasons),
            false => Err(nothing(&self.runs.display().to_string(), "simulated", &reasons)),
        }
    }
}

/// What is found of every run; equal plans on equal clusters are looked at once.
fn each<T: Clone + Send>(runs: &[Run], find: impl Fn(&Run) -> Result<T, Skip> + Sync) -> Vec<Result<T, Skip>> {
    let cases: Vec<_> = runs.iter().map(simulated).collect();
    let mut distinct: Vec<usize> = Vec::new();
    let places = cases.iter().enumerate().map(|(number, case)| {
        case.as_ref().map_err(|skip| *skip)?;
        Ok(distinct.iter().position(|&first| cases[first] == *case).unwrap_or_else(|| {
            distinct.push(number);
            distinct.len() - 1
        }))
    });
    let places: Vec<Result<usize, Skip>> = places.collect();
    let found: Vec<_> = distinct.par_iter().map(|&number| find(&runs[number])).collect();
    places.into_iter().map(|place| found[place?].clone()).collect()
}

fn print_reasons(reasons: &BTreeMap<&str, usize>) {
    for (reason, count) in reasons {
        println!("  {count:>5} {reason}");
    }
}

/// The simulated step over the measured one.
fn ratio(of: &SimulatedRun) -> Option<f64> {
    of.measured_s.map(|measured| of.step_s / measured)
}

fn simulated_record(run: &Run, of: &Result<SimulatedRun, Skip>) -> Vec<String> {
    match of {
        Ok(of) => {
            let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
            let (step, measured, ratio) = (number(Some(of.step_s)), number(of.measured_s), number(ratio(of)));
            let fits = u8::from(of.fits).to_string();
            vec![run.id.clone(), step, measured, ratio, fits, of.summary.clone(), String::new()]
        }
        Err(skip) => skipped(run, *skip, SIMULATED.len()),
    }
}

fn record(run: &Run, found: &Result<Gain, Skip>) -> Vec<String> {
    match found {
        Ok(gain) => {
            let [published, best] = [&gain.published.summary, &gain.summary].map(Clone::clone);
            let number = |value: f64| format!("{value:.4}");
            let (before, after, ratio) = (number(gain.published.step_s), number(gain.found_s), number(gain.ratio()));
            let (fits, gap) = (u8::from(gain.published.fits).to_string(), number(1.0 - gain.bound_s / gain.found_s));
            let seconds = format!("{:.2}", gain.searched_s);
            vec![run.id.clone(), before, fits, after, ratio, gap, seconds, published, best, String::new()]
        }
        Err(skip) => skipped(run, *skip, COLUMNS.len()),
    }
}

/// A line of a run's name and why there is nothing else.
fn skipped(run: &Run, Skip(reason): Skip, columns: usize) -> Vec<String> {
    let mut record = vec![String::new(); columns];
    record[0] = run.id.clone();
    record[columns - 1] = reason.to_owned();
    record
}

/// Fits overheads and writes them into stacks' profiles.
fn write_overheads(runs: &[Run], folder: &Path) -> Result<(), Failure> {
    let fitted = overheads::fit(runs);
    let of = |which: usize| -> Vec<f64> { fitted.errors.values().map(|errors| 100.0 * errors[which]).collect() };
    for (which, title) in ["fitted", "rows held out", "sources held out"].into_iter().enumerate() {
        let Stats { count, median, p90 } = Stats::of(&of(which));
        println!("{title:18} {count:5} runs  {median:5.1} %  {p90:5.1} %");
    }
    for (name, measured) in &fitted.measured {
        let errors = runs.iter().filter(|run| run.stack.name == *name).filter_map(|run| fitted.errors.get(&run.id));
        let errors: Vec<[f64; 3]> = errors.copied().collect();
        let stats = [0, 1, 2].map(|which| Stats::of(&errors.iter().map(|all| 100.0 * all[which]).collect::<Vec<_>>()));
        let shown = stats.each_ref().map(|stats| format!("{:5.1} / {:5.1}", stats.median, stats.p90)).join("   ");
        println!("{name:28} {:4}  {shown}", errors.len());
        let stack = catalog().stack(name)?;
        let of = |stats: &Stats| [stats.median, stats.p90].map(|percent| (percent * 10.0).round() / 10.0);
        let errors = Some(FitErrors { fitted: of(&stats[0]), held_out: of(&stats[1]) });
        let profile =
            Stack { errors, overheads: fitted.stacks[name].clone(), measured: measured.clone(), ..Stack::clone(stack) };
        write_stack(folder, &profile)?;
    }
    let typical = Stack { overheads: fitted.typical, ..Stack::clone(catalog().stack(Stack::TYPICAL)?) };
    write_stack(folder, &typical)
}
