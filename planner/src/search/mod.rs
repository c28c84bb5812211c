//! Search: the best plan for a job on a cluster, how near to the best possible it is, and why the others lost.
//!
//! In: a job, a cluster, what is fixed. Out: [`Found`]: the best plans with their predictions, a bound, counted rejections.
//!
//! Branch and bound, best first: shapes (what kernels see) by a floor of FLOPs and traffic; their combinations by a floor of
//! priced passes; those by a bound once their stages are decided; and only then a simulation. It ends when nothing left is
//! below the best simulation by more than the tolerance, or after so many shapes; what is left then is in the gap.
//!
//! Invariant: no combination that simulates faster than the best kept one, by more than the stated gap, was left out; equal
//! inputs give equal answers on any number of cores.

pub(crate) mod bound;
pub(crate) mod cost;
mod floor;
mod play;
mod seats;
mod space;
mod spread;
mod stages;

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Instant;

use meshwright_hardware::mesh::{Axis, Mesh, Order};
use meshwright_hardware::profile::Cluster;
use rustc_hash::FxHashMap;

use crate::error::PlanError;
use crate::job::Job;
use crate::lower::{InFlight, Sizes};
use crate::partition::Problem;
use crate::plan::{Plan, Schedule};
use crate::predict::{Predicted, predict};
use crate::schedule::Pipeline;
use crate::shares;

use bound::{Whole, least_ratio};
use cost::{Costs, Links, ShapeWork};
use seats::Seats;
pub use space::Fix;
use space::{Combination, Shape, Space};
use stages::Undecided;

/// Share of a device's memory that a plan may declare; the rest is the runtime's, the allocator's and the network's.
pub const USABLE_MEMORY: f64 = 0.94;
/// Relative gap to the best bound at which a search ends.
pub const TOLERANCE: f64 = 0.005;
/// Shapes that a search opens at the most, once it has a plan; what is left then counts in the gap.
const EFFORT: usize = 4500;
/// Simulations at a time, whatever the number of cores, so that answers do not depend on it.
const AT_ONCE: usize = 2;

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// The best plans, best first; at least one.
    pub best: Vec<(Plan, Predicted)>,
    /// Combinations looked at, each by a bound of its own or of its shape.
    pub considered: usize,
    /// How many fell for which reason.
    pub rejected: BTreeMap<String, usize>,
    /// How many were simulated.
    pub simulated: usize,
    /// How long it took.
    pub seconds: f64,
    /// What no plan of the space undercuts, in seconds a step.
    pub bound: f64,
}

impl Found {
    /// How much faster than the best found any plan can be, as a fraction of its step.
    pub fn gap(&self) -> f64 {
        (1.0 - self.bound / self.best[0].1.figures.step_time_s).max(0.0)
    }
}

/// The `top` best plans for a job on all devices of a cluster.
pub fn search(job: &Job, cluster: &Cluster, fix: &Fix, top: usize) -> Result<Found, PlanError> {
    let started = Instant::now();
    let mut search = Search::of(job, cluster, fix, top.max(1))?;
    search.begin()?;
    search.run()?;
    let Search { considered, rejected, best, simulated, proved, .. } = search;
    if best.is_empty() {
        return Err(PlanError::Infeasible { considered, rejected });
    }
    let bound = proved.min(best[0].1.figures.step_time_s);
    Ok(Found { best, considered, rejected, simulated, seconds: started.elapsed().as_secs_f64(), bound })
}

/// What is known of a part of the space.
enum Known {
    /// A shape, all of whose combinations in the usual order of axes wait for its costs.
    Shape(usize),
    /// The same with its costs.
    Priced(usize),
    /// The same in all other orders.
    Orders(usize),
    /// A combination in all other orders.
    AnyOrder(usize, Combination),
    /// One combination, and whether its floor is already over every way to spread its layers.
    Combination(usize, Combination, bool),
    /// One plan.
    Plan(Box<Plan>),
}

