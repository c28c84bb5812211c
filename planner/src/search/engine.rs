//! The search itself: parts of the space in a queue, the most promising first.
//!
//! In: a job, a cluster, what is fixed. Out: the best plans, what was left out and its least bound.
//!
//! Invariant: every combination is in the queue, kept, or counted with its reason; what is left out has a bound in `proved`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use meshwright_hardware::mesh::Order;
use meshwright_hardware::profile::Cluster;
use rayon::prelude::*;
use rustc_hash::FxHashMap;

use crate::error::PlanError;
use crate::job::{Fix, Job};
use crate::lower::InFlight;
use crate::plan::Plan;
use crate::predict::{Figures, predict_figures};
use crate::schedule::Pipeline;

use super::bound::Whole;
use super::cost::{CachedPrices, ShapeWork};
use super::decide::Wanted;
use super::memory_bound::Trade;
use super::open::Group;
use super::pool_assignment;
use super::prove::Decided;
use super::space::{Combination, Shape, Space};
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
    /// A combination in all other orders.
    AnyOrder(usize, Combination),
    /// One combination, and whether its floor is already over every way to partition its layers.
    Combination(usize, Combination, bool),
    /// One plan.
    Plan(Box<Plan>),
}

/// A part of the space with the least its steps can take.
pub(super) struct Node {
    pub(super) seconds: f64,
    pub(super) known: Known,
    /// Place in the enumeration, which breaks ties.
    pub(super) order: usize,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Node {}
impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Node {
    /// The heap's greatest is the one of least seconds, then the first enumerated.
    fn cmp(&self, other: &Self) -> Ordering {
        other.seconds.total_cmp(&self.seconds).then(other.order.cmp(&self.order))
    }
}

/// What combinations in the usual order of axes follow from: ranks of TP and CP, ranks that experts may spread over beside data,
/// EP, microbatch, whether backward is split.
pub(super) type ListKey = (usize, usize, usize, usize, bool);

/// A search in flight.
pub(super) struct Search<'a> {
    pub(super) space: Space<'a>,
    pub(super) cluster: &'a Cluster,
    /// By pool.
    pub(super) links: Vec<CachedPrices<'a>>,
    /// Bytes that a plan may declare on a device, by pool.
    pub(super) capacity: Vec<u64>,
    pub(super) shapes: Vec<Shape>,
    /// Best plans to keep.
    pub(super) top: usize,
    /// By shape and pool, of shapes that were opened: for floors.
    pub(super) quick: Vec<Vec<ShapeWork>>,
    /// By shape and pool, of shapes whose combinations were queued.
    pub(super) trades: Vec<Vec<Trade>>,
    /// By shape and pool, of shapes of which a combination was decided.
    pub(super) work: Vec<Vec<ShapeWork>>,
    /// By shape: floors of its passes.
    pub(super) passes: Vec<Whole>,
    pub(super) rests: FxHashMap<(Shape, usize, u8), Option<Whole>>,
    pub(super) idle: Option<(Shape, ShapeWork)>,
    pub(super) lists: FxHashMap<ListKey, Arc<Vec<Combination>>>,
    /// By shape: combinations that leave devices idle, where they are looked at.
    pub(super) idle_lists: Vec<Arc<Vec<Combination>>>,
    pub(super) orders: FxHashMap<([bool; 3], bool), Arc<Vec<Order>>>,
    pub(super) flights: FxHashMap<Pipeline, Arc<Vec<InFlight>>>,
    pub(super) ratios: FxHashMap<Pipeline, f64>,
    pub(super) groups: FxHashMap<(usize, usize, u8, Order), Arc<Group>>,
    pub(super) queue: BinaryHeap<Node>,
    pub(super) pushed: usize,
    pub(super) considered: usize,
    pub(super) rejected: BTreeMap<String, usize>,
    pub(super) best: Vec<(Plan, Figures)>,
    pub(super) simulated: usize,
    /// The least bound of what was left out.
    pub(super) proved: f64,
    /// Combinations of which one partition of layers was chosen.
    pub(super) decided: Vec<Decided>,
    pub(super) options: SearchOptions<'a>,
    /// A plan that fits, where that is all that is asked for.
    pub(super) fitting: Option<Box<Plan>>,
}

