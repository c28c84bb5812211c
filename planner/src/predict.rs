//! What a plan would do on a cluster: lower, price, simulate.
//!
//! In: a plan and a cluster. Out: [`Predicted`]: the figures, the trace, and what they were made from.

use std::ops::Range;

use meshwright_hardware::price::{PriceError, RankGroup, host_capacity, peak_of, price, rank_groups};
use meshwright_hardware::profile::{Cluster, Machine, Stack};
use meshwright_hardware::program::{Program, Stream};
use meshwright_hardware::simulate::{Durations, Rounds, simulate};
use meshwright_hardware::trace::{Origin, Trace};
use meshwright_hardware::units::{Bytes, Dollars, Nanos, Seconds};
use serde::Serialize;

use crate::error::PlanError;
use crate::lower::{Lowered, lower};
use crate::plan::Plan;

mod beyond;
mod interval;
mod memory;
mod outer;
mod steady;

use beyond::untimed;
pub use beyond::{Beyond, beyond};
pub use interval::{Interval, interval, memory_margin};
pub use memory::declared;
pub use outer::{Outer, outer};
pub use steady::predict_figures;

/// The figures that scripts rely on.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Length of a step.
    pub step_time_s: f64,
    /// Tokens a second, over all devices.
    pub tokens_per_s: f64,
    /// Tokens a second and device.
    pub tokens_per_s_per_device: f64,
    /// Model FLOPs utilisation, 0–1: [`crate::job::Job::model_flops_per_step`] over what the devices' peak allows in a
    /// step (Chowdhery et al. 2022, appendix B).
    pub mfu: f64,
    /// Declared bytes of the rank that declares most: what [`crate::job::Goal::usable`] bounds, and what a run's own allocations are
    /// compared with.
    pub peak_memory_bytes: u64,
    /// What becomes of them on its device, where the stack adds to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory: Option<DeviceMemory>,
    /// Whether every rank finds the bytes that it declares: what a command that asks "does it fit" answers.
    pub fits: bool,
    /// Bytes that the fullest rank leaves of what may be used of its device ([`crate::job::Goal::usable`]); below zero by
    /// what is missing.
    pub headroom_bytes: i64,
    /// Bytes of the rank that keeps most in its host's memory.
    #[serde(skip_serializing_if = "is_none")]
    pub host_bytes: u64,
    /// Share of the ranks' time in which compute queues wait: for other stages, for exposed communication, for the host.
    pub idle_fraction: f64,
    /// Classes of ops that nobody timed on the very machine that all else was measured on: priced by its roofline.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub untimed_ops: Vec<&'static str>,
    /// Pool by pool, where the plan's ranks sit in several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolFigures>,
}

fn is_none(bytes: &u64) -> bool {
    *bytes == 0
}

/// Bytes on the device of a rank that declares so many (see [`meshwright_hardware::profile::Allocator`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceMemory {
    /// With libraries' workspaces.
    pub allocated_bytes: u64,
    /// With the allocator's fragments.
    pub reserved_bytes: u64,
    /// With what libraries take beside the allocator, and the context: as the driver shows it.
    pub taken_bytes: u64,
}

impl DeviceMemory {
    /// Of declared bytes under a stack; none where it adds nothing.
    fn of(declared: u64, stack: &Stack) -> Option<DeviceMemory> {
        let memory = &stack.memory;
        (!memory.is_none()).then(|| DeviceMemory {
            allocated_bytes: memory.allocated(declared),
            reserved_bytes: memory.reserved(declared),
            taken_bytes: memory.taken(declared),
        })
    }
}

/// What a figure is counted in, and so how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// So many a second.
    PerSecond,
    /// Bytes.
    Bytes,
    /// 0–1, for people in per cent.
    Share,
    /// Days of 24 hours.
    Days,
    /// US dollars.
    Dollars,
    /// Kilowatt-hours.
    KilowattHours,
}

impl Unit {
    /// A value for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Unit::Seconds => Seconds(value).to_string(),
            Unit::PerSecond => format!("{value:.0}"),
            Unit::Bytes => Bytes(value as u64).to_string(),
            Unit::Share => format!("{:.1} %", 100.0 * value),
            Unit::Days => Seconds(value * 86400.0).to_string(),
            Unit::Dollars => Dollars(value).to_string(),
            Unit::KilowattHours => energy(value),
        }
    }

    /// A value for scripts: bytes are whole.
    pub fn json(self, value: f64) -> serde_json::Value {
        match self {
            Unit::Bytes => (value as u64).into(),
            _ => value.into(),
        }
    }
}

/// Energy in the unit that suits it.
fn energy(kwh: f64) -> String {
    let (value, unit) = match kwh {
        ..1e4 => (kwh, "kWh"),
        1e4..1e7 => (kwh / 1e3, "MWh"),
        _ => (kwh / 1e6, "GWh"),
    };
    let digits = if value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {unit}")
}

