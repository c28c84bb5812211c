//! Prices of ops that run on the host, over what is in its memory.
//!
//! In: an op. Out: its time.
//!
//! Invariant: such ops are bound by the host's memory.

use super::{Prices, stream};
use crate::elem::Elem;
use crate::op::Op;
use crate::profile::{DeviceKind, DeviceProfile};
use crate::units::Seconds;

/// Bytes a second that a device's share of its host's cores moves in an optimizer's step, where its profile does not say. Ren et al.
/// 2021, table 4: 10 B parameters of CPU-Adam in 2.57 s, 28 bytes each, on two sockets of 256 GB/s in all, is 43 % of it; assumption:
/// the same share of two sockets of 460 GB/s, by eight devices.
const HOST_MEMORY: f64 = 25e9;

impl Prices<'_> {
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