impl<'a> Search<'a> {
    pub(super) fn of(
        job: &'a Job,
        cluster: &'a Cluster,
        fix: &'a Fix,
        (top, options): (usize, SearchOptions<'a>),
        idle: bool,
    ) -> Result<Self, PlanError> {
        let idle = idle.then(|| cluster.pools[0].system.count);
        let capacity = |memory: u64| job.goal.usable(memory);
        Ok(Search {
            space: Space { job, devices: cluster.devices(), idle, fix, pools: cluster.pools.len() > 1 },
            cluster,
            links: pool_assignment::prices(cluster, job.precision)?.into_iter().map(CachedPrices::new).collect(),
            capacity: cluster.pools.iter().map(|pool| capacity(pool.device.memory.value.0)).collect(),
            shapes: Vec::new(),
            top,
            quick: Vec::new(),
            trades: Vec::new(),
            work: Vec::new(),
            passes: Vec::new(),
            rests: FxHashMap::default(),
            idle: None,
            lists: FxHashMap::default(),
            idle_lists: Vec::new(),
            orders: FxHashMap::default(),
            flights: FxHashMap::default(),
            ratios: FxHashMap::default(),
            groups: FxHashMap::default(),
            queue: BinaryHeap::new(),
            pushed: 0,
            considered: 0,
            rejected: BTreeMap::new(),
            best: Vec::new(),
            simulated: 0,
            proved: f64::INFINITY,
            decided: Vec::new(),
            options,
            fitting: None,
        })
    }

    pub(super) fn reject(&mut self, reason: impl Into<String>, count: usize) {
        if count > 0 {
            *self.rejected.entry(reason.into()).or_default() += count;
        }
    }

    pub(super) fn push(&mut self, seconds: f64, known: Known) {
        self.pushed += 1;
        self.queue.push(Node { seconds, known, order: self.pushed });
    }

    /// Finds the best plans, and what no other undercuts.
    pub(super) fn run(&mut self) -> Result<(), PlanError> {
        let reached = self.look()?;
        self.fill()?;
        let cut = self.cut();
        let (mut slower, mut open, mut left) = (0, 0, f64::INFINITY);
        for node in std::mem::take(&mut self.queue).into_vec() {
            let held = self.combinations_of(&node.known);
            left = left.min(node.seconds);
            if node.seconds < cut { open += held } else { slower += held }
        }
        self.reject("slower by its bound", slower);
        self.reject("not looked at: within the gap", open);
        self.proved = self.proved.min(left);
        self.prove()?;
        self.tell(reached);
        Ok(())
    }

    /// Takes the most promising part until what is left cannot be better; the bound of the last.
    pub(super) fn look(&mut self) -> Result<f64, PlanError> {
        let (mut effort, mut reached) = (0, 0.0);
        while let Some(node) = self.queue.pop() {
            reached = node.seconds;
            self.tell(reached);
            effort += usize::from(matches!(node.known, Known::Priced(_)));
            let tired = effort > self.options.effort && !self.best.is_empty();
            if tired || node.seconds >= self.cut() || self.options.enough(self.best_step()) {
                self.queue.push(node);
                break;
            }
            match node.known {
                Known::Bare(index) => self.look_into(index, node.seconds)?,
                Known::Shape(index) => self.price(index, node.seconds)?,
                Known::Priced(index) => self.open(index, node.seconds)?,
                Known::Orders(index) => self.open_orders(index, node.seconds)?,
                Known::AnyOrder(index, of) => self.order(index, of, node.seconds)?,
                Known::Combination(index, of, false) => self.bound_partitions(index, of, node.seconds)?,
                Known::Combination(index, of, true) => {
                    self.decide(Wanted { index, of, floor: node.seconds })?;
                }
                Known::Plan(plan) if self.options.unsimulated => {
                    self.fitting = Some(plan);
                    break;
                }
                Known::Plan(plan) => self.simulate(*plan)?,
            }
        }
        Ok(reached)
    }

    fn best_step(&self) -> Option<f64> {
        self.best.first().map(|(_, figures)| figures.step_time_s)
    }

    /// From where on a floor rules out what it is of.
    pub(super) fn cut(&self) -> f64 {
        let near = self.best_step().map_or(f64::INFINITY, |best| best * (1.0 - self.options.tolerance));
        near.min(self.options.below)
    }

    fn tell(&self, bound: f64) {
        if let Some(watch) = self.options.watch {
            let (considered, simulated) = (self.considered, self.simulated);
            watch(&Progress { considered, simulated, best: self.best_step(), bound });
        }
    }

    /// Combinations in a part of the space.
    pub(super) fn combinations_of(&mut self, known: &Known) -> usize {
        match known {
            Known::Bare(index) | Known::Shape(index) | Known::Priced(index) => {
                let (usual, others) = self.count(*index);
                usual + others
            }
            Known::Orders(index) => self.count(*index).1,
            Known::AnyOrder(index, of) => self.orders(&self.space.mesh(&self.shapes[*index], of)).len(),
            Known::Combination(..) | Known::Plan(_) => 1,
        }
    }

    /// Simulates the most promising plans that are known beside the best, until there are as many as wanted.
    pub(super) fn fill(&mut self) -> Result<(), PlanError> {
        let nodes = std::mem::take(&mut self.queue).into_sorted_vec();
        let (mut plans, mut rest): (Vec<Node>, Vec<Node>) =
            nodes.into_iter().partition(|node| matches!(node.known, Known::Plan(_)));
        let below = self.options.below;
        while let Some(Node { known: Known::Plan(plan), .. }) =
            plans.pop_if(|node| self.best.len() < self.top && node.seconds < below)
        {
            self.simulate(*plan)?;
        }
        rest.append(&mut plans);
        self.queue = rest.into();
        Ok(())
    }

    /// Simulates a plan, with the next ones if they are as far, and keeps the best.
    pub(super) fn simulate(&mut self, plan: Plan) -> Result<(), PlanError> {
        let mut batch = vec![plan];
        while batch.len() < AT_ONCE && matches!(self.queue.peek(), Some(Node { known: Known::Plan(_), .. })) {
            let Some(Node { known: Known::Plan(plan), .. }) = self.queue.pop() else { break };
            batch.push(*plan);
        }
        self.simulated += batch.len();
        let cluster = self.cluster;
        let all: Vec<_> = batch.par_iter().map(|plan| predict_figures(plan, cluster)).collect();
        for (plan, figures) in batch.into_iter().zip(all) {
            let figures = figures?;
            let at = self.best.partition_point(|(_, other)| other.step_time_s <= figures.step_time_s);
            self.best.insert(at, (plan, figures));
            if self.best.len() > self.top {
                self.best.pop();
                self.reject("slower when simulated", 1);
            }
        }
        Ok(())
    }
}
