//! Advice: the smallest changes that would make a job fit, or keep its limits.
//!
//! In: a job that no plan fits, or whose limits no plan keeps. Out: a few [`Advice`]s, each with the plan that then is found.
//!
//! A change is looked for by halves, with frugal plans alone, which is quick; then the search itself is run at the change, and
//! its plan is what the advice shows. Node counts are round ones, by which batches, heads and layers divide.
//!
//! Invariant: every advice was followed by the search, which found a plan that fits and keeps the limits.

use meshwright_hardware::profile::{Cluster, Device, DeviceKind, Machine, System, catalog};
use meshwright_hardware::units::{Bytes, Dollars, Precision, Seconds, Tokens};
use serde::Serialize;

use super::choose::{QUICK, could_fit, longest_step};
use super::offer::{Offer, keeps};
use super::parts::parts;
use super::{Chosen, Goal};
use crate::job::Job;
use crate::plan::Schedule;
use crate::search::{Fix, Manner, fits};
use crate::sites::decide_so;

/// A change and what it brings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// What to change, in words.
    pub change: String,
    /// The arguments, or the key of the job, that do.
    pub how: String,
    /// The plan that is then found, in a line.
    pub plan: String,
    /// Its step.
    pub step_time_s: f64,
    /// From the first step to the last, expected.
    pub days: f64,
    /// For all devices over that time; none where a price is unknown.
    pub dollars: Option<f64>,
    /// The share of memory that it leaves free.
    pub headroom: f64,
}

/// Advices that are given at the most.
const MOST: usize = 6;
/// Devices that an advice asks for at the most.
const MOST_DEVICES: usize = 1 << 17;

/// What is asked for: a job on a cluster, with decisions fixed.
#[derive(Clone)]
struct Case {
    job: Job,
    cluster: Cluster,
    fix: Fix,
}

/// What would make a job fit that no plan fits: changes of decisions and of the job first, then more hardware.
pub fn advise(job: &Job, cluster: &Cluster, fix: &Fix) -> Vec<Advice> {
    let case = Case { job: job.clone(), cluster: cluster.clone(), fix: fix.clone() };
    let mut all = case.lifted();
    all.extend(case.less_headroom());
    all.extend(case.fewer_nodes());
    all.extend(case.other_batch());
    all.extend(case.narrower());
    all.extend(case.shorter());
    all.extend(case.smaller_batch());
    all.extend(case.more_nodes(0, &|case| case.fits()));
    all.extend(case.more_memory());
    all.truncate(MOST);
    all
}

/// What would make a job keep its limits that some plans fit, but none keeps.
pub fn advise_limits(job: &Job, cluster: &Cluster, fix: &Fix, chosen: &Chosen) -> Vec<Advice> {
    let case = Case { job: job.clone(), cluster: cluster.clone(), fix: fix.clone() };
    let goal = &job.goal;
    let mut all = Vec::new();
    // The offer that comes nearest to one limit and keeps the other.
    let nearest = |kept: Goal, of: &dyn Fn(&Offer) -> Option<f64>| {
        let offers = chosen.offers.iter().filter(|offer| offer.keeps(&kept));
        let known = offers.filter_map(|offer| of(offer).map(|value| (value, offer)));
        known.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(value, offer)| (value, offer.clone()))
    };
    if goal.deadline.is_some() {
        let days = nearest(Goal { deadline: None, ..goal.clone() }, &|offer| Some(offer.training.days));
        if let Some((days, offer)) = days {
            let days = round_up(days);
            all.push(Advice::of(format!("a deadline of {days} days"), format!("--deadline {days}d"), &offer));
        }
    }
    if goal.budget.is_some() {
        let dollars = nearest(Goal { budget: None, ..goal.clone() }, &|offer| offer.training.dollars);
        if let Some((dollars, offer)) = dollars {
            let dollars = Dollars(round_up(dollars));
            let how = format!("--budget '{}'", dollars.exact());
            all.push(Advice::of(format!("a budget of {dollars}"), how, &offer));
        }
    }
    all.extend(fewer_tokens(&case, chosen));
    all.extend(case.lifted().into_iter().filter(|advice| advice.keeps(goal)));
    if let Some(deadline) = goal.deadline {
        // Twice the nodes take half the time at the best.
        let days = chosen.offers.iter().map(|offer| offer.training.days * offer.cluster.devices() as f64);
        let days = days.fold(f64::INFINITY, f64::min) / cluster.devices() as f64;
        let nodes = cluster.pools.iter().max_by_key(|pool| pool.devices()).map_or(1, |pool| pool.nodes);
        let from = (nodes as f64 * days * 86400.0 / deadline.0) as usize;
        all.extend(case.more_nodes(from, &|case| case.in_time()));
    }
    all.truncate(MOST);
    all
}

