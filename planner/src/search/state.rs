//! A search in flight: what is queued, kept and counted.
//!
//! In: a job, a cluster, what is fixed. Out: parts of the space by the least their steps can take; the best plans so far.
//!
//! Invariant: what is kept is the best of what was simulated.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshwright_hardware::mesh::Order;
use meshwright_hardware::profile::Cluster;
use rustc_hash::FxHashMap;

use crate::error::PlanError;
use crate::job::{Fix, Job, LayerKind};
use crate::lower::{InFlight, PieceSizes};
use crate::parallel::at_once;
use crate::plan::Plan;
use crate::predict::{Figures, predict_figures};
use crate::schedule::Pipeline;

use super::bound::{Whole, least_ratio};
use super::cached_prices::CachedPrices;
use super::cost::ShapeWork;
use super::known_parts::{PartCosts, PassesKey, RestKey, StateKey, StateSizes};
use super::known_pools::KnownParts;
use super::memory_bound::{LayerCapacity, Trade, TradeHulls};
use super::partition::Problem;
use super::pool_assignment::{self, PoolAssignment};
use super::queue::{Node, Queue};
use super::shape_bound::ShapeFloors;
use super::space::{Combination, GroupKey, KernelShape, ListKey, Space};
use super::times::Costs;
use super::within::Within;
use super::{AT_ONCE, Progress, SearchOptions};

/// What is known of a part of the space.
pub(super) enum Known {
    /// A shape by its work alone, were it spread evenly over all devices.
    Bare(usize),
    /// A shape by the best of its combinations in the usual order of axes, which wait for its costs.
    Shape(usize),
    /// The same with its costs.
    Priced(usize),
    /// The same in all other orders.
    Orders(usize),
    /// A combination in all other orders, and what its floor is of.
    AnyOrder(usize, Combination, FloorOf),
    /// One combination, and what its floor is of.
    Combination(usize, Combination, FloorOf),
    /// One plan, on a part of several pools.
    Plan(Box<Plan>, usize),
}

/// What a combination's floor is of, from coarse to fine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FloorOf {
    /// Its work, spread as even as can be.
    Work,
    /// That, and what its memory makes of it.
    Memory,
    /// That, over every way to partition its layers.
    Partitions,
}

/// What combinations of one shape, mesh and ZeRO stage share.
pub(super) struct Group {
    pub(super) assignment: PoolAssignment,
    /// By pool.
    pub(super) costs: Vec<Costs>,
    /// By pool.
    pub(super) wholes: Vec<Whole>,
    pub(super) sizes: PieceSizes,
    /// By pool, what stages can hold; none where floors do not ask.
    pub(super) layer_capacities: Vec<LayerCapacity>,
    /// Whether nothing of it can fit.
    pub(super) hopeless: bool,
}

/// A combination of which one partition of layers was chosen: no other ends before its floor.
pub(super) struct DecidedCombination {
    pub(super) floor: f64,
    pub(super) index: usize,
    pub(super) of: Combination,
    pub(super) problem: Option<Problem>,
}

/// What a step takes longer than the played bound of its plan, and hardly ever more: a search looks again where it does.
pub(super) const GUESS: f64 = 1.06;
/// Combinations that are decided as soon as their shape is opened; and where rough answers will do.
const TRIES: [usize; 2] = [8, 64];

