//! Prices: how long an op, a collective or a message takes on a cluster, under the stack that runs it.
//!
//! In: a program, a cluster with its stack, a format to multiply in. Out: [`Durations`].
//!
//! Bytes are those of buffers: as many as a view's elements have in the format that its buffer declares.
//! An op's time is its class's measured curve where the device has one; else the roofline of Williams et al. 2009: the
//! greater of FLOPs over the reached share of peak and bytes over the reached share of bandwidth, plus a launch.
//!
//! Invariant: what cannot be priced is an error, never a guess.

pub mod collective;
mod error;
pub mod gemm;
mod host;
mod op;
pub mod overlap;
mod placement;
mod rank_group;
mod under_stack;

use std::collections::HashMap;

use rustc_hash::FxHashMap;

use crate::mesh::{Axis, Mesh, Rank};
use crate::op::Op;
use crate::profile::{Cluster, DeviceKind, DeviceProfile, Overheads};
use crate::program::{Block, Call, Collective, Elem, Kind, Program, RankProgram};
use crate::simulate::{Durations, LaneDurations};
use crate::topology::{GroupLinks, Topology};
use crate::units::{Bytes, FlopRate, Precision, Seconds};

pub use error::PriceError;
pub use host::host_capacity;
pub use op::{issue_time, op_time, stream};
pub use placement::AxisGroup;
pub use rank_group::{RankGroup, rank_groups};

/// A device's peak in a format.
pub fn peak_of(device: &DeviceProfile, precision: Precision) -> Result<FlopRate, PriceError> {
    device.peak_in(precision).ok_or_else(|| {
        let formats = device.peak.keys().map(|format| format.name()).collect::<Vec<_>>().join(", ");
        PriceError::NoPeak { device: device.name.clone(), precision, formats }
    })
}

/// Prices on one cluster, in one format, for one mesh: as the ranks of one [`RankGroup`] pay them.
///
/// Where a place sits on several devices, and where a group spans several pools, the slowest counts. On a cluster of one pool
/// a group has the links of the slowest of its axis; on several, one that lies in a pool has those of one that begins there.
pub struct Prices<'a> {
    cluster: &'a Cluster,
    devices: Vec<&'a DeviceProfile>,
    precision: Precision,
    mesh: Mesh,
    topology: Topology,
    at: Rank,
    /// Of ops seen on devices with curves, by the bytes that they move.
    ops: FxHashMap<(Op, Bytes), Seconds>,
    /// Of groups seen: the links of each way in which those of its axis lie.
    spans: FxHashMap<AxisGroup, Vec<GroupLinks>>,
    /// Of stages seen: two ranks that messages between them go over the slowest links.
    peers: FxHashMap<(usize, usize), (Rank, Rank)>,
}

impl<'a> Prices<'a> {
    /// Prices of a mesh on a cluster, as the first rank pays them.
    ///
    /// # Errors
    /// [`PriceError::TooFew`] if the cluster has fewer devices than the mesh ranks.
    pub fn new(cluster: &'a Cluster, mesh: Mesh, precision: Precision) -> Result<Self, PriceError> {
        let (ranks, devices) = (mesh.ranks(), cluster.devices());
        if ranks > devices {
            return Err(PriceError::TooFew { ranks, devices });
        }
        let prices = Prices::of(cluster, mesh, precision, 0, vec![&cluster.pools[0].device]);
        prices.check().map(|()| prices)
    }

    /// Prices as the ranks of a place pay them.
    pub fn at(cluster: &'a Cluster, mesh: Mesh, precision: Precision, place: &RankGroup) -> Result<Self, PriceError> {
        let prices = Prices::of(cluster, mesh, precision, place.rank, place.devices(cluster));
        prices.check().map(|()| prices)
    }

    /// Curves measured in one format say nothing of others.
    fn check(&self) -> Result<(), PriceError> {
        for device in &self.devices {
            let measured = device.calibrated.as_ref().and(device.peak.keys().next());
            if let Some(&measured) = measured.filter(|_| !device.peak.contains_key(&self.precision)) {
                let (device, precision) = (device.name.clone(), self.precision);
                return Err(PriceError::Measured { device, measured, precision });
            }
        }
        Ok(())
    }

    fn of(cluster: &'a Cluster, mesh: Mesh, precision: Precision, at: Rank, devices: Vec<&'a DeviceProfile>) -> Self {
        let (ops, spans, peers) = Default::default();
        Prices { cluster, devices, precision, mesh, topology: Topology::of(cluster), at, ops, spans, peers }
    }

