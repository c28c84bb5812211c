//! The figures of a plan of many microbatches, from a program of a few.
//!
//! In: a plan and a cluster. Out: [`Figures`], the same as [`super::predict`]'s, in a time and in memory that do not grow with the
//! lowered program's microbatches.
//!
//! Once a pipeline's warm-up is over, its stages repeat a round. So many microbatches are lowered and priced as warm-up, two rounds
//! and drain take; the simulator plays the second round as often as there are microbatches left ([`Rounds`]). Where no round
//! is found (GPipe has none, replicas with unlike shares have several), the whole step is lowered.
//!
//! Invariant: figures equal those of the whole program, to the nanosecond and the byte (tests over every schedule).

use meshwright_hardware::price::{PriceError, price};
use meshwright_hardware::program::Stream;
use meshwright_hardware::simulate::{Durations, Rounds, step_time};

use super::{Figures, figures, idle_beside};
use crate::error::PlanError;
use crate::job::Job;
use crate::lower::{Lowered, lower};
use crate::plan::Plan;
use crate::schedule::Pipeline;
use meshwright_hardware::profile::Cluster;

/// Microbatches beyond those in flight: more than twice as many as there are places that streams share in turns.
const TURNS: usize = 8;

/// Predicts a plan's figures on a cluster.
///
/// # Errors
/// [`PlanError::Price`] if the cluster is too small or lacks a price that the plan needs.
pub fn predict_figures(plan: &Plan, cluster: &Cluster) -> Result<Figures, PlanError> {
    let plan = &plan.under(&cluster.stack);
    let microbatches = plan.microbatches();
    for few in enough(plan) {
        // Hardly any is in vain.
        let worth_it = 4 * few <= 3 * microbatches && plan.shares.is_empty();
        if let Some(figures) = if worth_it { in_rounds(plan, cluster, few)? } else { None } {
            return Ok(figures);
        }
    }
    let whole = lower(plan)?;
    let durations = price(&whole.program, cluster, plan.job.precision)?;
    step(plan, cluster, &whole, (&durations, &Rounds::none(&durations)))
}

/// The figures of a lowered plan whose lanes repeat their rounds.
fn step(
    plan: &Plan,
    cluster: &Cluster,
    lowered: &Lowered,
    (durations, rounds): (&Durations, &Rounds),
) -> Result<Figures, PlanError> {
    let program = &lowered.program;
    let step = step_time(program, durations, rounds).map_err(PriceError::from)?.seconds();
    let compute = rounds.busy(program, durations, Stream::Compute);
    figures(plan, cluster, lowered, (step, idle_beside(&compute, durations, step)))
}

/// Numbers of microbatches that are likely to show a round: warm-up, two rounds in which streams wait as in all that follow, and
/// drain. Where a round is of as many microbatches as there are stages, they are fewer than a step's by a multiple of these.
fn enough(plan: &Plan) -> Vec<usize> {
    let pipeline = plan.pipeline();
    let Pipeline { schedule, stages, chunks, microbatches } = pipeline;
    if pipeline.settled() == microbatches {
        return Vec::new();
    }
    let rounded = |least: usize| least + microbatches.saturating_sub(least) % stages;
    let several = rounded(4 * stages + 8);
    let few = match (chunks, plan.zero) {
        _ if schedule.splits() => rounded(2 * stages + 4),
        // It takes long until the same weights are found gathered in each round.
        (1, 3) => rounded(2 * stages + 4),
        (_, 3) => several,
        // As many as there are stages are in flight, in places that warm-up fills.
        (1, _) => stages + TURNS,
        // Interleaved, warm-up alone is more than a round.
        _ => rounded(3 * stages + 1),
    };
    let mut all = vec![few, several];
    all.dedup();
    all
}

