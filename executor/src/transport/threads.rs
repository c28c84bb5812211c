//! Ranks as threads of one process: messages through queues, collectives straight through each other's memory.
//!
//! In: ranks' slices. Out: the same slices, exchanged.
//!
//! A collective has two phases between three barriers: every rank sums its own chunk of the vector over all ranks, then
//! copies the other chunks from those that own them. Nothing is staged.
//!
//! Invariant: between the barriers of a phase, each stretch of memory has one writer or only readers. A rank leaves a
//! collective only when nobody reads its memory any more: waiting for others to come can be given up, but not what follows.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use meshwright_hardware::mesh::{Axis, Mesh, Rank};
use meshwright_hardware::program::Collective;

use super::Transport;
use super::gate::{Bell, Gate, lock};
use super::vectors::{CollectiveGroup, OfferedVector, Vectors};
use crate::error::ExecutorError;

/// A mesh of ranks that are threads of this process.
pub struct Threads {
    mesh: Mesh,
    /// Groups of each axis in [`Axis::ALL`], by first rank.
    groups: [Vec<CollectiveGroup>; Axis::ALL.len()],
    world: Gate,
    /// `from · ranks + to`.
    channels: Vec<Channel>,
    aborted: AtomicBool,
}

impl Threads {
    /// Communication for all ranks of `mesh`.
    pub fn new(mesh: Mesh) -> Threads {
        let ranks = mesh.ranks();
        let groups = Axis::ALL.map(|axis| (0..ranks).map(|_| CollectiveGroup::new(mesh.size(axis))).collect());
        let channels = (0..ranks * ranks).map(|_| Channel::default()).collect();
        Threads { mesh, groups, world: Gate::new(ranks), channels, aborted: AtomicBool::new(false) }
    }

    /// How many they are.
    pub(super) fn ranks(&self) -> usize {
        self.mesh.ranks()
    }

    fn channel(&self, from: Rank, to: Rank) -> &Channel {
        &self.channels[from * self.ranks() + to]
    }

    /// Joins a collective: between barriers, `body` gets the group's vectors and the rank's place among them.
    ///
    /// # Safety
    /// `body` must touch of other ranks' vectors only what all of them leave to it.
    unsafe fn join(
        &self,
        rank: Rank,
        axis: Axis,
        op: Collective,
        mine: OfferedVector,
        body: impl FnOnce(&CollectiveGroup, &Vectors, usize),
    ) -> Result<(), ExecutorError> {
        let size = self.mesh.size(axis);
        if size == 1 {
            return Ok(());
        }
        let me = self.mesh.coord_of(rank).on(axis);
        let first = rank - me * self.mesh.stride(axis);
        let index = Axis::ALL.iter().position(|a| *a == axis).expect("every axis");
        let group = &self.groups[index][first];
        group.offer(me, &mine);
        self.meet(&group.gate, rank)?;
        let shared = group.vectors(op, &mine).map_err(|problem| ExecutorError::Transport { rank, problem })?;
        body(group, &shared, me);
        group.gate.pass(None);
        Ok(())
    }

    fn meet(&self, gate: &Gate, rank: Rank) -> Result<(), ExecutorError> {
        if gate.pass(Some(&self.aborted)) { Ok(()) } else { Err(ExecutorError::PeerFailed { rank }) }
    }
}

impl Transport for Threads {
    fn send(&self, from: Rank, to: Rank, tag: u32, data: &[u8]) -> Result<(), ExecutorError> {
        if self.aborted.load(Ordering::Acquire) {
            return Err(ExecutorError::PeerFailed { rank: from });
        }
        let channel = self.channel(from, to);
        let mut message = lock(&channel.messages).spare.pop().unwrap_or_default();
        let held = message.capacity();
        message.clear();
        message.extend_from_slice(data);
        channel.bytes.fetch_add((message.capacity() - held) as u64, Ordering::Relaxed);
        lock(&channel.messages).queue.push_back((tag, message));
        channel.sent.fetch_add(1, Ordering::Release);
        channel.bell.ring();
        Ok(())
    }

