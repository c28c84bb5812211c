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
mod manner;
mod seats;
mod space;
mod stages;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use meshwright_hardware::mesh::Order;
use meshwright_hardware::profile::Cluster;

use crate::error::PlanError;
use crate::job::Job;
use crate::lower::{InFlight, Sizes};
use crate::plan::{Plan, Schedule};
use crate::predict::{Predicted, predict};
use crate::schedule::Pipeline;

use bound::{Whole, least_ratio};
use cost::{Costs, Links, ShapeWork};
pub use manner::{Manner, Progress};
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
    search_so(job, cluster, fix, top, &Manner::FULL)
}

/// The same, in some manner. Where nothing is below the manner's limit, nothing fits.
pub fn search_so(job: &Job, cluster: &Cluster, fix: &Fix, top: usize, so: &Manner) -> Result<Found, PlanError> {
    let started = Instant::now();
    let mut search = Search::of(job, cluster, fix)?;
    search.manner = *so;
    search.begin()?;
    search.run(top.max(1))?;
    let Search { considered, rejected, best, simulated, mut queue, proved, .. } = search;
    if best.is_empty() {
        return Err(PlanError::Infeasible { considered, rejected });
    }
    let left = queue.pop().map_or(f64::INFINITY, |node| node.seconds);
    let bound = left.min(proved).min(best[0].1.figures.step_time_s);
    Ok(Found { best, considered, rejected, simulated, seconds: started.elapsed().as_secs_f64(), bound })
}

/// Whether any plan fits: the search up to the first whose stages find room, without its simulation.
pub fn fits(job: &Job, cluster: &Cluster, fix: &Fix) -> Result<bool, PlanError> {
    let mut search = Search::of(job, cluster, fix)?;
    search.begin()?;
    search.only_fits = true;
    search.run(1)?;
    Ok(search.fitting)
}

/// What is known of a part of the space.
enum Known {
    /// A shape, all of whose combinations in the usual order of axes wait for its costs.
    Shape(usize),
    /// The same in all other orders.
    Orders(usize),
    /// A combination in all other orders.
    AnyOrder(usize, Combination),
    /// One combination.
    Combination(usize, Combination, Arc<Group>),
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
}

struct Search<'a> {
    space: Space<'a>,
    cluster: &'a Cluster,
    /// By pool.
    links: Vec<Links<'a>>,
    /// Bytes that a plan may declare on a device, by pool.
    room: Vec<u64>,
    shapes: Vec<Shape>,
    /// By shape and pool, of shapes that were opened.
    work: Vec<Vec<ShapeWork>>,
    flights: HashMap<Pipeline, Arc<Vec<InFlight>>>,
    ratios: HashMap<(usize, usize), f64>,
    groups: HashMap<(usize, usize, u8, Option<Order>), Arc<Group>>,
    queue: BinaryHeap<Node>,
    order: usize,
    considered: usize,
    rejected: BTreeMap<String, usize>,
    best: Vec<(Plan, Predicted)>,
    simulated: usize,
    /// The least bound of combinations of which one partition was simulated.
    proved: f64,
    manner: Manner<'a>,
    /// Whether the first plan that fits ends it, unsimulated.
    only_fits: bool,
    /// Whether any plan fits so far.
    fitting: bool,
}

impl<'a> Search<'a> {
    fn of(job: &'a Job, cluster: &'a Cluster, fix: &'a Fix) -> Result<Self, PlanError> {
        let room = |memory: u64| job.goal.usable(memory);
        Ok(Search {
            space: Space { job, devices: cluster.devices(), fix, pools: cluster.pools.len() > 1 },
            cluster,
            links: seats::prices(cluster, job.precision)?.into_iter().map(Links::new).collect(),
            room: cluster.pools.iter().map(|pool| room(pool.device.memory.value.0)).collect(),
            shapes: Vec::new(),
            work: Vec::new(),
            flights: HashMap::new(),
            ratios: HashMap::new(),
            groups: HashMap::new(),
            queue: BinaryHeap::new(),
            order: 0,
            considered: 0,
            rejected: BTreeMap::new(),
            best: Vec::new(),
            simulated: 0,
            proved: f64::INFINITY,
            manner: Manner::FULL,
            only_fits: false,
            fitting: false,
        })
    }