/// A part of the space with the least its steps can take.
struct Node {
    seconds: f64,
    known: Known,
    /// Place in the enumeration, which breaks ties.
    order: usize,
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

/// What combinations of one shape, mesh and ZeRO stage share.
struct Group {
    seats: Seats,
    /// By pool.
    costs: Vec<Costs>,
    /// By pool.
    wholes: Vec<Whole>,
    sizes: Sizes,
    /// Whether nothing of it can fit.
    hopeless: bool,
}

/// A combination of which one spreading of layers was chosen: no other ends before its floor.
struct Decided {
    floor: f64,
    index: usize,
    of: Combination,
    problem: Option<Problem>,
}

struct Search<'a> {
    space: Space<'a>,
    cluster: &'a Cluster,
    /// By pool.
    links: Vec<Links<'a>>,
    /// Bytes that a plan may declare on a device, by pool.
    room: Vec<u64>,
    shapes: Vec<Shape>,
    /// Best plans to keep.
    top: usize,
    /// By shape and pool, of shapes that were opened: for floors.
    quick: Vec<Vec<ShapeWork>>,
    /// By shape and pool, of shapes of which a combination was decided.
    work: Vec<Vec<ShapeWork>>,
    /// By shape: floors of its passes.
    passes: Vec<Whole>,
    rests: FxHashMap<(Shape, usize, u8), Option<Whole>>,
    idle: Option<(Shape, ShapeWork)>,
    lists: FxHashMap<(usize, usize, usize, usize, bool), Arc<Vec<Combination>>>,
    orders: FxHashMap<([bool; 3], bool), Arc<Vec<Order>>>,
    flights: FxHashMap<Pipeline, Arc<Vec<InFlight>>>,
    ratios: FxHashMap<(usize, usize), f64>,
    groups: FxHashMap<(usize, usize, u8, Order), Arc<Group>>,
    queue: BinaryHeap<Node>,
    pushed: usize,
    considered: usize,
    rejected: BTreeMap<String, usize>,
    best: Vec<(Plan, Predicted)>,
    simulated: usize,
    /// The least bound of what was left out.
    proved: f64,
    /// Combinations of which one spreading of layers was chosen.
    decided: Vec<Decided>,
}

impl<'a> Search<'a> {
    fn of(job: &'a Job, cluster: &'a Cluster, fix: &'a Fix, top: usize) -> Result<Self, PlanError> {
        let room = |memory: u64| (memory as f64 * USABLE_MEMORY) as u64;
        Ok(Search {
            space: Space { job, devices: cluster.devices(), fix, pools: cluster.pools.len() > 1 },
            cluster,
            links: seats::prices(cluster, job.precision)?.into_iter().map(Links::new).collect(),
            room: cluster.pools.iter().map(|pool| room(pool.device.memory.value.0)).collect(),
            shapes: Vec::new(),
            top,
            quick: Vec::new(),
            work: Vec::new(),
            passes: Vec::new(),
            rests: FxHashMap::default(),
            idle: None,
            lists: FxHashMap::default(),
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
        })
    }

    fn reject(&mut self, reason: impl Into<String>, count: usize) {
        if count > 0 {
            *self.rejected.entry(reason.into()).or_default() += count;
        }
    }

    fn push(&mut self, seconds: f64, known: Known) {
        self.pushed += 1;
        self.queue.push(Node { seconds, known, order: self.pushed });
    }

    /// Queues all shapes.
    fn begin(&mut self) -> Result<(), PlanError> {
        self.shapes = self.space.shapes(&mut self.rejected);
        self.considered = self.rejected.values().sum();
        self.work.resize_with(self.shapes.len(), Vec::new);
        self.quick.resize_with(self.shapes.len(), Vec::new);
        self.passes.resize_with(self.shapes.len(), Whole::default);
        for index in 0..self.shapes.len() {
            let shape = self.shapes[index];
            let (usual, others) = self.count(&shape);
            self.considered += usual + others;
            if self.least_bytes(&shape) > self.room.iter().copied().max().unwrap_or(0) {
                self.reject("out of memory", usual + others);
                continue;
            }
            if let [links] = &mut self.links[..] {
                self.passes[index] = floor::of_shape(self.space.job, &shape, links)?;
            }
            match self.floor_of_shape(index)? {
                Some(seconds) => self.push(seconds, Known::Shape(index)),
                None => self.reject("out of memory", usual + others),
            }
        }
        Ok(())
    }

