//! The space: every combination of decisions, but for stages.
//!
//! In: a job, a number of devices, what is fixed. Out: [`KernelShape`]s, and the [`Combination`]s of each.
//!
//! Invariant: every combination satisfies [`Plan::check`] once it has stages; what the job or the devices rule out is counted
//! with its reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwright_hardware::mesh::{Axis, Mesh, Order};
use rustc_hash::FxHashMap;

use crate::ability::Ability;
use crate::job::{Fix, Job, LayerKind};
use crate::limits;
use crate::plan::{Plan, Stage, check_tp};
use crate::schedule::Schedule;

use super::within::Within;

/// What tells the groups of a shape apart: replicas and stages, ZeRO stage, order of axes, part of several pools.
pub(super) type GroupKey = ([usize; 2], u8, Order, usize);

/// Whether a value is as fixed, or nothing is.
pub(super) fn allows<T: PartialEq>(fixed: &Option<T>, value: &T) -> bool {
    fixed.as_ref().is_none_or(|fixed| fixed == value)
}

/// Decisions on which kernels depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KernelShape {
    /// Tensor parallelism.
    pub tp: usize,
    /// Context parallelism.
    pub cp: usize,
    /// Expert parallelism.
    pub ep: usize,
    /// Whether experts are whole though there is tensor parallelism.
    pub whole_experts: bool,
    /// Sequences a microbatch.
    pub microbatch: usize,
    /// Whether tensor parallelism shards tokens.
    pub sequence_parallel: bool,
    /// Whether context parallelism goes round a ring.
    pub ring: bool,
    /// Whether backward is split.
    pub splits: bool,
}

/// What combinations in the usual order of axes follow from: ranks of TP and CP, ranks that experts may spread over beside data,
/// EP, microbatch, whether backward is split.
pub(super) type ListKey = (usize, usize, usize, usize, bool);

impl KernelShape {
    /// What its combinations follow from.
    pub(super) fn list_key(&self) -> ListKey {
        let &KernelShape { tp, cp, ep, microbatch, splits, whole_experts, .. } = self;
        let among = if ep > 1 { cp * if whole_experts { tp } else { 1 } } else { 1 };
        (tp * cp, among, ep, microbatch, splits)
    }

    /// Whether an engine can express it.
    fn is_within(&self, ability: &Ability) -> bool {
        let &KernelShape { tp, cp, ep, whole_experts, sequence_parallel, ring, splits, .. } = self;
        let experts = if tp > 1 { ability.ep[usize::from(whole_experts)] } else { ability.ep.contains(&true) };
        (tp == 1 || ability.tp[usize::from(sequence_parallel)])
            && (cp == 1 || ability.cp[usize::from(ring)])
            && (ep == 1 || experts)
            && (!splits || ability.schedules.iter().any(|(schedule, _)| schedule.splits()))
    }
}

/// The other decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Combination {
    /// Data parallelism.
    pub dp: usize,
    /// Pipeline parallelism.
    pub pp: usize,
    /// Order of microbatches.
    pub schedule: Schedule,
    /// Chunks a stage.
    pub chunks: usize,
    /// ZeRO stage.
    pub zero: u8,
    /// How axes are laid over ranks.
    pub order: Order,
    /// On which part of several pools it is (see [`super::pool_parts`]); the first is all of them.
    pub part: usize,
}

impl Combination {
    /// What tells its group apart from others of its shape.
    pub(super) fn group(&self) -> GroupKey {
        ([self.dp, self.pp], self.zero, self.order, self.part)
    }
}

/// A job on so many devices.
pub struct Space<'a> {
    /// The job.
    pub job: &'a Job,
    /// Devices there are.
    pub devices: usize,
    /// Devices a node, where meshes leave some devices idle; none where all take part.
    pub idle: Option<usize>,
    /// What is fixed.
    pub fix: &'a Fix,
    /// Whether the devices are in several pools, on which replicas may take unlike shares of the batch.
    pub pools: bool,
    /// The engine to plan for.
    pub within: Option<Arc<Within<'a>>>,
}

