//! Meshes that leave devices idle, where a faster plan can be: a batch, heads and layers may divide among fewer.
//!
//! In: a search that is through with meshes of all devices. Out: shapes in its queue whose combinations use fewer devices.
//!
//! Kernels of a shape are the same on fewer devices, so that what is known of them is not made again.
//!
//! Invariant: of meshes that could better what is known none is left out that fills its nodes (see
//! [`super::space::Space::fills_nodes`]).

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::space::{Combination, KernelShape};
use super::state::Search;
use crate::error::PlanError;

/// Parts of several pools that are looked at though no plan is known.
const FEW_PARTS: usize = 64;

impl Search<'_> {
    /// Whether meshes that leave devices idle are to be looked at, and are not yet.
    pub(super) fn idle_waits(&self) -> bool {
        self.options.idle && self.idle_from.is_none() && (self.links.len() == 1 || self.parts.any())
    }

    /// Combinations of a shape, if it is one that leaves devices idle.
    pub(super) fn idle_list(&self, index: usize) -> Option<&Arc<Vec<Combination>>> {
        self.idle_lists.get(index.checked_sub(self.idle_from?)?)
    }

    /// Queues the shapes that may leave devices idle and be of use all the same.
    pub(super) fn begin_idle(&mut self) -> Result<(), PlanError> {
        let from = self.shapes.len();
        self.idle_from = Some(from);
        if self.links.len() > 1 {
            self.search_round_part()?;
            // Without a step to better, those of a few nodes alone.
            let parts: usize = self.cluster.pools.iter().map(|pool| pool.nodes).product();
            if self.cut().is_infinite() && parts > FEW_PARTS {
                return Ok(());
            }
        }
        // What no mesh of all devices can be, none of fewer need be counted for again.
        let shapes = self.idle_space.shapes(&mut Default::default());
        let known: FxHashMap<KernelShape, usize> =
            self.shapes.iter().enumerate().map(|(at, shape)| (*shape, at)).collect();
        let same = |(at, shape): (usize, &KernelShape)| known.get(shape).copied().unwrap_or(from + at);
        self.kernels.extend(shapes.iter().enumerate().map(same));
        self.idle_lists.resize_with(shapes.len(), Default::default);
        self.add(shapes);
        for index in from..self.shapes.len() {
            if !self.is_in_pools(index) {
                continue;
            }
            let floor = self.even_work(index)?;
            if self.may_leave_idle(index, floor)? {
                self.begin_shape(index, floor);
            } else {
                self.considered += 1;
                self.reject("slower by its bound", 1);
            }
        }
        Ok(())
    }

    /// Lists the combinations of a shape that leave devices idle and may be of use all the same; whether there are any.
    fn may_leave_idle(&mut self, index: usize, floor: f64) -> Result<bool, PlanError> {
        let cut = self.cut();
        self.proved = self.proved.min(cut);
        let from = self.idle_from.expect("it is one of those");
        if self.links.len() > 1 {
            let list = if floor < cut { self.combinations_on_parts(index, floor)? } else { Vec::new() };
            self.idle_lists[index - from] = Arc::new(list);
            return Ok(!self.idle_lists[index - from].is_empty());
        }
        // Fewer devices take longer for their work, not until it starts.
        let starts = self.passes[index][0].starts;
        let least = (self.space.devices as f64 * (floor - starts) / (cut - starts).max(0.0)).ceil();
        if least >= self.space.devices as f64 {
            return Ok(false);
        }
        let mut list = self.idle_space.idle_combinations(&self.shapes[index], least.max(1.0) as usize);
        let all = list.len();
        list.retain(|of| self.passes_floor(index, of) < cut);
        self.considered += all - list.len();
        self.reject("slower by its bound", all - list.len());
        self.idle_lists[index - from] = Arc::new(list);
        Ok(!self.idle_lists[index - from].is_empty())
    }
}
