//! `compare`: scenarios planned in full, side by side in a table and in CSV.
//!
//! In: a file of scenarios, or a job and clusters. Out: a row a scenario.
//!
//! Invariant: equal scenarios give equal rows, byte for byte; a scenario that fits nowhere is a row with its reason.

mod columns;
mod planned;
mod table;
mod together;

use std::path::PathBuf;

use clap::Args;
use meshwright_hardware::exit::Exit;
use meshwright_hardware::files::read_text;
use serde_json::json;

use self::columns::{COLUMNS, record, row_json};
use self::planned::{Planned, Ready, ready};
use self::together::plan_together;
use crate::failure::Failure;
use crate::out::write_csv;
use crate::prices::rents;
use crate::scenario::{Scenario, read_scenarios};

/// Arguments of `compare`.
#[derive(Args)]
pub struct CompareCommand {
    /// A file of scenarios; with --cluster a model's name, a model file or a job file
    #[arg(required_unless_present = "columns")]
    input: Option<String>,
    /// `512x dgx-h100`; once for each scenario, the first is the baseline
    #[arg(long)]
    cluster: Vec<String>,
    #[command(flatten)]
    shared: Scenario,
    /// Where to write one row a scenario (CSV)
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// List the columns of CSV and JSON
    #[arg(long, exclusive = true)]
    columns: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl CompareCommand {
    /// Plans, writes, prints.
    pub fn run(self) -> Result<(), Failure> {
        // Only `--columns` leaves it out.
        let Some(input) = &self.input else {
            COLUMNS.iter().for_each(|column| println!("{:<24} {}", column.name, column.about));
            return Ok(());
        };
        let rents = rents()?;
        let scenarios = self.scenarios(input)?;
        let ready = scenarios.into_iter().map(|scenario| ready(scenario, &rents)).collect::<Result<Vec<Ready>, _>>()?;
        let planned: Vec<Planned> = plan_together(ready);
        if let Some(path) = &self.output {
            let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
            write_csv(path, &names, planned.iter().map(record))?;
        }
        if self.json {
            println!("{}", json!(planned.iter().map(row_json).collect::<Vec<_>>()));
        } else {
            print!("{}", table::table(&planned));
        }
        if planned.iter().all(|planned| planned.offer.is_err()) {
            let help = "`meshwright plan` says for each what would do";
            return Err(Failure::new(Exit::Infeasible, format!("no scenario has a plan; {help}")));
        }
        Ok(())
    }

    fn scenarios(&self, input: &str) -> Result<Vec<Scenario>, Failure> {
        if self.cluster.is_empty() {
            if !input.ends_with(".toml") {
                return Err(Failure::input(format!(
                    "`{input}` is no file of scenarios: give its clusters by --cluster"
                )));
            }
            return read_scenarios(input, &read_text(input).map_err(Failure::io(input))?);
        }
        let of = |cluster: &String| {
            let (name, job, cluster) = (cluster.clone(), input.to_owned(), cluster.clone());
            Scenario { name, job, cluster, ..self.shared.clone() }
        };
        Ok(self.cluster.iter().map(of).collect())
    }
}