    fn reject(&mut self, reason: impl Into<String>, count: usize) {
        if count > 0 {
            *self.rejected.entry(reason.into()).or_default() += count;
        }
    }

    fn push(&mut self, seconds: f64, known: Known) {
        self.order += 1;
        self.queue.push(Node { seconds, known, order: self.order });
    }

    /// Queues all shapes.
    fn begin(&mut self) -> Result<(), PlanError> {
        self.shapes = self.space.shapes(&mut self.rejected);
        self.considered = self.rejected.values().sum();
        self.work.resize_with(self.shapes.len(), Vec::new);
        for index in 0..self.shapes.len() {
            let shape = self.shapes[index];
            let (usual, others) = self.count(&shape);
            self.considered += usual + others;
            if self.least_bytes(&shape) > self.room.iter().copied().max().unwrap_or(0) {
                self.reject("out of memory", usual + others);
                continue;
            }
            let seconds = self.floor_of_shape(&shape)?;
            self.push(seconds, Known::Shape(index));
        }
        Ok(())
    }

    /// Combinations of a shape in the usual order of axes, and in all others.
    fn count(&self, shape: &Shape) -> (usize, usize) {
        let (mut usual, mut others) = (0, 0);
        let mut last = (0, 0);
        for of in self.space.combinations(shape) {
            if last.0 != of.pp {
                last = (of.pp, self.space.orders(&self.space.mesh(shape, &of)).len());
            }
            usual += 1;
            others += last.1;
        }
        (usual, others)
    }

    /// What any stage of a shape needs at least: the head's logits and one layer's input.
    fn least_bytes(&self, shape: &Shape) -> u64 {
        let (job, width) = (self.space.job, self.space.job.precision.stored().bytes());
        let rows = if job.target() > 0 { job.target() } else { job.seq / shape.cp } * shape.microbatch;
        let scored = if job.model.causal() || job.target() > 0 { rows } else { 0 };
        (scored * job.model.vocab / shape.tp) as u64 * width
    }

    /// A floor of all combinations of a shape: its work spread evenly over all stages.
    fn floor_of_shape(&mut self, shape: &Shape) -> Result<f64, PlanError> {
        let mut rate = 0.0;
        for (pool, links) in self.cluster.pools.iter().zip(&mut self.links) {
            rate += pool.devices() as f64 / floor::of_shape(self.space.job, shape, links)?;
        }
        let each = self.space.devices as f64 / rate;
        let microbatches = self.space.job.global_batch * shape.tp * shape.cp;
        Ok(each * microbatches as f64 / (self.space.devices * shape.microbatch) as f64)
    }

    /// Takes the most promising part until what is left cannot be better.
    fn run(&mut self, top: usize) -> Result<(), PlanError> {
        let mut effort = 0;
        while let Some(node) = self.queue.pop() {
            self.tell(node.seconds);
            effort += usize::from(matches!(node.known, Known::Shape(_)));
            let tired = effort > self.manner.effort && !self.best.is_empty();
            if tired || self.is_enough(node.seconds, top) || (self.only_fits && self.fitting) {
                self.queue.push(node);
                break;
            }
            match node.known {
                Known::Shape(index) => self.open(index, node.seconds)?,
                Known::Orders(index) => self.open_orders(index, node.seconds)?,
                Known::AnyOrder(index, of) => self.order(index, of, node.seconds)?,
                Known::Combination(index, of, group) => self.decide(index, of, &group, node.seconds)?,
                Known::Plan(plan) => self.simulate(*plan, top)?,
            }
        }
        let best = self.best.first().map_or(f64::INFINITY, |(_, predicted)| predicted.figures.step_time_s);
        let matters = (best * (1.0 - TOLERANCE)).min(self.manner.below);
        let (mut slower, mut open) = (0, 0);
        for node in &self.queue {
            let held = self.held(&node.known);
            if node.seconds < matters { open += held } else { slower += held }
        }
        self.reject("slower by its bound", slower);
        self.reject("not looked at: within the gap", open);
        Ok(())
    }

