//! Losses that are made part by part, and of a token further.

use meshwright_hardware::profile::LossKernel;
use meshwright_planner::job::{Architecture, Family, Job, Model};
use meshwright_planner::plan::Plan;

use super::{all_agree, classic, mesh, model, plan, sharded};

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

#[test]
fn a_token_further_is_predicted_alike_under_every_plan() {
    let family = Family { mtp_layers: 1, ..Family::default() };
    let model = Model { family: Some(family), ..model(Architecture::Llama) };
    all_agree(&model, [classic(&model), sharded(&model), in_parts(&model)].concat());
}
