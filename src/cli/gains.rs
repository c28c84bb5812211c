//! `gains`: published plans beside those that the search finds, both simulated.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use statrs::statistics::{Data, OrderStatistics};

use super::validate::{each, read};
use crate::answer;
use crate::failure::Failure;
use crate::out::write_csv;
use crate::validate::Skip;
use crate::validate::gain::{Gain, gain};
use crate::validate::summary::measured_step_s;
use crate::validate::table::{Line, count, nothing};

/// Arguments of `gains`.
#[derive(Args)]
pub struct Gains {
    /// Tables of published runs (CSV)
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Only these runs, as `megascale-007,palm-001`
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    only: Vec<String>,
    /// Say of each found plan which decision brings most of its gain, by a search with each as published
    #[arg(long)]
    decisions: bool,
    /// One line a run: both plans and steps, or why there is none (CSV)
    #[arg(short)]
    output: Option<PathBuf>,
    /// Print a JSON summary
    #[arg(long)]
    json: bool,
}

/// Columns of the output.
const COLUMNS: [&str; 14] = [
    "id",
    "measured_step_s",
    "published_step_s",
    "fits",
    "found_step_s",
    "ratio",
    "ratio_low",
    "ratio_high",
    "gap",
    "search_s",
    "published_plan",
    "found_plan",
    "decision",
    "reason",
];

impl Gains {
    /// Reads, simulates, searches, writes, prints.
    pub fn run(self) -> Result<(), Failure> {
        let lines = self.lines()?;
        let found = each(&lines, |run| gain(run, self.decisions));
        let reasons = count(found.iter().filter_map(|of| of.as_ref().err()));
        if found.iter().all(Result::is_err) {
            return Err(nothing(&self.files(), "simulated", &reasons));
        }
        if let Some(output) = &self.output {
            write_csv(output, &COLUMNS, lines.iter().zip(&found).map(|(line, found)| record(line, found)))?;
        }
        let compared: Vec<&Gain> = found.iter().flatten().filter(|gain| gain.published.figures.fits).collect();
        let worse = compared.iter().filter(|gain| gain.ratio() < 1.0).count();
        let gains: Vec<f64> = compared.iter().map(|gain| gain.ratio() - 1.0).collect();
        let median_gain = (!gains.is_empty()).then(|| Data::new(gains).median());
        let unfit = found.iter().flatten().filter(|gain| !gain.published.figures.fits).count();
        if self.json {
            let (runs, compared) = (lines.len(), compared.len());
            answer::print(
                "gains",
                json!({ "runs": runs, "compared": compared, "worse": worse, "median_gain": median_gain,
                "do_not_fit": unfit, "skipped": reasons }),
            );
            return Ok(());
        }
        let faster = median_gain
            .map_or_else(String::new, |gain| format!(": in the median the found plan is {:.1} % faster", 100.0 * gain));
        println!("{} runs, {} compared{faster}", lines.len(), compared.len());
        println!("slower than the published one: {worse}");
        println!("published plans that do not fit as simulated: {unfit}");
        print_reasons(&reasons);
        Ok(())
    }

    /// The tables' lines, or those of them that are asked for.
    fn lines(&self) -> Result<Vec<Line>, Failure> {
        let tables = self.runs.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
        let mut lines: Vec<Line> = tables.into_iter().flatten().collect();
        if let Some(id) = self.only.iter().find(|id| lines.iter().all(|line| line.id != **id)) {
            return Err(Failure::input(format!("--only names `{id}`: no run of {} has this id", self.files())));
        }
        lines.retain(|line| self.only.is_empty() || self.only.contains(&line.id));
        Ok(lines)
    }

    fn files(&self) -> String {
        self.runs.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

fn print_reasons(reasons: &BTreeMap<&str, usize>) {
    for (reason, count) in reasons {
        println!("  {count:>5} {reason}");
    }
}

fn record(line: &Line, found: &Result<Gain, Skip>) -> Vec<String> {
    let mut record = vec![line.id.clone()];
    match found {
        Ok(gain) => {
            let (figures, plan) = (&gain.published.figures, &gain.published.plan);
            let number = |value: f64| format!("{value:.4}");
            let measured = line.run.as_ref().ok().and_then(|run| measured_step_s(run, plan));
            record.extend([measured.map(number).unwrap_or_default(), number(figures.step_time_s)]);
            record.extend([u8::from(figures.fits).to_string(), number(gain.found_s), number(gain.ratio())]);
            record.extend(gain.interval().map(number));
            record.extend([number(1.0 - gain.bound_s / gain.found_s), format!("{:.2}", gain.searched_s)]);
            let decision = gain.decisive.as_ref().map(ToString::to_string).unwrap_or_default();
            record.extend([plan.summary(), gain.found.summary(), decision, String::new()]);
        }
        Err(skip) => {
            record.resize(COLUMNS.len(), String::new());
            record[COLUMNS.len() - 1] = skip.to_string();
        }
    }
    record
}
