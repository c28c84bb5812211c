//! Whether a job could fit at all, before anything is searched.
//!
//! In: a job, a cluster. Out: yes, or that no plan can.
//!
//! Invariant: never no where a plan fits.

use meshwright_hardware::profile::{Cluster, Machine};

use crate::job::Job;
use crate::lower::Formats;

/// Whether weights, gradients and optimizer state alone leave room, were they spread over all devices.
pub fn could_fit(job: &Job, cluster: &Cluster) -> bool {
    let formats = Formats::of(&job.under(&cluster.stack));
    // Under the ZeRO stage that keeps least.
    let kept = job.optimizer.name.bytes() * formats.state.bytes() / 4;
    let state = kept + if formats.master(3) { formats.state.bytes() } else { 0 };
    let state = if job.optimizer.offload { 0 } else { state };
    let each = formats.weights(3).bytes() + formats.gradients.bytes() + state;
    let usable = |pool: &Machine| pool.devices() as u64 * job.goal.usable(pool.device.memory.value.0, &cluster.stack);
    let all = job.model.parameters(job.positions());
    let needed = match &job.tuning {
        // Four bits at the least, and adapters.
        Some(_) => all / 2 + job.trained_parameters() * each,
        None => all * each,
    };
    needed <= cluster.pools.iter().map(usable).sum()
}
