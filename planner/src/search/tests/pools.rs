//! On several pools: nodes more are never slower, and what is proved holds of every plan on a part.

use super::pool_assignment::{PoolAssignment, PoolUnit, prices};
use super::pool_bound::{most_before, stages_may_end};
use super::*;

fn job_on_pools(global_batch: usize) -> Job {
    Job { precision: Precision::Bf16, ..job_of_eight(global_batch) }
}

/// Of whole nodes: of devices of one node, as `3x a100-80gb` names them, none is left idle beside another pool.
#[test]
fn more_nodes_of_a_pool_are_never_slower() {
    let mut idle = 0;
    for (pools, batch) in [(["dgx-h100", "dgx-a100-80gb"], 48), (["dgx-a100-80gb", "dgx-h100"], 31)] {
        let job = job_on_pools(batch);
        let mut known: Vec<([usize; 2], f64)> = Vec::new();
        for (first, second) in (1..=3).flat_map(|first| (1..=3).map(move |second| (first, second))) {
            let text = format!("{first}x {} + {second}x {}", pools[0], pools[1]);
            let cluster = cluster(&text);
            let found = search(&job, &cluster, &Fix::default(), 5).unwrap();
            let step = found.best[0].1.step_time_s;
            for (nodes, other) in known.iter().filter(|(nodes, _)| nodes[0] <= first && nodes[1] <= second) {
                assert!(step <= other * (1.0 + TOLERANCE), "{text}: {step} for {other} on {nodes:?}");
                assert!(found.bound <= other * (1.0 + 1e-9), "{text}: {} above {other} on {nodes:?}", found.bound);
            }
            for (place, (plan, figures)) in found.best.iter().enumerate() {
                let part = found.part(place, &cluster);
                let again = crate::predict::predict_figures(plan, &part).unwrap().step_time_s;
                assert_eq!((again, plan.mesh.ranks()), (figures.step_time_s, part.devices()), "{text} on {part}");
            }
            idle += usize::from(found.part(0, &cluster) != cluster);
            known.push(([first, second], step));
        }
    }
    assert!(idle > 4, "{idle}");
}

/// By what plans on pools take, in all their parts: the same by passes alone.
#[test]
fn no_plan_on_pools_ends_before_it_may() {
    let (mut stages, mut replicas) = (0, 0);
    for text in ["1x dgx-h100 + 1x dgx-a100-80gb", "1x dgx-a100-80gb + 2x dgx-h100"] {
        let (job, cluster) = (job_on_pools(24), cluster(text));
        let found = search(&job, &cluster, &Fix::default(), usize::MAX).unwrap();
        for (place, (plan, figures)) in found.best.iter().enumerate() {
            let part = found.part(place, &cluster);
            let costs = prices(&part, job.precision).unwrap().into_iter().map(|prices| {
                let mut links = CachedPrices::new(prices);
                let work = ShapeWork::of(plan, &mut links.prices).unwrap();
                Costs::of(plan, &work, &PieceSizes::of(plan, &work.frames), &mut links).unwrap()
            });
            let wholes: Vec<Whole> = costs.map(|costs| Whole::of(plan, &costs)).collect();
            let assignment = PoolAssignment::of(&part, &plan.mesh).unwrap();
            let (counts, pipeline, at) = (assignment.counts(2), plan.pipeline(), figures.step_time_s * (1.0 + 1e-6));
            let mut ratios = Default::default();
            if assignment.unit() == PoolUnit::Stages {
                let ratio = least_ratio(&pipeline, &mut ratios);
                assert!(stages_may_end(&pipeline, &counts, &wholes, ratio, at), "{text}: {}", plan.summary());
                stages += 1;
            } else {
                let all = job.global_batch / plan.microbatch;
                let mut most = |whole| most_before(&pipeline, (whole, all), at, &mut ratios);
                let done: usize = counts.iter().zip(&wholes).map(|(count, whole)| count * most(whole)).sum();
                assert!(done >= all, "{text}: {done} of {all} in {}", plan.summary());
                replicas += 1;
            }
        }
    }
    assert!(stages > 20 && replicas > 20, "{stages} and {replicas}");
}