/// As many tokens as an offer trains within the limits.
fn fewer_tokens(case: &Case, chosen: &Chosen) -> Option<Advice> {
    let goal = &case.job.goal;
    let share = |offer: &Offer| {
        let in_time = goal.deadline.map_or(1.0, |deadline| deadline.0 / 86400.0 / offer.training.days);
        let in_budget = goal.budget.zip(offer.training.dollars).map_or(1.0, |(budget, dollars)| budget.0 / dollars);
        in_time.min(in_budget)
    };
    let best = chosen.offers.iter().max_by(|a, b| share(a).total_cmp(&share(b)))?;
    let mut tokens = round_down(case.job.tokens().0 * share(best));
    // What a run begins with weighs more the shorter it is.
    for _ in 0..8 {
        let mut job = case.job.clone();
        job.goal.tokens = Some(Tokens(tokens));
        job.settle();
        let offer = Offer::of(&job, best.plan.clone(), best.figures.clone(), &best.cluster);
        if offer.keeps(goal) {
            let tokens = Tokens(tokens);
            let how = format!("--tokens {}", tokens.exact().replace(' ', ""));
            return Some(Advice::of(format!("{tokens} at the most"), how, &offer));
        }
        tokens = round_down(tokens * 0.98);
    }
    None
}

impl Advice {
    fn of(change: String, how: String, offer: &Offer) -> Advice {
        Advice {
            change,
            how,
            plan: offer.plan.summary(),
            step_time_s: offer.figures.step_time_s,
            days: offer.training.days,
            dollars: offer.training.dollars,
            headroom: offer.headroom,
        }
    }

    fn keeps(&self, goal: &Goal) -> bool {
        let least = crate::goodput::Least { days: self.days, dollars: self.dollars, energy_kwh: None };
        keeps(goal, &least)
    }
}

impl Case {
    /// Whether a frugal plan fits: one sequence a microbatch, no more under way than need be, axes in their usual order.
    fn fits(&self) -> bool {
        let fix = Fix {
            microbatch: self.fix.microbatch.or(Some(1)),
            schedule: self.fix.schedule.or(Some(Schedule::OneFOneB)),
            chunks: self.fix.chunks.or(Some(1)),
            order: self.fix.order.or_else(|| (self.cluster.pools.len() == 1).then(Default::default)),
            ..self.fix.clone()
        };
        let (job, cluster) = (&self.job, &self.cluster);
        could_fit(job, cluster)
            && match cluster.wan {
                None => fits(job, cluster, &fix).unwrap_or(false),
                Some(_) => decide_so(job, cluster, None, &fix, 1, &QUICK).is_ok(),
            }
    }

    /// Whether a plan keeps the limits.
    fn in_time(&self) -> bool {
        let goal = &self.job.goal;
        let limit = longest_step(&self.job, &self.cluster, &|least| keeps(goal, least));
        could_fit(&self.job, &self.cluster)
            && limit > 0.0
            && self.offer(&Manner { enough: limit * 0.999, below: limit, ..QUICK }).is_some_and(|o| o.keeps(goal))
    }

    fn offer(&self, so: &Manner) -> Option<Offer> {
        let found = decide_so(&self.job, &self.cluster, None, &self.fix, 1, so).ok()?;
        let (plan, predicted) = found.best.into_iter().next()?;
        Some(Offer::of(&self.job, plan, predicted.figures, &self.cluster))
    }

