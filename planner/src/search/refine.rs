//! Combinations of opened shapes: floors, from coarse to fine, by which they wait in the queue.
//!
//! In: a shape's combinations. Out: nodes of the queue.
//!
//! A combination waits by its work, with all axes as near as can be or in its own order; then by its memory; then by every way to
//! partition its layers. What is finer is made only of what comes first by what is coarser. The most promising of a shape is
//! decided at once where its floor lets it be better than all that are: the sooner good plans are known, the less is queued.
//!
//! Invariant: a floor never decreases on the way, and no plan of what it is of undercuts it.

use super::decide::Wanted;
use super::quick_groups::QuickGroup;
use super::space::Combination;
use super::state::{FloorOf, GUESS, Known, Search};
use crate::error::PlanError;

/// Combinations of a shape of which one is decided at once.
const PROMISING: usize = 8;

impl Search<'_> {
    /// Queues a shape's combinations in whichever unusual order of axes: by their work with all axes as near as can be.
    pub(super) fn open_orders(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
        let list = self.list(index);
        let mut known = GroupsOfMesh::default();
        let mut others = (0, 0);
        let (cut, single) = (self.cut(), self.links.len() == 1);
        for of in list.iter() {
            if others.0 != of.pp {
                others = (of.pp, self.orders(index, of).len());
            }
            let others = others.1;
            // On several pools there are no others.
            if others == 0 || !single {
                continue;
            }
            let floor = self.passes_floor(index, of);
            if floor >= cut {
                self.leave(floor, others);
                continue;
            }
            let Some(group) = known.of(self, index, of, true)? else {
                self.reject("out of memory", others);
                continue;
            };
            let (floor, floor_of) = self.known_floor(index, of, (group, cut), least);
            let floor_of = if floor_of == FloorOf::Work { floor_of } else { FloorOf::Memory };
            match floor < cut {
                true => self.push(floor, Known::AnyOrder(index, *of, floor_of)),
                false => self.leave(floor, others),
            }
        }
        Ok(())
    }

    /// Counts combinations as slower by their bound; what has no end has no memory to end in.
    pub(super) fn leave(&mut self, floor: f64, count: usize) {
        self.reject(if floor.is_finite() { "slower by its bound" } else { "out of memory" }, count);
        self.proved = self.proved.min(floor);
    }

    /// Queues a combination in each unusual order of axes, or again by its memory in any of them.
    pub(super) fn order(
        &mut self,
        index: usize,
        (of, floor_of): (Combination, FloorOf),
        least: f64,
    ) -> Result<(), PlanError> {
        let orders = self.orders(index, &of);
        if floor_of == FloorOf::Work {
            let group = self.quick_group(index, &of, true)?.expect("it was queued by its work");
            let floor = self.memory_floor(index, &of, &group, least);
            match floor < self.cut() {
                true => self.push(floor, Known::AnyOrder(index, of, FloorOf::Memory)),
                false => self.leave(floor, orders.len()),
            }
            return Ok(());
        }
        let all = orders.iter().map(|&order| Combination { order, ..of }).collect::<Vec<_>>();
        self.queue_all(index, &all, least)
    }

    /// Queues combinations by their work.
    pub(super) fn queue_all(&mut self, index: usize, all: &[Combination], least: f64) -> Result<(), PlanError> {
        if self.links.len() > 1 {
            return self.queue_on_pools(index, all, least);
        }
        let mut known = GroupsOfMesh::default();
        let mut queued = Vec::new();
        let cut = self.cut();
        for of in all {
            let floor = if cut.is_finite() { self.passes_floor(index, of) } else { 0.0 };
            if floor >= cut {
                self.leave(floor, 1);
                continue;
            }
            let Some(group) = known.of(self, index, of, false)? else {
                self.reject("out of memory", 1);
                continue;
            };
            let (floor, floor_of) = self.known_floor(index, of, (group, cut), least);
            match floor < cut {
                true => queued.push((floor, *of, floor_of)),
                false => self.leave(floor, 1),
            }
        }
        self.try_first(index, &mut queued)?;
        queued.into_iter().for_each(|(floor, of, floor_of)| self.push(floor, Known::Combination(index, of, floor_of)));
        Ok(())
    }

    /// A combination's floor by its work; where that may rule it out by its memory too, while its group is at hand.
    fn known_floor(
        &mut self,
        index: usize,
        of: &Combination,
        (group, cut): (&QuickGroup, f64),
        least: f64,
    ) -> (f64, FloorOf) {
        let floor = self.work_floor(index, of, group).max(least);
        if floor >= cut || cut.is_infinite() {
            return (floor, FloorOf::Work);
        }
        (self.memory_floor(index, of, group, floor), self.after_memory(of))
    }

    /// Decides the most promising of a shape's combinations, if it may better what is guessed.
    fn try_first(&mut self, index: usize, queued: &mut Vec<(f64, Combination, FloorOf)>) -> Result<(), PlanError> {
        let better = self.guess() / GUESS;
        if self.tries == 0 || !self.options.guesses || queued.is_empty() {
            return Ok(());
        }
        queued.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut first: Option<(f64, usize)> = None;
        for (at, &(floor, of, _)) in queued.iter().enumerate().take(PROMISING) {
            if floor >= first.map_or(better, |(least, _)| least) {
                break;
            }
            let group = self.quick_group(index, &of, false)?.expect("it was queued by its work");
            let floor = self.memory_floor(index, &of, &group, floor);
            if floor < first.map_or(better, |(least, _)| least) {
                first = Some((floor, at));
            }
        }
        let Some((floor, at)) = first else { return Ok(()) };
        self.tries -= 1;
        let (_, of, _) = queued.remove(at);
        let floor = self.partitions_floor(index, &of, floor)?;
        self.decide_these(vec![Wanted { index, of, floor }])
    }

    /// Queues a combination again by a finer floor.
    pub(super) fn refine(
        &mut self,
        index: usize,
        (of, floor_of): (Combination, FloorOf),
        least: f64,
    ) -> Result<(), PlanError> {
        let (floor, next) = match floor_of {
            FloorOf::Work => {
                let group = self.quick_group(index, &of, false)?.expect("it was queued by its work");
                (self.memory_floor(index, &of, &group, least), self.after_memory(&of))
            }
            FloorOf::Memory | FloorOf::Partitions => (self.partitions_floor(index, &of, least)?, FloorOf::Partitions),
        };
        match floor < self.cut() {
            true => self.push(floor, Known::Combination(index, of, next)),
            false => self.leave(floor, 1),
        }
        Ok(())
    }
}

/// The groups of the mesh that combinations in a row have, by ZeRO stage.
#[derive(Default)]
struct GroupsOfMesh {
    mesh: Option<(usize, usize, meshwright_hardware::mesh::Order)>,
    known: [Option<Option<QuickGroup>>; 4],
}

impl GroupsOfMesh {
    fn of(
        &mut self,
        search: &mut Search,
        index: usize,
        of: &Combination,
        nearest: bool,
    ) -> Result<Option<&QuickGroup>, PlanError> {
        let mesh = Some((of.dp, of.pp, of.order));
        if self.mesh != mesh {
            *self = GroupsOfMesh { mesh, ..GroupsOfMesh::default() };
        }
        let known = &mut self.known[of.zero as usize];
        if known.is_none() {
            *known = Some(search.quick_group(index, of, nearest)?);
        }
        Ok(known.as_ref().and_then(Option::as_ref))
    }
}
