//! `stacks fit`: a stack of one's own, by a few runs of one's own cluster.
//!
//! In: a table of runs with the columns of `validate`. Out: a stack's file, which `--stack` takes.

use std::path::PathBuf;

use clap::Args;
use meshwright_engines::setting::shell_word;
use meshwright_hardware::profile::{Evidence, Overheads, Stack, catalog};
use meshwright_planner::plan::Plan;
use serde_json::json;

use super::validate::read;
use crate::answer;
use crate::failure::Failure;
use crate::out::write_whole;
use crate::validate::own_cluster::{OwnFit, fit_own};
use crate::validate::{Run, chosen};

/// Arguments of `stacks fit`.
#[derive(Args)]
pub struct FitOwn {
    /// Table of one's own runs (CSV, `validate --columns`), three or more
    #[arg(long, value_name = "RUNS")]
    from: PathBuf,
    /// The stack that ran them, else that of the first row's framework
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    /// Where to write the stack, a .toml that `--stack` takes
    #[arg(short, long)]
    output: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl FitOwn {
    /// Fits, writes, says how near it comes.
    pub fn run(&self) -> Result<(), Failure> {
        if self.output.extension().is_none_or(|end| end != "toml") {
            return Err(Failure::input(format!(
                "-o is {}: --stack takes a stack of one's own by a path that ends in .toml",
                self.output.display()
            )));
        }
        let mut lines = read(&self.from)?;
        let runs = lines.iter_mut().filter_map(|line| line.run.as_mut().ok());
        let mut runs: Vec<&mut Run> = runs.collect();
        let base = match (&self.stack, runs.first()) {
            (Some(name), _) => Stack::named(name)?,
            (None, Some(first)) => first.cluster.stack.clone(),
            (None, None) => return Err(Failure::input(format!("{}: no row has a run", self.from.display()))),
        };
        runs.iter_mut().for_each(|run| run.set_stack(&base));
        let runs: Vec<&Run> = runs.into_iter().map(|run| &*run).collect();
        let plan: &Plan = chosen(runs[0]);
        let support = Evidence::of(&base, &runs[0].device().name, plan.job.precision).support();
        let own = fit_own(&runs, &base, catalog().intervals.step[&support])
            .map_err(|problem| Failure::input(format!("{}: {problem}", self.from.display())))?;
        let text = toml::to_string(&own.stack).expect("a stack is tables of strings and numbers");
        write_whole(&self.output, &text)?;
        if self.json {
            let errors = own.errors.iter().map(|(id, errors)| {
                let [before, fitted, left_out] = errors;
                json!({ "run": id, "before": before, "fitted": fitted, "left_out": left_out })
            });
            let output = self.output.display().to_string();
            let errors: Vec<_> = errors.collect();
            answer::print(
                "fit",
                json!({ "output": output, "errors": errors, "stack": own.stack, "untold": own.untold }),
            );
        } else {
            self.print(&own, &base);
        }
        Ok(())
    }

    fn print(&self, own: &OwnFit, base: &Stack) {
        println!("{}: {} runs over {}", self.output.display(), own.errors.len(), base.name);
        println!("\n{:<28} {:>12} {:>12} {:>12}", "predicted / measured - 1, %", base.name, "fitted", "left out");
        for (id, errors) in &own.errors {
            let [before, after, left_out] = errors.map(|error| format!("{:+.1}", 100.0 * error));
            println!("{id:<28} {before:>12} {after:>12} {left_out:>12}");
        }
        println!("\n{:<14} {:>10} {:>10}", "overhead", "before", "now");
        let (mut before, mut now) = (base.overheads.clone(), own.stack.overheads.clone());
        for (index, knob) in Overheads::ALL.iter().enumerate() {
            let (before, now) = (*before.at(index), *now.at(index));
            let untold = if own.untold.contains(&knob.name) { "   these runs do not tell" } else { "" };
            println!("{:<14} {before:>10.3} {now:>10.3}{untold}", knob.name);
        }
        if let Some(band) = own.stack.step_band {
            println!("\neight in ten steps are expected at {} to {} times the predicted one", band.low, band.high);
        }
        println!("\nnext: meshwright plan … --stack {}", shell_word(&self.output.display().to_string()));
    }
}
