//! `gains`: published plans beside those that the search finds, both simulated.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::validate::read;
use crate::failure::Failure;
use crate::runs::write_csv;
use crate::validate::fit::both_cores;
use crate::validate::gain::{Gain, gain, simulated};
use crate::validate::{Run, Skip};

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
        let (_, runs) = read(&self.runs)?;
        let found = all(&runs);
        if let Some(output) = &self.output {
            write_csv(output, &COLUMNS, runs.iter().zip(&found).map(|(run, found)| record(run, found)))?;
        }
        let compared: Vec<&Gain> = found.iter().flatten().filter(|gain| gain.fits).collect();
        let worse = compared.iter().filter(|gain| gain.ratio() < 1.0).count();
        let logs: f64 = compared.iter().map(|gain| gain.ratio().ln()).sum();
        let mean = (logs / compared.len().max(1) as f64).exp();
        let unfit = found.iter().flatten().filter(|gain| !gain.fits).count();
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for Skip(reason) in found.iter().filter_map(|found| found.as_ref().err()) {
            *reasons.entry(reason).or_default() += 1;
        }
        if self.json {
            let (runs, compared) = (runs.len(), compared.len());
            println!(
                "{}",
                json!({ "runs": runs, "compared": compared, "worse": worse, "mean_gain": mean - 1.0,
                "do_not_fit": unfit, "skipped": reasons })
            );
            return Ok(());
        }
        println!(
            "{} runs, {} compared: on average the found plan is {:.1} % faster",
            runs.len(),
            compared.len(),
            100.0 * (mean - 1.0)
        );
        println!("slower than the published one: {worse}");
        println!("published plans that do not fit as simulated: {unfit}");
        for (reason, count) in reasons {
            println!("  {count:>5} {reason}");
        }
        Ok(())
    }
}

/// Every run's gain; equal plans on equal machines are looked at once.
fn all(runs: &[Run]) -> Vec<Result<Gain, Skip>> {
    let key = |run: &Run| simulated(run).map(|(plan, cluster)| format!("{:?} {:?}", plan, cluster.pools));
    let keys: Vec<Result<String, Skip>> = runs.iter().map(key).collect();
    let mut firsts: HashMap<&str, usize> = HashMap::new();
    let mut distinct: Vec<&Run> = Vec::new();
    for (run, key) in runs.iter().zip(&keys) {
        if let Ok(key) = key {
            firsts.entry(key).or_insert_with(|| {
                distinct.push(run);
                distinct.len() - 1
            });
        }
    }
    // Both cores take every other one; what comes back is the even ones, then the odd ones.
    let found = both_cores(&distinct, |run| gain(run));
    let half = distinct.len().div_ceil(2);
    let at = |place: usize| if place.is_multiple_of(2) { place / 2 } else { half + place / 2 };
    keys.iter()
        .map(|key| key.as_ref().map_err(|skip| *skip).and_then(|key| found[at(firsts[key.as_str()])].clone()))
        .collect()
}

fn record(run: &Run, found: &Result<Gain, Skip>) -> Vec<String> {
    match found {
        Ok(gain) => {
            let [published, best] = gain.summaries.clone();
            let number = |value: f64| format!("{value:.4}");
            let (before, after, ratio) = (number(gain.published_s), number(gain.found_s), number(gain.ratio()));
            let (fits, gap) = (u8::from(gain.fits).to_string(), number(1.0 - gain.bound_s / gain.found_s));
            let seconds = format!("{:.2}", gain.searched_s);
            vec![run.id.clone(), before, fits, after, ratio, gap, seconds, published, best, String::new()]
        }
        Err(Skip(reason)) => {
            let mut record = vec![String::new(); COLUMNS.len()];
            record[0] = run.id.clone();
            record[COLUMNS.len() - 1] = (*reason).to_owned();
            record
        }
    }
}
