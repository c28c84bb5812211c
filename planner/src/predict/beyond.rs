//! Predictions beyond what was ever measured.
//!
//! In: a plan's figures, its cluster. Out: [`Beyond`], where its MFU is well above the highest measured one, or where ops were not timed
//! on a machine that was.
//!
//! Invariant: nothing is changed of a prediction; it is only marked.

use std::collections::BTreeSet;

use meshwright_hardware::profile::{Cluster, DeviceProfile, Stack};
use meshwright_hardware::program::Program;
use serde::Serialize;

use super::Figures;
use crate::plan::Plan;

/// How far above the highest measured MFU a prediction may be before it is marked.
const MARGIN: f64 = 1.1;

/// Why a prediction is an extrapolation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Beyond {
    /// The highest measured MFU on the plan's devices in its format; none where no run was measured.
    pub highest_measured_mfu: Option<f64>,
    /// In words.
    pub reason: String,
}

/// Classes of a program's ops without a measured curve on a device that was calibrated, by name.
pub(super) fn untimed(cluster: &Cluster, program: &Program) -> Vec<&'static str> {
    let devices = cluster.pools.iter().map(|pool| &pool.device);
    let calibrated: Vec<&DeviceProfile> = devices.filter(|device| device.calibrated.is_some()).collect();
    if calibrated.is_empty() {
        return Vec::new();
    }
    let ops = program.blocks.iter().flat_map(|block| &block.calls);
    let untimed = |class: &&str| calibrated.iter().any(|device| !device.curves.contains_key(*class));
    ops.map(|call| call.op.class()).filter(untimed).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether a prediction lies beyond what was measured on its devices; on devices that were calibrated, none is all of whose ops were timed.
pub fn beyond(plan: &Plan, figures: &Figures, cluster: &Cluster) -> Option<Beyond> {
    let own = |device: &DeviceProfile| device.calibrated.is_some();
    if !figures.untimed_ops.is_empty() {
        let ops = figures.untimed_ops.join(", ");
        let reason = format!("{ops}: not timed on this machine, priced by its roofline");
        return Some(Beyond { highest_measured_mfu: None, reason });
    }
    if cluster.stack.name == Stack::EXECUTOR || cluster.pools.iter().any(|pool| own(&pool.device)) {
        return None;
    }
    let (precision, mfu) = (plan.job.precision, figures.mfu);
    let device = |pool: &meshwright_hardware::profile::Machine| pool.device.name.clone();
    let names = cluster.pools.iter().map(device).collect::<Vec<_>>().join(" + ");
    let measured: Option<Vec<_>> = cluster.pools.iter().map(|pool| pool.device.measured_mfu.get(&precision)).collect();
    let Some(highest) = measured.and_then(|all| all.into_iter().max_by(|a, b| a.value.total_cmp(&b.value))) else {
        let reason = format!("no run was measured on {names} in {precision}");
        return Some(Beyond { highest_measured_mfu: None, reason });
    };
    (mfu > MARGIN * highest.value).then(|| Beyond {
        highest_measured_mfu: Some(highest.value),
        reason: format!(
            "MFU {:.1} %, and the highest measured on {names} in {precision} is {:.1} % ({})",
            100.0 * mfu,
            100.0 * highest.value,
            highest.source
        ),
    })
}
