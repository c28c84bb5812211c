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

impl Search<'_> {
    /// Whether meshes that leave devices idle are to be looked at, and are not yet.
    pub(super) fn idle_waits(&self) -> bool {
        self.options.idle && self.idle_from.is_none() && self.links.len() == 1
    }

    /// Combinations of a shape, if it is one that leaves devices idle.
    pub(super) fn idle_list(&self, index: usize) -> Option<&Arc<Vec<Combination>>> {
        self.idle_lists.get(index.checked_sub(self.idle_from?)?)
    }

    /// Queues the shapes that may leave devices idle and be of use all the same.
    pub(super) fn begin_idle(&mut self) -> Result<(), PlanError> {
        let from = self.shapes.len();
        self.idle_from = Some(from);
        // What no mesh of all devices can be, none of fewer need be counted for again.
        let shapes = self.idle_space.shapes(&mut Default::default());
        let known: FxHashMap<KernelShape, usize> =
            self.shapes.iter().enumerate().map(|(at, shape)| (*shape, at)).collect();
        let same = |(at, shape): (usize, &KernelShape)| known.get(shape).copied().unwrap_or(from + at);
        self.kernels.extend(shapes.iter().enumerate().map(same));
        self.idle_lists.resize_with(shapes.len(), Default::default);
        self.add(shapes);
        for index in from..self.shapes.len() {
            let floor = self.even_work(index)?;
            if self.may_leave_idle(index, floor) {
                self.begin_shape(index, floor);
            } else {
                self.considered += 1;
                self.reject("slower by its bound", 1);
            }
        }
        Ok(())
    }

    /// Lists the combinations of a shape that leave devices idle and may be of use all the same; whether there are any.
    fn may_leave_idle(&mut self, index: usize, floor: f64) -> bool {
        let cut = self.cut();
        self.proved = self.proved.min(cut);
        // Fewer devices take longer for their work, not until it starts.
        let starts = self.passes[index].starts;
        let least = (self.space.devices as f64 * (floor - starts) / (cut - starts).max(0.0)).ceil();
        if least >= self.space.devices as f64 {
            return false;
        }
        let mut list = self.idle_space.idle_combinations(&self.shapes[index], least.max(1.0) as usize);
        let all = list.len();
        list.retain(|of| self.passes_floor(index, of) < cut);
        self.considered += all - list.len();
        self.reject("slower by its bound", all - list.len());
        let any = !list.is_empty();
        let from = self.idle_from.expect("it is one of those");
        self.idle_lists[index - from] = Arc::new(list);
        any
    }
}
