//! Shapes and their combinations: floors, from coarse to fine, by which they wait in the queue.
//!
//! In: shapes of the space. Out: nodes of the queue.
//!
//! A shape waits by its matmuls ([`super::shape_bound`]), then by its priced passes, each with what ranks share on the mesh of each of
//! its combinations; then its combinations wait by their own floors, in the usual order of axes and in all others.
//!
//! Invariant: a floor never decreases on the way, and no plan of what it is of undercuts it.

use std::sync::Arc;

use meshwright_hardware::mesh::{Axis, Mesh, Order};

use crate::error::PlanError;
use crate::lower::PieceSizes;
use crate::schedule::Schedule;

use super::bound::Whole;
use super::cost::ShapeWork;
use super::memory_bound::Trade;
use super::pool_assignment::PoolAssignment;
use super::space::{Combination, KernelShape};
use super::state::{Group, Known, Search};
use super::times::Costs;
use super::{shape_bound, stages};

impl Search<'_> {
    /// Queues all shapes.
    pub(super) fn begin(&mut self) -> Result<(), PlanError> {
        // What no mesh of all devices can be, none of fewer need be counted for again.
        let mut again = Default::default();
        let rejected = if self.space.idle.is_some() { &mut again } else { &mut self.rejected };
        self.shapes = self.space.shapes(rejected);
        self.considered = self.rejected.values().sum();
        self.idle_lists.resize_with(self.shapes.len(), Default::default);
        self.work.resize_with(self.shapes.len(), Vec::new);
        self.quick.resize_with(self.shapes.len(), Vec::new);
        self.trades.resize_with(self.shapes.len(), Vec::new);
        self.passes.resize_with(self.shapes.len(), Whole::default);
        for index in 0..self.shapes.len() {
            let shape = self.shapes[index];
            if self.space.idle.is_some() && !self.may_leave_idle(index)? {
                self.considered += 1;
                self.reject("slower by its bound", 1);
                continue;
            }
            let (usual, others) = self.count(index);
            self.considered += usual + others;
            if self.least_bytes(&shape) > self.capacity.iter().copied().max().unwrap_or(0) {
                self.reject("out of memory", usual + others);
                continue;
            }
            let floor = self.even_work(index)?;
            self.push(floor, Known::Bare(index));
        }
        Ok(())
    }

    /// Lists the combinations of a shape that leave devices idle and may be of use all the same; whether there are any.
    fn may_leave_idle(&mut self, index: usize) -> Result<bool, PlanError> {
        let (floor, cut) = (self.even_work(index)?, self.cut());
        self.proved = self.proved.min(cut);
        // Fewer devices take longer for their work, not until it starts.
        let starts = self.passes[index].starts;
        let least = (self.space.devices as f64 * (floor - starts) / (cut - starts).max(0.0)).ceil();
        if least >= self.space.devices as f64 {
            return Ok(false);
        }
        let mut list = self.space.idle_combinations(&self.shapes[index], least.max(1.0) as usize);
        let all = list.len();
        list.retain(|of| self.passes_floor(index, of) < cut);
        self.considered += all - list.len();
        self.reject("slower by its bound", all - list.len());
        self.idle_lists[index] = Arc::new(list);
        Ok(!self.idle_lists[index].is_empty())
    }

    /// A floor of a combination by what is known of its shape's passes.
    fn passes_floor(&mut self, index: usize, of: &Combination) -> f64 {
        let (shape, passes) = (self.shapes[index], self.passes[index]);
        passes.floor(&self.pipeline(&shape, of), self.ratio(&shape, of))
    }

    /// A step in which all devices work all the time.
    fn even_work(&mut self, index: usize) -> Result<f64, PlanError> {
        let shape = self.shapes[index];
        let (mut rate, mut starts) = (0.0, f64::INFINITY);
        let cluster = self.cluster;
        for (at, pool) in cluster.pools.iter().enumerate() {
            let mut passes = shape_bound::of_shape(self.space.job, &shape, &mut self.links[at])?;
            passes.times.issue = self.issued(&shape, at)?;
            passes.starts = self.links[at].prices.host_starts().0;
            starts = starts.min(passes.starts);
            rate += pool.devices() as f64 / passes.microbatch(1).0.max(passes.times.issue);
            self.passes[index] = passes;
        }
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
        let plan = self.space.plan(shape, &Combination { dp: 1, pp: 1, schedule, chunks: 1, zero: 0, order });
        let work = ShapeWork::quick(&plan, &mut links.prices)?;
        let issue = Whole::of(&plan, &work.passes(&plan, links)?).times.issue;
        self.issues.insert((kind, pool), issue);
        Ok(issue)
    }

    /// Queues a shape again by the best of its combinations.
    pub(super) fn look_into(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
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
        if self.space.idle.is_some() {
            return self.idle_lists[index].clone();
        }
        let shape = &self.shapes[index];
        let KernelShape { tp, cp, ep, microbatch, splits, whole_experts, .. } = *shape;
        let among = if ep > 1 { cp * if whole_experts { tp } else { 1 } } else { 1 };
        let key = (tp * cp, among, ep, microbatch, splits);
        let space = &self.space;
        self.lists.entry(key).or_insert_with(|| Arc::new(space.combinations(shape).collect())).clone()
    }

    /// The other orders of axes in which a mesh differs from the usual one.
    pub(super) fn orders(&mut self, mesh: &Mesh) -> Arc<Vec<Order>> {
        let several = [Axis::Tp, Axis::Data, Axis::Pp].map(|axis| mesh.size(axis) > 1);
        let space = &self.space;
        let all = self.orders.entry((several, mesh.spread() > 1)).or_insert_with(|| Arc::new(space.orders(mesh)));
        if space.idle.is_none() {
            return all.clone();
        }
        Arc::new(all.iter().copied().filter(|&order| space.fills_nodes(&Mesh { order, ..*mesh })).collect())
    }

    /// Combinations of a shape in the usual order of axes, and in all others.
    pub(super) fn count(&mut self, index: usize) -> (usize, usize) {
        let (shape, list) = (self.shapes[index], self.list(index));
        let (mut others, mut last) = (0, (0, 0));
        for of in list.iter() {
            if last.0 != of.pp {
                last = (of.pp, self.orders(&self.space.mesh(&shape, of)).len());
            }
            others += last.1;
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
        if self.links.len() > 1 {
            return Ok(Some(0.0));
        }
        let (shape, work) = (self.shapes[index], self.passes[index]);
        let (list, cut) = (self.list(index), self.cut());
        let mut least = None;
        let mut known = [None; 4];
        let mut pp = 0;
        for of in list.iter() {
            if of.pp != pp {
                (pp, known) = (of.pp, [None; 4]);
            }
            if cut.is_finite() {
                // What ranks share is priced only of what its passes do not rule out.
                let floor = self.passes_floor(index, of);
                if floor >= cut {
                    least = Some(least.map_or(floor, |least: f64| least.min(floor)));
                    continue;
                }
            }
            let rest = match known[of.zero as usize] {
                Some(rest) => rest,
                None => *known[of.zero as usize].insert(self.rest(&shape, of)?),
            };
            let Some(rest) = rest else { continue };
            let floor = work.with(&rest).floor(&self.pipeline(&shape, of), self.ratio(&shape, of));
            least = Some(least.map_or(floor, |least: f64| least.min(floor)));
        }
        Ok(least)
    }

    /// What ranks share in a step of a shape's mesh and ZeRO stage, whose passes take nothing; none if it cannot fit.
    pub(super) fn rest(&mut self, shape: &KernelShape, of: &Combination) -> Result<Option<Whole>, PlanError> {
        let &KernelShape { tp, cp, ep, whole_experts, sequence_parallel, splits, .. } = shape;
        let key = (
            KernelShape { tp, cp, ep, whole_experts, microbatch: 1, sequence_parallel, ring: false, splits },
            of.pp,
            of.zero,
        );
        if let Some(known) = self.rests.get(&key) {
            return Ok(*known);
        }
        let plan = self.space.plan(&key.0, of);
        let idle = match self.idle.take() {
            Some((same, idle)) if same == key.0 => idle,
            _ => ShapeWork::idle(&plan),
        };
        let sizes = PieceSizes::of(&plan, &idle.frames);
        let rest = if stages::hopeless(&plan, &sizes, self.capacity[0] * of.pp as u64) {
            None
        } else {
            Some(Whole::of(&plan, &Costs::of(&plan, &idle, &sizes, &mut self.links[0])?))
        };
        self.idle = Some((key.0, idle));
        self.rests.insert(key, rest);
        Ok(rest)
    }

    /// Prices a shape and queues it again by that.
    pub(super) fn price(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
        let shape = self.shapes[index];
        let list = self.list(index);
        let Some(first) = list.first() else { return Ok(()) };
        let plan = self.space.plan(&shape, first);
        let quick = self.links.iter_mut().map(|links| ShapeWork::quick(&plan, &mut links.prices));
        self.quick[index] = quick.collect::<Result<Vec<_>, _>>()?;
        if let [links] = &mut self.links[..] {
            let starts = links.prices.host_starts().0;
            self.passes[index] = Whole { starts, ..Whole::of(&plan, &self.quick[index][0].passes(&plan, links)?) };
            let least = self.floor_of_shape(index)?.map_or(least, |floor| floor.max(least));
            self.push(least, Known::Priced(index));
            return Ok(());
        }
        self.open(index, least)
    }

    /// Queues a priced shape's combinations.
    pub(super) fn open(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
        let shape = self.shapes[index];
        let list = self.list(index);
        // Of all that there are, the one on most devices.
        let Some(widest) = list.iter().min_by_key(|of| std::cmp::Reverse(of.dp * of.pp)) else { return Ok(()) };
        let plan = self.space.plan(&shape, widest);
        let trades = self.links.iter_mut().map(|links| Trade::of(&plan, &mut links.prices));
        self.trades[index] = trades.collect::<Result<Vec<_>, _>>()?;
        let kernels = self.quick[index][0].kernels(&plan) * plan.microbatches() as f64 / plan.mesh.pp as f64;
        self.queue_all(index, &list, least)?;
        if self.count(index).1 > 0 {
            self.push(least.max(kernels), Known::Orders(index));
        }
        Ok(())
    }

    /// Queues a shape's combinations in whichever unusual order of axes: by a floor with all axes as near as can be.
    pub(super) fn open_orders(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
        let shape = self.shapes[index];
        let list = self.list(index);
        let mut last: Option<(usize, u8, Group)> = None;
        let mut others = (0, 0);
        let (cut, single) = (self.cut(), self.links.len() == 1);
        for of in list.iter() {
            if others.0 != of.pp {
                others = (of.pp, self.orders(&self.space.mesh(&shape, of)).len());
            }
            let others = others.1;
            if others == 0 {
                continue;
            }
            if single {
                let floor = self.passes_floor(index, of);
                if floor >= cut {
                    self.reject("slower by its bound", others);
                    self.proved = self.proved.min(floor);
                    continue;
                }
            }
            if !matches!(&last, Some((pp, zero, _)) if (*pp, *zero) == (of.pp, of.zero)) {
                last = Some((of.pp, of.zero, self.group(index, of, true, true)?));
            }
            let group = &last.as_ref().expect("it was just made").2;
            let floor = self.floor(index, of, group).max(least);
            if floor < cut {
                self.push(floor, Known::AnyOrder(index, *of));
            } else {
                self.reject("slower by its bound", others);
                self.proved = self.proved.min(floor);
            }
        }
        Ok(())
    }

    /// Queues a combination in each unusual order of axes.
    pub(super) fn order(&mut self, index: usize, of: Combination, least: f64) -> Result<(), PlanError> {
        let mesh = self.space.mesh(&self.shapes[index], &of);
        let orders = self.orders(&mesh);
        let all = orders.iter().map(|&order| Combination { order, ..of }).collect::<Vec<_>>();
        self.queue_all(index, &all, least)
    }

    pub(super) fn queue_all(&mut self, index: usize, all: &[Combination], least: f64) -> Result<(), PlanError> {
        let mut groups: Vec<((usize, u8, Order), Option<Group>)> = Vec::new();
        let cut = self.cut();
        let single = self.links.len() == 1;
        for of in all {
            if single && cut.is_finite() {
                let floor = self.passes_floor(index, of);
                if floor >= cut {
                    self.reject("slower by its bound", 1);
                    self.proved = self.proved.min(floor);
                    continue;
                }
            }
            let mesh = self.space.mesh(&self.shapes[index], of);
            let key = (of.pp, of.zero, of.order);
            let at = match groups.iter().rposition(|(other, _)| *other == key) {
                Some(at) => at,
                None => {
                    let seated = PoolAssignment::of(self.cluster, &mesh).is_some();
                    let group = if seated { Some(self.group(index, of, false, true)?) } else { None };
                    groups.push((key, group));
                    groups.len() - 1
                }
            };
            let Some(group) = &groups[at].1 else {
                self.reject("a stage or a replica would straddle two pools", 1);
                continue;
            };
            if group.hopeless {
                self.reject("out of memory", 1);
                continue;
            }
            let floor = self.floor(index, of, group).max(least);
            if floor < cut {
                self.push(floor, Known::Combination(index, *of, false));
            } else {
                self.reject("slower by its bound", 1);
                self.proved = self.proved.min(floor);
            }
        }
        Ok(())
    }
}
