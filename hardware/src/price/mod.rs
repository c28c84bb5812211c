//! Prices: how long an op, a collective or a message takes on a cluster.
//!
//! In: a program, a cluster, a format. Out: [`Durations`].
//!
//! An op's time is its class's measured curve where the device has one; else the roofline of Williams et al. 2009: the
//! greater of FLOPs over the reached share of peak and bytes over the reached share of bandwidth, plus a launch.
//!
//! Invariant: what cannot be priced is an error, never a guess.

pub mod collective;
pub mod gemm;
mod op;

use std::collections::HashMap;

use crate::mesh::{Axis, Mesh};
use crate::op::Op;
use crate::profile::{Cluster, Device, DeviceKind};
use crate::program::{Block, Collective, ELEM_BYTES, Kind, Program};
use crate::simulate::{Durations, LaneDurations, SimulateError};
use crate::topology::{Topology, TopologyError};
use crate::units::{Bytes, Precision, Seconds};

pub use op::{dims, op_time, stream};

/// Why something has no price.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PriceError {
    /// The device multiplies neither this format nor a wider one.
    #[error(
        "`{device}` has no peak for {precision}; give its profile a `peak.{precision}`, or choose another precision"
    )]
    NoPeak {
        /// The device.
        device: String,
        /// The format.
        precision: Precision,
    },
    /// A device that was measured in another format.
    #[error("`{device}` was measured in {measured}; measure it with --precision {precision}, or plan in {measured}")]
    Measured {
        /// The device.
        device: String,
        /// In which format.
        measured: Precision,
        /// Wanted.
        precision: Precision,
    },
    /// The mesh needs more devices than there are.
    #[error("the plan has {ranks} ranks, the cluster {devices} devices; use a cluster of {ranks} or more")]
    TooFew {
        /// Ranks of the mesh.
        ranks: usize,
        /// Devices of the cluster.
        devices: usize,
    },
    /// Nothing is known of the way to the host's memory.
    #[error(
        "`{device}` has no `host_link`, over which the plan moves activations; give its profile one, or offload none"
    )]
    NoHostLink {
        /// The device.
        device: String,
    },
    /// Two ranks have no way to each other.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The program does not simulate.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
}

/// Prices on one cluster, in one format, for one mesh.
pub struct Prices<'a> {
    device: &'a Device,
    precision: Precision,
    mesh: Mesh,
    topology: Topology,
    /// Of ops seen, by their listing (ops hold floats, which have no hash).
    ops: HashMap<String, Seconds>,
}

impl<'a> Prices<'a> {
    /// Prices for a mesh on a cluster. Where pools differ, the first one's device prices the ops.
    pub fn new(cluster: &'a Cluster, mesh: Mesh, precision: Precision) -> Result<Self, PriceError> {
        let (ranks, devices) = (mesh.ranks(), cluster.devices());
        if ranks > devices {
            return Err(PriceError::TooFew { ranks, devices });
        }
        let device = &cluster.pools[0].device;
        // Its curves say nothing of other formats.
        let measured = device.calibrated.as_ref().and(device.peak.keys().next());
        if let Some(&measured) = measured.filter(|_| !device.peak.contains_key(&precision)) {
            return Err(PriceError::Measured { device: device.name.clone(), measured, precision });
        }
        Ok(Prices { device, precision, mesh, topology: Topology::of(cluster), ops: HashMap::new() })
    }

    /// The time of an op.
    pub fn op(&mut self, op: &Op) -> Result<Seconds, PriceError> {
        // Without curves an op is priced sooner than it is looked up.
        if self.device.curves.is_empty() {
            return op_time(self.device, op, self.precision);
        }
        let key = format!("{op:?}");
        if let Some(&known) = self.ops.get(&key) {
            return Ok(known);
        }
        let seconds = op_time(self.device, op, self.precision)?;
        self.ops.insert(key, seconds);
        Ok(seconds)
    }

    /// FLOPs a second that no matmul exceeds on a device without curves: one of endless depth and whole tiles.
    pub fn fastest_flops(&self) -> Result<f64, PriceError> {
        let no_peak = || PriceError::NoPeak { device: self.device.name.clone(), precision: self.precision };
        let peak = self.device.peak_in(self.precision).ok_or_else(no_peak)?;
        let side = (1u64 << 20) as f64;
        Ok(2.0 * side.powi(3) / gemm::on(self.device, peak, self.precision, 1.0, side, side, side).0)
    }

    /// The time of a block: its ops one after another.
    pub fn block(&mut self, block: &Block) -> Result<Seconds, PriceError> {
        block.calls.iter().map(|call| self.op(&call.op)).sum()
    }

    /// The time of a collective over an axis; `bytes` of fp32 elements, which are sent in the prices' format.
    pub fn collective(&self, kind: Collective, axis: Axis, bytes: Bytes) -> Result<Seconds, PriceError> {
        self.collective_over(kind, self.mesh.stride(axis), self.mesh.size(axis), bytes)
    }

