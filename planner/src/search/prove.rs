//! Proof: whether other spreadings of a combination's layers than the one that was chosen may be better than the best plan.
//!
//! In: combinations of which stages were decided, the best plan. Out: the least that any other spreading can take.
//!
//! Invariant: `proved` is no more than any plan's step of the space.

use std::cell::RefCell;

use rustc_hash::FxHashMap;

use crate::error::PlanError;
use crate::partition::Problem;
use crate::plan::Plan;
use crate::schedule::Pipeline;

use super::cost::Costs;
use super::engine::Search;
use super::open::Group;
use super::seats::Seats;
use super::space::Combination;
use super::stages::{Undecided, least};
use super::{play, spread};

/// A combination of which one spreading of layers was chosen: no other ends before its floor.
pub(super) struct Decided {
    pub(super) floor: f64,
    pub(super) index: usize,
    pub(super) of: Combination,
    pub(super) problem: Option<Problem>,
}

impl Search<'_> {
    /// Looks whether other spreadings of decided combinations may be better than the best plan.
    pub(super) fn prove(&mut self) -> Result<(), PlanError> {
        if self.best.is_empty() {
            return Ok(());
        }
        let wanted = self.cut();
        for decided in std::mem::take(&mut self.decided) {
            let Decided { floor, index, of, problem } = decided;
            if floor >= wanted {
                self.proved = self.proved.min(floor);
                continue;
            }
            let group = self.own_group(index, &of)?;
            let proved = match (&group.seats, problem) {
                (Seats::Stages(pools), Some(problem)) => self.other(index, &of, (pools, &problem), [floor, wanted])?,
                (Seats::Replicas(_), _) if self.shared_end(index, &of, &group, wanted) => wanted,
                _ => floor,
            };
            self.proved = self.proved.min(proved);
        }
        Ok(())
    }

    /// What no spreading of a combination's layers undercuts, between two ends; the one that comes nearest is simulated if it
    /// may be better than what is known.
    pub(super) fn other(
        &mut self,
        index: usize,
        of: &Combination,
        (pools, problem): (&[usize], &Problem),
        [floor, wanted]: [f64; 2],
    ) -> Result<f64, PlanError> {
        let group = self.own_group(index, of)?;
        let costs: Vec<&Costs> = pools.iter().map(|&pool| &group.costs[pool]).collect();
        let plan = self.space.plan(&self.shapes[index], of);
        let flights = self.flights(plan.pipeline());
        let room: Vec<u64> = pools.iter().map(|&pool| self.room[pool]).collect();
        let sizes = &group.sizes;
        let undecided =
            Undecided { plan: &plan, costs: &costs, sizes, flights: &flights, room: &room, orders: Default::default() };
        let known = RefCell::new(FxHashMap::default());
        let takes = |stage: usize, layers: usize| {
            let choice = problem.choices[stage].get(layers - 1)?;
            let busy = || Some(undecided.busy(stage, layers)?.max(choice.seconds));
            *known.borrow_mut().entry((stage, layers)).or_insert_with(busy)
        };
        let pipeline = plan.pipeline();
        let may_end = |before: f64| spread::may_end(&plan.job.model, &pipeline, &costs, &takes, before);
        let Some(mut held) = may_end(wanted) else { return Ok(wanted) };
        let mut ends = [floor, wanted];
        for _ in 0..6 {
            let middle = (ends[0] + ends[1]) / 2.0;
            let found = may_end(middle);
            ends[usize::from(found.is_some())] = middle;
            held = found.unwrap_or(held);
        }
        let stage = |(stage, &layers): (usize, &usize)| problem.choices[stage][layers - 1].stage;
        let other = Plan { stages: held.iter().enumerate().map(stage).collect(), ..plan.clone() };
        let better = play::step(&other, &costs) < wanted && self.fits(&other, &group);
        if better && !self.best.iter().any(|(plan, _)| *plan == other) {
            self.considered += 1;
            self.simulate(other)?;
        }
        Ok(ends[0])
    }

    /// Whether replicas in unlike pools cannot be through the batch before a time, however their layers are spread.
    pub(super) fn shared_end(&mut self, index: usize, of: &Combination, group: &Group, before: f64) -> bool {
        if of.pp == 1 || of.chunks > 1 {
            return false;
        }
        let shape = self.shapes[index];
        let (plan, pipeline) = (self.space.plan(&shape, of), self.pipeline(&shape, of));
        let batch = self.space.job.global_batch / shape.microbatch;
        let flights = self.flights(plan.pipeline());
        let room = vec![self.room.iter().copied().min().unwrap_or(0); of.pp];
        let mut done = 0;
        for (pool, count) in group.seats.counts(group.costs.len()).into_iter().enumerate() {
            let costs = vec![&group.costs[pool]; of.pp];
            let sizes = &group.sizes;
            let undecided = Undecided {
                plan: &plan,
                costs: &costs,
                sizes,
                flights: &flights,
                room: &room,
                orders: Default::default(),
            };
            let Some(problem) = undecided.problem() else { continue };
            let takes = |stage: usize, layers: usize| Some(problem.choices[stage].get(layers - 1)?.seconds);
            let model = &self.space.job.model;
            let late = |microbatches: usize| {
                let pipeline = Pipeline { microbatches, ..pipeline };
                spread::may_end(model, &pipeline, &costs, &takes, before).is_none()
            };
            done += count * (least(1, batch + 1, late) - 1);
        }
        done < batch
    }
}
