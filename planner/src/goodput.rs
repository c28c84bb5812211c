//! Goodput: what failures and checkpoints leave of the time, and so how long, how dear and how hungry a training run is.
//!
//! In: a step, a job, a cluster; or the durations of [`Failing`] themselves. Out: [`Training`], or what none undercuts: [`TrainingFloor`].
//!
//! Invariant: equal inputs give equal answers; goodput is in (0, 1]; no [`Training`] is below its [`TrainingFloor`].

use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::price::Prices;
use meshwright_hardware::profile::{Cluster, Machine, Sourced};
use meshwright_hardware::units::{ByteRate, Bytes, Seconds};
use serde::Serialize;

use crate::job::{Job, Shape};
use crate::predict::Unit;

mod failing;

pub use failing::Failing;

/// Of its power limit, what a device draws while it waits for others. In training of three models power falls to 75, 50 and
/// 20 % of the limit where ranks wait for each other at the end of a step (Patel et al. 2024, Characterizing Power Management
/// Opportunities for LLMs in the Cloud, section 4; recalled); assumption: half.
pub const WAITING_POWER: f64 = 0.5;

/// What a device writes of a checkpoint where its system's profile does not say.
fn usual_storage() -> Sourced<ByteRate> {
    let source =
        "assumption: as Llama 3's storage, 2 TB/s sustained for 16,384 devices (Grattafiori et al. 2024, 3.3.1)";
    Sourced::new(ByteRate(122e6), source)
}

/// From a failure to reading the checkpoint where the system's profile does not say.
fn usual_restart() -> Sourced<Seconds> {
    let source = "assumption: detection and diagnosis in 10 min, the bound that MegaScale reports (Jiang et al. 2024, section \
                  6.3; recalled)";
    Sourced::new(Seconds(600.0), source)
}

/// A figure of training as every answer shows it: in text, in JSON, and where it heads a column on the Pareto front.
#[derive(Clone, Copy, Debug)]
pub struct TrainingFigure {
    /// Its field in [`Training`], which is its key in JSON.
    pub key: &'static str,
    /// Its name in lists.
    pub title: &'static str,
    /// Its name over a column, if plans are told apart by it.
    pub column: Option<&'static str>,
    /// What it is counted in.
    pub unit: Unit,
    /// What is said where it is unknown.
    pub unknown: &'static str,
    /// Its value.
    pub get: fn(&Training) -> Option<f64>,
}

/// All figures of training, in their order.
pub const TRAINING_FIGURES: &[TrainingFigure] = &[
    TrainingFigure {
        key: "days",
        title: "expected",
        column: Some("train"),
        unit: Unit::Days,
        unknown: "",
        get: |training| Some(training.days),
    },
    TrainingFigure {
        key: "dollars",
        title: "cost",
        column: Some("cost"),
        unit: Unit::Dollars,
        unknown: "no price known",
        get: |training| training.dollars,
    },
    TrainingFigure {
        key: "energy_kwh",
        title: "energy",
        column: Some("energy"),
        unit: Unit::KilowattHours,
        unknown: "no power known",
        get: |training| training.energy_kwh,
    },
    TrainingFigure {
        key: "goodput",
        title: "goodput",
        column: None,
        unit: Unit::Share,
        unknown: "",
        get: |training| Some(training.goodput),
    },
    TrainingFigure {
        key: "days_without_failures",
        title: "without failures",
        column: None,
        unit: Unit::Days,
        unknown: "",
        get: |training| Some(training.days_without_failures),
    },
    TrainingFigure {
        key: "days_p90",
        title: "nine in ten, by failures",
        column: None,
        unit: Unit::Days,
        unknown: "",
        get: |training| Some(training.days_p90),
    },
];

impl TrainingFigure {
    /// Its value for people.
    pub fn show(&self, training: &Training) -> String {
        (self.get)(training).map_or_else(|| self.unknown.to_owned(), |value| self.unit.show(value))
    }
}

/// A training run from its first step to its last, failures included.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Training {
    /// Steps.
    pub steps: usize,
    /// Were nothing to fail and nothing to be saved.
    pub days_without_failures: f64,
    /// Expected.
    pub days: f64,
    /// Useful time over all time.
    pub goodput: f64,
    /// Mean time between failures of the whole cluster; none where its devices' profiles give none, so that nothing fails.
    pub mtbf_s: Option<f64>,
    /// Failures to expect.
    pub failures: f64,
    /// Of weights and optimizer state.
    pub checkpoint_bytes: u64,
    /// For which training stands still.
    pub checkpoint_write_s: f64,
    /// From a failure until training goes on.
    pub restart_s: f64,
    /// Between checkpoints: Daly's interval, in whole steps.
    pub checkpoint_every_steps: Option<usize>,
    /// Nine in ten simulated runs take less.
    pub days_p90: f64,
    /// By the systems' prices; none where one has none.
    pub dollars: Option<f64>,
    /// Of devices and their hosts; none where a device's power is unknown.
    pub energy_kwh: Option<f64>,
    /// What the figures rest on.
    pub assumptions: Vec<String>,
}

