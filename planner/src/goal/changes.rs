//! What one change of a case brings.
//!
//! In: a [`Case`]. Out: [`Advice`] by the least change of each kind that helps.
//!
//! Invariant: an advice is the search's own plan for the changed case.

use meshwright_hardware::profile::{Cluster, DeviceKind, DeviceProfile, Machine, System, catalog};
use meshwright_hardware::units::{Bytes, Precision};

use super::case::Case;
use super::choose::QUICK;
use super::could_fit::could_fit;
use super::longest::longest_step;
use super::offer::{Advice, Offer, keeps};
use super::parts::parts;
use crate::job::{Fix, Job};
use crate::schedule::Schedule;
use crate::search::sites::decide_with;
use crate::search::{SearchOptions, fits};

/// Devices that an advice asks for at the most.
const MOST_DEVICES: usize = 1 << 17;

impl Case {
    /// Whether a frugal plan fits: one sequence a microbatch, no more under way than need be, axes in their usual order.
    pub fn fits(&self) -> bool {
        let fix = Fix {
            microbatch: self.fix.microbatch.or(Some(1)),
            schedule: self.fix.schedule.or_else(|| Some(Schedule::default())),
            chunks: self.fix.chunks.or(Some(1)),
            order: self.fix.order.or_else(|| (self.cluster.pools.len() == 1).then(Default::default)),
            ..self.fix.clone()
        };
        let (job, cluster) = (&self.job, &self.cluster);
        could_fit(job, cluster)
            && match cluster.wan {
                None => fits(job, cluster, &fix, self.engine).unwrap_or(false),
                Some(_) => {
                    let options = SearchOptions { engine: self.engine, ..QUICK };
                    decide_with(job, cluster, None, &fix, 1, &options).is_ok()
                }
            }
    }

    /// Whether a plan keeps the limits.
    pub fn in_time(&self) -> bool {
        let goal = &self.job.goal;
        let limit = longest_step(&self.job, &self.cluster, &|least| keeps(goal, least));
        could_fit(&self.job, &self.cluster)
            && limit > 0.0
            && self
                .offer(&SearchOptions { enough: limit * 0.999, below: limit, ..QUICK })
                .is_some_and(|o| o.keeps(goal))
    }

    fn offer(&self, options: &SearchOptions) -> Option<Offer> {
        let options = SearchOptions { engine: self.engine, ..*options };
        let found = decide_with(&self.job, &self.cluster, None, &self.fix, 1, &options).ok()?;
        let part = found.part(0, &self.cluster);
        let (plan, figures) = found.best.into_iter().next()?;
        Some(Offer::of(&self.job, plan, figures, &part))
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
    pub fn lifted(&self) -> Vec<Advice> {
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

    /// Plans that the engine cannot express.
    pub fn any_engine(&self) -> Option<Advice> {
        let name = self.engine?.engine;
        let case = Case { engine: None, ..self.clone() };
        let advice = |case: Case| case.advice(format!("plans beyond {name}'s"), "--any-engine".to_owned());
        Some(case).filter(Case::fits).and_then(advice)
    }

    /// The most headroom that fits, in whole per cent.
    pub fn less_headroom(&self) -> Option<Advice> {
        let wanted = (self.job.goal.headroom * 100.0).ceil() as usize;
        let with = |percent: usize| self.with_job(|job| job.goal.headroom = percent as f64 / 100.0);
        let most = most_below(wanted, &|percent| with(percent).fits())?;
        let headroom = most as f64 / 100.0;
        with(most).advice(format!("{most} % of memory left free"), format!("--headroom {headroom}"))
    }

    /// The largest part on which a plan fits.
    pub fn fewer_nodes(&self) -> Option<Advice> {
        let on = |cluster: Cluster| Case { cluster, ..self.clone() };
        let found = parts(&self.cluster, true).into_iter().map(on).find(Case::fits)?;
        let (cluster, devices) = (&found.cluster, found.cluster.devices());
        found.advice(format!("{devices} devices, of which each has its share"), format!("--cluster \"{cluster}\""))
    }

    /// The nearest batch that divides among all devices.
    pub fn other_batch(&self) -> Option<Advice> {
        let (batch, devices) = (self.job.global_batch, self.cluster.devices() * self.cluster.sites());
        let mut near = vec![batch.next_multiple_of(devices), batch / devices * devices, batch.next_power_of_two()];
        near.retain(|&other| other > 0 && other != batch);
        near.sort_by_key(|other| other.abs_diff(batch));
        let with = |batch: usize| self.with_job(|job| job.global_batch = batch);
        let batch = near.into_iter().find(|&batch| with(batch).fits())?;
        with(batch).advice(format!("{batch} sequences a step"), format!("--global-batch {batch}"))
    }

    /// Weights and activations in two bytes.
    pub fn narrower(&self) -> Option<Advice> {
        if self.job.precision.stored().bytes() <= 2 {
            return None;
        }
        let case = self.with_job(|job| job.precision = Precision::Bf16);
        let (from, to) = (self.job.precision, Precision::Bf16);
        let advice = |case: Case| case.advice(format!("{to} instead of {from}"), format!("--precision {to}"));
        Some(case).filter(Case::fits).and_then(advice)
    }

    /// The longest sequence that fits, of halves.
    pub fn shorter(&self) -> Option<Advice> {
        // Samples that are packed stay whole.
        let unit = self.job.packed.unwrap_or(1);
        let seq = unit * self.halved(self.job.seq / unit, 128_usize.div_ceil(unit), &|job, n| job.seq = n * unit)?;
        let case = self.with_job(|job| job.seq = seq);
        case.advice(format!("sequences of {seq} tokens"), format!("--seq {seq}"))
    }

    /// The largest batch that fits, of halves.
    pub fn smaller_batch(&self) -> Option<Advice> {
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
    pub fn more_nodes(&self, from: usize, passes: &dyn Fn(&Case) -> bool) -> Option<Advice> {
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
    pub fn more_memory(&self) -> Option<Advice> {
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
fn smallest(kind: DeviceKind, bytes: Bytes) -> Option<&'static DeviceProfile> {
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
