//! Combinations to plans: a floor over every spreading of layers, then the stages themselves and their bound.
//!
//! In: combinations. Out: the same by a tighter floor, or plans by their bound.
//!
//! Invariant: a plan that is queued fits in memory, exactly.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::error::PlanError;
use crate::lower::InFlight;
use crate::plan::{Plan, Schedule};
use crate::schedule::Pipeline;
use crate::shares;

use super::bound::{Whole, least_ratio};
use super::cost::Costs;
use super::engine::{Known, Search};
use super::open::Group;
use super::prove::Decided;
use super::seats::Seats;
use super::space::Combination;
use super::stages::{Undecided, least};
use super::{play, spread};

impl Search<'_> {
    /// Queues a combination by a floor over every way to spread its layers over stages.
    pub(super) fn spread(&mut self, index: usize, of: Combination, least: f64) -> Result<(), PlanError> {
        let mut floor = least;
        if self.links.len() > 1 || (of.pp > 1 && of.chunks == 1) {
            let group = self.group(index, &of, false, true)?;
            floor = match &group.seats {
                Seats::Stages(pools) if of.pp > 1 && of.chunks == 1 => {
                    let costs: Vec<&Costs> = pools.iter().map(|&pool| &group.costs[pool]).collect();
                    let pipeline = self.pipeline(&self.shapes[index], &of);
                    floor.max(spread::floor(&self.space.job.model, &pipeline, &costs, &|_, _| Some(0.0)))
                }
                Seats::Stages(_) => floor,
                Seats::Replicas(_) => floor.max(self.shared(index, &of, &group)),
            };
        }
        self.push(floor, Known::Combination(index, of, true));
        Ok(())
    }

    /// A floor where replicas sit in unlike pools: the soonest that those of all pools together can be through the batch, each
    /// pool with the microbatches that its own floor lets it end by then.
    pub(super) fn shared(&mut self, index: usize, of: &Combination, group: &Group) -> f64 {
        let shape = self.shapes[index];
        let batch = self.space.job.global_batch / shape.microbatch;
        let counts = group.seats.counts(group.wholes.len());
        let pipeline = self.pipeline(&shape, of);
        let plain = of.schedule == Schedule::OneFOneB && of.chunks == 1;
        let most = |whole: &Whole, end: f64, ratios: &mut FxHashMap<(usize, usize), f64>| {
            let late = |microbatches: usize| {
                let ratio = if plain {
                    let known = ratios.entry((microbatches, of.pp));
                    *known.or_insert_with(|| least_ratio(microbatches, of.pp))
                } else {
                    1.0
                };
                whole.floor(&Pipeline { microbatches, ..pipeline }, ratio) > end
            };
            least(1, batch + 1, late) - 1
        };
        let mut ends = [0.0, f64::INFINITY];
        let mut end = self.floor(index, of, group);
        for _ in 0..24 {
            let through = counts.iter().zip(&group.wholes);
            let done: usize = through.map(|(count, whole)| count * most(whole, end, &mut self.ratios)).sum();
            ends[usize::from(done >= batch)] = end;
            if ends[1] < ends[0] * 1.001 {
                break;
            }
            end = if ends[1].is_finite() { (ends[0] + ends[1]) / 2.0 } else { 1.5 * end };
        }
        ends[0]
    }

    /// Decides a combination's stages and queues the plan by its bound.
    pub(super) fn decide(&mut self, index: usize, of: Combination, least: f64) -> Result<(), PlanError> {
        let group = &*self.own_group(index, &of)?;
        let plan = self.space.plan(&self.shapes[index], &of);
        // Replicas in several pools have the same stages: as the slowest need them, in the least memory.
        let slowest = (0..group.costs.len())
            .max_by(|&a, &b| group.wholes[a].times.total().total_cmp(&group.wholes[b].times.total()));
        let pools = group.seats.stages(of.pp, slowest.unwrap_or(0));
        let costs: Vec<&Costs> = pools.iter().map(|&pool| &group.costs[pool]).collect();
        let room: Vec<u64> = match group.seats {
            Seats::Stages(_) => pools.iter().map(|&pool| self.room[pool]).collect(),
            Seats::Replicas(_) => vec![self.room.iter().copied().min().unwrap_or(0); of.pp],
        };
        let flights = self.flights(plan.pipeline());
        let undecided = Undecided {
            plan: &plan,
            costs: &costs,
            sizes: &group.sizes,
            flights: &flights,
            room: &room,
            orders: Default::default(),
        };
        let found = if group.hopeless { None } else { undecided.decide() };
        let Some((stages, problem)) = found else {
            self.reject("out of memory", 1);
            return Ok(());
        };
        let mut plan = Plan { stages, ..plan };
        let bound = match &group.seats {
            Seats::Stages(_) => play::step(&plan, &costs),
            Seats::Replicas(replicas) => {
                let of_replicas: Vec<&Costs> = replicas.iter().map(|&pool| &group.costs[pool]).collect();
                let Some(shared) = shares::Problem::among(&plan, &of_replicas).solve() else {
                    self.reject("fewer microbatches than replicas", 1);
                    return Ok(());
                };
                plan.shares = shared.shares;
                if plan.shares.windows(2).all(|pair| pair[0] == pair[1]) {
                    plan.shares = Vec::new();
                }
                if plan.check().is_err() {
                    self.reject("unlike shares do not go with it", 1);
                    return Ok(());
                }
                let classes = plan.classes();
                let of_replica = |(replica, &pool): (usize, &usize)| {
                    let own = plan.of_class(classes.of_replica(replica));
                    play::step(&own, &vec![&group.costs[pool]; of.pp])
                };
                let firsts = replicas.iter().enumerate().filter(|(i, pool)| *i == 0 || replicas[i - 1] != **pool);
                firsts.map(of_replica).fold(0.0, f64::max)
            }
        };
        if !self.fits(&plan, group) {
            self.reject("out of memory", 1);
            return Ok(());
        }
        if of.pp > 1 && of.chunks == 1 {
            self.decided.push(Decided { floor: least, index, of, problem });
        }
        self.push(bound.max(least), Known::Plan(Box::new(plan)));
        Ok(())
    }

    /// Microbatches under way, by stage.
    pub(super) fn flights(&mut self, pipeline: Pipeline) -> Arc<Vec<InFlight>> {
        let settled = Pipeline { microbatches: pipeline.settled(), ..pipeline };
        self.flights.entry(settled).or_insert_with(|| Arc::new(InFlight::all(&settled))).clone()
    }

    /// Whether unlike shares fit too: replicas with more microbatches may have more of them under way.
    pub(super) fn fits(&mut self, plan: &Plan, group: &Group) -> bool {
        let room = self.room.iter().copied().min().unwrap_or(0);
        let classes: Vec<Plan> = match plan.shares.is_empty() {
            true => Vec::new(),
            false => (0..plan.classes().count()).map(|class| plan.of_class(class)).collect(),
        };
        classes.iter().all(|own| {
            let flights = self.flights(own.pipeline());
            (0..own.mesh.pp).all(|stage| group.sizes.stage(own, &flights[stage], stage) <= room)
        })
    }
}
