//! What a search keeps to where it plans for an engine: the decisions that its [`Ability`] can express.
//!
//! In: decisions of a shape or a combination, mixes of recomputation, plans. Out: whether the engine can express them.
//!
//! Invariant: what passes here piece by piece may still be refused as a plan, by [`Within::plan`]; nothing that passes there is
//! refused here.

use meshwright_hardware::mesh::Order;

use crate::ability::{Ability, Lost, Reach};
use crate::job::{Fix, Job};
use crate::plan::{Plan, Stage};
use crate::schedule::Schedule;

/// An engine to plan for, and what the job asks that it lacks whatever the plan.
#[derive(Clone, Debug)]
pub struct Within<'a> {
    /// What it can express.
    pub ability: &'a Ability,
    fix: &'a Fix,
    lacks: Vec<Lost>,
}

impl<'a> Within<'a> {
    /// An engine for a job, some of whose decisions are fixed.
    pub fn of(ability: &'a Ability, job: &Job, fix: &'a Fix) -> Self {
        Within { ability, fix, lacks: ability.lacks(job) }
    }

    /// Whether it lays axes over ranks in this order.
    pub fn order(&self, order: Order) -> bool {
        order == Order::default() || self.ability.orders.contains(&order)
    }

    /// Whether it shards so much beside so many pipeline stages.
    pub fn zero(&self, pp: usize, zero: u8) -> bool {
        let Ability { zero: alone, zero_in_pipelines: beside, .. } = self.ability;
        if pp > 1 { beside.contains(&zero) } else { alone.contains(&zero) }
    }

    /// Whether it runs a schedule of so many chunks a stage, and so many layers over all of them.
    pub fn pipeline(&self, (pp, layers): (usize, usize), schedule: Schedule, chunks: usize) -> bool {
        let Ability { schedules, uneven, .. } = self.ability;
        let known = |&(known, several): &(Schedule, bool)| known == schedule && (several || chunks == 1);
        pp == 1 || (schedules.iter().any(known) && (*uneven || layers.is_multiple_of(pp * chunks)))
    }

    /// Whether it can express a plan, whatever its job lacks.
    pub fn plan(&self, plan: &Plan) -> bool {
        self.ability.can(plan, &self.lacks)
    }

    /// Whether it can express what stages recompute.
    pub fn recomputes(&self, stages: &[Stage]) -> bool {
        let most = stages.iter().map(|stage| stage.layers).max().unwrap_or(0);
        let alike = |way: UniformRecompute| stages.iter().all(|stage| *stage == way.stage(stage.layers));
        self.uniform(most).into_iter().any(alike)
    }

    /// The ways to recompute that all stages may have alike, where a virtual stage has so many layers at the most: what recomputes
    /// less comes first.
    pub fn uniform(&self, most: usize) -> Vec<UniformRecompute> {
        let mut all = vec![UniformRecompute::Nothing];
        if self.ability.selective != Reach::Nowhere {
            all.push(UniformRecompute::Selective);
        }
        match self.ability.full {
            Reach::Nowhere => {}
            Reach::Everywhere => all.push(UniformRecompute::Full(most)),
            Reach::Leading => all.extend((1..=most).map(UniformRecompute::Full)),
        }
        all.retain(|way| way.stage(most).is_permitted(self.fix));
        all
    }
}

/// A way to recompute that all stages have alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UniformRecompute {
    /// Nothing.
    Nothing,
    /// All layers selectively.
    Selective,
    /// The first so many layers of each virtual stage in full.
    Full(usize),
}

impl UniformRecompute {
    /// So many layers.
    pub fn stage(self, layers: usize) -> Stage {
        let (full, selective) = match self {
            UniformRecompute::Nothing => (0, 0),
            UniformRecompute::Selective => (0, layers),
            UniformRecompute::Full(most) => (most.min(layers), 0),
        };
        Stage { layers, full, selective, offload: 0 }
    }
}