    /// What weights and activations are.
    pub fn elem(&self) -> Elem {
        Elem::of(self.precision)
    }

    /// The time of an op whose arguments have these elements, in the order of [`Op::signature`].
    pub fn op(&mut self, op: &Op, elems: impl IntoIterator<Item = Elem>) -> Result<Seconds, PriceError> {
        let bytes = op.traffic(elems);
        // Without curves an op is priced sooner than it is looked up.
        if self.devices.iter().all(|device| device.curves.is_empty()) {
            return slowest(&self.devices, |device| op_time(device, self.stack(), op, bytes, self.precision));
        }
        if let Some(&known) = self.ops.get(&(*op, bytes)) {
            return Ok(known);
        }
        let seconds = slowest(&self.devices, |device| op_time(device, self.stack(), op, bytes, self.precision))?;
        self.ops.insert((*op, bytes), seconds);
        Ok(seconds)
    }

    /// FLOPs a second that no matmul exceeds on a device without curves: one of endless depth and whole tiles.
    pub fn fastest_flops(&self) -> Result<f64, PriceError> {
        let side = (1u64 << 20) as f64;
        let seconds = slowest(&self.devices, |device| {
            let peak = peak_of(device, self.precision)?;
            Ok(gemm::on(device, peak, self.precision, 1.0, side, side, side))
        })?;
        let Overheads { matmul, narrow, experts, .. } = &self.stack().overheads;
        let gains = (narrow / matmul).max(1.0);
        let plain = self.devices.iter().all(|device| gemm::is_plain(device, self.precision));
        let reached = if plain { 1.0 } else { matmul.max(*experts) * gains };
        Ok(2.0 * side.powi(3) / seconds.0 * reached)
    }

    /// The time of moving so many bytes through memory in ops without launches; nothing where curves price them.
    pub fn streamed(&self, bytes: f64) -> Seconds {
        if self.devices.iter().any(|device| !device.curves.is_empty()) {
            return Seconds(0.0);
        }
        let bytes = bytes * self.stack().overheads.stream.min(1.0);
        self.devices.iter().map(|device| stream(device, bytes)).fold(Seconds(0.0), Seconds::max)
    }

    /// The time of a block whose formal arguments have these elements: its ops one after another.
    pub fn block(&mut self, block: &Block, elems: &[Elem]) -> Result<Seconds, PriceError> {
        let of = |call: &Call| self.op(&call.op, call.args.iter().map(|arg| elems[arg.param as usize]));
        block.calls.iter().map(of).sum()
    }

    /// The time of a collective over an axis on a vector of so many bytes.
    pub fn collective(&mut self, kind: Collective, axis: Axis, bytes: Bytes) -> Result<Seconds, PriceError> {
        let group = self.group(&self.mesh, axis);
        self.among((kind, axis), bytes, group)
    }

    /// The group on an axis of another mesh.
    pub fn group(&self, mesh: &Mesh, axis: Axis) -> AxisGroup {
        let (stride, size) = (mesh.stride(axis), mesh.size(axis));
        AxisGroup { first: self.at - self.at / stride % size * stride, stride, size, of: mesh.ranks() }
    }

    /// The time of a collective of an axis' group; `bytes` as in [`Prices::collective`].
    pub fn among(
        &mut self,
        (kind, axis): (Collective, Axis),
        bytes: Bytes,
        group: AxisGroup,
    ) -> Result<Seconds, PriceError> {
        let AxisGroup { first, stride, size, .. } = group;
        if size == 1 {
            return Ok(Seconds(0.0));
        }
        let [from, to] = [first, first + stride * (size - 1)].map(|rank| self.cluster.pool_of(rank).unwrap_or(0));
        let pools = &self.cluster.pools[from.min(to)..=to.max(from)];
        let devices: Vec<&DeviceProfile> = pools.iter().map(|pool| &pool.device).collect();
        if devices.iter().any(|device| !device.curves.contains_key(kind.class())) {
            self.survey(group, (from, to))?;
        }
        let spans = self.spans.get(&group).map(Vec::as_slice).unwrap_or_default();
        let slowed = self.slowed(axis);
        let routing = self.once_a_node(kind, axis);
        slowest(&devices, |device| match device.curves.get(kind.class()) {
            Some(curve) => Ok(curve.time(&[size as f64, bytes.0 as f64], bytes.0 as f64)),
            None => {
                let times = spans.iter().map(|span| match &routing {
                    Some(routing) => collective::once_a_node(bytes, routing, span),
                    None => collective::time(kind, bytes, span),
                });
                Ok(times.fold(Seconds(0.0), Seconds::max) * slowed + device.launch.value)
            }
        })
    }

