//! Predictions beyond what was ever measured.
//!
//! In: a plan's figures, its cluster. Out: [`Beyond`], where its MFU is well above the highest measured one.
//!
//! Invariant: nothing is changed of a prediction; it is only marked.

use meshwright_hardware::profile::{Cluster, DeviceProfile, Stack};
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

/// Whether a prediction lies beyond what was measured on its devices; none is on devices that were calibrated.
pub fn beyond(plan: &Plan, figures: &Figures, cluster: &Cluster) -> Option<Beyond> {
    let own = |device: &DeviceProfile| device.calibrated.is_some();
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
