//! Published runs predicted again: each row of a table of measured trainings beside what Meshwright says of it.
//!
//! In: rows of a CSV file. Out: a plan, a cluster and a stack for each, their prediction with signed errors, or the reason why
//! there is none; their summary; fitted overheads.
//!
//! Invariant: a row is predicted from what it states of model, machine and plan, by the path that `simulate` takes with its plan
//! and its cluster; what was measured is read only to compare.

mod accelerator;
pub mod causes;
pub mod convention;
mod decisive;
mod fitted_row;
pub mod gain;
pub mod intervals;
pub mod machine;
pub mod memory;
mod model;
pub mod overheads;
pub mod own_cluster;
mod own_figures;
mod pipeline;
mod plan;
pub mod ranking;
mod recipe;
mod record;
pub mod row;
pub mod summary;
pub mod table;
mod words;

use std::sync::Arc;

use meshwright_hardware::profile::{Cluster, Stack};
use meshwright_planner::error::PlanError;
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::{Figures, declared, predict as simulated};
use meshwright_planner::search::played_step;

pub use record::Skip;
pub use row::Run;

/// What is said of a run.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// Its plan, with what the row leaves open filled in.
    pub plan: Plan,
    /// The plan's figures on the run's cluster.
    pub figures: Figures,
    /// The step on the machine without software, played piece by piece, in seconds.
    pub ideal_step_s: Option<f64>,
    /// Memory as the row's way of measuring would show it, in GB of 1e9 bytes.
    pub memory_gb: f64,
}

impl Prediction {
    /// FLOPs a token by a run's own convention.
    pub fn flops_per_token(&self, run: &Run) -> f64 {
        run.convention.flops_per_token(&self.plan)
    }
}

/// The plan that is taken where the row leaves something open: the first that fits, else the one that needs least.
pub fn chosen(run: &Run) -> &Plan {
    let Some((first, others)) = run.plans.split_first() else { unreachable!("a run has a plan") };
    if others.is_empty() {
        return first;
    }
    let usable = first.job.goal.usable(run.device().memory.value.0, run.stack());
    let needs = |plan: &&Plan| declared(&plan.under(run.stack())).into_iter().max().unwrap_or(0);
    let fitting = run.plans.iter().find(|plan| needs(plan) <= usable);
    fitting.or_else(|| run.plans.iter().min_by_key(needs)).unwrap_or(first)
}

/// The cluster of a run as its plan uses it.
pub fn cluster(run: &Run, plan: &Plan) -> Cluster {
    run.cluster.clone().under(Arc::new(plan.job.runs_under(run.stack())))
}

/// Predicts a run.
///
/// # Errors
/// Where some of its plan has no price on its devices.
pub fn predict(run: &Run) -> Result<Prediction, Skip> {
    let plan = chosen(run);
    let cannot = |error: PlanError| Skip::error("the simulator has no price for some of it", &error);
    let predicted = simulated(plan, &cluster(run, plan)).map_err(cannot)?;
    let roles = &predicted.lowered.program.roles;
    let allocator = &run.stack().memory;
    let declared = match run.last_rank {
        true => roles[plan.mesh.pp - 1].bytes(),
        false => predicted.figures.peak_memory_bytes,
    };
    let bytes = run.measure.bytes(allocator, declared);
    let ideal_step_s = played_step(plan, &run.cluster.clone().under(Stack::ideal())).ok();
    Ok(Prediction { plan: plan.clone(), figures: predicted.figures, ideal_step_s, memory_gb: bytes as f64 / 1e9 })
}
