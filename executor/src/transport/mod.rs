//! What the interpreter needs of communication between ranks.
//!
//! In: a rank's part of a message or collective, as host memory. Out: the same memory with what the others brought.
//!
//! Invariant: a collective's sums add up in rank order, so they give the same bits on every rank and in every run.

mod gate;
#[cfg(test)]
mod tests;
mod threads;
mod vectors;

pub use threads::Threads;

use meshwright_hardware::mesh::{Axis, Rank};
use meshwright_hardware::program::Collective;

use crate::device::{Access, Device, Region};
use crate::error::ExecutorError;

/// Messages and collectives among the ranks of a mesh. Every method may be called by all ranks at once.
///
/// # Errors
/// All methods: [`ExecutorError::Transport`] if what ranks ask for does not match, [`ExecutorError::PeerFailed`] once any
/// rank has called [`Transport::abort`].
pub trait Transport: Sync {
    /// Sends bytes to rank `to` on a line of messages; returns when `data` may be reused.
    fn send(&self, from: Rank, to: Rank, tag: u32, data: &[u8]) -> Result<(), ExecutorError>;

    /// Waits for the next message of a line from rank `from`, which is as long as `into`.
    fn recv(&self, to: Rank, from: Rank, tag: u32, into: &mut [u8]) -> Result<(), ExecutorError>;

    /// Takes part in a collective that sums ([`Collective::sums`]) over this rank's group on an axis, in place.
    fn sum(&self, rank: Rank, axis: Axis, op: Collective, data: &mut [f32]) -> Result<(), ExecutorError>;

    /// Takes part in one that moves elements of `width` bytes.
    fn exchange(
        &self,
        rank: Rank,
        axis: Axis,
        op: Collective,
        width: usize,
        data: &mut [u8],
    ) -> Result<(), ExecutorError>;

    /// Waits for all ranks.
    fn barrier(&self, rank: Rank) -> Result<(), ExecutorError>;

    /// Bytes that this rank's messages were staged in at most.
    fn staging_bytes(&self, rank: Rank) -> u64;

    /// Ends all waiting, now and later, because a rank cannot go on.
    fn abort(&self);
}

/// Takes part in a collective with a region of a rank's device: sums in fp32, exchanges of elements as they lie.
///
/// # Errors
/// Of the device, or of the transport.
pub fn collective(
    transport: &dyn Transport,
    device: &mut dyn Device,
    region: Region,
    rank: Rank,
    (axis, op): (Axis, Collective),
) -> Result<(), ExecutorError> {
    if op.sums() {
        return device.with_host(region, Access::Change, &mut |host| transport.sum(rank, axis, op, host));
    }
    device.with_bytes(region, Access::Change, &mut |bytes| {
        let width = bytes.len() / region.elems.max(1);
        transport.exchange(rank, axis, op, width, bytes)
    })
}