impl Space<'_> {
    /// All shapes that some combination has; others count into `rejected` once each.
    pub fn shapes(&self, rejected: &mut BTreeMap<String, usize>) -> Vec<KernelShape> {
        let (job, fix) = (self.job, self.fix);
        let mut reject = |reason: String| *rejected.entry(reason).or_default() += 1;
        let (mut all, mut known) = (Vec::new(), FxHashMap::default());
        for tp in self.sizes(self.devices, job.model.heads).filter(|tp| allows(&fix.tp, tp)) {
            if fix.max_tp.is_some_and(|most| tp > most) {
                reject("more tensor parallelism than allowed".to_owned());
                continue;
            }
            if let Err(problem) = check_tp(job, tp) {
                reject(format!("tensor parallelism does not divide: {}", problem.replace("it must divide ", "")));
                continue;
            }
            for cp in self.sizes(self.devices / tp, (job.seq / 2).max(1)).filter(|cp| allows(&fix.cp, cp)) {
                if cp > 1 && (job.target() > 0 || job.window().is_some() || !job.sample().is_multiple_of(2 * cp)) {
                    reject("context parallelism does not divide the sequence".to_owned());
                    continue;
                }
                self.shapes_of((tp, cp), &mut all, &mut known, &mut reject);
            }
        }
        all
    }

    /// Sizes of an axis among so many devices: their divisors, or where some may be idle, those of what the axis shards.
    fn sizes(&self, among: usize, sharded: usize) -> impl Iterator<Item = usize> {
        divisors(if self.idle.is_some() { sharded } else { among }).filter(move |&size| size <= among)
    }

    fn shapes_of(
        &self,
        (tp, cp): (usize, usize),
        all: &mut Vec<KernelShape>,
        known: &mut FxHashMap<ListKey, bool>,
        reject: &mut impl FnMut(String),
    ) {
        let (job, fix) = (self.job, self.fix);
        let experts = job.model.experts().map_or(1, |experts| experts.count);
        let rest = self.devices / (tp * cp);
        for microbatch in self.microbatches() {
            let rows = microbatch * job.seq / cp;
            for (sequence_parallel, ring, splits, whole_experts) in flags() {
                let sharded = tp > 1 && rows.is_multiple_of(tp) && (microbatch * job.target()).is_multiple_of(tp);
                let wanted = (tp == 1 || allows(&fix.sequence_parallel, &sequence_parallel))
                    && (cp == 1 || allows(&fix.ring, &ring))
                    && (!whole_experts || (experts > 1 && sequence_parallel && !job.model.parallel_block()));
                if !wanted || (sequence_parallel && !sharded) || (ring && cp == 1) {
                    continue;
                }
                let spread = rest * cp * if whole_experts { tp } else { 1 };
                let holds = |ep: usize| if self.idle.is_some() { ep <= spread } else { spread.is_multiple_of(ep) };
                for ep in divisors(experts).filter(|ep| allows(&fix.ep, ep) && holds(*ep)) {
                    let shape = KernelShape { tp, cp, ep, whole_experts, microbatch, sequence_parallel, ring, splits };
                    if self.within.as_ref().is_some_and(|within| !shape.is_within(within.ability)) {
                        continue;
                    }
                    // Where devices may be idle, the search asks for combinations once it knows how many.
                    let mut any = || {
                        let known = known.entry(shape.list_key());
                        *known.or_insert_with(|| self.combinations(&shape).next().is_some())
                    };
                    if self.idle.is_some() || any() {
                        all.push(shape);
                    } else if !splits {
                        reject("no number of replicas and stages goes with it".to_owned());
                    }
                }
            }
        }
    }

    /// Sequences a microbatch: all that the batch of some number of replicas can be cut into.
    fn microbatches(&self) -> Vec<usize> {
        match self.fix.microbatch {
            Some(fixed) => vec![fixed],
            None => divisors(self.job.global_batch).collect(),
        }
    }

    /// Combinations of a shape in the usual order of axes, or in the fixed one.
    pub fn combinations(&self, shape: &KernelShape) -> impl Iterator<Item = Combination> {
        let rest = self.devices / (shape.tp * shape.cp);
        self.of_meshes(shape, divisors(rest).map(move |pp| (rest / pp, pp)))
    }

    /// The same that leave devices idle and use `least` or more: with each number of stages, as many replicas as there are
    /// devices for.
    pub fn idle_combinations(&self, shape: &KernelShape, least: usize) -> Vec<Combination> {
        let fix = self.fix;
        let rest = self.devices / (shape.tp * shape.cp);
        let replicas: Vec<usize> = divisors(self.job.global_batch / shape.microbatch).collect();
        let &KernelShape { tp, cp, .. } = shape;
        let mesh = |pp: usize| {
            let few = &replicas[..replicas.partition_point(|&dp| dp <= rest / pp)];
            let fits = |dp: &&usize| {
                let mesh = Mesh { dp: **dp, pp, tp, cp, order: fix.order.unwrap_or_default(), ..Mesh::ONE };
                allows(&fix.dp, dp) && self.holds_experts(shape, **dp) && self.fills_nodes(&mesh)
            };
            let dp = *few.iter().rev().find(fits)?;
            (least..self.devices).contains(&(tp * cp * dp * pp)).then_some((dp, pp))
        };
        self.of_meshes(shape, (1..=rest.min(self.job.model.depth())).filter_map(mesh)).collect()
    }

    /// Whether no group of a mesh lies on one node in some places and on two in others: all its ranks would wait for those.
    pub fn fills_nodes(&self, mesh: &Mesh) -> bool {
        let Some(node) = self.idle else { return true };
        let fills = |ranks: usize| mesh.ranks() <= node || ranks >= node || node.is_multiple_of(ranks);
        let several: Vec<Axis> = mesh.order.axes().into_iter().filter(|&axis| mesh.size(axis) > 1).collect();
        let mut ranks = 1;
        several.iter().enumerate().all(|(at, &axis)| {
            let context = axis != Axis::Data || fills(ranks * mesh.cp);
            ranks *= mesh.size(axis);
            context && (at + 1 == several.len() || fills(ranks))
        })
    }

    /// Whether ZeRO can shard over as many ranks as are fixed: over all of them where nothing is.
    fn shards_evenly(&self, shape: &KernelShape, dp: usize) -> bool {
        let (data, spread) = (dp * shape.cp, if shape.whole_experts { shape.tp } else { 1 });
        let even = |shard: usize| data.is_multiple_of(shard) && (shard * spread).is_multiple_of(shape.ep);
        self.fix.shard.is_none_or(even)
    }

    /// Whether experts spread evenly over so many replicas.
    pub(super) fn holds_experts(&self, shape: &KernelShape, dp: usize) -> bool {
        let &KernelShape { tp, cp, ep, whole_experts, .. } = shape;
        (dp * cp * if whole_experts { tp } else { 1 }).is_multiple_of(ep)
    }

    /// Combinations of a shape on meshes of so many replicas and stages.
    pub(super) fn of_meshes(
        &self,
        shape: &KernelShape,
        meshes: impl Iterator<Item = (usize, usize)>,
    ) -> impl Iterator<Item = Combination> {
        let (job, fix) = (self.job, self.fix);
        let &KernelShape { cp, microbatch, splits, .. } = shape;
        let shape = *shape;
        let fits = move |&(dp, pp): &(usize, usize)| {
            let stages = allows(&fix.pp, &pp) && pp <= fix.max_pp.unwrap_or(pp).min(job.model.depth());
            stages && allows(&fix.dp, &dp) && self.holds_experts(&shape, dp)
        };
        let even = move |dp: usize| job.global_batch.is_multiple_of(dp * microbatch);
        // With several pools, stages or replicas lie in one each: whichever of them is outermost.
        let both = [Order::TpDataPp, Order::TpPpData];
        let orders: Vec<Order> = match fix.order {
            Some(order) => vec![order],
            None => both[..if self.pools { 2 } else { 1 }].to_vec(),
        };
        let within = self.within.as_deref();
        let meshes = meshes.filter(fits).flat_map(move |mesh| orders.clone().into_iter().map(move |o| (mesh, o)));
        meshes.flat_map(move |((dp, pp), order)| {
            // Unlike shares need not divide evenly.
            let unlike = self.pools && order == Order::TpPpData && job.global_batch / microbatch >= dp;
            let whole = job.global_batch / (dp * microbatch);
            let short = whole * job.model.depth() <= limits::PASSES;
            let ways = if short && (even(dp) || unlike) { self.ways(pp, whole, splits) } else { Vec::new() };
            let most = match (even(dp), self.shards_evenly(&shape, dp)) {
                (_, false) => 0,
                (false, true) => 1,
                (true, true) => 3,
            };
            ways.into_iter().flat_map(move |(schedule, chunks)| {
                // Ranks to shard over are fixed of plans that shard.
                let least = u8::from(fix.shard.is_some());
                let can = move |zero: &u8| within.is_none_or(|within| dp * cp == 1 || within.zero(pp, *zero));
                let zeros = self.zeros(dp * cp, schedule).into_iter().filter(move |zero| (least..=most).contains(zero));
                let zeros = zeros.filter(can);
                zeros.map(move |zero| Combination { dp, pp, schedule, chunks, zero, order, part: 0 })
            })
        })
    }

    /// Layers of a kind on each of so many virtual stages, as even as can be.
    pub fn layers_of_kind(&self, virtual_stages: usize, kind: LayerKind) -> Vec<usize> {
        let model = &self.job.model;
        let mut from = 0;
        let of = |held: usize| {
            from += held;
            (from - held..from).filter(|&layer| model.kind(layer) == kind).count()
        };
        crate::plan::layers_of(model.depth(), virtual_stages).into_iter().map(of).collect()
    }

    /// Schedules that differ with so many stages and microbatches, and their chunks a stage, the fewest first.
    fn ways(&self, pp: usize, microbatches: usize, splits: bool) -> Vec<(Schedule, usize)> {
        if pp == 1 {
            return if splits { Vec::new() } else { vec![(Schedule::default(), 1)] };
        }
        let layers = self.job.model.depth();
        let largest = |chunks: usize| layers.div_ceil(pp * chunks);
        let mut all = Vec::new();
        for &schedule in Schedule::ALL.iter().filter(|schedule| schedule.splits() == splits) {
            let order = schedule.order();
            let can = |&chunks: &usize| microbatches.is_multiple_of(order.round(pp, chunks));
            let (least, most) = (*order.chunks().start(), layers / pp);
            let allowed: Vec<usize> = order.chunks().take_while(|&chunks| chunks <= most).filter(can).collect();
            // Of all that make the largest chunk as large, the fewest.
            let finer = |&chunks: &usize| {
                chunks == least || largest(chunks) < largest(chunks - 1) || Some(&chunks) == allowed.last()
            };
            all.extend(allowed.iter().copied().filter(finer).map(|chunks| (schedule, chunks)));
        }
        if let Some(within) = &self.within {
            all.retain(|&(schedule, chunks)| within.pipeline((pp, layers), schedule, chunks));
        }
        all.sort_by_key(|&(_, chunks)| chunks);
        all.retain(|(schedule, chunks)| allows(&self.fix.schedule, schedule) && allows(&self.fix.chunks, chunks));
        all
    }

    fn zeros(&self, data: usize, schedule: Schedule) -> Vec<u8> {
        let most = if schedule.splits() { 1 } else { 3 };
        match (data, self.fix.zero) {
            // One rank has nothing to shard: every ZeRO stage is the same plan, written as it is fixed.
            (1, None) => vec![0],
            (_, fixed) => (0..=most).filter(|zero| allows(&fixed, zero)).collect(),
        }
    }

    /// The other orders of axes in which a mesh differs from the usual one.
    pub fn orders(&self, mesh: &Mesh) -> Vec<Order> {
        if self.fix.order.is_some() || self.pools {
            return Vec::new();
        }
        let matters = |order: Order| order.axes().into_iter().filter(|&axis| mesh.size(axis) > 1).collect::<Vec<_>>();
        let mut seen = vec![matters(Order::default())];
        let mut all = Vec::new();
        for order in Order::ALL {
            let axes = matters(order);
            if mesh.spread() > 1 && !order.spreads() {
                continue;
            }
            let can = self.within.as_ref().is_none_or(|within| within.order(order));
            if can && !seen.contains(&axes) {
                seen.push(axes);
                all.push(order);
            }
        }
        all
    }

    /// The mesh of a combination.
    pub fn mesh(&self, shape: &KernelShape, of: &Combination) -> Mesh {
        let (&KernelShape { tp, cp, ep, whole_experts, .. }, &Combination { dp, pp, order, .. }) = (shape, of);
        let etp = whole_experts.then_some(1);
        let shard = self.fix.shard.filter(|&shard| of.zero > 0 && shard < dp * cp);
        Mesh { dp, pp, tp, cp, ep, etp, shard, order }
    }

    /// The plan of a combination, without stages.
    pub fn plan(&self, shape: &KernelShape, of: &Combination) -> Plan {
        let &KernelShape { microbatch, sequence_parallel, ring, .. } = shape;
        let &Combination { pp, schedule, chunks, zero, .. } = of;
        let mesh = self.mesh(shape, of);
        let stages = vec![Stage { layers: 0, full: 0, selective: 0, offload: 0 }; pp * chunks];
        let single = Plan::single(self.job.clone(), microbatch);
        Plan { schedule, chunks, zero, sequence_parallel, ring, mesh, stages, ..single }
    }
}

/// Sequence parallelism, ring, split backward, whole experts: every combination.
fn flags() -> impl Iterator<Item = (bool, bool, bool, bool)> {
    (0..16).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0))
}

/// Divisors, ascending.
pub fn divisors(n: usize) -> impl Iterator<Item = usize> {
    let low: Vec<usize> = (1..=n.isqrt()).filter(|&d| n.is_multiple_of(d)).collect();
    let high: Vec<usize> = low.iter().rev().map(|d| n / d).filter(|&d| d * d > n).collect();
    low.into_iter().chain(high)
}