/// A figure of a step as every answer shows it: as text, JSON, CSV and on pages.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its field in [`Figures`], which is its key in JSON and CSV.
    pub key: &'static str,
    /// Its name in tables.
    pub title: &'static str,
    /// In lists, the label of the line that it begins, and what stands behind its value. Without a label it goes on with the line.
    pub line: [&'static str; 2],
    /// What it is counted in.
    pub unit: Unit,
    /// Whether a prediction's error is told as a share of the measured value; that of what may be zero is not.
    pub relative: bool,
    /// Its value.
    pub get: fn(&Figures) -> f64,
}

/// All figures of a step, in their order.
pub const FIGURES: &[Figure] = &[
    Figure {
        key: "step_time_s",
        title: "step time",
        line: ["step", ""],
        unit: Unit::Seconds,
        relative: true,
        get: |figures| figures.step_time_s,
    },
    Figure {
        key: "tokens_per_s",
        title: "tokens/s",
        line: ["", "tokens/s"],
        unit: Unit::PerSecond,
        relative: true,
        get: |figures| figures.tokens_per_s,
    },
    Figure {
        key: "tokens_per_s_per_device",
        title: "tokens/s a device",
        line: ["", "a device"],
        unit: Unit::PerSecond,
        relative: true,
        get: |figures| figures.tokens_per_s_per_device,
    },
    Figure {
        key: "mfu",
        title: "MFU",
        line: ["MFU", "attention counted whole, recomputation not,"],
        unit: Unit::Share,
        relative: true,
        get: |figures| figures.mfu,
    },
    Figure {
        key: "idle_fraction",
        title: "compute idle",
        line: ["", "compute idle"],
        unit: Unit::Share,
        relative: false,
        get: |figures| figures.idle_fraction,
    },
    Figure {
        key: "peak_memory_bytes",
        title: "peak memory of a rank",
        line: ["memory", "of the rank that needs most"],
        unit: Unit::Bytes,
        relative: true,
        get: |figures| figures.peak_memory_bytes as f64,
    },
];

/// The figures of one pool of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolFigures {
    /// Its device.
    pub device: String,
    /// Ranks of the plan on it.
    pub ranks: usize,
    /// Declared bytes of its rank that declares most.
    pub peak_memory_bytes: u64,
    /// Share of the device's memory that is left there; below zero where the plan does not fit.
    pub headroom: f64,
}

/// A prediction and what it was made from.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// The figures.
    pub figures: Figures,
    /// The program and its parameters.
    pub lowered: Lowered,
    /// When each instruction runs; one lane a role and pool.
    pub trace: Trace,
}

/// Predicts a plan on a cluster.
///
/// # Errors
/// [`PlanError::Price`] if the cluster is too small or lacks a price that the plan needs.
pub fn predict(plan: &Plan, cluster: &Cluster) -> Result<Predicted, PlanError> {
    let plan = &plan.under(&cluster.stack);
    let lowered = lower(plan)?;
    let durations = price(&lowered.program, cluster, plan.job.precision)?;
    let trace = simulate(&lowered.program, &durations, true, Origin::Predicted).map_err(PriceError::from)?;
    let step = trace.step_time().seconds();
    let figures = figures(plan, cluster, &lowered, (step, idle(&lowered.program, &durations, step)))?;
    Ok(Predicted { figures, lowered, trace })
}

/// The figures of a lowered plan whose step is so long, and of which compute queues are idle for such a share.
///
/// # Errors
/// [`PlanError::Price`] if a device has no peak in the plan's precision.
fn figures(
    plan: &Plan,
    cluster: &Cluster,
    lowered: &Lowered,
    (step, idle): (Seconds, f64),
) -> Result<Figures, PlanError> {
    let site_ranks = plan.mesh.ranks();
    let ranks = plan.site_count() * site_ranks;
    let mut peak = 0.0;
    for (pool, held) in cluster.pools.iter().zip(cluster.ranks()) {
        let device = &pool.device;
        let used = held.end.min(site_ranks).saturating_sub(held.start);
        if used > 0 {
            peak += used as f64 * peak_of(device, plan.job.precision)?.0;
        }
    }
    peak *= plan.site_count() as f64;
    let tokens_per_s = plan.job.tokens_per_step() as f64 / step.0;
    let pools = pools(cluster, lowered)?;
    let headroom = headroom(plan, cluster, &lowered.program)?;
    let peak_memory_bytes = lowered.program.roles.iter().map(|role| role.bytes()).max().unwrap_or(0);
    let host_bytes = lowered.program.roles.iter().map(|role| role.hosted_bytes()).max().unwrap_or(0);
    let mut figures = Figures {
        step_time_s: step.0,
        tokens_per_s,
        tokens_per_s_per_device: tokens_per_s / ranks as f64,
        mfu: plan.job.model_flops_per_step() / (step.0 * peak),
        peak_memory_bytes,
        device_memory: DeviceMemory::of(peak_memory_bytes, &cluster.stack),
        fits: headroom >= 0 && host_bytes <= host_capacity(cluster).0,
        headroom_bytes: headroom,
        host_bytes,
        idle_fraction: idle,
        untimed_ops: untimed(cluster, &lowered.program),
        pools: if pools.len() > 1 { pools } else { Vec::new() },
    };
    if let Some(outer) = outer(plan, cluster, step)? {
        figures.add_outer(&outer);
    }
    Ok(figures)
}

