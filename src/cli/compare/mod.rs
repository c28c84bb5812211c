//! `compare`: scenarios planned in full, side by side in a table, in CSV and on a page.
//!
//! In: a file of scenarios, or a job and clusters. Out: a row a scenario.
//!
//! Invariant: equal scenarios give equal rows, byte for byte; a scenario that fits nowhere is a row with its reason.

mod chart;
mod columns;
mod line_items;
mod page;
mod planned;
mod price;
mod rows;
mod sensitivity;
mod table;
mod together;

use std::path::PathBuf;

use clap::Args;
use meshwright_hardware::exit::Exit;
use meshwright_hardware::files::read_text;
use meshwright_hardware::units::{Dollars, Seconds};
use serde_json::json;

use self::columns::COLUMNS;
use self::line_items::write_line_items;
use self::page::page;
use self::planned::{Ready, ready};
use self::rows::{RowsSoFar, ScenarioRow};
use self::table::{least, table};
use self::together::plan_together;
use super::stack::stack_line;
use crate::answer;
use crate::failure::Failure;
use crate::out::write_whole;
use crate::prices::PriceBook;
use crate::scenario::{Asked, Scenario, read_scenarios};

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
    /// A file of prices over those that ship (`meshwright prices check`)
    #[arg(long, value_name = "FILE")]
    prices: Option<String>,
    /// Mark prices older than this, as `180d`
    #[arg(long)]
    max_age: Option<Seconds>,
    /// End with code 3 where even the cheapest costs more, as `$2M`
    #[arg(long)]
    max_cost: Option<Dollars>,
    /// Where to write one row a scenario (CSV)
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Keep the rows of -o whose scenarios are the same
    #[arg(long, requires = "output")]
    resume: bool,
    /// Where to write a page that stands alone (HTML)
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Where to write what would be charged, in columns of FOCUS 1.2 (CSV)
    #[arg(long, value_name = "FILE")]
    line_items: Option<PathBuf>,
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
        let Asked { scenarios, own } = self.asked(input)?;
        let book = PriceBook::read(self.prices.as_deref())?.owning_over(input, own)?;
        let ready = |scenario: Scenario| ready(scenario, &book, self.max_age);
        let all = scenarios.into_iter().map(ready).collect::<Result<Vec<Ready>, _>>()?;
        let rows = RowsSoFar::new(&all, self.output.as_deref(), self.resume)?;
        plan_together(&all, &rows.missing(), &|at, planned| rows.take(at, ScenarioRow::of(&planned)));
        let rows = rows.end()?;
        self.html.as_ref().map_or(Ok(()), |path| write_whole(path, &page(input, &rows)))?;
        self.line_items.as_ref().map_or(Ok(()), |path| write_line_items(path, &rows))?;
        if self.json {
            answer::print("rows", json!(rows.iter().map(ScenarioRow::json).collect::<Vec<_>>()));
        } else {
            let stacks: Vec<String> = all.iter().map(|ready| stack_line(&ready.case.cluster)).collect();
            print!("{}", table(&rows, &stacks));
        }
        if rows.iter().all(|row| !row.is_planned()) {
            let help = "`meshwright plan` says for each what would do";
            return Err(Failure::new(Exit::Infeasible, format!("no scenario has a plan; {help}")));
        }
        self.check_cost(&rows)
    }

    /// Whether the cheapest costs no more than it may.
    fn check_cost(&self, rows: &[ScenarioRow]) -> Result<(), Failure> {
        let Some(most) = self.max_cost else { return Ok(()) };
        let cheapest = least(rows, "usd").map(|at| (rows[at].text("scenario"), rows[at].number("usd")));
        let problem = match cheapest {
            Some((_, Some(usd))) if usd <= most.0 => return Ok(()),
            Some((name, Some(usd))) => {
                format!("the cheapest, `{name}`, costs {}, above --max-cost {most}", Dollars(usd))
            }
            _ => format!(
                "no scenario has a price, to be at most --max-cost {most}: give one by price, pricing or --prices"
            ),
        };
        Err(Failure::new(Exit::Infeasible, problem))
    }

    fn asked(&self, input: &str) -> Result<Asked, Failure> {
        if self.cluster.is_empty() {
            if !input.ends_with(".toml") {
                return Err(Failure::input(format!(
                    "`{input}` is no file of scenarios: give its clusters by --cluster"
                )));
            }
            return read_scenarios(input, &read_text(input)?);
        }
        let of = |cluster: &String| {
            let (name, job, cluster) = (cluster.clone(), input.to_owned(), cluster.clone());
            Scenario { name, job, cluster, ..self.shared.clone() }
        };
        Ok(Asked { scenarios: self.cluster.iter().map(of).collect(), ..Asked::default() })
    }
}