    /// The advice, if the search agrees.
    fn advice(&self, change: String, how: String) -> Option<Advice> {
        self.offer(&QUICK).map(|offer| Advice::of(change, how, &offer))
    }

    fn with_job(&self, change: impl FnOnce(&mut Job)) -> Case {
        let mut case = self.clone();
        change(&mut case.job);
        case
    }

    /// Each fixed decision lifted alone; or all, where none alone will do.
    fn lifted(&self) -> Vec<Advice> {
        let Ok(fixed) = toml::Table::try_from(&self.fix) else { return Vec::new() };
        let without = |keys: &[String]| {
            let mut left = fixed.clone();
            keys.iter().for_each(|key| drop(left.remove(key)));
            Some(Case { fix: left.try_into().ok()?, ..self.clone() })
        };
        let named = |keys: &[String]| {
            let each: Vec<String> = keys.iter().map(|key| format!("{key} = {}", fixed[key])).collect();
            each.join(", ")
        };
        let keys: Vec<String> = fixed.keys().cloned().collect();
        let lift = |keys: &[String]| {
            let case = without(keys).filter(Case::fits)?;
            case.advice(format!("without {} fixed", named(keys)), format!("leave {} open", keys.join(", ")))
        };
        let alone: Vec<Advice> = keys.iter().filter_map(|key| lift(std::slice::from_ref(key))).collect();
        if alone.is_empty() && keys.len() > 1 { lift(&keys).into_iter().collect() } else { alone }
    }

    /// The most headroom that fits, in whole per cent.
    fn less_headroom(&self) -> Option<Advice> {
        let wanted = (self.job.goal.headroom * 100.0).ceil() as usize;
        let with = |percent: usize| self.with_job(|job| job.goal.headroom = percent as f64 / 100.0);
        let most = most_below(wanted, &|percent| with(percent).fits())?;
        let headroom = most as f64 / 100.0;
        with(most).advice(format!("{most} % of memory left free"), format!("--headroom {headroom}"))
    }

    /// The largest part on which a plan fits.
    fn fewer_nodes(&self) -> Option<Advice> {
        let on = |cluster: Cluster| Case { cluster, ..self.clone() };
        let found = parts(&self.cluster, true).into_iter().map(on).find(Case::fits)?;
        let (cluster, devices) = (&found.cluster, found.cluster.devices());
        found.advice(format!("{devices} devices, of which each has its share"), format!("--cluster \"{cluster}\""))
    }

    /// The nearest batch that divides among all devices.
    fn other_batch(&self) -> Option<Advice> {
        let (batch, devices) = (self.job.global_batch, self.cluster.devices() * self.cluster.sites());
        let mut near = vec![batch.next_multiple_of(devices), batch / devices * devices, batch.next_power_of_two()];
        near.retain(|&other| other > 0 && other != batch);
        near.sort_by_key(|other| other.abs_diff(batch));
        let with = |batch: usize| self.with_job(|job| job.global_batch = batch);
        let batch = near.into_iter().find(|&batch| with(batch).fits())?;
        with(batch).advice(format!("{batch} sequences a step"), format!("--global-batch {batch}"))
    }

    /// Weights and activations in two bytes.
    fn narrower(&self) -> Option<Advice> {
        if self.job.precision.stored().bytes() <= 2 {
            return None;
        }
        let case = self.with_job(|job| job.precision = Precision::Bf16);
        let (from, to) = (self.job.precision, Precision::Bf16);
        let advice = |case: Case| case.advice(format!("{to} instead of {from}"), format!("--precision {to}"));
        Some(case).filter(Case::fits).and_then(advice)
    }

    /// The longest sequence that fits, of halves.
    fn shorter(&self) -> Option<Advice> {
        let seq = self.halved(self.job.seq, 128, &|job, seq| job.seq = seq)?;
        let case = self.with_job(|job| job.seq = seq);
        case.advice(format!("sequences of {seq} tokens"), format!("--seq {seq}"))
    }