    /// Whether a part with this bound cannot change the answer by more than the tolerance.
    fn is_enough(&self, seconds: f64, top: usize) -> bool {
        let best = self.best.first().map(|(_, predicted)| predicted.figures.step_time_s);
        let near = |best: f64| self.best.len() >= top && seconds >= best * (1.0 - self.manner.tolerance);
        self.manner.ends(best, seconds) || best.is_some_and(near)
    }

    fn tell(&self, bound: f64) {
        if let Some(watch) = self.manner.watch {
            let best = self.best.first().map(|(_, predicted)| predicted.figures.step_time_s);
            watch(&Progress { considered: self.considered, simulated: self.simulated, best, bound });
        }
    }

    /// Combinations in a part of the space.
    fn held(&self, known: &Known) -> usize {
        match known {
            Known::Shape(index) => {
                let (usual, others) = self.count(&self.shapes[*index]);
                usual + others
            }
            Known::Orders(index) => self.count(&self.shapes[*index]).1,
            Known::AnyOrder(index, of) => self.space.orders(&self.space.mesh(&self.shapes[*index], of)).len(),
            Known::Combination(..) | Known::Plan(_) => 1,
        }
    }

    /// Prices a shape and queues its combinations.
    fn open(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
        let shape = self.shapes[index];
        let Some(first) = self.space.combinations(&shape).next() else { return Ok(()) };
        let plan = self.space.plan(&shape, &first);
        let work = self.links.iter_mut().map(|links| ShapeWork::of(&plan, &mut links.prices));
        let work = work.collect::<Result<Vec<_>, _>>()?;
        let kernels = work[0].kernels(&plan) * plan.microbatches() as f64 / plan.mesh.pp as f64;
        self.work[index] = work;
        let all: Vec<Combination> = self.space.combinations(&shape).collect();
        self.queue_all(index, &all, least)?;
        if self.count(&shape).1 > 0 {
            self.push(least.max(kernels), Known::Orders(index));
        }
        Ok(())
    }

    /// Queues a shape's combinations in whichever unusual order of axes: by a floor with all axes as near as can be.
    fn open_orders(&mut self, index: usize, least: f64) -> Result<(), PlanError> {
        let shape = self.shapes[index];
        let all: Vec<Combination> = self.space.combinations(&shape).collect();
        for of in all {
            let mesh = self.space.mesh(&shape, &of);
            if self.space.orders(&mesh).is_empty() {
                continue;
            }
            let floor = {
                let group = self.group(index, &of, true)?;
                self.floor(index, &of, &group).max(least)
            };
            self.push(floor, Known::AnyOrder(index, of));
        }
        Ok(())
    }

    /// Queues a combination in each unusual order of axes.
    fn order(&mut self, index: usize, of: Combination, least: f64) -> Result<(), PlanError> {
        let mesh = self.space.mesh(&self.shapes[index], &of);
        let all = self.space.orders(&mesh).into_iter().map(|order| Combination { order, ..of }).collect::<Vec<_>>();
        self.queue_all(index, &all, least)
    }

    fn queue_all(&mut self, index: usize, all: &[Combination], least: f64) -> Result<(), PlanError> {
        for of in all {
            if Seats::of(self.cluster, &self.space.mesh(&self.shapes[index], of)).is_none() {
                self.reject("a stage or a replica would straddle two pools", 1);
                continue;
            }
            let group = self.group(index, of, false)?;
            let floor = self.floor(index, of, &group);
            self.push(floor.max(least), Known::Combination(index, *of, group));
        }
        Ok(())
    }

