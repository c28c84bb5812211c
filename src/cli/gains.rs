//! `gains`: published plans beside those that the search finds, both simulated.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::validate::{each, read};
use crate::failure::Failure;
use crate::out::write_csv;
use crate::validate::Skip;
use crate::validate::gain::{Gain, gain};
use crate::validate::table::{count, nothing};

/// Arguments of `gains`.
#[derive(Args)]
pub struct Gains {
    /// Table of published runs (CSV)
    runs: PathBuf,
    /// One line a run: both plans and steps, or why there is none (CSV)
    #[arg(short)]
    output: Option<PathBuf>,
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

impl Gains {
    /// Reads, simulates, searches, writes, prints.
    pub fn run(self) -> Result<(), Failure> {
        let lines = read(&self.runs)?;
        let found = each(&lines, gain);
        let reasons = count(found.iter().filter_map(|of| of.as_ref().err()));
        if found.iter().all(Result::is_err) {
            return Err(nothing(&self.runs.display().to_string(), "simulated", &reasons));
        }
        if let Some(output) = &self.output {
            write_csv(output, &COLUMNS, lines.iter().zip(&found).map(|(line, found)| record(&line.id, found)))?;
        }
        let compared: Vec<&Gain> = found.iter().flatten().filter(|gain| gain.published.figures.fits).collect();
        let worse = compared.iter().filter(|gain| gain.ratio() < 1.0).count();
        let logs: f64 = compared.iter().map(|gain| gain.ratio().ln()).sum();
        let mean_gain = (!compared.is_empty()).then(|| (logs / compared.len() as f64).exp() - 1.0);
        let unfit = found.iter().flatten().filter(|gain| !gain.published.figures.fits).count();
        if self.json {
            let (runs, compared) = (lines.len(), compared.len());
            println!(
                "{}",
                json!({ "runs": runs, "compared": compared, "worse": worse, "mean_gain": mean_gain,
                "do_not_fit": unfit, "skipped": reasons })
            );
            return Ok(());
        }
        let faster = mean_gain
            .map_or_else(String::new, |gain| format!(": on average the found plan is {:.1} % faster", 100.0 * gain));
        println!("{} runs, {} compared{faster}", lines.len(), compared.len());
        println!("slower than the published one: {worse}");
        println!("published plans that do not fit as simulated: {unfit}");
        print_reasons(&reasons);
        Ok(())
    }
}

fn print_reasons(reasons: &BTreeMap<&str, usize>) {
    for (reason, count) in reasons {
        println!("  {count:>5} {reason}");
    }
}

fn record(id: &str, found: &Result<Gain, Skip>) -> Vec<String> {
    match found {
        Ok(gain) => {
            let (figures, plan) = (&gain.published.figures, gain.published.plan.summary());
            let number = |value: f64| format!("{value:.4}");
            let (before, after, ratio) = (number(figures.step_time_s), number(gain.found_s), number(gain.ratio()));
            let (fits, gap) = (u8::from(figures.fits).to_string(), number(1.0 - gain.bound_s / gain.found_s));
            let seconds = format!("{:.2}", gain.searched_s);
            vec![id.to_owned(), before, fits, after, ratio, gap, seconds, plan, gain.summary.clone(), String::new()]
        }
        Err(skip) => {
            let mut record = vec![String::new(); COLUMNS.len()];
            record[0] = id.to_owned();
            record[COLUMNS.len() - 1] = skip.to_string();
            record
        }
    }
}
