//! What a stack makes of prices beyond those of ops: its host, and what of collectives shows.
//!
//! In: prices on a cluster under a stack. Out: seconds in which hosts issue, shares that collectives take.
//!
//! Invariant: measured devices have no host of their own and share nothing: their curves hold both.

use super::{Prices, op};
use crate::mesh::Axis;
use crate::op::Op;
use crate::profile::{DeviceProfile, Routing, Stack, TokenDispatch};
use crate::program::{Collective, Kind, Program, RankProgram};
use crate::simulate::Host;
use crate::units::Seconds;

impl<'a> Prices<'a> {
    /// What runs the programs.
    pub fn stack(&self) -> &'a Stack {
        &self.cluster.stack
    }

    /// The time in which a host issues an op, which therefore starts no sooner.
    pub fn issue(&self, op: &Op) -> Seconds {
        self.slowest_host(|device| op::issue_time(device, self.stack(), op))
    }

    /// The time in which a host issues anything else.
    pub fn issue_once(&self) -> Seconds {
        self.slowest_host(|device| op::issue_once(device, self.stack()))
    }

    /// The time of a step in which the host issues nothing yet.
    pub fn host_starts(&self) -> Seconds {
        self.slowest_host(|device| op::host_starts(device, self.stack()))
    }

    /// Of a collective's time beside compute, what it takes from compute.
    pub fn shown_beside(&self) -> f64 {
        let measured = self.devices.iter().any(|device| device.calibrated.is_some());
        if measured { 0.0 } else { self.stack().overheads.dp }
    }

    fn slowest_host(&self, time: impl Fn(&DeviceProfile) -> Seconds) -> Seconds {
        self.devices.iter().map(|device| time(device)).fold(Seconds(0.0), Seconds::max)
    }

    /// To which experts tokens go, where this is their exchange and takes a copy to each node.
    pub(super) fn once_a_node(&self, kind: Collective, axis: Axis) -> Option<Routing> {
        let per_node = self.stack().dispatch == TokenDispatch::PerNode;
        self.stack().routing.filter(|_| per_node && kind == Collective::AllToAll && axis == Axis::Ep)
    }

    /// How much longer a collective of an axis takes than links allow.
    pub(super) fn slowed(&self, axis: Axis) -> f64 {
        self.of_links(axis).max(1.0)
    }

    /// Of a collective that kernels of its pass wait for, the share that the pass' other kernels can hide: where libraries cut
    /// both into pieces, or run another part of the batch beside it. None where it was measured.
    pub fn hidden(&self, axis: Axis) -> f64 {
        let measured = self.devices.iter().any(|device| device.calibrated.is_some());
        if measured { 0.0 } else { 1.0 - self.of_links(axis).min(1.0) }
    }

    /// What shows of a collective of an axis, relative to what links allow.
    fn of_links(&self, axis: Axis) -> f64 {
        match axis {
            Axis::Tp | Axis::Etp | Axis::Cp => self.stack().overheads.tp,
            Axis::Ep => self.stack().overheads.ep,
            Axis::Dp | Axis::Data | Axis::Edp | Axis::Shard | Axis::Eshard | Axis::Replica | Axis::Pp => 1.0,
        }
    }

    /// What a host takes to issue each instruction of a role, if it takes anything.
    pub(super) fn host(&self, program: &Program, list: &RankProgram) -> Host {
        let (starts, once) = (self.host_starts().nanos().0, self.issue_once());
        if once == Seconds(0.0) {
            return Host { starts, nanos: Vec::new() };
        }
        let blocks = program.blocks.iter().map(|block| block.calls.iter().map(|call| self.issue(&call.op)).sum());
        let blocks: Vec<Seconds> = blocks.collect();
        let nanos = list.instrs.iter().map(|instr| match &instr.kind {
            Kind::Run { block, .. } => blocks[*block as usize].nanos().0,
            Kind::Free { .. } => 0,
            _ => once.nanos().0,
        });
        Host { starts, nanos: nanos.collect() }
    }
}