/// A search in flight.
pub(super) struct Search<'a> {
    pub(super) space: Space<'a>,
    /// The same where meshes leave devices idle.
    pub(super) idle_space: Space<'a>,
    pub(super) cluster: &'a Cluster,
    /// By pool.
    pub(super) links: Vec<CachedPrices<'a>>,
    /// Bytes that a plan may declare on a device, by pool.
    pub(super) capacity: Vec<u64>,
    pub(super) shapes: Vec<KernelShape>,
    /// By shape: the first that has the same kernels, under which they are known.
    pub(super) kernels: Vec<usize>,
    /// Best plans to keep.
    pub(super) top: usize,
    /// By shape and pool, of shapes that were opened: for floors.
    pub(super) quick: Vec<Vec<ShapeWork>>,
    /// By shape and pool, of shapes whose combinations were queued.
    pub(super) trades: Vec<Vec<Trade>>,
    /// By shape and pool, of shapes of which a combination was decided.
    pub(super) work: Vec<Vec<ShapeWork>>,
    /// By shape and pool: floors of its passes.
    pub(super) passes: Vec<Vec<Whole>>,
    /// By kind of shape and pool: seconds in which hosts issue a microbatch's passes.
    pub(super) issues: FxHashMap<(KernelShape, usize), f64>,
    /// By shape: bytes of what stages pass on.
    pub(super) streams: Vec<u64>,
    pub(super) held: FxHashMap<StateKey, Arc<StateSizes>>,
    pub(super) rests: FxHashMap<RestKey, Option<Arc<PartCosts>>>,
    pub(super) passes_by_group: FxHashMap<PassesKey, Arc<PartCosts>>,
    pub(super) hulls_by_group: FxHashMap<PassesKey, TradeHulls>,
    pub(super) even_layers: FxHashMap<(usize, LayerKind), Arc<Vec<usize>>>,
    pub(super) idle: FxHashMap<KernelShape, Arc<ShapeWork>>,
    /// By pool.
    pub(super) floors: Vec<ShapeFloors<'a>>,
    pub(super) counts: FxHashMap<(ListKey, [bool; 3]), (usize, usize)>,
    pub(super) lists: FxHashMap<ListKey, Arc<Vec<Combination>>>,
    /// The first shape whose combinations leave devices idle, once they are looked at.
    pub(super) idle_from: Option<usize>,
    /// Combinations of such shapes.
    pub(super) idle_lists: Vec<Arc<Vec<Combination>>>,
    pub(super) orders: FxHashMap<([bool; 3], bool), Arc<Vec<Order>>>,
    pub(super) flights: FxHashMap<Pipeline, Arc<Vec<InFlight>>>,
    pub(super) ratios: FxHashMap<Pipeline, f64>,
    /// Parts of several pools that leave nodes idle.
    pub(super) parts: KnownParts<'a>,
    /// By shape, mesh and ZeRO stage, and whether the last chunk is on the first stage.
    pub(super) groups: FxHashMap<(usize, GroupKey, bool), Arc<Group>>,
    pub(super) queue: Queue<Known>,
    pub(super) considered: usize,
    pub(super) rejected: BTreeMap<String, usize>,
    /// With the parts of several pools that they are on.
    pub(super) best: Vec<(Plan, Figures, usize)>,
    /// The least bounds of plans that are known, simulated or not: as many as are wanted.
    pub(super) known: Vec<f64>,
    /// How many more combinations may be decided as soon as their shape is opened.
    pub(super) tries: usize,
    pub(super) simulated: usize,
    /// The least bound of what was left out.
    pub(super) proved: f64,
    /// Combinations of which one partition of layers was chosen.
    pub(super) decided: Vec<DecidedCombination>,
    pub(super) options: SearchOptions<'a>,
    /// Whether a plan is known to fit.
    pub(super) fits: bool,
}