    /// Combinations of a shape in the usual order of axes.
    fn list(&mut self, shape: &Shape) -> Arc<Vec<Combination>> {
        let Shape { tp, cp, ep, microbatch, splits, whole_experts, .. } = *shape;
        let among = if ep > 1 { cp * if whole_experts { tp } else { 1 } } else { 1 };
        let key = (tp * cp, among, ep, microbatch, splits);
        let space = &self.space;
        self.lists.entry(key).or_insert_with(|| Arc::new(space.combinations(shape).collect())).clone()
    }

    /// The other orders of axes in which a mesh differs from the usual one.
    fn orders(&mut self, mesh: &Mesh) -> Arc<Vec<Order>> {
        let several = [Axis::Tp, Axis::Data, Axis::Pp].map(|axis| mesh.size(axis) > 1);
        let space = &self.space;
        self.orders.entry((several, mesh.spread() > 1)).or_insert_with(|| Arc::new(space.orders(mesh))).clone()
    }

    /// Combinations of a shape in the usual order of axes, and in all others.
    fn count(&mut self, shape: &Shape) -> (usize, usize) {
        let list = self.list(shape);
        let (mut others, mut last) = (0, (0, 0));
        for of in list.iter() {
            if last.0 != of.pp {
                last = (of.pp, self.orders(&self.space.mesh(shape, of)).len());
            }
            others += last.1;
        }
        (list.len(), others)
    }

    /// What any stage of a shape needs at least: the head's logits and one layer's input.
    fn least_bytes(&self, shape: &Shape) -> u64 {
        let (job, width) = (self.space.job, self.space.job.precision.stored().bytes());
        let rows = if job.target() > 0 { job.target() } else { job.seq / shape.cp } * shape.microbatch;
        let scored = if job.model.causal() || job.target() > 0 { rows } else { 0 };
        (scored * job.model.vocab / shape.tp) as u64 * width
    }

    /// A floor of all combinations of a shape, before anything of it is made; none if nothing of it can fit.
    fn floor_of_shape(&mut self, index: usize) -> Result<Option<f64>, PlanError> {
        let shape = self.shapes[index];
        if self.links.len() == 1 {
            let work = self.passes[index];
            let list = self.list(&shape);
            let mut least = None;
            let mut known = [None; 4];
            let mut pp = 0;
            for of in list.iter() {
                if of.pp != pp {
                    (pp, known) = (of.pp, [None; 4]);
                }
                let rest = match known[of.zero as usize] {
                    Some(rest) => rest,
                    None => *known[of.zero as usize].insert(self.rest(&shape, of)?),
                };
                let Some(rest) = rest else { continue };
                let floor = work.with(&rest).floor(&self.pipeline(&shape, of), self.ratio(&shape, of));
                least = Some(least.map_or(floor, |least: f64| least.min(floor)));
            }
            return Ok(least);
        }
        // On several pools: its work spread evenly over all stages.
        let mut rate = 0.0;
        for (pool, links) in self.cluster.pools.iter().zip(&mut self.links) {
            rate += pool.devices() as f64 / floor::of_shape(self.space.job, &shape, links)?.times.total();
        }
        let each = self.space.devices as f64 / rate;
        let microbatches = self.space.job.global_batch * shape.tp * shape.cp;
        Ok(Some(each * microbatches as f64 / (self.space.devices * shape.microbatch) as f64))
    }

