//! Proof: whether other partitions of a combination's layers than the one that was chosen may be better than the best plan.
//!
//! In: combinations of which stages were decided, the best plan. Out: the least that any other partition can take.
//!
//! Invariant: `proved` is no more than any plan's step of the space.

use std::cell::RefCell;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::partition::Problem;
use crate::error::PlanError;
use crate::plan::{Plan, Stage};
use crate::schedule::Pipeline;

use super::partition_bound::LeastTime;
use super::pool_assignment::PoolAssignment;
use super::space::Combination;
use super::stages::{Undecided, least};
use super::state::{DecidedCombination, Group, Search};
use super::times::Costs;
use super::{earliest_finish, timeline};

/// Spreadings of a combination that are played, and of those how many are simulated.
const PLAYS: usize = 256;
const SIMULATIONS: usize = 4;

/// Ways by stage and layers.
type KnownWays = FxHashMap<(usize, usize), Rc<Vec<(Stage, LeastTime)>>>;

/// The ways in which so many layers fit on a stage.
struct Ways<'a> {
    undecided: &'a Undecided<'a>,
    played: bool,
    known: RefCell<KnownWays>,
}

impl Ways<'_> {
    fn of(&self, stage: usize, layers: usize) -> Rc<Vec<(Stage, LeastTime)>> {
        let mut known = self.known.borrow_mut();
        known.entry((stage, layers)).or_insert_with(|| Rc::new(self.undecided.ways(stage, layers, self.played))).clone()
    }

    /// Spreadings in each way that may end before a time, played; none if they are too many.
    fn played(&self, all: Vec<Vec<usize>>, before: f64) -> Option<Vec<(f64, Plan)>> {
        let Undecided { plan, costs, .. } = self.undecided;
        let (mut played, mut left) = (Vec::new(), PLAYS);
        for held in all {
            let within = self.undecided.within;
            let alike = within.map(|within| self.undecided.least_alike(within, &held));
            let mut some = vec![Vec::with_capacity(held.len())];
            for (stage, &layers) in held.iter().enumerate() {
                let ways = self.of(stage, layers);
                let soon = ways.iter().filter(|(_, takes)| takes.busy * (plan.microbatches() as f64) < before);
                let more = |(way, _): &(Stage, LeastTime)| -> Vec<Vec<Stage>> {
                    some.iter().map(|first| [&first[..], &[*way]].concat()).collect()
                };
                some = soon.flat_map(more).collect();
                if some.len() > left {
                    return None;
                }
            }
            left -= some.len();
            let some = alike.map_or(some, |stages| stages.into_iter().collect());
            for stages in some.into_iter().filter(|stages| self.undecided.fits(stages)) {
                let plan = Plan { stages, ..Plan::clone(plan) };
                let seconds = timeline::step(&plan, costs);
                if seconds < before {
                    played.push((seconds, plan));
                }
            }
        }
        Some(played)
    }
}

