//! Combinations to plans: a floor over every partition of layers, then the stages themselves and their bound.
//!
//! In: combinations. Out: the same by a tighter floor, or plans by their bound.
//!
//! Invariant: a plan that is queued fits in memory, exactly.

use std::sync::Arc;

use super::partition::Problem;
use crate::error::PlanError;
use crate::job::Fix;
use crate::lower::InFlight;
use crate::parallel::at_once;
use crate::plan::{Plan, Stage};

use super::pool_assignment::PoolAssignment;
use super::pool_bound::most_before;
use super::queue::Node;
use super::space::Combination;
use super::stages::Undecided;
use super::state::{DecidedCombination, FloorOf, Group, Known, Search};
use super::times::Costs;
use super::within::{UniformRecompute, Within};
use super::{partition_bound, shares, timeline};

/// Combinations whose stages are decided at a time, whatever the number of cores, so that answers do not depend on it.
const DECIDED_AT_ONCE: usize = 8;

impl<'a> Search<'a> {
    /// A floor of a combination over every way to partition its layers over stages, no lower than `least`.
    pub(super) fn partitions_floor(&mut self, index: usize, of: &Combination, least: f64) -> Result<f64, PlanError> {
        let partitioned = of.pp > 1 && of.chunks == 1;
        let over = |search: &Search, costs: &[&Costs]| {
            let pipeline = search.pipeline(&search.shapes[index], of);
            let any = |_: usize, _: usize| Some(Default::default());
            least.max(partition_bound::floor(&search.space.job.model, &pipeline, costs, &any, search.cut()))
        };
        if self.links.len() == 1 {
            let group = if partitioned { self.quick_group(index, of, false)? } else { None };
            return Ok(group.map_or(least, |group| over(self, &vec![&group.costs(); of.pp])));
        }
        let group = self.group(index, of, true)?;
        Ok(match &group.assignment {
            PoolAssignment::Stages(pools) if partitioned => {
                over(self, &pools.iter().map(|&pool| &group.costs[pool]).collect::<Vec<_>>())
            }
            // What those of replicas do is known since they were queued.
            _ => least,
        })
    }

    /// A floor where replicas sit in unlike pools: the earliest that those of all pools together can be through the batch, each
    /// pool with the microbatches that its own floor lets it end by then.
    pub(super) fn shared(&mut self, index: usize, of: &Combination, group: &Group) -> f64 {
        let shape = self.shapes[index];
        let batch = self.space.job.global_batch / shape.microbatch;
        let counts = group.assignment.counts(group.wholes.len());
        let pipeline = self.pipeline(&shape, of);
        let mut ends = [0.0, f64::INFINITY];
        let mut end = self.floor(index, of, group);
        for _ in 0..24 {
            let mut most = |whole| most_before(&pipeline, (whole, batch), end, &mut self.ratios);
            let done: usize = counts.iter().zip(&group.wholes).map(|(count, whole)| count * most(whole)).sum();
            ends[usize::from(done >= batch)] = end;
            if ends[1] < ends[0] * 1.001 {
                break;
            }
            end = if ends[1].is_finite() { (ends[0] + ends[1]) / 2.0 } else { 1.5 * end };
        }
        ends[0]
    }

    /// Decides the stages of a combination, and of the next ones if they are as far, and queues the plans by their bounds.
    pub(super) fn decide(&mut self, first: Wanted) -> Result<(), PlanError> {
        let mut batch = vec![first];
        let cut = self.cut();
        let next = |(seconds, known): (f64, &Known)| {
            seconds < cut && matches!(known, Known::Combination(_, _, FloorOf::Partitions))
        };
        while batch.len() < DECIDED_AT_ONCE && self.queue.peek().is_some_and(next) {
            let Some(Node { known: Known::Combination(index, of, _), seconds, .. }) = self.queue.pop() else { break };
            batch.push(Wanted { index, of, floor: seconds });
        }
        self.decide_these(batch)
    }

    /// Decides the stages of these combinations, and queues the plans by their bounds.
    pub(super) fn decide_these(&mut self, all: Vec<Wanted>) -> Result<(), PlanError> {
        let questions = all.into_iter().map(|wanted| self.question(wanted)).collect::<Result<Vec<_>, _>>()?;
        let before = self.worth_playing();
        let answers: Vec<_> = at_once(&questions, |question| question.answer(before));
        for (question, answer) in questions.into_iter().zip(answers) {
            self.take(question, answer, before);
        }
        Ok(())
    }

    /// From where on a step's exact bound is of no use: it is ruled out, and as many plans are known as are wanted.
    fn worth_playing(&self) -> f64 {
        self.known.get(self.top - 1).map_or(f64::INFINITY, |known| known.max(self.cut()))
    }

