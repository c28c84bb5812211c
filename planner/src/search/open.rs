//! Shapes: floors, from coarse to fine, by which they wait in the queue.
//!
//! In: shapes of the space. Out: nodes of the queue.
//!
//! A shape waits by its matmuls ([`super::shape_bound`]), then by its priced passes, each with what ranks share on the mesh of each of
//! its combinations; then these wait by their own floors ([`super::refine`]), in the usual order of axes and in all others.
//!
//! Invariant: a floor never decreases on the way, and no plan of what it is of undercuts it.

use std::sync::Arc;

use meshwright_hardware::mesh::{Axis, Mesh, Order};

use crate::error::PlanError;
use crate::lower::Formats;
use crate::schedule::Schedule;

use super::bound::Whole;
use super::cost::ShapeWork;
use super::memory_bound::Trade;
use super::space::{Combination, KernelShape};
use super::state::{Known, Search};

impl Search<'_> {
    /// Queues all shapes.
    pub(super) fn begin(&mut self) -> Result<(), PlanError> {
        let shapes = self.space.shapes(&mut self.rejected);
        self.considered = self.rejected.values().sum();
        self.kernels = (0..shapes.len()).collect();
        self.add(shapes);
        for index in 0..self.shapes.len() {
            if self.is_in_pools(index) {
                let floor = self.even_work(index)?;
                self.begin_shape(index, floor);
            }
        }
        Ok(())
    }

    /// Makes room for what will be known of shapes.
    pub(super) fn add(&mut self, mut shapes: Vec<KernelShape>) {
        self.shapes.append(&mut shapes);
        let count = self.shapes.len();
        self.work.resize_with(count, Vec::new);
        self.quick.resize_with(count, Vec::new);
        self.trades.resize_with(count, Vec::new);
        self.passes.resize_with(count, Vec::new);
        self.streams.resize_with(count, Default::default);
    }

    /// Queues a shape by a floor.
    pub(super) fn begin_shape(&mut self, index: usize, floor: f64) {
        let (usual, others) = self.count(index);
        self.considered += usual + others;
        if self.least_bytes(&self.shapes[index]) > self.capacity.iter().copied().max().unwrap_or(0) {
            self.reject("out of memory", usual + others);
        } else if floor >= self.cut() {
            self.leave(floor, usual + others);
        } else {
            self.push(floor, Known::Bare(index));
        }
    }

    /// A floor of a combination by what is known of its shape's passes.
    pub(super) fn passes_floor(&mut self, index: usize, of: &Combination) -> f64 {
        let (shape, passes) = (self.shapes[index], self.passes[index][0]);
        passes.floor(&self.pipeline(&shape, of), self.ratio(&shape, of))
    }

    /// A step in which all devices work all the time.
    pub(super) fn even_work(&mut self, index: usize) -> Result<f64, PlanError> {
        let shape = self.shapes[index];
        let (mut rate, mut starts, mut all) = (0.0, f64::INFINITY, Vec::new());
        let cluster = self.cluster;
        for (at, pool) in cluster.pools.iter().enumerate() {
            let mut passes = self.floors[at].passes(&shape, &mut self.links[at])?;
            passes.times.issue = self.issued(&shape, at)?;
            passes.starts = self.links[at].prices.host_starts().0;
            starts = starts.min(passes.starts);
            rate += pool.devices() as f64 / passes.microbatch(1).0.max(passes.times.issue);
            all.push(passes);
        }
        self.passes[index] = all;
        let microbatches = self.space.job.global_batch as f64 / shape.microbatch as f64;
        Ok(starts + microbatches * (shape.tp * shape.cp) as f64 / rate)
    }

    /// Seconds in which a pool's hosts issue a microbatch's passes: as many kernels as the first shape of its kind has.
    fn issued(&mut self, shape: &KernelShape, pool: usize) -> Result<f64, PlanError> {
        let links = &mut self.links[pool];
        if links.prices.issue_once().0 == 0.0 {
            return Ok(0.0);
        }
        let cp = if shape.ring { shape.cp } else { shape.cp.min(2) };
        let kind = KernelShape { tp: shape.tp.min(2), cp, ep: shape.ep.min(2), microbatch: 1, ..*shape };
        if let Some(&known) = self.issues.get(&(kind, pool)) {
            return Ok(known);
        }
        let schedule = Schedule::ALL.iter().copied().find(|schedule| schedule.splits() == shape.splits);
        let (schedule, order) = (schedule.unwrap_or_default(), Order::default());
        let plan = self.space.plan(shape, &Combination { dp: 1, pp: 1, schedule, chunks: 1, zero: 0, order, part: 0 });
        let work = ShapeWork::quick(&plan, &mut links.prices)?;
        let issue = Whole::of(&plan, &work.passes(&plan, links)?).times.issue;
        self.issues.insert((kind, pool), issue);
        Ok(issue)
    }

    /// Queues a shape again by the best of its combinations.
    pub(super) fn look_into(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
        if self.links.len() > 1 {
            self.look_into_pools(index, least);
            return Ok(());
        }
        match self.floor_of_shape(index)? {
            Some(seconds) => self.push(seconds.max(least), Known::Shape(index)),
            None => {
                let (usual, others) = self.count(index);
                self.reject("out of memory", usual + others);
            }
        }
        Ok(())
    }

    /// Combinations of a shape in the usual order of axes.
    pub(super) fn list(&mut self, index: usize) -> Arc<Vec<Combination>> {
        if let Some(list) = self.idle_list(index) {
            return list.clone();
        }
        let (shape, space) = (&self.shapes[index], &self.space);
        self.lists.entry(shape.list_key()).or_insert_with(|| Arc::new(space.combinations(shape).collect())).clone()
    }

    /// The other orders of axes in which a mesh differs from the usual one.
    pub(super) fn orders(&mut self, index: usize, of: &Combination) -> Arc<Vec<Order>> {
        let mesh = &self.space.mesh(&self.shapes[index], of);
        let several = [Axis::Tp, Axis::Data, Axis::Pp].map(|axis| mesh.size(axis) > 1);
        let space = &self.space;
        let known = self.orders.entry((several, mesh.spread() > 1));
        let all = known.or_insert_with(|| Arc::new(space.orders(mesh))).clone();
        if self.idle_list(index).is_none() {
            return all;
        }
        let fills = |order: &Order| self.idle_space.fills_nodes(&Mesh { order: *order, ..*mesh });
        Arc::new(all.iter().copied().filter(fills).collect())
    }

    /// Combinations of a shape in the usual order of axes, and in all others.
    pub(super) fn count(&mut self, index: usize) -> (usize, usize) {
        let shape = self.shapes[index];
        let key = (shape.list_key(), [shape.tp > 1, shape.cp > 1, shape.whole_experts && shape.tp > 1]);
        let known = self.counts.get(&key).filter(|_| self.idle_list(index).is_none());
        if let Some(&known) = known {
            return known;
        }
        let list = self.list(index);
        let (mut others, mut last) = (0, (0, 0));
        for of in list.iter() {
            if last.0 != of.pp {
                last = (of.pp, self.orders(index, of).len());
            }
            others += last.1;
        }
        if self.idle_list(index).is_none() {
            self.counts.insert(key, (list.len(), others));
        }
        (list.len(), others)
    }

    /// What any stage of a shape needs at least: the head's logits and one layer's input.
    pub(super) fn least_bytes(&self, shape: &KernelShape) -> u64 {
        let (job, width) = (self.space.job, self.space.job.precision.stored().bytes());
        let rows = if job.target() > 0 { job.target() } else { job.seq / shape.cp } * shape.microbatch;
        let scored = if job.model.causal() || job.target() > 0 { rows } else { 0 };
        (scored * job.model.vocab_on(shape.tp)) as u64 * width
    }

    /// A floor of all combinations of a shape, before anything of it is made; none if nothing of it can fit.
    fn floor_of_shape(&mut self, index: usize) -> Result<Option<f64>, PlanError> {
        let (shape, work) = (self.shapes[index], self.passes[index][0]);
        let (list, cut) = (self.list(index), self.cut());
        let mut least = None;
        let mut known = [const { None }; 4];
        let mut pp = 0;
        for of in list.iter() {
            if of.pp != pp {
                (pp, known) = (of.pp, [const { None }; 4]);
            }
            if cut.is_finite() {
                // What ranks share is priced only of what its passes do not rule out.
                let floor = self.passes_floor(index, of);
                if floor >= cut {
                    least = Some(least.map_or(floor, |least: f64| least.min(floor)));
                    continue;
                }
            }
            let rest = match &known[of.zero as usize] {
                Some(rest) => rest,
                None => known[of.zero as usize].insert(self.rest(&shape, of, false)?),
            };
            let Some(rest) = rest else { continue };
            let floor = work.with(&rest.whole).floor(&self.pipeline(&shape, of), self.ratio(&shape, of));
            least = Some(least.map_or(floor, |least: f64| least.min(floor)));
        }
        Ok(least)
    }

    /// Prices a shape and queues it again by that.
    pub(super) fn price(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
        let shape = self.shapes[index];
        let list = self.list(index);
        let Some(first) = list.first() else { return Ok(()) };
        let plan = self.space.plan(&shape, first);
        let kernels = self.kernels[index];
        if self.quick[kernels].is_empty() {
            let quick = self.links.iter_mut().map(|links| ShapeWork::quick(&plan, &mut links.prices));
            self.quick[kernels] = quick.collect::<Result<Vec<_>, _>>()?;
            self.streams[kernels] = plan.stream_elems() as u64 * Formats::of(&plan.job).model.bytes();
        }
        if let [links] = &mut self.links[..] {
            let starts = links.prices.host_starts().0;
            let passes = self.quick[kernels][0].passes(&plan, links)?;
            self.passes[index] = vec![Whole { starts, ..Whole::of(&plan, &passes) }];
            let least = self.floor_of_shape(index)?.map_or(least, |floor| floor.max(least));
            self.push(least, Known::Priced(index));
            return Ok(());
        }
        self.passes[index] = self.pools_passes(kernels, &plan)?;
        self.open(index, least)
    }

    /// Queues a priced shape's combinations.
    pub(super) fn open(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
        let shape = self.shapes[index];
        let list = self.list(index);
        // Of all that there are, the one on most devices.
        let Some(widest) = list.iter().min_by_key(|of| std::cmp::Reverse(of.dp * of.pp)) else { return Ok(()) };
        let plan = self.space.plan(&shape, widest);
        let kernels = self.kernels[index];
        if self.trades[kernels].is_empty() {
            let ability = self.space.within.as_ref().map(|within| within.ability);
            let trades = self.links.iter_mut().map(|links| Trade::of(&plan, &mut links.prices, ability));
            self.trades[kernels] = trades.collect::<Result<Vec<_>, _>>()?;
        }
        let kernels = self.quick[kernels][0].kernels(&plan) * plan.microbatches() as f64 / plan.mesh.pp as f64;
        self.queue_all(index, &list, least)?;
        if self.count(index).1 > 0 {
            self.push(least.max(kernels), Known::Orders(index));
        }
        Ok(())
    }
}