    /// The time of sending a message between two stages, or of receiving one that has arrived.
    pub fn message(&mut self, sending: bool, bytes: Bytes, from: usize, to: usize) -> Result<Seconds, PriceError> {
        if !sending {
            return self.received(bytes);
        }
        let at = self.mesh.coord_of(self.at);
        let own = (self.mesh.peer(at, from), self.mesh.peer(at, to));
        let (from, to) = match &self.cluster.pools[..] {
            [pool] => *self.peers.entry((from, to)).or_insert_with(|| farthest(&self.mesh, own, pool.system.count)),
            _ => own,
        };
        self.sent(bytes, from, to)
    }

    /// The time of sending a message to the rank `stride` further, whatever the mesh.
    pub fn message_over(&self, bytes: Bytes, stride: usize) -> Result<Seconds, PriceError> {
        // From a place at the cluster's end: back.
        let ahead = self.at + stride;
        self.sent(bytes, self.at, if ahead < self.cluster.devices() { ahead } else { self.at.saturating_sub(stride) })
    }

    fn sent(&self, bytes: Bytes, from: Rank, to: Rank) -> Result<Seconds, PriceError> {
        slowest(&self.devices, |device| match device.curves.get("send") {
            Some(curve) => Ok(curve.time(&[bytes.0 as f64], bytes.0 as f64)),
            None => Ok(collective::p2p(bytes, &self.topology.link(from, to)?) + device.launch.value),
        })
    }

    /// The time of receiving a message that has arrived: its way is the sender's.
    pub fn received(&self, bytes: Bytes) -> Result<Seconds, PriceError> {
        let bytes = bytes.0 as f64;
        slowest(&self.devices, |device| {
            Ok(device.curves.get("recv").map_or(device.launch.value, |curve| curve.time(&[bytes], bytes)))
        })
    }

    /// The time of a copy between the device's memory and the host's.
    pub fn moved(&self, bytes: Bytes) -> Result<Seconds, PriceError> {
        slowest(&self.devices, |device| match (&device.host_link, device.kind) {
            (Some(link), _) => Ok(bytes / link.value + device.launch.value),
            // A processor's own memory is the host's.
            (None, DeviceKind::Cpu) => Ok(stream(device, 2.0 * bytes.0 as f64)),
            (None, _) => Err(PriceError::NoHostLink { device: device.name.clone() }),
        })
    }

    /// The time of loading this many token ids.
    pub fn load(&self, elems: usize) -> Result<Seconds, PriceError> {
        let bytes = (elems as u64 * Elem::U32.bytes()) as f64;
        slowest(&self.devices, |device| {
            Ok(device.curves.get("load").map_or(device.launch.value, |curve| curve.time(&[elems as f64], bytes)))
        })
    }

    /// A duration for every instruction of a role.
    fn lane(
        &mut self,
        (program, blocks): (&Program, &mut PricedBlocks),
        list: &RankProgram,
        stage: usize,
    ) -> Result<Vec<u64>, PriceError> {
        let mut known: FxHashMap<(Collective, Axis, Bytes), Seconds> = FxHashMap::default();
        let mut nanos = Vec::with_capacity(list.instrs.len());
        for instr in &list.instrs {
            let seconds = match &instr.kind {
                Kind::Load { into, .. } => self.load(into.elems)?,
                Kind::Run { block, args, .. } if args.iter().any(|view| list.is_hosted(view)) => {
                    let elems: Vec<Elem> = args.iter().map(|view| list.elem(view)).collect();
                    let calls = &program.blocks[*block as usize].calls;
                    let of =
                        |call: &Call| self.on_host(&call.op, call.args.iter().map(|arg| elems[arg.param as usize]));
                    calls.iter().map(of).sum()
                }
                Kind::Run { block, args, .. } => {
                    let elems = args.iter().map(|view| list.elem(view));
                    blocks.time(*block as usize, elems, |elems| self.block(&program.blocks[*block as usize], elems))?
                }
                Kind::Send { to, view, .. } => self.message(true, list.view_bytes(view), stage, *to)?,
                Kind::Recv { from, view, .. } => self.message(false, list.view_bytes(view), *from, stage)?,
                Kind::Collective { op, axis, view } => {
                    let bytes = list.view_bytes(view);
                    match known.get(&(*op, *axis, bytes)) {
                        Some(&seconds) => seconds,
                        None => *known.entry((*op, *axis, bytes)).or_insert(self.collective(*op, *axis, bytes)?),
                    }
                }
                Kind::Move { from, .. } => self.moved(list.view_bytes(from))?,
                Kind::Free { .. } => Seconds(0.0),
            };
            nanos.push(seconds.nanos().0);
        }
        self.overlap(program, list, &mut nanos);
        Ok(nanos)
    }
}

