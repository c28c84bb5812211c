//! Search: the best plan for a job on a cluster, and why the others lost.
//!
//! In: a job, a cluster, what is fixed. Out: [`Found`]: the best plans with their predictions, and counted rejections.
//!
//! The space is enumerated whole; each candidate gets a floor (its work spread evenly), then stages by MILP and a bound,
//! then a simulation, always the most promising first; it ends when no bound is below the worst kept simulation.
//!
//! Invariant: no candidate that simulates faster than the best kept one was left out; equal inputs give equal answers.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Instant;

use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::price::Prices;
use meshwright_hardware::profile::Cluster;

use crate::bound::{Costs, step_seconds, update_seconds};
use crate::error::PlanError;
use crate::job::Job;
use crate::lower::{Blocks, Footprint, Pieces, stage_bytes};
use crate::partition::{Fixed, Problem};
use crate::plan::{Plan, Schedule, Stage, check_tp};
use crate::predict::{Predicted, predict};

/// Share of a device's memory that a plan may declare; the rest is the runtime's, the allocator's and the network's.
pub const USABLE_MEMORY: f64 = 0.94;

/// Axes that the user has fixed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fix {
    /// Data parallelism.
    pub dp: Option<usize>,
    /// Pipeline parallelism.
    pub pp: Option<usize>,
    /// Tensor parallelism.
    pub tp: Option<usize>,
    /// Sequences a microbatch.
    pub microbatch: Option<usize>,
    /// Order of microbatches.
    pub schedule: Option<Schedule>,
    /// ZeRO stage.
    pub zero: Option<u8>,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// The best plans, best first; at least one.
    pub best: Vec<(Plan, Predicted)>,
    /// Candidates looked at.
    pub considered: usize,
    /// How many fell for which reason.
    pub rejected: BTreeMap<String, usize>,
    /// How many were simulated.
    pub simulated: usize,
    /// How long it took.
    pub seconds: f64,
}

/// The `top` best plans for a job on all devices of a cluster.
pub fn search(job: &Job, cluster: &Cluster, fix: &Fix, top: usize) -> Result<Found, PlanError> {
    let started = Instant::now();
    let mut search = Search {
        job,
        cluster,
        capacity: cluster.pools.iter().map(|p| p.device.memory.value.0).min().unwrap_or(0) as f64 * USABLE_MEMORY,
        shapes: HashMap::new(),
        considered: 0,
        rejected: BTreeMap::new(),
    };
    let mut queue = search.enumerate(fix)?;
    let mut best: Vec<(Plan, Predicted)> = Vec::new();
    let mut simulated = 0;
    while let Some(Candidate { seconds, plan, known, order }) = queue.pop() {
        if best.len() == top && seconds >= best[top - 1].1.figures.step_time_s {
            *search.rejected.entry("slower by its bound".to_owned()).or_default() += queue.len() + 1;
            break;
        }
        let refined = match known {
            Known::Floor => search.bound_partitions(plan)?,
            Known::Bound => search.refine(plan)?,
            Known::Stages => {
                simulated += 1;
                search.keep(plan, &mut best, top)?;
                continue;
            }
        };
        // A bound found later is never below one found earlier: both hold.
        queue.extend(refined.map(|(plan, own, known)| Candidate { seconds: own.max(seconds), plan, known, order }));
    }
    let Search { considered, rejected, .. } = search;
    if best.is_empty() {
        return Err(PlanError::Infeasible { considered, rejected });
    }
    Ok(Found { best, considered, rejected, simulated, seconds: started.elapsed().as_secs_f64() })
}

/// How much is known of a candidate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Its work, were it spread evenly.
    Floor,
    /// The least its slowest stage can take, in whole layers that fit.
    Bound,
    /// Its stages.
    Stages,
}

/// A plan with the least its step can take.
struct Candidate {
    seconds: f64,
    plan: Plan,
    known: Known,
    /// Place in the enumeration, which breaks ties.
    order: usize,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Candidate {}
impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Candidate {
    /// The heap's greatest is the one of least seconds, then the first enumerated.
    fn cmp(&self, other: &Self) -> Ordering {
        other.seconds.total_cmp(&self.seconds).then(other.order.cmp(&self.order))
    }
}

/// Pieces and their costs, alike for all plans of one microbatch and tensor parallelism.
struct ShapeCosts {
    pieces: Pieces,
    costs: Costs,
}

struct Search<'a> {
    job: &'a Job,
    cluster: &'a Cluster,
    capacity: f64,
    shapes: HashMap<(usize, usize), ShapeCosts>,
    considered: usize,
    rejected: BTreeMap<String, usize>,
}