/// The figures by a program of a few microbatches; none if its lanes show no round.
fn in_rounds(plan: &Plan, cluster: &Cluster, few: usize) -> Result<Option<Figures>, PlanError> {
    let (all, pipeline) = (plan.microbatches(), plan.pipeline());
    let job = Job { global_batch: plan.job.global_batch / all * few, ..plan.job.clone() };
    let short = lower(&Plan { job, ..plan.clone() })?;
    let durations = price(&short.program, cluster, plan.job.precision)?;
    // A microbatch, or as many as there are stages: so it is with interleaved chunks, and with the order of a V.
    let lengths = [pipeline.round(), pipeline.stages].into_iter();
    let left = all - few;
    let repeated = |round: usize| Rounds::of(&short.program, &durations, round, left / round);
    let fit = |round: &usize| left.is_multiple_of(*round);
    let Some(rounds) = lengths.filter(fit).find_map(repeated) else { return Ok(None) };
    step(plan, cluster, &short, (&durations, &rounds)).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Architecture, Model};
    use crate::plan::Stage;
    use crate::predict::predict;
    use crate::schedule::Schedule;
    use crate::testing::{tiny_job, tiny_model};
    use meshwright_hardware::mesh::Mesh;
    use proptest::prelude::*;

    /// Warm-up is longer than all rounds of the few microbatches that are lowered, and repeats itself too.
    #[test]
    fn the_warm_up_of_a_deep_pipeline_is_no_round() {
        let cluster = Cluster::parse("8x dgx-h100").unwrap();
        for (zero, full) in (0..4).flat_map(|zero| (0..3).map(move |full| (zero, full))) {
            let stages = vec![Stage { layers: 2, full, selective: 2 - full, offload: 0 }; 32];
            let model = Model { layers: 64, ..tiny_model(Architecture::Llama) };
            let mesh = Mesh { dp: 2, pp: 32, ..Mesh::ONE };
            let plan = Plan { zero, mesh, stages, ..Plan::single(Job { global_batch: 2 * 80, ..tiny_job(model) }, 1) };
            let (short, whole) = (in_rounds(&plan, &cluster, 32 + TURNS).unwrap(), predict(&plan, &cluster).unwrap());
            assert!(zero == 3 || short.is_some(), "{}", plan.summary());
            assert!(short.is_none_or(|figures| figures == whole.figures), "{}", plan.summary());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
        #[test]
        fn a_step_by_rounds_is_the_step_of_the_whole_program(
            which in any::<prop::sample::Index>(), pp in 1usize..6, (zero, offload) in (0u8..4, 0usize..3), more in 0usize..9,
            dp in 1usize..3, uneven in 0usize..3,
        ) {
            let forms: Vec<(Schedule, usize)> = Schedule::forms(2).filter(|&(schedule, _)| {
                // One whose microbatches are all in flight at once has no rounds.
                Pipeline { schedule, stages: 4, chunks: 1, microbatches: 64 }.settled() < 64
            }).collect();
            let (schedule, chunks) = if pp == 1 { (Schedule::default(), 1) } else { forms[which.index(forms.len())] };
            let (zero, offload) = if schedule.splits() { (zero.min(1), 0) } else { (zero, offload) };
            let zero = if dp == 1 { 0 } else { zero };
            // One stage is slower than the others, so that its pace sets in late.
            let of = |place: usize| {
                let layers = if place == uneven { 3 } else { 2 };
                Stage { layers, full: usize::from(place == 1), selective: 0, offload: offload.min(layers - 1) }
            };
            let stages: Vec<Stage> = (0..pp * chunks).map(of).collect();
            let layers = stages.iter().map(|stage| stage.layers).sum();
            let model = Model { layers, ..tiny_model(Architecture::Llama) };
            let round = Pipeline { schedule, stages: pp, chunks, microbatches: 0 }.round();
            let microbatches = (12 * pp + 20 + more).next_multiple_of(round);
            let job = Job { global_batch: microbatches * dp, ..tiny_job(model) };
            let mesh = Mesh { dp, pp, ..Mesh::ONE };
            let plan = Plan { schedule, zero, chunks, mesh, stages, ..Plan::single(job, 1) };
            plan.check().unwrap();
            for cluster in ["2x dgx-h100", "8x cpu-generic"] {
                let cluster = Cluster::parse(cluster).unwrap();
                if dp * pp > cluster.devices() || (offload > 0 && cluster.pools[0].device.host_link.is_none()) {
                    continue;
                }
                let found = enough(&plan).into_iter().find_map(|few| in_rounds(&plan, &cluster, few).unwrap());
                let whole = predict(&plan, &cluster).unwrap().figures;
                prop_assert_eq!(found, Some(whole), "{}", plan.summary());
            }
        }
    }
}
