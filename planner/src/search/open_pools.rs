//! Shapes and combinations on several pools: floors by which they wait in the queue.
//!
//! In: shapes of the space, combinations of those that were opened. Out: nodes of the queue.
//!
//! What cannot end before the cut in its pools (see [`super::pool_bound`]) is left out by its passes before anything of it is made,
//! then by all that its ranks share.
//!
//! Invariant: a floor never decreases on the way, and no plan of what it is of undercuts it.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::bound::Whole;
use super::pool_assignment::PoolUnit;
use super::space::{Combination, GroupKey, KernelShape};
use super::state::{FloorOf, Group, Known, Search};
use crate::error::PlanError;
use crate::plan::Plan;

/// Why a mesh cannot be on pools.
const STRADDLES: &str = "a stage or a replica would straddle two pools";

impl Search<'_> {
    /// Whether the ranks of a shape's layers have room in each pool; else its combinations are counted.
    pub(super) fn is_in_pools(&mut self, index: usize) -> bool {
        let KernelShape { tp, cp, .. } = self.shapes[index];
        let least = self.cluster.pools.iter().map(|pool| pool.devices()).min();
        if self.links.len() == 1 || least.is_some_and(|least| tp * cp <= least) {
            return true;
        }
        let (usual, others) = self.count(index);
        self.considered += usual + others;
        self.reject(STRADDLES, usual + others);
        false
    }

    /// A shape's passes by pool, with all axes as near as can be.
    pub(super) fn pools_passes(&mut self, kernels: usize, plan: &Plan) -> Result<Vec<Whole>, PlanError> {
        let pools = self.quick[kernels].iter().zip(&mut self.links);
        let of = |(work, links): (&super::cost::ShapeWork, &mut super::cached_prices::CachedPrices)| {
            let passes = work.passes(plan, links)?;
            Ok(Whole { starts: links.prices.host_starts().0, ..Whole::of(plan, &passes) })
        };
        pools.map(of).collect()
    }

    /// Queues a shape again if any of its combinations may end in time, by its matmuls on each pool.
    pub(super) fn look_into_pools(&mut self, index: usize, least: f64) {
        let (list, passes, cut) = (self.list(index), self.passes[index].clone(), self.cut());
        let mut assigned = false;
        for of in list.iter() {
            let Some((unit, counts)) = self.assigned(index, of) else { continue };
            assigned = true;
            if self.may_end_on_pools(index, of, (unit, &counts), &passes) {
                return self.push(least, Known::Shape(index));
            }
        }
        match assigned {
            true => self.leave(cut, list.len()),
            false => self.reject(STRADDLES, list.len()),
        }
    }

    /// Queues combinations by their work.
    pub(super) fn queue_on_pools(&mut self, index: usize, all: &[Combination], least: f64) -> Result<(), PlanError> {
        let mut groups: FxHashMap<GroupKey, Group> = FxHashMap::default();
        let (cut, passes) = (self.cut(), self.passes[index].clone());
        for of in all {
            let Some((unit, counts)) = self.assigned(index, of) else {
                self.reject(STRADDLES, 1);
                continue;
            };
            if !self.may_end_on_pools(index, of, (unit, &counts), &passes) {
                self.leave(cut, 1);
                continue;
            }
            let key = of.group();
            if let Entry::Vacant(unknown) = groups.entry(key) {
                unknown.insert(self.group(index, of, true)?);
            }
            let group = &groups[&key];
            if group.hopeless {
                self.reject("out of memory", 1);
                continue;
            }
            if !self.may_end_on_pools(index, of, (unit, &counts), &group.wholes) {
                self.leave(cut, 1);
                continue;
            }
            // While its group is at hand, all that is known without a partition.
            let partitioned = unit == PoolUnit::Stages && of.pp > 1 && of.chunks == 1;
            let shared = if unit == PoolUnit::Replicas { self.shared(index, of, group) } else { least };
            let floor = self.floor(index, of, group).max(shared).max(least);
            let next = if partitioned { FloorOf::Memory } else { FloorOf::Partitions };
            match floor < cut {
                true => self.push(floor, Known::Combination(index, *of, next)),
                false => self.leave(floor, 1),
            }
        }
        Ok(())
    }
}
