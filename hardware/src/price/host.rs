//! The host: prices of ops that run on it, over what is in its memory, and how much that may be.
//!
//! In: an op, a cluster. Out: its time; bytes.
//!
//! Invariant: such ops are bound by the host's memory.

use super::{Prices, stream};
use crate::elem::Elem;
use crate::op::Op;
use crate::profile::{Cluster, DeviceKind, DeviceProfile};
use crate::units::{Bytes, Seconds};

/// Bytes a second that a device's share of its host's cores moves in an optimizer's step, where its profile does not say. Ren et al.
/// 2021, table 4: 10 B parameters of CPU-Adam in 2.57 s, 28 bytes each, on two sockets of 256 GB/s in all, is 43 % of it; assumption:
/// the same share of two sockets of 460 GB/s, by eight devices.
const HOST_MEMORY: f64 = 25e9;

/// Host memory for each device where a system does not state it: 1 TB a node of eight, as DGX A100 has at the least.
const HOST_BYTES: u64 = 128_000_000_000;
/// Share of it that a job may keep beside system, data and libraries.
const OF_HOST: f64 = 0.9;

/// Bytes that a rank may keep in the memory of its host; on several pools what it may on all. A processor's own memory is the host's.
pub fn host_capacity(cluster: &Cluster) -> Bytes {
    let all = cluster.pools.iter().map(|pool| match (&pool.system.host_capacity, pool.device.kind) {
        (Some(memory), _) => memory.value.0,
        (None, DeviceKind::Cpu) => pool.device.memory.value.0,
        (None, _) => HOST_BYTES,
    });
    Bytes((all.min().unwrap_or(0) as f64 * OF_HOST) as u64)
}

impl Prices<'_> {
    /// Bytes that a rank may move to the host: none where there is no way to it.
    pub fn host_capacity(&self) -> Bytes {
        if self.moved(Bytes(0)).is_ok() { host_capacity(self.cluster) } else { Bytes(0) }
    }

    /// The time of an op on the host, over what is in its memory: its bytes at the share of one device.
    pub fn on_host(&self, op: &Op, elems: impl IntoIterator<Item = Elem>) -> Seconds {
        let bytes = op.traffic(elems).0 as f64;
        let time = |device: &&DeviceProfile| match (&device.host_memory, device.kind) {
            (Some(rate), _) => Seconds(bytes / rate.value.0),
            (None, DeviceKind::Cpu) => stream(device, bytes),
            (None, _) => Seconds(bytes / HOST_MEMORY),
        };
        self.devices.iter().map(time).fold(Seconds(0.0), Seconds::max)
    }
}
