//! Why a plan takes the time and the memory it takes: by stage and cause, what binds, what more is worth, what loses.
//!
//! In: a plan and a cluster. Out: [`Explanation`].
//!
//! Invariant: times are sums of the predicted trace, bytes of the declared buffers; nothing is estimated anew.

mod alternatives;
mod binding;
mod memory;
mod refit;
mod shadow;
mod time;

use meshwright_hardware::price::{RankGroup, price, rank_groups};
use meshwright_hardware::profile::Cluster;
use serde::Serialize;

use crate::error::PlanError;
use crate::goodput::{Training, days_to_train};
use crate::plan::Plan;
use crate::predict::{Figures, Outer, outer, predict};

pub use alternatives::Alternative;
pub use binding::{Binding, ExposedAxis, Limit};
pub use memory::StageMemory;
pub use shadow::{Decided, ShadowPrice};
pub use time::{Cause, StageTime};

/// All there is to say of a plan on a cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The prediction.
    #[serde(flatten)]
    pub figures: Figures,
    /// What the entries of the lists below stand for: one a stage, or where its replicas are unlike, several.
    pub places: Vec<StageDevices>,
    /// Where a step's time goes, by place.
    pub stages: Vec<StageTime>,
    /// Where bytes go, by place.
    pub memory: Vec<StageMemory>,
    /// Bytes that a rank may declare, by place.
    pub usable_memory_bytes: Vec<u64>,
    /// What binds.
    pub binding: Binding,
    /// What more is worth.
    pub shadow_prices: Vec<ShadowPrice>,
    /// One decision changed.
    pub alternatives: Vec<Alternative>,
    /// From the first step to the last, with failures.
    pub training: Training,
    /// What meetings of sites cost, if there are several.
    pub sites: Option<Outer>,
}

/// Ranks of a stage that do the same on the same devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StageDevices {
    /// Their stage.
    pub stage: usize,
    /// Of how many replicas.
    pub replicas: usize,
    /// What they sit on.
    pub device: String,
}

impl StageDevices {
    fn of(place: &RankGroup, cluster: &Cluster) -> StageDevices {
        let names: Vec<&str> = place.devices(cluster).iter().map(|device| device.name.as_str()).collect();
        StageDevices { stage: place.stage, replicas: place.replicas.len(), device: names.join(" and ") }
    }
}

/// What a prediction shows of time and memory.
#[derive(Clone, Debug)]
pub struct Breakdown {
    /// The prediction.
    pub figures: Figures,
    /// What the entries of the lists below stand for.
    pub places: Vec<StageDevices>,
    /// By place.
    pub time: Vec<StageTime>,
    /// By place.
    pub memory: Vec<StageMemory>,
    /// Bytes that a rank may declare, by place.
    pub usable: Vec<u64>,
    /// Of meetings of sites.
    pub sites: Option<Outer>,
}

/// Predicts a plan and takes its time and memory apart.
pub fn see(plan: &Plan, cluster: &Cluster) -> Result<Breakdown, PlanError> {
    let predicted = predict(plan, cluster)?;
    let program = &predicted.lowered.program;
    let durations = price(program, cluster, plan.job.precision)?;
    let overlap = cluster.pools.iter().all(|pool| pool.device.overlap);
    let mut time = time::split(program, &durations, &predicted.trace, overlap);
    let unit = rank_groups(cluster, program.mesh, &program.classes)?;
    let memory = unit.iter().map(|at| StageMemory::of(&program.roles[program.role(at.class, at.stage)])).collect();
    let usable = unit.iter().map(|place| plan.job.goal.usable(place.capacity(cluster).0, &cluster.stack)).collect();
    let places = unit.iter().map(|place| StageDevices::of(place, cluster)).collect();
    let sites = outer(plan, cluster, predicted.trace.step_time().seconds())?;
    if let Some(outer) = &sites {
        let more = ((outer.step_s - outer.inner_step_s) * 1e9).round() as u64;
        time.iter_mut().for_each(|stage| stage.add(Cause::Sites, more));
    }
    Ok(Breakdown { figures: predicted.figures, places, time, memory, usable, sites })
}

/// Explains a plan; with `again`, also by searching on changed clusters.
pub fn explain(plan: &Plan, cluster: &Cluster, again: bool) -> Result<Explanation, PlanError> {
    let plan = &plan.under(&cluster.stack);
    let seen = see(plan, cluster)?;
    let binding = binding::of(plan, cluster, &seen)?;
    let shadow_prices = shadow::shadow_prices(plan, cluster, &seen, again)?;
    let alternatives = alternatives::alternatives(plan, cluster, &seen)?;
    let training = days_to_train(seen.figures.step_time(), seen.figures.busy(), &plan.job, cluster);
    let Breakdown { figures, places, time, memory, usable, sites } = seen;
    Ok(Explanation {
        figures,
        places,
        stages: time,
        memory,
        usable_memory_bytes: usable,
        binding,
        shadow_prices,
        alternatives,
        training,
        sites,
    })
}

#[cfg(test)]
mod tests;