    /// What combinations of a shape's mesh and ZeRO stage share; `nearest` if its axes are to be as near as can be.
    fn group(&mut self, index: usize, of: &Combination, nearest: bool) -> Result<Arc<Group>, PlanError> {
        let key = (index, of.pp, of.zero, (!nearest).then_some(of.order));
        if let Some(group) = self.groups.get(&key) {
            return Ok(group.clone());
        }
        let plan = self.space.plan(&self.shapes[index], of);
        let sizes = Sizes::of(&plan, &self.work[index][0].frames);
        let mut costs = Vec::new();
        for (links, work) in self.links.iter_mut().zip(&self.work[index]) {
            links.nearest = nearest;
            let priced = Costs::of(&plan, work, &sizes, links);
            links.nearest = false;
            costs.push(priced?);
        }
        let wholes = costs.iter().map(|costs| Whole::of(&plan, costs)).collect();
        let seats = Seats::of(self.cluster, &plan.mesh).expect("straddling meshes are left out before");
        let group = Arc::new(Group { seats, costs, wholes, sizes });
        self.groups.insert(key, group.clone());
        Ok(group)
    }

    fn floor(&mut self, index: usize, of: &Combination, group: &Group) -> f64 {
        let microbatches = self.space.job.global_batch / (of.dp * self.shapes[index].microbatch);
        let pipeline = Pipeline { schedule: of.schedule, stages: of.pp, chunks: of.chunks, microbatches };
        let plain = of.schedule == Schedule::OneFOneB && of.chunks == 1;
        let ratio = if plain {
            *self.ratios.entry((microbatches, of.pp)).or_insert_with(|| least_ratio(microbatches, of.pp))
        } else {
            1.0
        };
        match &group.wholes[..] {
            [whole] => whole.floor(&pipeline, ratio),
            all => {
                // Work goes to each pool by its speed, were there nothing else.
                let counts = group.seats.counts(all.len());
                let rate: f64 = counts.iter().zip(all).map(|(&n, whole)| n as f64 / whole.times.longer()).sum();
                let batch = self.space.job.global_batch as f64 / self.shapes[index].microbatch as f64;
                match group.seats {
                    Seats::Stages(_) => batch / of.dp as f64 / rate,
                    Seats::Replicas(_) => batch / of.pp as f64 / rate,
                }
            }
        }
    }

    /// Decides a combination's stages and queues the plan by its bound.
    fn decide(&mut self, index: usize, of: Combination, group: &Group, least: f64) -> Result<(), PlanError> {
        let chunks = of.chunks;
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
        let found = if stages::hopeless(&undecided) { None } else { undecided.decide() };
        let Some(stages) = found else {
            self.reject("out of memory", 1);
            return Ok(());
        };
        let mut plan = Plan { stages, ..plan };
        let bound = match &group.seats {
            Seats::Stages(_) => bound::step(&plan, &costs),
            Seats::Replicas(replicas) => {
                let Some(shared) = crate::shares::Problem::of(&plan, self.cluster)?.solve() else {
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
                    bound::step(&own, &vec![&group.costs[pool]; of.pp])
                };
                let firsts = replicas.iter().enumerate().filter(|(i, pool)| *i == 0 || replicas[i - 1] != **pool);
                firsts.map(of_replica).fold(0.0, f64::max)
            }
        };
        if !self.fits(&plan, group) {
            self.reject("out of memory", 1);
            return Ok(());
        }
        if of.pp > 1 && chunks == 1 {
            self.proved = self.proved.min(least);
        }
        self.fitting = true;
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
    fn simulate(&mut self, plan: Plan, top: usize) -> Result<(), PlanError> {
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
            if self.best.len() > top {
                self.best.pop();
                self.reject("slower when simulated", 1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