    /// The largest batch that fits, of halves.
    fn smaller_batch(&self) -> Option<Advice> {
        let batch = self.halved(self.job.global_batch, 1, &|job, batch| job.global_batch = batch)?;
        let case = self.with_job(|job| job.global_batch = batch);
        case.advice(format!("{batch} sequences a step"), format!("--global-batch {batch}"))
    }

    /// The largest of a size's halves, and theirs down to `least`, with which a plan fits.
    fn halved(&self, size: usize, least: usize, set: &dyn Fn(&mut Job, usize)) -> Option<usize> {
        let halves = std::iter::successors(Some(size), |size| size.is_multiple_of(2).then_some(size / 2));
        // Smallest first: if that does not fit, none does.
        let mut sizes: Vec<usize> = halves.skip(1).take_while(|size| *size >= least).collect();
        sizes.reverse();
        let most = most_below(sizes.len(), &|at| self.with_job(|job| set(job, sizes[at])).fits())?;
        Some(sizes[most])
    }

    /// The fewest nodes of the largest pool, `from` up, with which `passes`.
    fn more_nodes(&self, from: usize, passes: &dyn Fn(&Case) -> bool) -> Option<Advice> {
        let largest = (0..self.cluster.pools.len()).max_by_key(|&at| self.cluster.pools[at].devices())?;
        let pool = &self.cluster.pools[largest];
        let with = |machine: &Machine| {
            let mut case = self.clone();
            case.cluster.pools[largest] = machine.clone();
            case
        };
        let sizes = larger(pool);
        // By doubling, then by halves between the last that failed and the first that passed.
        let mut at = sizes.partition_point(|machine| machine.nodes < from);
        let mut failed = None;
        while !passes(&with(sizes.get(at)?)) {
            failed = Some(at);
            let twice = 2 * sizes[at].devices();
            at = sizes.partition_point(|machine| machine.devices() < twice);
        }
        let (mut low, mut high) = (failed.map_or(at, |failed| failed + 1), at);
        while low < high {
            let middle = (low + high) / 2;
            if passes(&with(&sizes[middle])) { high = middle } else { low = middle + 1 }
        }
        let case = with(&sizes[high]);
        let cluster = &case.cluster;
        let more = match (sizes[high].nodes - pool.nodes, sizes[high].devices() - pool.devices()) {
            (0, 1) => "1 device more".to_owned(),
            (0, devices) => format!("{devices} devices more"),
            (1, _) => "1 node more".to_owned(),
            (nodes, _) => format!("{nodes} nodes more"),
        };
        // A machine from a file has no name that a cluster could be written with.
        let how = match catalog().system(&pool.system.name) {
            Ok(_) => format!("--cluster \"{cluster}\""),
            Err(_) => format!("nodes = {} in the machine's file", sizes[high].nodes),
        };
        let offer = case.offer(&QUICK).filter(|offer| offer.keeps(&self.job.goal))?;
        Some(Advice::of(more, how, &offer))
    }

    /// The least memory of a device with which a plan fits, and the smallest device that has it.
    fn more_memory(&self) -> Option<Advice> {
        const STEP: u64 = 1 << 30;
        let now = self.cluster.pools.iter().map(|pool| pool.device.memory.value.0).min()?;
        let with = |bytes: u64| {
            let mut case = self.clone();
            for pool in &mut case.cluster.pools {
                pool.device.memory.value = Bytes(pool.device.memory.value.0.max(bytes));
            }
            case
        };
        let first = now / STEP + 1;
        let mut high = first;
        while !with(high * STEP).fits() {
            high *= 2;
            if high > 1 << 14 {
                return None;
            }
        }
        let mut low = (high / 2 + 1).max(first);
        while low < high {
            let middle = (low + high) / 2;
            if with(middle * STEP).fits() { high = middle } else { low = middle + 1 }
        }
        let bytes = Bytes(high * STEP);
        let how = match smallest(self.cluster.pools[0].device.kind, bytes) {
            Some(device) => format!("such as {}, of {}", device.name, device.memory.value),
            None => "no device in the catalog has as much".to_owned(),
        };
        with(bytes.0).advice(format!("{bytes} of memory a device"), how)
    }
}

