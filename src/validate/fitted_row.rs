//! A published run whose step a fit compares.
//!
//! In: runs. Out: [`FittedRow`], whose step is played under any overheads.
//!
//! Invariant: what its plan is does not depend on what is fitted.

use std::sync::Arc;

use meshwright_hardware::profile::{Knob, Overheads, Stack};
use meshwright_planner::job::Job;
use meshwright_planner::search::Compiled;
use rayon::prelude::*;

use super::{Run, chosen, summary};

/// A run whose step is compared.
pub struct FittedRow<'a> {
    /// The run.
    pub run: &'a Run,
    compiled: Compiled,
    job: &'a Job,
    measured: f64,
    tells: Vec<bool>,
}

impl FittedRow<'_> {
    /// The logarithm of the step with these overheads over the measured one.
    pub fn error(&self, overheads: &Overheads) -> f64 {
        let stack = Stack { overheads: overheads.clone(), ..self.run.stack().clone() };
        let cluster = self.run.cluster.clone().under(Arc::new(self.job.runs_under(&stack)));
        self.compiled.step(&cluster).map_or(f64::NAN, |step| (step / self.measured).ln())
    }

    /// Whether its step depends on an overhead, by its place in [`Overheads::ALL`].
    pub fn tells_of(&self, index: usize) -> bool {
        self.tells[index]
    }

    fn depends_on(&self, index: usize) -> bool {
        let at = |value: f64| {
            let mut overheads = Overheads::default();
            *overheads.at(index) = value;
            self.error(&overheads)
        };
        let Knob { low, high, .. } = Overheads::ALL[index];
        let usual = self.error(&Overheads::default());
        [low, high].iter().any(|&value| (at(value) - usual).abs() > 1e-6)
    }
}

/// The runs that become plans with a measured step.
pub fn fitted_rows<'a>(runs: &[&'a Run]) -> Vec<FittedRow<'a>> {
    runs.par_iter().filter_map(|run| row(run)).collect()
}

fn row(run: &Run) -> Option<FittedRow<'_>> {
    let plan = chosen(run);
    let measured = summary::measured_step_s(run, plan)?;
    let compiled = Compiled::of(plan, run.stack());
    let mut row = FittedRow { run, compiled, job: &plan.job, measured, tells: Vec::new() };
    row.tells = (0..Overheads::ALL.len()).map(|index| row.depends_on(index)).collect();
    row.error(&Overheads::default()).is_finite().then_some(row)
}