impl Search<'_> {
    fn reject(&mut self, reason: impl Into<String>, count: usize) {
        *self.rejected.entry(reason.into()).or_default() += count;
    }

    /// All candidates with their floors; what the job or the cluster rules out is counted.
    fn enumerate(&mut self, fix: &Fix) -> Result<BinaryHeap<Candidate>, PlanError> {
        let devices = self.cluster.devices();
        let mut queue = BinaryHeap::new();
        for tp in divisors(devices).filter(|&tp| fix.tp.is_none_or(|fixed| fixed == tp)) {
            for pp in divisors(devices / tp).filter(|&pp| fix.pp.is_none_or(|fixed| fixed == pp)) {
                let dp = devices / (tp * pp);
                if fix.dp.is_some_and(|fixed| fixed != dp) {
                    continue;
                }
                let variants = variants(dp, pp, fix);
                let sizes = microbatches(self.job.global_batch, dp, fix);
                self.considered += sizes.len().max(1) * variants.len();
                if let Err(problem) = check_tp(self.job, tp) {
                    let reason =
                        format!("tensor parallelism does not divide: {}", problem.replace("it must divide ", ""));
                    self.reject(reason, sizes.len().max(1) * variants.len());
                } else if pp > self.job.model.depth() {
                    self.reject("more stages than layers", sizes.len().max(1) * variants.len());
                } else if sizes.is_empty() {
                    self.reject("global batch not divisible by dp · microbatch", variants.len());
                } else {
                    for &microbatch in &sizes {
                        for &(schedule, zero) in &variants {
                            let plan = self.plan(Mesh { dp, pp, tp, ..Mesh::ONE }, microbatch, schedule, zero);
                            let seconds = self.shape(&plan)?.costs.floor(&plan);
                            queue.push(Candidate { seconds, plan, known: Known::Floor, order: queue.len() });
                        }
                    }
                }
            }
        }
        Ok(queue)
    }

    /// A candidate whose stages are still to be decided.
    fn plan(&self, mesh: Mesh, microbatch: usize, schedule: Schedule, zero: u8) -> Plan {
        let stages = vec![Stage { layers: 1, full: 0, selective: 0, offload: 0 }; mesh.pp];
        Plan { schedule, zero, mesh, stages, ..Plan::single(self.job.clone(), microbatch) }
    }

    fn shape(&mut self, plan: &Plan) -> Result<&ShapeCosts, PlanError> {
        let key = (plan.microbatch, plan.mesh.tp);
        if !self.shapes.contains_key(&key) {
            let mut blocks = Blocks::default();
            let pieces = Pieces::of(plan, &mut blocks);
            let mut prices = Prices::new(self.cluster, plan.mesh, self.job.precision)?;
            let costs = Costs::of(&pieces, &blocks, &mut prices)?;
            self.shapes.insert(key, ShapeCosts { pieces, costs });
        }
        Ok(&self.shapes[&key])
    }

    /// The partitioning problem of a candidate.
    fn problem(&mut self, plan: &Plan) -> Result<Problem, PlanError> {
        let capacity = self.capacity;
        let ShapeCosts { pieces, costs } = self.shape(plan)?;
        let footprints: Vec<Footprint> = (0..plan.mesh.pp).map(|stage| Footprint::of(plan, pieces, stage)).collect();
        let fixed = |(stage, footprint): (usize, &Footprint)| Fixed {
            seconds: costs.fixed(plan, stage),
            bytes: (footprint.fixed + footprint.work.iter().max().expect("three modes")) as f64,
            in_flight: plan.in_flight(stage),
        };
        Ok(Problem {
            layers: plan.job.model.depth(),
            microbatches: plan.microbatches(),
            seconds: costs.layer,
            state: footprints[0].state as f64,
            slot: footprints[0].slot.map(|bytes| bytes as f64),
            stages: footprints.iter().enumerate().map(fixed).collect(),
            capacity,
        })
    }

    /// A better bound; `None`, and counted, if nothing fits memory.
    fn bound_partitions(&mut self, plan: Plan) -> Result<Option<(Plan, f64, Known)>, PlanError> {
        let Some(seconds) = self.problem(&plan)?.floor() else {
            self.reject("out of memory", 1);
            return Ok(None);
        };
        Ok(Some((plan, seconds, Known::Bound)))
    }

    /// Decides the stages, and bounds the step with them.
    fn refine(&mut self, mut plan: Plan) -> Result<Option<(Plan, f64, Known)>, PlanError> {
        let cluster = self.cluster;
        let Some(stages) = self.problem(&plan)?.solve() else {
            self.reject("no stages found in time", 1);
            return Ok(None);
        };
        plan.stages = stages;
        let capacity = self.capacity;
        let ShapeCosts { pieces, costs } = self.shape(&plan)?;
        debug_assert!((0..plan.mesh.pp).all(|stage| stage_bytes(&plan, pieces, stage) as f64 <= capacity));
        let mut prices = Prices::new(cluster, plan.mesh, plan.job.precision)?;
        let update = update_seconds(&plan, pieces, &mut prices)?;
        let seconds = step_seconds(&plan, costs, update);
        Ok(Some((plan, seconds, Known::Stages)))
    }

    /// Simulates a plan and keeps it if it is among the best.
    fn keep(&mut self, plan: Plan, best: &mut Vec<(Plan, Predicted)>, top: usize) -> Result<(), PlanError> {
        let predicted = predict(&plan, self.cluster)?;
        let at = best.partition_point(|(_, other)| other.figures.step_time_s <= predicted.figures.step_time_s);
        best.insert(at, (plan, predicted));
        if best.len() > top {
            best.pop();
            self.reject("slower when simulated", 1);
        }
        Ok(())
    }
}