impl<'a> Search<'a> {
    /// Nothing looked at yet.
    pub(super) fn of(
        job: &'a Job,
        cluster: &'a Cluster,
        fix: &'a Fix,
        (top, options): (usize, SearchOptions<'a>),
    ) -> Result<Self, PlanError> {
        let pools = cluster.pools.len() > 1;
        // Engines know of no unlike pools: on those plans are for whatever runs them.
        let within = options.engine.filter(|_| !pools).map(|ability| Arc::new(Within::of(ability, job, fix)));
        let space = |idle: Option<usize>| {
            let (devices, within) = (cluster.devices(), within.clone());
            Space { job, devices, idle, fix, pools, within }
        };
        let capacity = |memory: u64| job.goal.usable(memory, &cluster.stack);
        Ok(Search {
            space: space(None),
            idle_space: space(Some(cluster.pools[0].system.count)),
            cluster,
            links: pool_assignment::prices(cluster, job.precision)?.into_iter().map(CachedPrices::new).collect(),
            capacity: cluster.pools.iter().map(|pool| capacity(pool.device.memory.value.0)).collect(),
            shapes: Vec::new(),
            kernels: Vec::new(),
            top,
            quick: Vec::new(),
            trades: Vec::new(),
            work: Vec::new(),
            passes: Vec::new(),
            issues: FxHashMap::default(),
            streams: Vec::new(),
            held: FxHashMap::default(),
            rests: FxHashMap::default(),
            passes_by_group: FxHashMap::default(),
            hulls_by_group: FxHashMap::default(),
            even_layers: FxHashMap::default(),
            idle: FxHashMap::default(),
            floors: cluster.pools.iter().map(|_| ShapeFloors::of(job)).collect(),
            counts: FxHashMap::default(),
            lists: FxHashMap::default(),
            idle_from: None,
            idle_lists: Vec::new(),
            orders: FxHashMap::default(),
            flights: FxHashMap::default(),
            ratios: FxHashMap::default(),
            parts: KnownParts::default(),
            groups: FxHashMap::default(),
            queue: Queue::new(),
            considered: 0,
            rejected: BTreeMap::new(),
            best: Vec::new(),
            known: Vec::new(),
            tries: TRIES[usize::from(options.rough)],
            simulated: 0,
            proved: f64::INFINITY,
            decided: Vec::new(),
            options,
            fits: false,
        })
    }

    pub(super) fn reject(&mut self, reason: impl Into<String>, count: usize) {
        if count > 0 {
            *self.rejected.entry(reason.into()).or_default() += count;
        }
    }

    pub(super) fn push(&mut self, seconds: f64, known: Known) {
        self.queue.push(seconds, known);
    }

    pub(super) fn pipeline(&self, shape: &KernelShape, of: &Combination) -> Pipeline {
        let microbatches = self.space.job.global_batch / (of.dp * shape.microbatch);
        Pipeline { schedule: of.schedule, stages: of.pp, chunks: of.chunks, microbatches }
    }

    /// Whether the engine to plan for has even stages alone.
    pub(super) fn even_alone(&self) -> bool {
        self.space.within.as_ref().is_some_and(|within| !within.ability.uneven)
    }

    /// What the floor is of that is known of a combination with its memory: layers of one stage, and those that are even, are not
    /// partitioned.
    pub(super) fn after_memory(&self, of: &Combination) -> FloorOf {
        if of.pp > 1 && of.chunks == 1 && !self.even_alone() { FloorOf::Memory } else { FloorOf::Partitions }
    }

    /// What a schedule takes of its work at the least (see [`crate::schedule::PipelineSchedule::least_ratio`]).
    pub(super) fn ratio(&mut self, shape: &KernelShape, of: &Combination) -> f64 {
        least_ratio(&self.pipeline(shape, of), &mut self.ratios)
    }

    /// Microbatches in flight, by stage.
    pub(super) fn flights(&mut self, pipeline: Pipeline) -> Arc<Vec<InFlight>> {
        let settled = Pipeline { microbatches: pipeline.settled(), ..pipeline };
        self.flights.entry(settled).or_insert_with(|| Arc::new(InFlight::all(&settled))).clone()
    }

    pub(super) fn best_step(&self) -> Option<f64> {
        self.best.first().map(|(_, figures, _)| figures.step_time_s)
    }

    /// From where on a floor rules out what it is of.
    pub(super) fn cut(&self) -> f64 {
        self.near().min(self.guess())
    }

    /// The same by what was simulated; where rough answers will do, by what is known.
    pub(super) fn near(&self) -> f64 {
        let known = self.known.first().copied().filter(|_| self.options.rough);
        let near = self.best_step().or(known).map_or(f64::INFINITY, |best| best * (1.0 - self.options.tolerance));
        near.min(self.options.below)
    }

    /// Takes in that a plan is known by its bound.
    pub(super) fn know(&mut self, bound: f64) {
        let at = self.known.partition_point(|other| *other <= bound);
        if at < self.top {
            self.known.insert(at, bound);
            self.known.truncate(self.top);
        }
    }

    /// What the wanted plans will hardly take longer than when they are simulated: of as many as are known a little more than their
    /// bounds. [`Search::guessed_wrong`] says whether they do.
    pub(super) fn guess(&self) -> f64 {
        let known = self.known.get(self.top - 1).filter(|_| self.options.guesses);
        known.map_or(f64::INFINITY, |bound| bound * GUESS)
    }

    /// Whether something was ruled out by the guess that the best plan does not rule out.
    pub(super) fn guessed_wrong(&self) -> bool {
        self.guess() < self.near()
    }

    pub(super) fn tell(&self, bound: f64) {
        if let Some(watch) = self.options.watch {
            let (considered, simulated) = (self.considered, self.simulated);
            watch(&Progress { considered, simulated, best: self.best_step(), bound });
        }
    }

    /// Simulates a plan, with the next ones if they are as far, and keeps the best.
    pub(super) fn simulate(&mut self, plan: Plan, part: usize) -> Result<(), PlanError> {
        let mut batch = vec![(plan, part)];
        while batch.len() < AT_ONCE && matches!(self.queue.peek(), Some((_, Known::Plan(..)))) {
            let Some(Node { known: Known::Plan(plan, part), .. }) = self.queue.pop() else { break };
            batch.push((*plan, part));
        }
        self.simulated += batch.len();
        let asked: Vec<(&Plan, &Cluster)> = batch.iter().map(|(plan, part)| (plan, self.cluster_of(*part))).collect();
        let all: Vec<_> = at_once(&asked, |(plan, cluster)| predict_figures(plan, cluster));
        for ((plan, part), figures) in batch.into_iter().zip(all) {
            self.keep(plan, figures?, part);
        }
        Ok(())
    }

    /// Keeps a simulated plan if it is one of the best.
    pub(super) fn keep(&mut self, plan: Plan, figures: Figures, part: usize) {
        let at = self.best.partition_point(|(_, other, _)| other.step_time_s <= figures.step_time_s);
        self.best.insert(at, (plan, figures, part));
        if self.best.len() > self.top {
            self.best.pop();
            self.reject("slower when simulated", 1);
        }
    }
}