    fn recv(&self, to: Rank, from: Rank, tag: u32, into: &mut [u8]) -> Result<(), ExecutorError> {
        let channel = self.channel(from, to);
        let message = loop {
            let sent = channel.sent.load(Ordering::Acquire);
            if let Some(message) = lock(&channel.messages).take(tag) {
                break message;
            }
            let more = || channel.sent.load(Ordering::Acquire) != sent;
            channel.bell.wait_until(|| more() || self.aborted.load(Ordering::Acquire));
            if !more() {
                return Err(ExecutorError::PeerFailed { rank: to });
            }
        };
        if message.len() != into.len() {
            let problem = format!("waits for {} bytes from rank {from}, which sent {}", into.len(), message.len());
            return Err(ExecutorError::Transport { rank: to, problem });
        }
        into.copy_from_slice(&message);
        lock(&channel.messages).spare.push(message);
        Ok(())
    }

    fn sum(&self, rank: Rank, axis: Axis, op: Collective, data: &mut [f32]) -> Result<(), ExecutorError> {
        let mine = OfferedVector { start: data.as_mut_ptr().cast(), elems: data.len(), width: 4 };
        let body = |group: &CollectiveGroup, shared: &Vectors, me: usize| {
            // SAFETY: all ranks of the group are between the same two barriers, each with its own `me`; vectors are of floats.
            unsafe { shared.sum_chunk(me) };
            match op {
                Collective::AllReduce => {
                    group.gate.pass(None);
                    // SAFETY: as above.
                    unsafe { shared.copy_chunks(me) };
                }
                Collective::ReduceScatter => {}
                Collective::AllGather | Collective::AllToAll | Collective::Rotate => {
                    unreachable!("exchanges are not sums")
                }
            }
        };
        // SAFETY: as said in `body`.
        unsafe { self.join(rank, axis, op, mine, body) }
    }

    fn exchange(
        &self,
        rank: Rank,
        axis: Axis,
        op: Collective,
        width: usize,
        data: &mut [u8],
    ) -> Result<(), ExecutorError> {
        let mine = OfferedVector { start: data.as_mut_ptr(), elems: data.len() / width, width };
        // SAFETY: all ranks of the group are between the same two barriers, each with its own `me`.
        let body = |_: &CollectiveGroup, shared: &Vectors, me: usize| unsafe {
            match op {
                Collective::AllGather => shared.copy_chunks(me),
                Collective::AllToAll => shared.swap_chunks(me),
                Collective::Rotate => shared.rotate_chunk(me),
                Collective::AllReduce | Collective::ReduceScatter => unreachable!("sums are not exchanges"),
            }
        };
        // SAFETY: as said in `body`.
        unsafe { self.join(rank, axis, op, mine, body) }
    }

    fn barrier(&self, rank: Rank) -> Result<(), ExecutorError> {
        self.meet(&self.world, rank)
    }

    fn staging_bytes(&self, rank: Rank) -> u64 {
        (0..self.ranks()).map(|to| self.channel(rank, to).bytes.load(Ordering::Relaxed)).sum()
    }

    fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
        self.world.bell.ring();
        self.channels.iter().for_each(|channel| channel.bell.ring());
        self.groups.iter().flatten().for_each(|group| group.gate.bell.ring());
    }
}

/// Messages from one rank to another, in order, and the memory of those already read.
#[derive(Default)]
struct Channel {
    messages: Mutex<Messages>,
    /// Messages sent so far.
    sent: AtomicUsize,
    bytes: AtomicU64,
    bell: Bell,
}

#[derive(Default)]
struct Messages {
    /// With their lines.
    queue: VecDeque<(u32, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Messages {
    /// The first message of a line, if one has come.
    fn take(&mut self, tag: u32) -> Option<Vec<u8>> {
        let at = self.queue.iter().position(|(line, _)| *line == tag)?;
        self.queue.remove(at).map(|(_, message)| message)
    }
}
