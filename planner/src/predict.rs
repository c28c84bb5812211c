//! What a plan would do on a cluster: lower, price, simulate.
//!
//! In: a plan and a cluster. Out: [`Predicted`]: the figures, the trace, and what they were made from.

use meshwright_hardware::price::{PriceError, price};
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::simulate::{Durations, simulate};
use meshwright_hardware::trace::{Origin, Trace};
use meshwright_hardware::units::{Bytes, Seconds};
use serde::Serialize;

use crate::error::PlanError;
use crate::lower::{Lowered, lower};
use crate::plan::Plan;
use crate::sites::{self, Outer};

/// The figures that scripts rely on.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// Declared bytes of the rank that declares most.
    pub peak_memory_bytes: u64,
    /// Share of the stages' time in which their compute queue waits for other stages.
    pub bubble_fraction: f64,
}

/// A prediction and what it was made from.
#[derive(Clone, Debug)]
pub struct Predicted {
    /// The figures.
    pub figures: Figures,
    /// The program and its parameters.
    pub lowered: Lowered,
    /// When each instruction runs; one lane a stage.
    pub trace: Trace,
}

/// Predicts a plan on a cluster.
pub fn predict(plan: &Plan, cluster: &Cluster) -> Result<Predicted, PlanError> {
    let lowered = lower(plan)?;
    let durations = price(&lowered.program, cluster, plan.job.precision)?;
    let overlap = cluster.pools.iter().all(|pool| pool.device.overlap);
    let trace = simulate(&lowered.program, &durations, overlap, Origin::Predicted).map_err(PriceError::from)?;
    let mut figures = figures(plan, cluster, &lowered, &durations, &trace)?;
    if let Some(outer) = sites::outer(plan, cluster, trace.step_time().seconds())? {
        figures.spread(&outer);
    }
    Ok(Predicted { figures, lowered, trace })
}

fn figures(
    plan: &Plan,
    cluster: &Cluster,
    lowered: &Lowered,
    durations: &Durations,
    trace: &Trace,
) -> Result<Figures, PlanError> {
    let step = trace.step_time().seconds().0;
    let ranks = (plan.site_count() * plan.mesh.ranks()) as f64;
    let device = &cluster.pools[0].device;
    let no_peak = || PriceError::NoPeak { device: device.name.clone(), precision: plan.job.precision };
    let peak = device.peak_in(plan.job.precision).ok_or_else(no_peak)?;
    let tokens_per_s = plan.job.tokens_per_step() as f64 / step;
    Ok(Figures {
        step_time_s: step,
        tokens_per_s,
        tokens_per_s_per_device: tokens_per_s / ranks,
        mfu: plan.job.model_flops_per_step() / (step * ranks * peak.0),
        peak_memory_bytes: lowered.program.roles.iter().map(|role| role.bytes()).max().unwrap_or(0),
        bubble_fraction: bubble(lowered, durations, step),
    })
}

/// Stages' compute queues have as much work as their instructions take; what is left of the step they wait.
fn bubble(lowered: &Lowered, durations: &Durations, step: f64) -> f64 {
    use meshwright_hardware::program::Stream;
    let work = |lane: &meshwright_hardware::simulate::LaneDurations| -> u64 {
        let instrs = lowered.program.roles[lane.role].instrs.iter();
        instrs.zip(&lane.nanos).filter(|(instr, _)| instr.stream == Stream::Compute).map(|(_, nanos)| nanos).sum()
    };
    let busy: u64 = durations.lanes.iter().map(work).sum();
    (1.0 - busy as f64 / 1e9 / (step * durations.lanes.len() as f64)).max(0.0)
}

impl Figures {
    /// Takes in what the meetings of sites add to a step.
    fn spread(&mut self, outer: &Outer) {
        let longer = outer.step_s / self.step_time_s;
        self.step_time_s = outer.step_s;
        self.tokens_per_s /= longer;
        self.tokens_per_s_per_device /= longer;
        self.mfu /= longer;
        self.bubble_fraction /= longer;
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