/// Larger pools of the same devices, ascending: more nodes, or first the rest of a node of which the pool is a part.
fn larger(pool: &Machine) -> Vec<Machine> {
    let usual = catalog().systems.iter().find(|system| system.name == pool.system.name);
    let whole = usual.filter(|usual| usual.count > pool.system.count).map_or(1, |usual| usual.count);
    let device = &pool.device.name;
    let part = |devices: usize| {
        let machine = Cluster::parse(&format!("{devices}x {device}")).ok()?.pools.pop()?;
        let system = System { price: pool.system.price.clone(), ..machine.system };
        Some(Machine { system, device: pool.device.clone(), ..machine })
    };
    let rest = (pool.devices() + 1..=whole).filter(|&devices| is_round(devices)).filter_map(part);
    let mut all: Vec<Machine> = if whole > 1 { rest.collect() } else { Vec::new() };
    let node = if whole > 1 { all.pop().unwrap_or_else(|| pool.clone()) } else { pool.clone() };
    if whole > 1 {
        all.push(node.clone());
    }
    if node.system.scale_out.is_some() {
        let counts = (node.nodes + 1..=MOST_DEVICES / node.system.count).filter(|&nodes| is_round(nodes));
        all.extend(counts.map(|nodes| Machine { nodes, ..node.clone() }));
    }
    all
}

/// The device of a kind in the catalog that has least of at least so much memory.
fn smallest(kind: DeviceKind, bytes: Bytes) -> Option<&'static Device> {
    let large = catalog().devices.iter().filter(|device| device.kind == kind && device.memory.value >= bytes);
    large.min_by_key(|device| (device.memory.value, device.name.clone()))
}

/// The greatest number below `end` with which something holds that holds for all smaller ones; none if not for 0.
fn most_below(end: usize, holds: &dyn Fn(usize) -> bool) -> Option<usize> {
    if end == 0 || !holds(0) {
        return None;
    }
    let (mut low, mut high) = (0, end);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if holds(middle) { low = middle } else { high = middle }
    }
    Some(low)
}

/// Whether a number of nodes divides well: a power of two, or 3, 5, 9 or 15 times one.
fn is_round(n: usize) -> bool {
    n > 0 && matches!(n >> n.trailing_zeros(), 1 | 3 | 5 | 9 | 15)
}

/// At least as much, in three digits.
fn round_up(value: f64) -> f64 {
    let digit = 10f64.powf(value.log10().floor() - 2.0);
    let rounded = (value / digit).ceil() * digit;
    // As few digits as say it.
    format!("{rounded:.6e}").parse().unwrap_or(rounded)
}

/// At most as much, in three digits.
fn round_down(value: f64) -> f64 {
    let digit = 10f64.powf(value.log10().floor() - 2.0);
    let rounded = (value / digit).floor() * digit;
    format!("{rounded:.6e}").parse().unwrap_or(rounded)
}

/// What a deadline or a budget leaves unkept, in words.
pub fn missed(job: &Job, chosen: &Chosen) -> String {
    let goal = &job.goal;
    let fastest = chosen.offers.iter().min_by(|a, b| a.training.days.total_cmp(&b.training.days));
    let cheapest = chosen.offers.iter().filter_map(|offer| offer.training.dollars).min_by(f64::total_cmp);
    let mut parts = Vec::new();
    if let Some((deadline, fastest)) = goal.deadline.zip(fastest) {
        let takes = Seconds(fastest.training.days * 86400.0);
        parts.push(format!("the deadline is {deadline}, the fastest plan takes {takes}"));
    }
    if let Some((budget, cheapest)) = goal.budget.zip(cheapest) {
        parts.push(format!("the budget is {budget}, the cheapest plan costs {}", Dollars(cheapest)));
    }
    let tokens = job.tokens();
    format!("no plan trains {tokens} within the limits: {}", parts.join("; "))
}