/// Bytes of a checkpoint: trained weights in their format and fp32, and what the optimizer keeps.
pub fn checkpoint_bytes(job: &Job) -> Bytes {
    let weights = job.precision.stored().bytes();
    let each = if weights < 4 { weights + 4 } else { 4 } + job.optimizer.name.bytes();
    Bytes(job.trained_parameters() * each)
}

/// Price of all devices of a cluster for an hour, in dollars.
pub fn dollars_per_hour(cluster: &Cluster) -> Option<f64> {
    let price = |pool: &Machine| pool.system.price.as_ref().map(|price| price.value.0 * pool.devices() as f64);
    cluster.pools.iter().map(price).sum::<Option<f64>>().map(|site| site * cluster.sites() as f64)
}

/// Power of all devices that compute for a share `busy` of the time and wait for the rest, with their hosts, in kW.
pub fn kilowatts(cluster: &Cluster, busy: f64) -> Option<f64> {
    let of_limit = WAITING_POWER + (1.0 - WAITING_POWER) * busy;
    let power = |pool: &Machine| {
        let host = pool.system.host_power.as_ref().map_or(0.0, |host| host.value.0);
        pool.device.power.as_ref().map(|own| (own.value.0 * of_limit + host) * pool.devices() as f64 / 1e3)
    };
    cluster.pools.iter().map(power).sum::<Option<f64>>().map(|site| site * cluster.sites() as f64)
}

/// Mean time between failures of all devices together; none where a device has none.
pub fn mtbf(cluster: &Cluster) -> Option<Seconds> {
    let rate = |pool: &Machine| pool.device.mtbf.as_ref().map(|mtbf| pool.devices() as f64 / mtbf.value.0);
    let rate: f64 = cluster.pools.iter().map(rate).sum::<Option<f64>>()?;
    Some(Seconds(1.0 / (rate * cluster.sites() as f64)))
}

/// Simulated runs behind [`Training::days_p90`].
const RUNS: usize = 200;

/// What writing and restarting take on a cluster, and from which figures.
struct Habits {
    storage: Sourced<ByteRate>,
    detect: Sourced<Seconds>,
    bytes: Bytes,
    write: Seconds,
    restart: Seconds,
}

impl Habits {
    fn of(job: &Job, cluster: &Cluster) -> Habits {
        let slowest = |pool: &Machine| pool.system.storage.clone().unwrap_or_else(usual_storage);
        let storage = cluster.pools.iter().map(slowest).min_by(|a, b| a.value.0.total_cmp(&b.value.0));
        let storage = storage.unwrap_or_else(usual_storage);
        let longest = |pool: &Machine| pool.system.restart.clone().unwrap_or_else(usual_restart);
        let detect = cluster.pools.iter().map(longest).max_by(|a, b| a.value.0.total_cmp(&b.value.0));
        let detect = detect.unwrap_or_else(usual_restart);
        let bytes = checkpoint_bytes(job);
        // Sites keep their own copies.
        let write = bytes / (storage.value * cluster.devices() as f64);
        Habits { restart: detect.value + write, storage, detect, bytes, write }
    }

    fn failing(&self, cluster: &Cluster) -> Option<Failing> {
        let Habits { write, restart, .. } = *self;
        mtbf(cluster).map(|mtbf| Failing { mtbf, write, restart })
    }
}

/// A job's training on all devices of a cluster, at `step` a step, of which devices compute for a share `busy`.
pub fn days_to_train(step: Seconds, busy: f64, job: &Job, cluster: &Cluster) -> Training {
    let work = step * job.steps as f64;
    let habits = Habits::of(job, cluster);
    let mut training = Training {
        steps: job.steps,
        days_without_failures: days(work.0),
        days: days(work.0),
        goodput: 1.0,
        mtbf_s: None,
        failures: 0.0,
        checkpoint_bytes: habits.bytes.0,
        checkpoint_write_s: habits.write.0,
        restart_s: habits.restart.0,
        checkpoint_every_steps: None,
        days_p90: days(work.0),
        dollars: None,
        energy_kwh: None,
        assumptions: Vec::new(),
    };
    match habits.failing(cluster) {
        Some(failing) => training.fail(failing, step, work),
        None => training.assumptions.push("no `mtbf` in the device's profile: nothing fails".to_owned()),
    }
    let hours = training.days * 24.0;
    training.dollars = dollars_per_hour(cluster).map(|rate| rate * hours);
    training.energy_kwh = kilowatts(cluster, busy).map(|power| power * hours);
    training.assume(cluster, &habits.storage, &habits.detect);
    training
}

/// What no training undercuts whose steps take at least some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingFloor {
    /// Expected.
    pub days: f64,
    /// None where a system has no price.
    pub dollars: Option<f64>,
    /// Devices wait for as long as they need not compute; none where a device's power is unknown.
    pub energy_kwh: Option<f64>,
}