    /// All that the stages of a combination depend on.
    fn question(&mut self, wanted: Wanted) -> Result<Question<'a>, PlanError> {
        let Wanted { index, of, .. } = wanted;
        let group = self.exact_group(index, &of)?;
        let plan = self.space.plan(&self.shapes[index], &of);
        // Replicas in several pools have the same stages: as the slowest need them, in the least memory.
        let slowest = (0..group.costs.len())
            .max_by(|&a, &b| group.wholes[a].times.total().total_cmp(&group.wholes[b].times.total()));
        let pools = group.assignment.stages(of.pp, slowest.unwrap_or(0));
        let capacity = match group.assignment {
            PoolAssignment::Stages(_) => pools.iter().map(|&pool| self.capacity[pool]).collect(),
            PoolAssignment::Replicas(_) => vec![self.capacity.iter().copied().min().unwrap_or(0); of.pp],
        };
        let flights = self.flights(plan.pipeline());
        let within = self.space.within.clone();
        Ok(Question { wanted, group, plan, pools, capacity, flights, within, fix: self.space.fix })
    }

    /// Queues the plan of an answer whose bound is below a time, or counts why there is none.
    fn take(&mut self, question: Question<'a>, answer: Result<Decision, &'static str>, before: f64) {
        let Question { wanted: Wanted { index, of, floor }, group, .. } = question;
        let Decision { plan, bound, problem } = match answer {
            Ok(decision) => decision,
            Err(reason) => return self.reject(reason, 1),
        };
        if !self.fits_in(&plan, &group) {
            return self.reject("out of memory", 1);
        }
        if self.after_memory(&of) == FloorOf::Memory {
            self.decided.push(DecidedCombination { floor, index, of, problem });
            if self.decided.len().is_power_of_two() {
                self.forget_ruled_out();
            }
        }
        self.fits = true;
        if bound >= before {
            return self.leave(bound.max(floor), 1);
        }
        self.know(bound.max(floor));
        self.push(bound.max(floor), Known::Plan(Box::new(plan), of.part));
    }

    /// Drops what is kept of combinations that what is known now rules out: ways of every stage are many.
    fn forget_ruled_out(&mut self) {
        let (cut, proved) = (self.cut(), &mut self.proved);
        self.decided.retain(|decided| {
            if decided.floor >= cut {
                *proved = proved.min(decided.floor);
            }
            decided.floor < cut
        });
    }

    /// Whether unlike shares fit too: replicas with more microbatches may have more of them in flight.
    pub(super) fn fits_in(&mut self, plan: &Plan, group: &Group) -> bool {
        let capacity = self.capacity.iter().copied().min().unwrap_or(0);
        let classes: Vec<Plan> = match plan.shares.is_empty() {
            true => Vec::new(),
            false => (0..plan.classes().count()).map(|class| plan.of_class(class)).collect(),
        };
        classes.iter().all(|own| {
            let flights = self.flights(own.pipeline());
            (0..own.mesh.pp).all(|stage| group.sizes.stage(own, &flights[stage], stage) <= capacity)
        })
    }
}

/// A combination whose stages are to be decided.
pub(super) struct Wanted {
    pub(super) index: usize,
    pub(super) of: Combination,
    pub(super) floor: f64,
}

/// The same with all that they depend on.
struct Question<'a> {
    wanted: Wanted,
    group: Arc<Group>,
    /// Without stages.
    plan: Plan,
    /// By stage.
    pools: Vec<usize>,
    capacity: Vec<u64>,
    flights: Arc<Vec<InFlight>>,
    within: Option<Arc<Within<'a>>>,
    fix: &'a Fix,
}

/// A plan with its stages.
struct Decision {
    plan: Plan,
    bound: f64,
    problem: Option<Problem>,
}

impl Question<'_> {
    /// The best stages, or why there are none; their bound as far as it is below a time.
    fn answer(&self, before: f64) -> Result<Decision, &'static str> {
        let Question { group, plan, pools, capacity, flights, within, fix, .. } = self;
        let within = within.as_deref();
        let costs: Vec<&Costs> = pools.iter().map(|&pool| &group.costs[pool]).collect();
        let undecided = Undecided {
            plan,
            costs: &costs,
            sizes: &group.sizes,
            flights,
            capacity,
            orders: Default::default(),
            within,
            fix,
        };
        let lacks = |stages: Vec<Stage>| {
            let plan = Plan { stages, ..plan.clone() };
            if within.is_none_or(|within| within.plan(&plan)) {
                Ok(plan)
            } else {
                Err("not what the engine can express")
            }
        };
        let even = crate::plan::layers_of(plan.job.model.depth(), plan.stages.len());
        lacks(even.into_iter().map(|layers| UniformRecompute::Nothing.stage(layers)).collect())?;
        let found = if group.hopeless { None } else { undecided.decide() };
        let (stages, problem) = found.ok_or("out of memory")?;
        let mut plan = lacks(stages)?;
        let bound = match &group.assignment {
            PoolAssignment::Stages(_) => timeline::step_before(&plan, &costs, before),
            PoolAssignment::Replicas(replicas) => shared_out(&mut plan, group, replicas)?,
        };
        Ok(Decision { plan, bound, problem })
    }
}

/// Gives replicas in unlike pools their shares of the batch; the bound.
fn shared_out(plan: &mut Plan, group: &Group, replicas: &[usize]) -> Result<f64, &'static str> {
    let of_replicas: Vec<&Costs> = replicas.iter().map(|&pool| &group.costs[pool]).collect();
    let shared = shares::SharesProblem::among(plan, &of_replicas).solve().ok_or("fewer microbatches than replicas")?;
    plan.shares = shared.shares;
    if plan.shares.windows(2).all(|pair| pair[0] == pair[1]) {
        plan.shares = Vec::new();
    }
    plan.check().map_err(|_| "unlike shares do not go with it")?;
    let classes = plan.classes();
    let of_replica = |(replica, &pool): (usize, &usize)| {
        let own = plan.of_class(classes.of_replica(replica));
        timeline::step(&own, &vec![&group.costs[pool]; plan.mesh.pp])
    };
    let firsts = replicas.iter().enumerate().filter(|(i, pool)| *i == 0 || replicas[i - 1] != **pool);
    Ok(firsts.map(of_replica).fold(0.0, f64::max))
}