/// What each pool with ranks holds.
fn pools(cluster: &Cluster, lowered: &Lowered) -> Result<Vec<PoolFigures>, PlanError> {
    let program = &lowered.program;
    let groups = rank_groups(cluster, program.mesh, &program.classes)?;
    let of = |(number, (pool, held)): (usize, (&Machine, Range<usize>))| {
        let here = groups.iter().filter(|place| place.pools.contains(&number));
        let peak = here.map(|place| program.roles[program.role(place.class, place.stage)].bytes()).max()?;
        let memory = pool.device.memory.value.0;
        Some(PoolFigures {
            device: pool.device.name.clone(),
            ranks: held.end.min(program.mesh.ranks()) - held.start,
            peak_memory_bytes: peak,
            headroom: 1.0 - cluster.stack.memory.taken(peak) as f64 / memory as f64,
        })
    };
    Ok(cluster.pools.iter().zip(cluster.ranks()).enumerate().filter_map(of).collect())
}

/// What is left of the memory that may be used, where least is.
fn headroom(plan: &Plan, cluster: &Cluster, program: &Program) -> Result<i64, PriceError> {
    let left = |place: &RankGroup| {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let usable = plan.job.goal.usable(place.capacity(cluster).0, &cluster.stack);
        signed(usable) - signed(program.roles[program.role(place.class, place.stage)].bytes())
    };
    Ok(rank_groups(cluster, program.mesh, &program.classes)?.iter().map(left).min().unwrap_or(0))
}

/// The idle share of a step: stages' compute queues have as much work as their instructions take; what is left of the step they wait.
pub fn idle(program: &Program, durations: &Durations, step: Seconds) -> f64 {
    idle_beside(&Rounds::none(durations).busy(program, durations, Stream::Compute), durations, step)
}

/// The idle share of a step in which each lane's compute queue is busy for so long.
fn idle_beside(busy: &[Nanos], durations: &Durations, step: Seconds) -> f64 {
    let each = durations.lanes.iter().zip(busy);
    let busy: f64 = each.map(|(lane, busy)| busy.0 as f64 * lane.ranks as f64).sum();
    let ranks: usize = durations.lanes.iter().map(|lane| lane.ranks).sum();
    (1.0 - busy / 1e9 / (step.0 * ranks as f64)).max(0.0)
}

impl Figures {
    /// Takes in what the meetings of sites add to a step.
    fn add_outer(&mut self, outer: &Outer) {
        let longer = outer.step_s / self.step_time_s;
        self.step_time_s = outer.step_s;
        self.tokens_per_s /= longer;
        self.tokens_per_s_per_device /= longer;
        self.mfu /= longer;
        self.idle_fraction /= longer;
    }

    /// Those of the same plan where a step was measured, or replayed: of its time, its idle share and its peak memory.
    pub fn of_step(&self, step: Seconds, idle_fraction: f64, peak_memory: Bytes) -> Figures {
        let longer = step.0 / self.step_time_s;
        // What a rank took beyond its prediction is missing from what the prediction left.
        let headroom_bytes =
            (self.headroom_bytes + self.peak_memory_bytes as i64).saturating_sub_unsigned(peak_memory.0);
        Figures {
            step_time_s: step.0,
            fits: headroom_bytes >= 0 && (self.fits || self.headroom_bytes < 0),
            headroom_bytes,
            tokens_per_s: self.tokens_per_s / longer,
            tokens_per_s_per_device: self.tokens_per_s_per_device / longer,
            mfu: self.mfu / longer,
            peak_memory_bytes: peak_memory.0,
            device_memory: None,
            idle_fraction,
            ..self.clone()
        }
    }

    /// Share of the ranks' time in which they compute.
    pub fn busy(&self) -> f64 {
        1.0 - self.idle_fraction
    }

    /// Step time, in its type.
    pub fn step_time(&self) -> Seconds {
        Seconds(self.step_time_s)
    }

    /// Peak memory, in its type.
    pub fn peak_memory(&self) -> Bytes {
        Bytes(self.peak_memory_bytes)
    }
}