/// What no training of a job on all devices of a cluster undercuts, if no step is shorter than `step`.
pub fn least_training(step: Seconds, job: &Job, cluster: &Cluster) -> TrainingFloor {
    let longer = Habits::of(job, cluster).failing(cluster).map_or(1.0, |failing| failing.least());
    let days = days(step.0 * job.steps as f64) * longer;
    let busy = (least_busy(job, cluster) / step.0).min(1.0);
    TrainingFloor {
        days,
        dollars: dollars_per_hour(cluster).map(|rate| rate * days * 24.0),
        energy_kwh: kilowatts(cluster, busy).map(|power| power * days * 24.0),
    }
}

/// Seconds of a step for which devices compute at the least, in the mean: its matmuls at the rate that none exceeds.
fn least_busy(job: &Job, cluster: &Cluster) -> f64 {
    // What curves price has no greatest rate, and what two streams do is not counted.
    if job.target() > 0 || cluster.pools.iter().any(|pool| !pool.device.curves.is_empty()) {
        return 0.0;
    }
    let fastest = |pool: &Machine| {
        let alone = Cluster { pools: vec![pool.clone()], wan: None, ..cluster.clone() };
        Prices::new(&alone, Mesh::ONE, job.precision).and_then(|prices| prices.fastest_flops())
    };
    let Ok(rates) = cluster.pools.iter().map(fastest).collect::<Result<Vec<f64>, _>>() else { return 0.0 };
    let fastest = rates.into_iter().fold(0.0, f64::max);
    matmul_flops(job) / (fastest * (cluster.devices() * cluster.sites()) as f64)
}

/// FLOPs of a step's matmuls with weights, forward and backward, without what experts have no room for.
fn matmul_flops(job: &Job) -> f64 {
    let shape = Shape::from(&job.model);
    let linears = |all: Vec<crate::job::shape::Linear>| all.iter().map(|one| one.inputs * one.outputs).sum::<f64>();
    let (layers, routed) = (job.model.depth() as f64, shape.expert_share());
    let dense = linears(shape.attention_linears()) + (1.0 - routed) * linears(shape.ffn_linears(shape.ffn as f64));
    let experts = |e: &crate::job::Experts| 0.9 * e.top_k as f64 * shape.expert_parameters(e);
    let experts = routed * shape.experts.as_ref().map_or(0.0, experts);
    let head = if job.model.causal() { (job.model.vocab * job.model.hidden) as f64 } else { 0.0 };
    2.0 * job.passes() * (layers * (dense + experts) + head) * job.tokens_per_step() as f64
}

fn days(seconds: f64) -> f64 {
    seconds / 86400.0
}

impl Training {
    fn fail(&mut self, failing: Failing, step: Seconds, work: Seconds) {
        let steps = (failing.daly().0 / step.0).round().clamp(1.0, self.steps as f64);
        let every = step * steps;
        let expected = failing.expected(work, every);
        self.checkpoint_every_steps = Some(steps as usize);
        (self.days, self.goodput) = (days(expected.0), work.0 / expected.0);
        (self.mtbf_s, self.failures) = (Some(failing.mtbf.0), expected.0 / failing.mtbf.0);
        // What cannot end in any reasonable time is not played through.
        let playable = self.failures.is_finite() && self.failures < 1e5;
        let segments = (self.steps as f64 / steps).round().max(1.0) as u64;
        self.days_p90 = match playable {
            true => days(failing.simulate(segments, every, RUNS, 1)[RUNS * 9 / 10]),
            false => f64::INFINITY,
        };
    }

    fn assume(&mut self, cluster: &Cluster, storage: &Sourced<ByteRate>, detect: &Sourced<Seconds>) {
        let mut seen: Vec<String> = Vec::new();
        for pool in &cluster.pools {
            let name = &pool.device.name;
            seen.extend(
                pool.device.mtbf.as_ref().map(|mtbf| format!("{name} fails every {}: {}", mtbf.value, mtbf.source)),
            );
        }
        for price in cluster.pools.iter().filter_map(|pool| pool.system.price.as_ref()) {
            seen.push(format!("a device-hour costs {}: {}", price.value, price.source));
        }
        seen.push(format!("storage takes {} a device: {}", storage.value, storage.source));
        seen.push(format!("restart takes {} and reading the checkpoint: {}", detect.value, detect.source));
        seen.push("training stands still while a checkpoint is written".to_owned());
        if cluster.sites() > 1 {
            seen.push("a failure anywhere stops all sites".to_owned());
        }
        if self.energy_kwh.is_some() {
            let waiting = 100.0 * WAITING_POWER;
            seen.push(format!(
                "energy at the devices' power limit while they compute and {waiting:.0} % of it while they wait, with hosts, \
                 without cooling (Patel et al. 2024)"
            ));
        }
        self.assumptions.extend(seen);
    }
}

#[cfg(test)]
mod tests;
