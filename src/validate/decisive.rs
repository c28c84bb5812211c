//! The decision to which a found plan owes most of its gain over a published one.
//!
//! In: both plans, a way to search with a decision fixed. Out: [`Decisive`].
//!
//! Invariant: all other decisions are the search's again when one is as published, so that none is blamed for what must go with it.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use meshwright_planner::job::{Fix, Recompute};
use meshwright_planner::plan::Plan;

/// A decision, as published and as found.
#[derive(Clone, Debug, PartialEq)]
pub struct Decisive {
    /// Its name.
    pub decision: &'static str,
    /// As published.
    pub published: String,
    /// As found.
    pub found: String,
    /// How much longer the step of the best plan with the published one is, as a share of the found step; none where no such plan
    /// fits.
    pub costs: Option<f64>,
}

impl Decisive {
    /// Of plans for one job, by a search that gives the step with something fixed; none where no decision is another.
    pub fn of(
        published: &Plan,
        (found, step_s): (&Plan, f64),
        search: impl Fn(&Fix) -> Option<f64>,
    ) -> Option<Decisive> {
        let costs = |Unlike { decision, values: [published, found], fix }: Unlike| Decisive {
            costs: search(&fix).map(|fixed| fixed / step_s - 1.0),
            decision,
            published,
            found,
        };
        let weight = |of: &Decisive| of.costs.unwrap_or(f64::INFINITY);
        unlike(published, found).into_iter().map(costs).max_by(|a, b| weight(a).total_cmp(&weight(b)))
    }
}

impl Display for Decisive {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Decisive { decision, published, found, costs } = self;
        write!(f, "{decision} {found} instead of {published}: ")?;
        match costs {
            Some(costs) => write!(f, "{:.1} %", 100.0 * costs),
            None => f.write_str("with that nothing fits"),
        }
    }
}

/// A decision of a plan, in words.
type Shown<'a> = &'a dyn Fn(&Plan) -> String;

/// A decision that two plans take otherwise, and what fixes it as the first has it.
struct Unlike {
    decision: &'static str,
    values: [String; 2],
    fix: Fix,
}

fn unlike(published: &Plan, found: &Plan) -> Vec<Unlike> {
    let fix = Fix::default;
    let (mesh, schedule) = (published.mesh, published.schedule);
    let decisions: [(&'static str, Shown, Fix); 11] = [
        ("tp", &|plan| plan.mesh.tp.to_string(), Fix { tp: Some(mesh.tp), ..fix() }),
        ("pp", &|plan| plan.mesh.pp.to_string(), Fix { pp: Some(mesh.pp), ..fix() }),
        ("cp", &|plan| plan.mesh.cp.to_string(), Fix { cp: Some(mesh.cp), ..fix() }),
        ("ep", &|plan| plan.mesh.ep.to_string(), Fix { ep: Some(mesh.ep), ..fix() }),
        ("microbatch", &|plan| plan.microbatch.to_string(), Fix { microbatch: Some(published.microbatch), ..fix() }),
        ("schedule", &schedule_of, Fix { schedule: Some(schedule), ..fix() }),
        ("chunks", &|plan| plan.chunks.to_string(), Fix { chunks: Some(published.chunks), ..fix() }),
        ("ZeRO", &|plan| plan.zero.to_string(), Fix { zero: Some(published.zero), ..fix() }),
        (
            "sequence parallelism",
            &|plan| if plan.sequence_parallel { "on" } else { "off" }.to_owned(),
            Fix { sequence_parallel: Some(published.sequence_parallel), ..fix() },
        ),
        (
            "recomputation",
            &|plan| kinds(plan).into_iter().map(Recompute::name).collect::<Vec<_>>().join(" and "),
            Fix { recompute: Some(kinds(published).into_iter().collect()), ..fix() },
        ),
        (
            "offload",
            &|plan| if offloads(plan) { "on" } else { "off" }.to_owned(),
            Fix { offload: Some(offloads(published)), ..fix() },
        ),
    ];
    let of = |(decision, value, fix): (&'static str, Shown, Fix)| {
        let values = [published, found].map(value);
        (values[0] != values[1]).then_some(Unlike { decision, values, fix })
    };
    decisions.into_iter().filter_map(of).collect()
}

/// A pipeline's schedule; there is none without stages.
fn schedule_of(plan: &Plan) -> String {
    if plan.mesh.pp > 1 { plan.schedule.name().to_owned() } else { "none".to_owned() }
}

/// Ways in which layers recompute.
fn kinds(plan: &Plan) -> BTreeSet<Recompute> {
    plan.stages.iter().flat_map(|stage| (0..stage.layers).map(|layer| stage.mode(layer))).collect()
}

fn offloads(plan: &Plan) -> bool {
    plan.stages.iter().any(|stage| stage.offload > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwright_planner::job::Job;
    use meshwright_planner::models;

    /// By hand: with tp 4 as published the best step is 12 s for 10, a microbatch of 1 costs nothing.
    #[test]
    fn the_decision_that_costs_most_as_published_is_the_one() {
        let job = Job::of(models::load("gpt2-xl").unwrap(), 1024, 16);
        let found = Plan::single(job, 2);
        let mut published = found.clone();
        assert_eq!(Decisive::of(&published, (&found, 10.0), |_| Some(10.0)), None);
        (published.mesh.tp, published.microbatch) = (4, 1);
        let of = Decisive::of(&published, (&found, 10.0), |fix| Some(if fix.tp == Some(4) { 12.0 } else { 10.0 }));
        assert_eq!(of.unwrap().to_string(), "tp 1 instead of 4: 20.0 %");
        let never = Decisive::of(&published, (&found, 10.0), |fix| fix.tp.map(|_| 12.0)).unwrap();
        assert_eq!(never.to_string(), "microbatch 2 instead of 1: with that nothing fits");
    }
}
