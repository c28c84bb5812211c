//! What binds: the stage that sets the pace, the stage nearest to its memory, the link that is waited for most.
//!
//! In: what was seen of a plan. Out: [`Binding`].

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::topology::Topology;
use serde::Serialize;

use super::Breakdown;
use super::time::{Cause, StageTime};
use crate::error::PlanError;
use crate::plan::Plan;

/// What the bottleneck stage spends most of its step on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Kernels.
    Compute,
    /// Communication that nothing hides.
    Communication,
    /// Other stages.
    Bubble,
}

/// The axis whose communication is waited for most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ExposedAxis {
    /// Its cause's name: tp, cp, ep, data, pp, host or sites.
    pub axis: &'static str,
    /// `scale-up`, `scale-out`, `host` or `between sites`.
    pub tier: &'static str,
    /// A step, in the mean over stages.
    pub exposed_s: f64,
}

/// What binds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Binding {
    /// What the bottleneck stage spends most on.
    pub limit: Limit,
    /// The place of the stage that waits least for others.
    pub bottleneck_stage: usize,
    /// Of its step, what it does not wait for others.
    pub busy_s: f64,
    /// The place of the stage with least memory left.
    pub memory_stage: usize,
    /// What it may declare and does not; below zero if it does not fit.
    pub headroom_bytes: i64,
    /// None if nothing is exposed.
    pub link: Option<ExposedAxis>,
}

/// What binds a plan.
pub fn of(plan: &Plan, cluster: &Cluster, seen: &Breakdown) -> Result<Binding, PlanError> {
    let stages = seen.time.iter().enumerate();
    let (bottleneck_stage, slowest) = stages.max_by_key(|(_, time)| time.busy()).expect("a plan has stages");
    let left = seen.memory.iter().zip(&seen.usable).map(|(memory, &usable)| usable as i64 - memory.total() as i64);
    let (memory_stage, headroom_bytes) = left.enumerate().min_by_key(|(_, left)| *left).expect("a plan has stages");
    let exposed: u64 = Cause::ALL.iter().filter(|c| c.is_exposed()).map(|&cause| slowest.nanos(cause)).sum();
    let bubble = slowest.nanos(Cause::Bubble);
    let compute = slowest.total() - exposed - bubble;
    let limit = match () {
        () if compute >= exposed.max(bubble) => Limit::Compute,
        () if exposed >= bubble => Limit::Communication,
        () => Limit::Bubble,
    };
    let axes = Cause::ALL.into_iter().filter(|cause| cause.is_exposed());
    let most = axes.map(|cause| (cause, StageTime::mean(&seen.time, cause))).max_by(|a, b| a.1.total_cmp(&b.1));
    let link = match most.filter(|(_, exposed_s)| *exposed_s > 0.0) {
        Some((cause, exposed_s)) => {
            Some(ExposedAxis { axis: cause.name(), tier: tier(plan, cluster, cause)?, exposed_s })
        }
        None => None,
    };
    let busy_s = slowest.busy() as f64 * 1e-9;
    Ok(Binding { limit, bottleneck_stage, busy_s, memory_stage, headroom_bytes, link })
}

/// Which links an axis goes over: those between nodes, if any of its group does.
fn tier(plan: &Plan, cluster: &Cluster, cause: Cause) -> Result<&'static str, PlanError> {
    let axis = match cause {
        Cause::Tp => Axis::Tp,
        Cause::Cp => Axis::Cp,
        Cause::Ep => Axis::Ep,
        Cause::Data => Axis::Data,
        Cause::Pp => Axis::Pp,
        Cause::Sites => return Ok("between sites"),
        _ => return Ok("host"),
    };
    let mesh = plan.mesh;
    let span = Topology::of(cluster).span_strided(0, mesh.stride(axis), mesh.size(axis));
    let span = span.map_err(meshwright_hardware::price::PriceError::from)?;
    Ok(if span.out.is_some() { "scale-out" } else { "scale-up" })
}