    /// What ranks share in a step of a shape's mesh and ZeRO stage, whose passes take nothing; none if it cannot fit.
    fn rest(&mut self, shape: &Shape, of: &Combination) -> Result<Option<Whole>, PlanError> {
        let &Shape { tp, cp, ep, whole_experts, sequence_parallel, splits, .. } = shape;
        let key = (
            Shape { tp, cp, ep, whole_experts, microbatch: 1, sequence_parallel, ring: false, splits },
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
        let sizes = Sizes::of(&plan, &idle.frames);
        let rest = if stages::hopeless(&plan, &sizes, self.room[0] * of.pp as u64) {
            None
        } else {
            Some(Whole::of(&plan, &Costs::of(&plan, &idle, &sizes, &mut self.links[0])?))
        };
        self.idle = Some((key.0, idle));
        self.rests.insert(key, rest);
        Ok(rest)
    }

    fn pipeline(&self, shape: &Shape, of: &Combination) -> Pipeline {
        let microbatches = self.space.job.global_batch / (of.dp * shape.microbatch);
        Pipeline { schedule: of.schedule, stages: of.pp, chunks: of.chunks, microbatches }
    }

    /// What even 1F1B takes of its work (see [`least_ratio`]); 1 for other schedules.
    fn ratio(&mut self, shape: &Shape, of: &Combination) -> f64 {
        if of.schedule != Schedule::OneFOneB || of.chunks > 1 {
            return 1.0;
        }
        let Pipeline { microbatches, stages, .. } = self.pipeline(shape, of);
        *self.ratios.entry((microbatches, stages)).or_insert_with(|| least_ratio(microbatches, stages))
    }

    /// Takes the most promising part until what is left cannot be better.
    fn run(&mut self) -> Result<(), PlanError> {
        let mut effort = 0;
        while let Some(node) = self.queue.pop() {
            effort += usize::from(matches!(node.known, Known::Priced(_)));
            let tired = effort > EFFORT && !self.best.is_empty();
            if tired || node.seconds >= self.cut() {
                self.queue.push(node);
                break;
            }
            match node.known {
                Known::Shape(index) => self.price(index, node.seconds)?,
                Known::Priced(index) => self.open(index, node.seconds)?,
                Known::Orders(index) => self.open_orders(index, node.seconds)?,
                Known::AnyOrder(index, of) => self.order(index, of, node.seconds)?,
                Known::Combination(index, of, false) => self.spread(index, of, node.seconds)?,
                Known::Combination(index, of, true) => self.decide(index, of, node.seconds)?,
                Known::Plan(plan) => self.simulate(*plan)?,
            }
        }
        self.fill()?;
        let best = self.best.first().map_or(f64::INFINITY, |(_, predicted)| predicted.figures.step_time_s);
        let (mut slower, mut open, mut left) = (0, 0, f64::INFINITY);
        for node in std::mem::take(&mut self.queue).into_vec() {
            let held = self.held(&node.known);
            left = left.min(node.seconds);
            if node.seconds < best * (1.0 - TOLERANCE) { open += held } else { slower += held }
        }
        self.reject("slower by its bound", slower);
        self.reject("not looked at: within the gap", open);
        self.proved = self.proved.min(left);
        self.prove()
    }

    /// Whether replicas in unlike pools cannot be through the batch before a time, however their layers are spread.
    fn shared_end(&mut self, index: usize, of: &Combination, group: &Group, before: f64) -> bool {
        if of.pp == 1 || of.chunks > 1 {
            return false;
        }
        let shape = self.shapes[index];
        let (plan, pipeline) = (self.space.plan(&shape, of), self.pipeline(&shape, of));
        let batch = self.space.job.global_batch / shape.microbatch;
        let flights = self.flights(plan.pipeline());
        let room = vec![self.room.iter().copied().min().unwrap_or(0); of.pp];
        let mut done = 0;
        for (pool, count) in group.seats.counts(group.costs.len()).into_iter().enumerate() {
            let costs = vec![&group.costs[pool]; of.pp];
            let sizes = &group.sizes;
            let undecided = Undecided { plan: &plan, costs: &costs, sizes, flights: &flights, room: &room };
            let Some(problem) = undecided.problem() else { continue };
            let takes = |stage: usize, layers: usize| Some(problem.choices[stage].get(layers - 1)?.seconds);
            let model = &self.space.job.model;
            let mut range = [0, batch + 1];
            while range[1] - range[0] > 1 {
                let microbatches = (range[0] + range[1]) / 2;
                let pipeline = Pipeline { microbatches, ..pipeline };
                let late = spread::may_end(model, &pipeline, &costs, &takes, before).is_none();
                range[usize::from(late)] = microbatches;
            }
            done += count * range[0];
        }
        done < batch
    }

    /// Simulates the most promising plans that are known beside the best, until there are as many as wanted.
    fn fill(&mut self) -> Result<(), PlanError> {
        let nodes = std::mem::take(&mut self.queue).into_sorted_vec();
        let (mut plans, mut rest): (Vec<Node>, Vec<Node>) =
            nodes.into_iter().partition(|node| matches!(node.known, Known::Plan(_)));
        while let Some(Node { known: Known::Plan(plan), .. }) = plans.pop_if(|_| self.best.len() < self.top) {
            self.simulate(*plan)?;
        }
        rest.append(&mut plans);
        self.queue = rest.into();
        Ok(())
    }

    /// Looks whether other spreadings of decided combinations may be better than the best plan.
    fn prove(&mut self) -> Result<(), PlanError> {
        let Some((_, best)) = self.best.first() else { return Ok(()) };
        let wanted = best.figures.step_time_s * (1.0 - TOLERANCE);
        for decided in std::mem::take(&mut self.decided) {
            let Decided { floor, index, of, problem } = decided;
            if floor >= wanted {
                continue;
            }
            let group = self.own_group(index, &of)?;
            let mut proved = floor;
            if let (Some(problem), Seats::Stages(pools)) = (problem, &group.seats) {
                let costs: Vec<&Costs> = pools.iter().map(|&pool| &group.costs[pool]).collect();
                let plan = self.space.plan(&self.shapes[index], &of);
                let flights = self.flights(plan.pipeline());
                let room: Vec<u64> = pools.iter().map(|&pool| self.room[pool]).collect();
                let sizes = &group.sizes;
                let undecided = Undecided { plan: &plan, costs: &costs, sizes, flights: &flights, room: &room };
                let known = RefCell::new(FxHashMap::default());
                let takes = |stage: usize, layers: usize| {
                    let choice = problem.choices[stage].get(layers - 1)?;
                    let mut known = known.borrow_mut();
                    *known
                        .entry((stage, layers))
                        .or_insert_with(|| Some(undecided.busy(stage, layers)?.max(choice.seconds)))
                };
                let (model, pipeline) = (&self.space.job.model, plan.pipeline());
                let may_end = |before: f64| spread::may_end(model, &pipeline, &costs, &takes, before);
                let Some(mut held) = may_end(wanted) else { continue };
                let mut ends = [floor, wanted];
                for _ in 0..6 {
                    let middle = (ends[0] + ends[1]) / 2.0;
                    let found = may_end(middle);
                    ends[usize::from(found.is_some())] = middle;
                    held = found.unwrap_or(held);
                }
                proved = ends[0];
                // It may have been chosen for less than the whole schedule.
                let stage = |(stage, &layers): (usize, &usize)| problem.choices[stage][layers - 1].stage;
                let other = Plan { stages: held.iter().enumerate().map(stage).collect(), ..plan.clone() };
                let better = play::step(&other, &costs) < wanted && self.fits(&other, &group);
                if better && !self.best.iter().any(|(plan, _)| *plan == other) {
                    self.simulate(other)?;
                }
            }
            if let Seats::Replicas(_) = &group.seats {
                if self.shared_end(index, &of, &group, wanted) {
                    continue;
                }
            }
            self.proved = self.proved.min(proved);
        }
        Ok(())
    }

    /// Combinations in a part of the space.
    fn held(&mut self, known: &Known) -> usize {
        match known {
            Known::Shape(index) | Known::Priced(index) => {
                let (usual, others) = self.count(&self.shapes[*index].clone());
                usual + others
            }
            Known::Orders(index) => self.count(&self.shapes[*index].clone()).1,
            Known::AnyOrder(index, of) => self.orders(&self.space.mesh(&self.shapes[*index], of)).len(),
            Known::Combination(..) | Known::Plan(_) => 1,
        }
    }

    /// Prices a shape and queues it again by that.
    fn price(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
        let shape = self.shapes[index];
        let list = self.list(&shape);
        let Some(first) = list.first() else { return Ok(()) };
        let plan = self.space.plan(&shape, first);
        let quick = self.links.iter_mut().map(|links| ShapeWork::quick(&plan, &mut links.prices));
        self.quick[index] = quick.collect::<Result<Vec<_>, _>>()?;
        if let [links] = &mut self.links[..] {
            self.passes[index] = self.quick[index][0].passes(&plan, links)?;
            let least = self.floor_of_shape(index)?.map_or(least, |floor| floor.max(least));
            self.push(least, Known::Priced(index));
            return Ok(());
        }
        self.open(index, least)
    }

    /// Queues a priced shape's combinations.
    fn open(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
        let shape = self.shapes[index];
        let list = self.list(&shape);
        let Some(first) = list.first() else { return Ok(()) };
        let plan = self.space.plan(&shape, first);
        let kernels = self.quick[index][0].kernels(&plan) * plan.microbatches() as f64 / plan.mesh.pp as f64;
        self.queue_all(index, &list, least)?;
        if self.count(&shape).1 > 0 {
            self.push(least.max(kernels), Known::Orders(index));
        }
        Ok(())
    }

    /// Queues a shape's combinations in whichever unusual order of axes: by a floor with all axes as near as can be.
    fn open_orders(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
        let shape = self.shapes[index];
        let list = self.list(&shape);
        let mut last: Option<(usize, u8, Group)> = None;
        let cut = self.cut();
        for of in list.iter() {
            let mesh = self.space.mesh(&shape, of);
            let others = self.orders(&mesh).len();
            if others == 0 {
                continue;
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
    fn order(&mut self, index: usize, of: Combination, least: f64) -> Result<(), PlanError> {
        let mesh = self.space.mesh(&self.shapes[index], &of);
        let orders = self.orders(&mesh);
        let all = orders.iter().map(|&order| Combination { order, ..of }).collect::<Vec<_>>();
        self.queue_all(index, &all, least)
    }

    fn queue_all(&mut self, index: usize, all: &[Combination], least: f64) -> Result<(), PlanError> {
        let mut groups: Vec<((usize, u8, Order), Option<Group>)> = Vec::new();
        let cut = self.cut();
        for of in all {
            let mesh = self.space.mesh(&self.shapes[index], of);
            let key = (of.pp, of.zero, of.order);
            let at = match groups.iter().rposition(|(other, _)| *other == key) {
                Some(at) => at,
                None => {
                    let seated = Seats::of(self.cluster, &mesh).is_some();
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

    /// From where on a floor rules out what it is of.
    fn cut(&self) -> f64 {
        if !self.best.is_empty() { self.best[0].1.figures.step_time_s * (1.0 - TOLERANCE) } else { f64::INFINITY }
    }

    /// What combinations of a shape's mesh and ZeRO stage share; `nearest` if its axes are to be as near as can be, `quick`
    /// if it is for floors alone.
    fn group(&mut self, index: usize, of: &Combination, nearest: bool, quick: bool) -> Result<Group, PlanError> {
        let plan = self.space.plan(&self.shapes[index], of);
        let works = if quick { &self.quick[index] } else { &self.work[index] };
        let sizes = Sizes::of(&plan, &works[0].frames);
        let mut costs = Vec::new();
        for (links, work) in self.links.iter_mut().zip(works) {
            links.nearest = nearest;
            let priced = Costs::of(&plan, work, &sizes, links);
            links.nearest = false;
            costs.push(priced?);
        }
        let wholes = costs.iter().map(|costs| Whole::of(&plan, costs)).collect();
        let seats = Seats::of(self.cluster, &plan.mesh).expect("straddling meshes are left out before");
        let room = match &seats {
            Seats::Stages(pools) => pools.iter().map(|&pool| self.room[pool]).sum(),
            Seats::Replicas(_) => self.room.iter().copied().min().unwrap_or(0) * of.pp as u64,
        };
        let hopeless = stages::hopeless(&plan, &sizes, room);
        Ok(Group { seats, costs, wholes, sizes, hopeless })
    }

    /// The same for the combination's own plans.
    fn own_group(&mut self, index: usize, of: &Combination) -> Result<Arc<Group>, PlanError> {
        let key = (index, of.pp, of.zero, of.order);
        if let Some(group) = self.groups.get(&key) {
            return Ok(group.clone());
        }
        if self.work[index].is_empty() {
            let plan = self.space.plan(&self.shapes[index], of);
            let work = self.links.iter_mut().map(|links| ShapeWork::of(&plan, &mut links.prices));
            self.work[index] = work.collect::<Result<Vec<_>, _>>()?;
        }
        let group = Arc::new(self.group(index, of, false, false)?);
        self.groups.insert(key, group.clone());
        Ok(group)
    }

    fn floor(&mut self, index: usize, of: &Combination, group: &Group) -> f64 {
        let shape = self.shapes[index];
        let (pipeline, ratio) = (self.pipeline(&shape, of), self.ratio(&shape, of));
        match &group.wholes[..] {
            [whole] => whole.floor(&pipeline, ratio),
            all => {
                // Work goes to each pool by its speed, were there nothing else.
                let counts = group.seats.counts(all.len());
                let rate: f64 =
                    counts.iter().zip(all).map(|(&n, whole)| n as f64 / whole.microbatch(of.pp * of.chunks).0).sum();
                let batch = self.space.job.global_batch as f64 / self.shapes[index].microbatch as f64;
                match group.seats {
                    Seats::Stages(_) => batch / of.dp as f64 / rate,
                    Seats::Replicas(_) => batch / of.pp as f64 / rate,
                }
            }
        }
    }

    /// Queues a combination by a floor over every way to spread its layers over stages.
    fn spread(&mut self, index: usize, of: Combination, least: f64) -> Result<(), PlanError> {
        let mut floor = least;
        if of.pp > 1 && of.chunks == 1 {
            let group = self.group(index, &of, false, true)?;
            if let Seats::Stages(pools) = &group.seats {
                let costs: Vec<&Costs> = pools.iter().map(|&pool| &group.costs[pool]).collect();
                let pipeline = self.pipeline(&self.shapes[index], &of);
                floor = floor.max(spread::floor(&self.space.job.model, &pipeline, &costs, &|_, _| Some(0.0)));
            }
        }
        if self.links.len() > 1 {
            let group = self.group(index, &of, false, true)?;
            if let Seats::Replicas(_) = group.seats {
                floor = floor.max(self.shared(index, &of, &group));
            }
        }
        self.push(floor, Known::Combination(index, of, true));
        Ok(())
    }

    /// A floor where replicas sit in unlike pools: the soonest that those of all pools together can be through the batch, each
    /// pool with the microbatches that its own floor lets it end by then.
    fn shared(&mut self, index: usize, of: &Combination, group: &Group) -> f64 {
        let shape = self.shapes[index];
        let batch = self.space.job.global_batch / shape.microbatch;
        let counts = group.seats.counts(group.wholes.len());
        let pipeline = self.pipeline(&shape, of);
        let plain = of.schedule == Schedule::OneFOneB && of.chunks == 1;
        let most = |whole: &Whole, end: f64, ratios: &mut FxHashMap<(usize, usize), f64>| {
            let mut range = [0, batch + 1];
            while range[1] - range[0] > 1 {
                let microbatches = (range[0] + range[1]) / 2;
                let ratio = if plain {
                    let known = ratios.entry((microbatches, of.pp));
                    *known.or_insert_with(|| least_ratio(microbatches, of.pp))
                } else {
                    1.0
                };
                let late = whole.floor(&Pipeline { microbatches, ..pipeline }, ratio) > end;
                range[usize::from(late)] = microbatches;
            }
            range[0]
        };
        let mut ends = [0.0, f64::INFINITY];
        let mut end = self.floor(index, of, group);
        for _ in 0..24 {
            let through = counts.iter().zip(&group.wholes);
            let done: usize = through.map(|(count, whole)| count * most(whole, end, &mut self.ratios)).sum();
            ends[usize::from(done >= batch)] = end;
            if ends[1] < ends[0] * 1.001 {
                break;
            }
            end = if ends[1].is_finite() { (ends[0] + ends[1]) / 2.0 } else { 1.5 * end };
        }
        ends[0]
    }

    /// Decides a combination's stages and queues the plan by its bound.
    fn decide(&mut self, index: usize, of: Combination, least: f64) -> Result<(), PlanError> {
        let group = &*self.own_group(index, &of)?;
        let plan = self.space.plan(&self.shapes[index], &of);
        // Replicas in several pools have the same stages: as the slowest need them, in the least memory.
        let slowest = (0..group.costs.len())
            .max_by(|&a, &b| group.wholes[a].times.total().total_cmp(&group.wholes[b].times.total()));
        let pools = group.seats.stages(of.pp, slowest.unwrap_or(0));
        let costs: Vec<&Costs> = pools.iter().map(|&pool| &group.costs[pool]).collect();
        let room: Vec<u64> = match group.seats {
            Seats::Stages(_) => pools.iter().map(|&pool| self.room[pool]).collect(),
            Seats::Replicas(_) => vec![self.room.iter().copied().min().unwrap_or(0); of.pp],
        };
        let flights = self.flights(plan.pipeline());
        let undecided = Undecided { plan: &plan, costs: &costs, sizes: &group.sizes, flights: &flights, room: &room };
        let found = if group.hopeless { None } else { undecided.decide() };
        let Some((stages, problem)) = found else {
            self.reject("out of memory", 1);
            return Ok(());
        };
        let mut plan = Plan { stages, ..plan };
        let bound = match &group.seats {
            Seats::Stages(_) => play::step(&plan, &costs),
            Seats::Replicas(replicas) => {
                let of_replicas: Vec<&Costs> = replicas.iter().map(|&pool| &group.costs[pool]).collect();
                let Some(shared) = shares::Problem::of(&plan, &of_replicas).solve() else {
                    self.reject("fewer microbatches than replicas", 1);
                    return Ok(());
                };
                plan.shares = shared.shares;
                if plan.shares.windows(2).all(|pair| pair[0] == pair[1]) {
                    plan.shares = Vec::new();
                }
                if plan.check().is_err() {
                    self.reject("unlike shares do not go with it", 1);
                    return Ok(());
                }
                let classes = plan.classes();
                let of_replica = |(replica, &pool): (usize, &usize)| {
                    let own = plan.of_class(classes.of_replica(replica));
                    play::step(&own, &vec![&group.costs[pool]; of.pp])
                };
                let firsts = replicas.iter().enumerate().filter(|(i, pool)| *i == 0 || replicas[i - 1] != **pool);
                firsts.map(of_replica).fold(0.0, f64::max)
            }
        };
        if !self.fits(&plan, group) {
            self.reject("out of memory", 1);
            return Ok(());
        }
        if of.pp > 1 && of.chunks == 1 {
            self.decided.push(Decided { floor: least, index, of, problem });
        }
        self.push(bound.max(least), Known::Plan(Box::new(plan)));
        Ok(())
    }

    /// Microbatches under way, by stage.
    fn flights(&mut self, pipeline: Pipeline) -> Arc<Vec<InFlight>> {
        let settled = Pipeline { microbatches: pipeline.settled(), ..pipeline };
        self.flights.entry(settled).or_insert_with(|| Arc::new(InFlight::all(&settled))).clone()
    }

    /// Whether unlike shares fit too: replicas with more microbatches may have more of them under way.
    fn fits(&mut self, plan: &Plan, group: &Group) -> bool {
        let room = self.room.iter().copied().min().unwrap_or(0);
        let classes: Vec<Plan> = match plan.shares.is_empty() {
            true => Vec::new(),
            false => (0..plan.classes().count()).map(|class| plan.of_class(class)).collect(),
        };
        classes.iter().all(|own| {
            let flights = self.flights(own.pipeline());
            (0..own.mesh.pp).all(|stage| group.sizes.stage(own, &flights[stage], stage) <= room)
        })
    }

    /// Simulates a plan, with the next ones if they are as far, and keeps the best.
    fn simulate(&mut self, plan: Plan) -> Result<(), PlanError> {
        let mut batch = vec![plan];
        while batch.len() < AT_ONCE && matches!(self.queue.peek(), Some(Node { known: Known::Plan(_), .. })) {
            let Some(Node { known: Known::Plan(plan), .. }) = self.queue.pop() else { break };
            batch.push(*plan);
        }
        self.simulated += batch.len();
        let cluster = self.cluster;
        let predicted: Vec<Result<Predicted, PlanError>> = std::thread::scope(|scope| {
            let running: Vec<_> = batch.iter().map(|plan| scope.spawn(|| predict(plan, cluster))).collect();
            running.into_iter().map(|one| one.join().expect("a prediction does not panic")).collect()
        });
        for (plan, predicted) in batch.into_iter().zip(predicted) {
            let predicted = predicted?;
            let time = |predicted: &Predicted| predicted.figures.step_time_s;
            let at = self.best.partition_point(|(_, other)| time(other) <= time(&predicted));
            self.best.insert(at, (plan, predicted));
            if self.best.len() > self.top {
                self.best.pop();
                self.reject("slower when simulated", 1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