fn divisors(n: usize) -> impl Iterator<Item = usize> {
    (1..=n).filter(move |d| n.is_multiple_of(*d))
}

/// Sequences a microbatch: powers of two, and all of a replica's batch.
fn microbatches(global_batch: usize, dp: usize, fix: &Fix) -> Vec<usize> {
    if !global_batch.is_multiple_of(dp) {
        return Vec::new();
    }
    let whole = global_batch / dp;
    match fix.microbatch {
        Some(fixed) => {
            if whole.is_multiple_of(fixed.max(1)) {
                vec![fixed]
            } else {
                Vec::new()
            }
        }
        None => {
            let powers = (0..).map(|i| 1 << i).take_while(|&size| size < whole);
            powers.filter(|size| whole.is_multiple_of(*size)).chain([whole]).collect()
        }
    }
}

/// Schedules and ZeRO stages that differ on this mesh.
fn variants(dp: usize, pp: usize, fix: &Fix) -> Vec<(Schedule, u8)> {
    let schedules: &[Schedule] = if pp > 1 { &[Schedule::OneFOneB, Schedule::GPipe] } else { &[Schedule::OneFOneB] };
    let zeros: &[u8] = if dp > 1 { &[0, 1] } else { &[0] };
    let all = schedules.iter().flat_map(|&schedule| zeros.iter().map(move |&zero| (schedule, zero)));
    let wanted = |&(schedule, zero): &(Schedule, u8)| {
        (pp == 1 || fix.schedule.is_none_or(|fixed| fixed == schedule))
            && (dp == 1 || fix.zero.is_none_or(|fixed| fixed == zero))
    };
    all.filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Dress;
    use crate::testing::{tiny_job, tiny_model};

    fn cluster(text: &str) -> Cluster {
        Cluster::parse(text).unwrap()
    }

    #[test]
    fn the_best_plan_is_the_best_of_all_candidates() {
        let (job, cluster) = (tiny_job(tiny_model(Dress::Llama)), cluster("8x cpu-generic"));
        let all = search(&job, &cluster, &Fix::default(), usize::MAX).unwrap();
        let best = search(&job, &cluster, &Fix::default(), 1).unwrap();
        let least = all.best.iter().map(|(_, p)| p.figures.step_time_s).fold(f64::INFINITY, f64::min);
        assert_eq!(best.best[0].1.figures.step_time_s, least);
        assert!(all.best.len() > 20 && best.simulated < all.simulated, "{} of {}", best.simulated, all.simulated);
    }

    #[test]
    fn every_candidate_is_kept_or_counted() {
        let (job, cluster) = (tiny_job(tiny_model(Dress::Gpt2)), cluster("8x cpu-generic"));
        for top in [1, 5] {
            let found = search(&job, &cluster, &Fix::default(), top).unwrap();
            assert_eq!(found.best.len() + found.rejected.values().sum::<usize>(), found.considered);
        }
    }

    #[test]
    fn no_bound_is_above_its_simulation() {
        let (job, cluster) = (tiny_job(tiny_model(Dress::Gpt2)), cluster("8x cpu-generic"));
        let found = search(&job, &cluster, &Fix::default(), usize::MAX).unwrap();
        for (plan, predicted) in &found.best {
            let mut blocks = Blocks::default();
            let pieces = Pieces::of(plan, &mut blocks);
            let mut prices = Prices::new(&cluster, plan.mesh, plan.job.precision).unwrap();
            let costs = Costs::of(&pieces, &blocks, &mut prices).unwrap();
            let update = update_seconds(plan, &pieces, &mut prices).unwrap();
            let (bound, simulated) = (step_seconds(plan, &costs, update), predicted.figures.step_time_s);
            assert!(bound <= simulated * (1.0 + 1e-6), "{}: {bound} above {simulated}", plan.summary());
            assert!(costs.floor(plan) <= bound * (1.0 + 1e-9));
        }
    }

    #[test]
    fn what_fits_nowhere_is_counted_by_reason() {
        let mut model = tiny_model(Dress::Llama);
        (model.hidden, model.ffn, model.vocab) = (8192, 32768, 1 << 20);
        let error = search(&tiny_job(model), &cluster("1x cpu-generic"), &Fix::default(), 1).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let message = error.to_string();
        assert!(message.contains("4 considered") && message.contains("4 out of memory"), "{message}");
    }
}