/// A program's blocks as they were priced, by the elements of their arguments: hardly any is called with others.
struct PricedBlocks(Vec<Vec<(Vec<Elem>, Seconds)>>);

impl PricedBlocks {
    fn time(
        &mut self,
        block: usize,
        elems: impl Iterator<Item = Elem> + Clone,
        price: impl FnOnce(&[Elem]) -> Result<Seconds, PriceError>,
    ) -> Result<Seconds, PriceError> {
        let known = &mut self.0[block];
        if let Some((_, seconds)) = known.iter().find(|(same, _)| same.iter().copied().eq(elems.clone())) {
            return Ok(*seconds);
        }
        let elems: Vec<Elem> = elems.collect();
        let seconds = price(&elems)?;
        known.push((elems, seconds));
        Ok(seconds)
    }
}

/// Of the ranks that send what these two do, a pair that sits on two nodes of so many devices, if there is one.
fn farthest(mesh: &Mesh, own: (Rank, Rank), per_node: usize) -> (Rank, Rank) {
    let apart = |(from, to): &(Rank, Rank)| from / per_node != to / per_node;
    let (from, to) = (mesh.coord_of(own.0).pp, mesh.coord_of(own.1).pp);
    let coords = (0..mesh.dp).flat_map(|dp| (0..mesh.cp).map(move |cp| (dp, cp)));
    let all = coords.flat_map(|(dp, cp)| (0..mesh.tp).map(move |tp| (dp, cp, tp)));
    let mut pairs = all.map(|(dp, cp, tp)| (mesh.rank(from, dp, cp, tp), mesh.rank(to, dp, cp, tp)));
    let near = mesh.ranks() <= per_node || apart(&own);
    if near { own } else { pairs.find(apart).unwrap_or(own) }
}

/// What takes the slowest of several devices.
fn slowest(
    devices: &[&DeviceProfile],
    time: impl Fn(&DeviceProfile) -> Result<Seconds, PriceError>,
) -> Result<Seconds, PriceError> {
    devices.iter().try_fold(Seconds(0.0), |most, device| Ok(most.max(time(device)?)))
}

/// A duration for every instruction; one lane a place.
pub fn price(program: &Program, cluster: &Cluster, precision: Precision) -> Result<Durations, PriceError> {
    let mesh = program.mesh;
    let mut blocks: HashMap<Vec<usize>, PricedBlocks> = HashMap::new();
    let mut lanes = Vec::with_capacity(program.roles.len());
    for place in rank_groups(cluster, mesh, &program.classes)? {
        let mut prices = Prices::at(cluster, mesh, precision, &place)?;
        let none = || PricedBlocks(vec![Vec::new(); program.blocks.len()]);
        let blocks = blocks.entry(place.pools.clone()).or_insert_with(none);
        let role = program.role(place.class, place.stage);
        let nanos = prices.lane((program, blocks), &program.roles[role], place.stage)?;
        let contention = |device: &&DeviceProfile| device.contention.as_ref().map_or(0.0, |figure| figure.value);
        lanes.push(LaneDurations {
            rank: place.rank,
            role,
            ranks: place.replicas.len() * mesh.tp * mesh.cp,
            nanos,
            overlap: prices.devices.iter().all(|device| device.overlap),
            contention: prices.devices.iter().map(contention).fold(0.0, f64::max),
            beside: prices.shown_beside(),
            host: prices.host(program, &program.roles[role]),
        });
    }
    // All lanes one after the other are longer than any step.
    let nanos: f64 = lanes.iter().flat_map(|lane| &lane.nanos).map(|nanos| *nanos as f64).sum();
    if nanos > MOST_NANOS {
        let device = cluster.pools[0].device.name.clone();
        return Err(PriceError::Endless { device, years: nanos / 1e9 / 3600.0 / 24.0 / 365.0 });
    }
    Ok(Durations { lanes })
}

/// What a step's instructions may take together: times add up in 64 bits, also what collectives take from kernels.
const MOST_NANOS: f64 = (1_u64 << 58) as f64;

#[cfg(test)]
mod tests;
