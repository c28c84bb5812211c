//! How sure a prediction is: between which values eight in ten measured ones lie.
//!
//! In: a plan, its figures, its cluster. Out: [`Interval`]; none under the stack that prices the hardware alone, a bound.
//!
//! Invariant: nothing is changed of a prediction; its support is the worst of its pools', and none where it lies beyond all that
//! was measured.

use meshwright_hardware::profile::{Band, Cluster, Evidence, Machine, Support, catalog};
use meshwright_hardware::units::Precision;
use serde::Serialize;

use super::{Figures, beyond};
use crate::plan::Plan;

/// The 80 % interval of a prediction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// How well what was measured supports it.
    pub support: Support,
    /// One measured step in ten is shorter.
    pub step_time_low_s: f64,
    /// One measured step in ten is longer.
    pub step_time_high_s: f64,
    /// One device in ten has less taken of it, in bytes as the driver shows them.
    pub memory_low_bytes: u64,
    /// One device in ten has more taken of it.
    pub memory_high_bytes: u64,
    /// Whether a device's memory ends before the interval does, of a plan that fits as predicted.
    pub at_risk: bool,
}

impl Interval {
    /// Its shortest and its longest step over the predicted one. Days and dollars are off by as much: failures and checkpoints take
    /// the share of the expected training.
    pub fn of_predicted(&self, figures: &Figures) -> [f64; 2] {
        [self.step_time_low_s, self.step_time_high_s].map(|step| step / figures.step_time_s)
    }
}

/// The interval of a plan's figures on a cluster.
pub fn interval(plan: &Plan, figures: &Figures, cluster: &Cluster) -> Option<Interval> {
    if cluster.stack.is_ideal() {
        return None;
    }
    let support = support(plan, figures, cluster);
    // How fast a plan is says nothing of what is known of its memory.
    let (step, memory) = (step_band(support, cluster), memory_band(plan.job.precision, cluster));
    let taken = cluster.stack.memory.taken(figures.peak_memory_bytes);
    let bytes = |share: f64| (taken as f64 * share).round() as u64;
    let of = |pool: &Machine| pool.device.memory.value.0;
    let most = cluster.pools.iter().map(of).min().unwrap_or(u64::MAX);
    Some(Interval {
        support,
        step_time_low_s: figures.step_time_s * step.low,
        step_time_high_s: figures.step_time_s * step.high,
        memory_low_bytes: bytes(memory.low),
        memory_high_bytes: bytes(memory.high),
        at_risk: figures.fits && bytes(memory.high) > most,
    })
}

/// The share of a device's memory to leave free so that nine in ten measured runs find what they need, for plans of a format on a
/// cluster; none under the stack that prices the hardware alone.
pub fn memory_margin(precision: Precision, cluster: &Cluster) -> f64 {
    if cluster.stack.is_ideal() {
        return 0.0;
    }
    (1.0 - 1.0 / memory_band(precision, cluster).high).max(0.0)
}

/// Where measured steps lie of predictions that are supported so.
fn step_band(support: Support, cluster: &Cluster) -> Band {
    let all = &catalog().intervals;
    if calibrated(cluster) && support == Support::Measured {
        return all.executor.step;
    }
    let shipped = all.step[&support];
    match cluster.stack.step_band {
        Some(own) if support == Support::Measured => own,
        // A spread that one's own runs have is nowhere less.
        Some(own) => Band { low: own.low.min(shipped.low), high: own.high.max(shipped.high), ..own },
        None => shipped,
    }
}

/// Where measured memory lies, of plans of a format.
fn memory_band(precision: Precision, cluster: &Cluster) -> Band {
    let all = &catalog().intervals;
    if calibrated(cluster) { all.executor.memory } else { all.memory[&evidence(precision, cluster)] }
}

/// Whether all that is priced was measured on the very machine.
fn calibrated(cluster: &Cluster) -> bool {
    cluster.pools.iter().all(|pool| pool.device.calibrated.is_some())
}

fn support(plan: &Plan, figures: &Figures, cluster: &Cluster) -> Support {
    if beyond(plan, figures, cluster).is_some() {
        return Support::Extrapolated;
    }
    if calibrated(cluster) {
        return Support::Measured;
    }
    evidence(plan.job.precision, cluster)
}

/// What the runs behind stacks support, in a format on the pool of which least is known.
fn evidence(precision: Precision, cluster: &Cluster) -> Support {
    let of = |pool: &Machine| Evidence::of(&cluster.stack, &pool.device.name, precision).support();
    cluster.pools.iter().map(of).max().unwrap_or(Support::Extrapolated)
}
