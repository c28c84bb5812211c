//! Losses that are made part by part.

use meshwright_hardware::profile::LossKernel;
use meshwright_planner::job::{Job, Model};
use meshwright_planner::plan::Plan;

use super::{mesh, plan};

/// Made with the head's product: half of a microbatch's tokens after the other, or as many parts as the vocabulary takes.
pub fn in_parts(model: &Model) -> Vec<Plan> {
    let plans = [(mesh(1, 1, 1), 4, 0, false), (mesh(2, 1, 2), 2, 3, true), (mesh(1, 2, 2), 2, 0, false)];
    let of = |(mesh, microbatch, zero, sequence_parallel)| {
        let plan = plan(model, mesh, 1, microbatch, (1, 1));
        let job = Job { loss: Some(LossKernel::Linear), ..plan.job };
        Plan { zero, sequence_parallel, job, ..plan }
    };
    plans.into_iter().map(of).collect()
}