impl Search<'_> {
    /// Looks whether other partitions of decided combinations may be better than the best plan.
    pub(super) fn prove(&mut self) -> Result<(), PlanError> {
        if self.best.is_empty() {
            return Ok(());
        }
        for decided in std::mem::take(&mut self.decided) {
            let DecidedCombination { floor, index, of, problem } = decided;
            let wanted = self.cut();
            if floor >= wanted {
                self.proved = self.proved.min(floor);
                continue;
            }
            let group = self.exact_group(index, &of)?;
            let proved = match (&group.assignment, problem) {
                (PoolAssignment::Stages(pools), Some(problem)) => {
                    self.other(index, &of, (pools, &problem), [floor, wanted])?
                }
                (PoolAssignment::Replicas(_), _) if self.shared_end(index, &of, &group, wanted) => wanted,
                _ => floor,
            };
            self.proved = self.proved.min(proved);
        }
        Ok(())
    }

    /// What no partition of a combination's layers undercuts, between two ends. Where few are left that may be better than what
    /// is known, each is played, in each way that its stages fit, and the most promising are simulated.
    fn other(
        &mut self,
        index: usize,
        of: &Combination,
        (pools, problem): (&[usize], &Problem),
        [floor, wanted]: [f64; 2],
    ) -> Result<f64, PlanError> {
        let (group, part) = (self.exact_group(index, of)?, of.part);
        let costs: Vec<&Costs> = pools.iter().map(|&pool| &group.costs[pool]).collect();
        let (plan, within) = (self.space.plan(&self.shapes[index], of), self.space.within.clone());
        let flights = self.flights(plan.pipeline());
        let capacity: Vec<u64> = pools.iter().map(|&pool| self.capacity[pool]).collect();
        let sizes = &group.sizes;
        let undecided = Undecided {
            plan: &plan,
            costs: &costs,
            sizes,
            flights: &flights,
            capacity: &capacity,
            orders: Default::default(),
            within: within.as_deref(),
            fix: self.space.fix,
        };
        let [sooner, ways] =
            [false, true].map(|played| Ways { undecided: &undecided, played, known: Default::default() });
        let of = |ways: &Ways, stage: usize, layers: usize| {
            problem.choices[stage].get(layers - 1)?;
            let (ways, never) = (ways.of(stage, layers), LeastTime { busy: f64::INFINITY, kernels: f64::INFINITY });
            let less =
                |a: LeastTime, b: &LeastTime| LeastTime { busy: a.busy.min(b.busy), kernels: a.kernels.min(b.kernels) };
            (!ways.is_empty()).then(|| ways.iter().map(|(_, takes)| takes).fold(never, less))
        };
        let takes = |stage: usize, layers: usize| of(&ways, stage, layers);
        let (model, pipeline) = (&plan.job.model, plan.pipeline());
        let may_end = |before: f64| earliest_finish::may_end(model, &pipeline, &costs, &takes, before).is_some();
        let known_sooner = |stage: usize, layers: usize| of(&sooner, stage, layers);
        if earliest_finish::may_end(model, &pipeline, &costs, &known_sooner, wanted).is_none() || !may_end(wanted) {
            return Ok(wanted);
        }
        let all = earliest_finish::all(model, &pipeline, &costs, &takes, (wanted, PLAYS));
        if let Some(played) = all.and_then(|all| ways.played(all, wanted)) {
            return self.nearest(played, (wanted, part));
        }
        let mut ends = [floor, wanted];
        for _ in 0..6 {
            let middle = (ends[0] + ends[1]) / 2.0;
            ends[usize::from(may_end(middle))] = middle;
        }
        Ok(ends[0])
    }

    /// Simulates the first of these plans that are not known; what the rest do not undercut.
    fn nearest(&mut self, mut played: Vec<(f64, Plan)>, (wanted, part): (f64, usize)) -> Result<f64, PlanError> {
        played.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut left = played.into_iter();
        for (_, plan) in left.by_ref().take(SIMULATIONS) {
            if !self.best.iter().any(|(known, _, on)| (known, *on) == (&plan, part)) {
                self.considered += 1;
                self.simulate(plan, part)?;
            }
        }
        Ok(left.next().map_or(wanted, |(seconds, _)| seconds))
    }

    /// Whether replicas in unlike pools cannot be through the batch before a time, however their layers are partitioned.
    pub(super) fn shared_end(&mut self, index: usize, of: &Combination, group: &Group, before: f64) -> bool {
        if of.pp == 1 || of.chunks > 1 {
            return false;
        }
        let (shape, within) = (self.shapes[index], self.space.within.clone());
        let (plan, pipeline) = (self.space.plan(&shape, of), self.pipeline(&shape, of));
        let batch = self.space.job.global_batch / shape.microbatch;
        let flights = self.flights(plan.pipeline());
        let capacity = vec![self.capacity.iter().copied().min().unwrap_or(0); of.pp];
        let mut done = 0;
        for (pool, count) in group.assignment.counts(group.costs.len()).into_iter().enumerate() {
            let costs = vec![&group.costs[pool]; of.pp];
            let sizes = &group.sizes;
            let undecided = Undecided {
                plan: &plan,
                costs: &costs,
                sizes,
                flights: &flights,
                capacity: &capacity,
                orders: Default::default(),
                within: within.as_deref(),
                fix: self.space.fix,
            };
            let Some(problem) = undecided.problem() else { continue };
            let takes = |stage: usize, layers: usize| {
                let busy = problem.choices[stage].get(layers - 1)?.seconds;
                Some(LeastTime { busy, kernels: 0.0 })
            };
            let model = &self.space.job.model;
            let late = |microbatches: usize| {
                let pipeline = Pipeline { microbatches, ..pipeline };
                earliest_finish::may_end(model, &pipeline, &costs, &takes, before).is_none()
            };
            done += count * (least(1, batch + 1, late) - 1);
        }
        done < batch
    }
}
