//! Unlike shares of the batch: what a plan with `shares` must satisfy.
//!
//! In: a [`Plan`]. Out: nothing, or the [`Fault`].
//!
//! Invariant: replicas that exchange something with every microbatch have as many microbatches.

use super::Plan;
use crate::error::Fault;
use crate::schedule::Action;

/// Refuses shares that are not the batch, or that replicas cannot have together.
pub(super) fn check(plan: &Plan) -> Result<(), Fault> {
    let shares = &plan.shares;
    if shares.is_empty() {
        return Ok(());
    }
    let refuse = |value: String, problem: String| Err(Fault::new("shares", value, problem));
    let (dp, microbatch, batch) = (plan.mesh.dp, plan.microbatch, plan.job.global_batch);
    if shares.len() != dp {
        return refuse(format!("{} numbers", shares.len()), format!("one a replica: mesh.dp = {dp}"));
    }
    if let Some(replica) = shares.iter().position(|&share| share == 0) {
        return refuse("0".to_owned(), format!("every replica has a microbatch at least; replica {replica} has none"));
    }
    let sum: usize = shares.iter().sum();
    if sum * microbatch != batch {
        let problem = format!("with microbatches of {microbatch} they must make job.global_batch = {batch}");
        return refuse(format!("{sum} microbatches in all"), problem);
    }
    if plan.classes().count() == 1 {
        return Ok(());
    }
    if plan.zero > 1 {
        let problem = "ZeRO-2 and 3 exchange with every microbatch, so that shares must be equal: 0 or 1";
        return Err(Fault::new("zero", plan.zero, problem));
    }
    let mixed = |one: &usize| plan.mesh.sharing(*one).find(|&other| other < dp && shares[other] != shares[*one]);
    if let Some((one, other)) = (0..dp).find_map(|one| Some((one, mixed(&one)?))) {
        let problem = format!("replicas {one} and {other} share experts, so that their shares must be equal");
        return refuse(format!("{} and {}", shares[one], shares[other]), problem);
    }
    let classes: Vec<Plan> = (0..plan.classes().count()).map(|class| plan.of_class(class)).collect();
    if let Some(other) = classes.iter().find(|other| ends(other) != ends(&classes[0])) {
        let (one, other) = (classes[0].microbatches(), other.microbatches());
        let problem = format!(
            "under {} chunks end in another order then; take other shares or another schedule",
            plan.schedule.name()
        );
        return refuse(format!("{one} and {other}"), problem);
    }
    Ok(())
}

/// In which order each stage ends its chunks, and so sums their gradients over replicas.
fn ends(plan: &Plan) -> Vec<Vec<Action>> {
    let last = plan.microbatches() - 1;
    let end = |action: Action| match action {
        Action::Backward(chunk, mb) if mb == last => Some(Action::Backward(chunk, 0)),
        Action::Weights(chunk, mb) if mb == last => Some(Action::Weights(chunk, 0)),
        Action::Forward(..) | Action::Backward(..) | Action::Weights(..) => None,
    };
    plan.orders().into_iter().map(|list| list.into_iter().filter_map(end).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Architecture;
    use crate::schedule::Schedule;
    use crate::testing::{tiny_job, tiny_model};

    #[test]
    fn shares_are_read_back_and_what_does_not_fit_is_refused() {
        let plan = |shares: &[usize]| {
            let mut plan = Plan::single(tiny_job(tiny_model(Architecture::Llama)), 1);
            (plan.mesh.dp, plan.shares) = (3, shares.to_vec());
            plan
        };
        let good = plan(&[4, 2, 2]);
        good.check().unwrap();
        assert_eq!(Plan::from_toml("plan.toml", &good.to_toml()).unwrap(), good);
        assert_eq!((good.microbatches(), good.of_class(1).microbatches(), good.classes().count()), (4, 2, 2));
        assert!(good.summary().contains("2 to 4 microbatches of 1"), "{}", good.summary());
        let refused = |plan: Plan, key: &str, words: &str| {
            let fault = plan.check().unwrap_err();
            assert!(fault.key == key && fault.problem.contains(words), "{fault:?}");
        };
        refused(plan(&[4, 4]), "shares", "mesh.dp = 3");
        refused(plan(&[4, 4, 0]), "shares", "replica 2");
        refused(plan(&[4, 4, 4]), "shares", "job.global_batch = 8");
        refused(Plan { zero: 2, ..plan(&[4, 2, 2]) }, "zero", "every microbatch");
        let mut grouped = plan(&[3, 3, 2]);
        (grouped.mesh.ep, grouped.mesh.dp, grouped.shares) = (2, 4, vec![3, 2, 2, 1]);
        refused(grouped.clone(), "shares", "replicas 0 and 1");
        let mut v = plan(&[6, 4, 4]);
        v.job.global_batch = 14;
        (v.mesh.pp, v.chunks, v.schedule, v.stages) = (2, 2, Schedule::DualPipeV, vec![v.stages[0]; 4]);
        v.stages.iter_mut().for_each(|stage| stage.layers = 1);
        v.check().unwrap();
        refused(Plan { shares: vec![10, 2, 2], ..v }, "shares", "another order");
        // Interleaving goes round the stages, whatever the share.
        let mut rounds = plan(&[4, 2, 2]);
        (rounds.mesh.pp, rounds.chunks, rounds.stages) = (2, 2, vec![rounds.stages[0]; 4]);
        rounds.stages.iter_mut().for_each(|stage| stage.layers = 1);
        rounds.check().unwrap();
        rounds.shares = vec![4, 1, 3];
        refused(rounds, "chunks", "2 microbatches or more");
    }
}
