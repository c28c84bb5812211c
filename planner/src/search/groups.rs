//! What combinations of one shape, mesh and ZeRO stage share: costs, capacities, and floors of each combination by them.
//!
//! In: a shape and a combination. Out: a [`Group`]; a combination's floor.
//!
//! Invariant: no plan of a combination undercuts its floor.

use std::sync::Arc;

use crate::error::PlanError;
use crate::lower::PieceSizes;

use super::bound::Whole;
use super::cost::ShapeWork;
use super::memory_bound::{LayerCapacity, StepRest};
use super::pool_assignment::PoolAssignment;
use super::space::Combination;
use super::state::{Group, Search};
use super::times::Costs;
use super::{even_bound, memory_bound, stages};

impl Search<'_> {
    /// What combinations of a shape's mesh and ZeRO stage share; `quick` if it is for floors alone.
    pub(super) fn group(&mut self, index: usize, of: &Combination, quick: bool) -> Result<Group, PlanError> {
        let plan = self.space.plan(&self.shapes[index], of);
        let works = if quick { &self.quick[self.kernels[index]] } else { &self.work[self.kernels[index]] };
        let sizes = PieceSizes::of(&plan, &works[0].frames);
        let cluster = self.cluster_of(of.part);
        let all_links = match of.part.checked_sub(1) {
            Some(at) => &mut self.parts.priced[at].links,
            None => &mut self.links,
        };
        let mut costs = Vec::new();
        for (links, work) in all_links.iter_mut().zip(works) {
            costs.push(Costs::of(&plan, work, &sizes, links)?);
        }
        let wholes = costs.iter().map(|costs| Whole::of(&plan, costs)).collect();
        let assignment = PoolAssignment::of(cluster, &plan.mesh).expect("straddling meshes are left out before");
        let capacity = match &assignment {
            PoolAssignment::Stages(pools) => pools.iter().map(|&pool| self.capacity[pool]).sum(),
            PoolAssignment::Replicas(_) => self.capacity.iter().copied().min().unwrap_or(0) * of.pp as u64,
        };
        let hopeless = stages::hopeless(&plan, &sizes, capacity);
        let mut layer_capacities = Vec::new();
        let pools = self.trades[self.kernels[index]].iter().zip(&costs).zip(all_links).zip(&self.capacity);
        for (((trade, costs), links), &capacity) in pools {
            let hulls = trade.hulls(&plan.mesh, links)?;
            let (layer, size) = (costs.layer(trade.kind), &sizes.layers[&trade.kind][0]);
            layer_capacities.push(LayerCapacity::of((trade, hulls), layer, size, (capacity, costs.shown)));
        }
        Ok(Group { assignment, layer_capacities, costs, wholes, sizes, hopeless })
    }

    /// The same for the combination's own plans.
    pub(super) fn exact_group(&mut self, index: usize, of: &Combination) -> Result<Arc<Group>, PlanError> {
        let key = (index, of.group(), of.schedule.order().turns());
        if let Some(group) = self.groups.get(&key) {
            return Ok(group.clone());
        }
        let kernels = self.kernels[index];
        if self.work[kernels].is_empty() {
            let plan = self.space.plan(&self.shapes[index], of);
            let work = self.links.iter_mut().map(|links| ShapeWork::of(&plan, &mut links.prices));
            self.work[kernels] = work.collect::<Result<Vec<_>, _>>()?;
        }
        let group = Arc::new(self.group(index, of, false)?);
        self.groups.insert(key, group.clone());
        Ok(group)
    }

    pub(super) fn floor(&mut self, index: usize, of: &Combination, group: &Group) -> f64 {
        let shape = self.shapes[index];
        let (pipeline, ratio) = (self.pipeline(&shape, of), self.ratio(&shape, of));
        let floor = match &group.wholes[..] {
            [whole] => whole.floor(&pipeline, ratio),
            all => {
                // Work goes to each pool by its speed, were there nothing else.
                let counts = group.assignment.counts(all.len());
                let rate: f64 =
                    counts.iter().zip(all).map(|(&n, whole)| n as f64 / whole.microbatch(of.pp * of.chunks).0).sum();
                let batch = self.space.job.global_batch as f64 / self.shapes[index].microbatch as f64;
                match group.assignment {
                    PoolAssignment::Stages(_) => batch / of.dp as f64 / rate,
                    PoolAssignment::Replicas(_) => batch / of.pp as f64 / rate,
                }
            }
        };
        let (PoolAssignment::Stages(pools), Some(any)) = (&group.assignment, group.layer_capacities.first()) else {
            return floor;
        };
        let layer_capacity = |stage: usize| &group.layer_capacities[pools[stage]];
        if pipeline.chunks == 1 {
            return memory_bound::floor(&pipeline, layer_capacity, &StepRest::default(), (floor, self.cut()));
        }
        let (flights, kind) = (self.flights(pipeline), any.kind);
        let layers = self.even_layers(&pipeline, &group.costs[0]);
        let own = layers.iter().position(|(other, _)| *other == kind).expect("it is one of the model's");
        let again = |stage: usize| {
            memory_bound::again(&pipeline, stage, layer_capacity(stage), &flights[stage], &layers[own].1)
        };
        floor.max(even_bound::floor(&pipeline, |stage| &group.costs[pools[stage]], &layers, again))
    }
}