    /// The same over `ranks` ranks that are `stride` apart, whatever the mesh.
    pub fn collective_over(
        &self,
        kind: Collective,
        stride: usize,
        ranks: usize,
        bytes: Bytes,
    ) -> Result<Seconds, PriceError> {
        if ranks == 1 {
            return Ok(Seconds(0.0));
        }
        let bytes = self.narrowed(bytes);
        if let Some(curve) = self.device.curves.get(kind.class()) {
            return Ok(curve.time(&[ranks as f64, bytes.0 as f64], bytes.0 as f64));
        }
        let span = self.topology.span_strided(0, stride, ranks)?;
        Ok(collective::time(kind, bytes, &span) + self.device.launch.value)
    }

    /// The time of sending a message between two stages, or of receiving one that has arrived.
    pub fn message(&self, sending: bool, bytes: Bytes, from: usize, to: usize) -> Result<Seconds, PriceError> {
        if !sending {
            return Ok(self.received((bytes.0 / ELEM_BYTES) as usize));
        }
        let rank = |stage| self.mesh.rank(stage, 0, 0, 0);
        self.sent(bytes, rank(from), rank(to))
    }

    /// The time of sending a message to the rank `stride` further, whatever the mesh.
    pub fn message_over(&self, bytes: Bytes, stride: usize) -> Result<Seconds, PriceError> {
        self.sent(bytes, 0, stride)
    }

    fn sent(&self, bytes: Bytes, from: usize, to: usize) -> Result<Seconds, PriceError> {
        let bytes = self.narrowed(bytes);
        if let Some(curve) = self.device.curves.get("send") {
            return Ok(curve.time(&[bytes.0 as f64], bytes.0 as f64));
        }
        let path = self.topology.link(from, to)?;
        Ok(collective::p2p(bytes, &path) + self.device.launch.value)
    }

    /// The time of receiving a message of so many elements that has arrived: its way is the sender's.
    pub fn received(&self, elems: usize) -> Seconds {
        let bytes = self.narrowed(Bytes(elems as u64 * ELEM_BYTES)).0 as f64;
        self.device.curves.get("recv").map_or(self.device.launch.value, |curve| curve.time(&[bytes], bytes))
    }

    /// The time of a copy between the device's memory and the host's.
    pub fn moved(&self, bytes: Bytes) -> Result<Seconds, PriceError> {
        let bytes = self.narrowed(bytes);
        match (&self.device.host_link, self.device.kind) {
            (Some(link), _) => Ok(bytes / link.value + self.device.launch.value),
            // A processor's own memory is the host's.
            (None, DeviceKind::Cpu) => Ok(stream(self.device, 2.0 * bytes.0 as f64)),
            (None, _) => Err(PriceError::NoHostLink { device: self.device.name.clone() }),
        }
    }

    /// The time of loading this many token ids.
    pub fn load(&self, elems: usize) -> Seconds {
        let bytes = (elems as u64 * ELEM_BYTES) as f64;
        self.device.curves.get("load").map_or(self.device.launch.value, |curve| curve.time(&[elems as f64], bytes))
    }

    fn narrowed(&self, bytes: Bytes) -> Bytes {
        Bytes(bytes.0 * self.precision.stored().bytes() / ELEM_BYTES)
    }
}

/// A duration for every instruction; one lane a stage.
pub fn price(program: &Program, cluster: &Cluster, precision: Precision) -> Result<Durations, PriceError> {
    let mut prices = Prices::new(cluster, program.mesh, precision)?;
    let blocks: Vec<Seconds> = program.blocks.iter().map(|block| prices.block(block)).collect::<Result<_, _>>()?;
    let mut known: HashMap<(Collective, Axis, u64), Seconds> = HashMap::new();
    let mut lanes = Vec::with_capacity(program.roles.len());
    for (role, list) in program.roles.iter().enumerate() {
        let mut nanos = Vec::with_capacity(list.instrs.len());
        for instr in &list.instrs {
            let seconds = match &instr.kind {
                Kind::Load { into, .. } => prices.load(into.elems),
                Kind::Run { block, .. } => blocks[*block as usize],
                Kind::Send { to, view, .. } => prices.message(true, Bytes(view.bytes()), role, *to)?,
                Kind::Recv { from, view, .. } => prices.message(false, Bytes(view.bytes()), *from, role)?,
                Kind::Collective { op, axis, view } => {
                    let key = (*op, *axis, view.bytes());
                    match known.get(&key) {
                        Some(&seconds) => seconds,
                        None => *known.entry(key).or_insert(prices.collective(*op, *axis, Bytes(view.bytes()))?),
                    }
                }
                Kind::Move { from, .. } => prices.moved(Bytes(from.bytes()))?,
                Kind::Free { .. } => Seconds(0.0),
            };
            nanos.push(seconds.nanos().0);
        }
        let rank = program.mesh.rank(role, 0, 0, 0);
        lanes.push(LaneDurations { rank, role, nanos });
    }
    Ok(Durations { lanes, contention: prices.device.contention.as_ref().map_or(0.0, |figure| figure.value) })
}

#[cfg(test)]
mod tests;
