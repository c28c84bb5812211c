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
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use meshwright_hardware::mesh::{Axis, Mesh, Rank};
use meshwright_hardware::program::Collective;

use super::Transport;
use crate::error::ExecutorError;

/// How long a waiting rank looks before it sleeps: about what a sleep and a wake-up cost.
const SPIN: Duration = Duration::from_micros(50);
/// Bytes of a cache line: chunks of an all-reduce are multiples of it.
const LINE: usize = 64;
/// Floats summed at a time, so that the running sum stays in the first-level cache.
const BLOCK: usize = 2048;

/// A mesh of ranks that are threads of this process.
pub struct Threads {
    mesh: Mesh,
    /// Groups of each axis in [`Axis::ALL`], by first rank.
    groups: [Vec<Group>; Axis::ALL.len()],
    world: Gate,
    /// `from · ranks + to`.
    channels: Vec<Channel>,
    aborted: AtomicBool,
}

impl Threads {
    /// Communication for all ranks of `mesh`.
    pub fn new(mesh: Mesh) -> Threads {
        let ranks = mesh.ranks();
        let groups = Axis::ALL.map(|axis| (0..ranks).map(|_| Group::new(mesh.size(axis))).collect());
        let channels = (0..ranks * ranks).map(|_| Channel::default()).collect();
        Threads { mesh, groups, world: Gate::new(ranks), channels, aborted: AtomicBool::new(false) }
    }

    fn channel(&self, from: Rank, to: Rank) -> &Channel {
        &self.channels[from * self.mesh.ranks() + to]
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
        mine: Offer,
        body: impl FnOnce(&Group, &Vectors, usize),
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
        let mine = Offer { start: data.as_mut_ptr().cast(), elems: data.len(), width: 4 };
        let body = |group: &Group, shared: &Vectors, me: usize| {
            // SAFETY: all ranks of the group are between the same two barriers, each with its own `me`; vectors are of floats.
            unsafe { shared.sum_chunk(me) };
            if op == Collective::AllReduce {
                group.gate.pass(None);
                // SAFETY: as above.
                unsafe { shared.copy_chunks(me) };
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
        let mine = Offer { start: data.as_mut_ptr(), elems: data.len() / width, width };
        // SAFETY: all ranks of the group are between the same two barriers, each with its own `me`.
        let body = |_: &Group, shared: &Vectors, me: usize| unsafe {
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
        (0..self.mesh.ranks()).map(|to| self.channel(rank, to).bytes.load(Ordering::Relaxed)).sum()
    }

    fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
        self.world.bell.ring();
        self.channels.iter().for_each(|channel| channel.bell.ring());
        self.groups.iter().flatten().for_each(|group| group.gate.bell.ring());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Where threads wait for something to become true.
#[derive(Default)]
struct Bell {
    lock: Mutex<()>,
    ringing: Condvar,
}

impl Bell {
    /// To be called after what others wait for became true.
    fn ring(&self) {
        // Whoever found it untrue either has not taken the lock yet and will look again, or sleeps by now.
        drop(lock(&self.lock));
        self.ringing.notify_all();
    }

    /// Looks for a while, giving way to others on a crowded machine, then sleeps until rung.
    fn wait_until(&self, ready: impl Fn() -> bool) {
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..16 {
                if ready() {
                    return;
                }
                std::hint::spin_loop();
            }
            thread::yield_now();
        }
        let mut guard = lock(&self.lock);
        while !ready() {
            guard = self.ringing.wait(guard).unwrap_or_else(|e| e.into_inner());
        }
    }
}

/// A barrier that can be given up.
struct Gate {
    members: u64,
    /// `round · ROUND + members that have arrived in it`.
    state: AtomicU64,
    bell: Bell,
}

const ROUND: u64 = 1 << 16;

impl Gate {
    fn new(members: usize) -> Gate {
        Gate { members: members as u64, state: AtomicU64::new(0), bell: Bell::default() }
    }

    /// Waits for all members, or until `aborted`: then false, and the gate stays shut for the others too.
    fn pass(&self, aborted: Option<&AtomicBool>) -> bool {
        let arrive = |state: u64| {
            let last = state % ROUND + 1 == self.members;
            Some(if last { (state / ROUND + 1) * ROUND } else { state + 1 })
        };
        let before = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, arrive).expect("always some");
        if before % ROUND + 1 == self.members {
            self.bell.ring();
            return true;
        }
        let open = |state: u64| state / ROUND != before / ROUND;
        let gone = || aborted.is_some_and(|aborted| aborted.load(Ordering::Acquire));
        self.bell.wait_until(|| open(self.state.load(Ordering::Acquire)) || gone());
        // To leave is to take one's arrival back, unless the last member came meanwhile.
        let leave = |state: u64| if open(state) { None } else { Some(state - 1) };
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, leave).is_err()
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

/// A rank's vector in a collective.
struct Offer {
    start: *mut u8,
    elems: usize,
    /// Bytes of an element.
    width: usize,
}

/// The ranks of a collective: where each one's vector lies, and how many elements it has.
struct Group {
    gate: Gate,
    offered: Vec<(AtomicPtr<u8>, AtomicUsize)>,
}

impl Group {
    fn new(members: usize) -> Group {
        let offered = (0..members).map(|_| Default::default()).collect();
        Group { gate: Gate::new(members), offered }
    }

    fn offer(&self, me: usize, mine: &Offer) {
        let (start, elems) = &self.offered[me];
        start.store(mine.start, Ordering::Release);
        elems.store(mine.elems, Ordering::Release);
    }

    /// All vectors, once all are there; every rank finds the same mistakes.
    fn vectors(&self, op: Collective, mine: &Offer) -> Result<Vectors, String> {
        let (members, &Offer { elems, width, .. }) = (self.offered.len(), mine);
        let lengths: Vec<usize> = self.offered.iter().map(|(_, elems)| elems.load(Ordering::Acquire)).collect();
        if lengths.iter().any(|&length| length != elems) {
            return Err(format!("a collective over vectors of {lengths:?} elements"));
        }
        let chunk = if op.shares() { elems / members } else { elems.div_ceil(members).next_multiple_of(LINE / width) };
        if op.shares() && chunk * members != elems {
            return Err(format!("{elems} elements do not divide over {members} ranks"));
        }
        let starts = self.offered.iter().map(|(start, _)| start.load(Ordering::Acquire)).collect();
        Ok(Vectors { starts, bytes: width * elems, chunk: width * chunk })
    }
}

/// The vectors of a collective, cut alike into one chunk a rank; all in bytes.
struct Vectors {
    starts: Vec<*mut u8>,
    bytes: usize,
    chunk: usize,
}

impl Vectors {
    fn chunk(&self, owner: usize) -> Range<usize> {
        (owner * self.chunk).min(self.bytes)..((owner + 1) * self.chunk).min(self.bytes)
    }

    /// The chunk `me` of rank `me` becomes the sum over all ranks, added in rank order.
    ///
    /// # Safety
    /// Vectors must be of floats, and meanwhile nobody else may touch the chunk `me` of any.
    unsafe fn sum_chunk(&self, me: usize) {
        let (first, end) = (self.chunk(me).start / 4, self.chunk(me).end / 4);
        let start = |rank: usize| self.starts[rank].cast::<f32>();
        let mut sum = [0.0; BLOCK];
        for from in (first..end).step_by(BLOCK) {
            let n = BLOCK.min(end - from);
            // SAFETY: within the vectors, and ours alone.
            let block = |rank: usize| unsafe { std::slice::from_raw_parts(start(rank).add(from), n) };
            let sum = &mut sum[..n];
            sum.copy_from_slice(block(0));
            for rank in 1..self.starts.len() {
                sum.iter_mut().zip(block(rank)).for_each(|(sum, x)| *sum += x);
            }
            // SAFETY: as above; the blocks' borrows have ended.
            unsafe { std::ptr::copy_nonoverlapping(sum.as_ptr(), start(me).add(from), n) };
        }
    }

    /// The chunk `me` of every rank moves on to the rank after it.
    ///
    /// # Safety
    /// Meanwhile nobody else may touch the chunk `me` of any vector.
    unsafe fn rotate_chunk(&self, me: usize) {
        let chunk = self.chunk(me);
        let mut last = [0; 4 * BLOCK];
        for from in chunk.clone().step_by(last.len()) {
            let n = last.len().min(chunk.end - from);
            let ends = self.starts.len() - 1;
            // SAFETY: within the vectors, which are different ranks', and ours alone.
            unsafe {
                std::ptr::copy_nonoverlapping(self.starts[ends].add(from), last.as_mut_ptr(), n);
                for rank in (1..=ends).rev() {
                    std::ptr::copy_nonoverlapping(self.starts[rank - 1].add(from), self.starts[rank].add(from), n);
                }
                std::ptr::copy_nonoverlapping(last.as_ptr(), self.starts[0].add(from), n);
            }
        }
    }

    /// Rank `me` takes every other chunk from its owner.
    ///
    /// # Safety
    /// Meanwhile nobody may write a chunk that its rank owns, or touch those of `me` that others own.
    unsafe fn copy_chunks(&self, me: usize) {
        for owner in (0..self.starts.len()).filter(|&owner| owner != me) {
            let chunk = self.chunk(owner);
            // SAFETY: within the vectors, which are different ranks'.
            unsafe {
                let from = self.starts[owner].add(chunk.start);
                std::ptr::copy_nonoverlapping(from, self.starts[me].add(chunk.start), chunk.len());
            }
        }
    }

    /// Rank `me` swaps chunks with all ranks after it: its chunk for them against theirs for it.
    ///
    /// # Safety
    /// Meanwhile others may only do the same.
    unsafe fn swap_chunks(&self, me: usize) {
        for other in me + 1..self.starts.len() {
            // SAFETY: within the vectors; the lower rank of a pair alone touches the two chunks.
            unsafe {
                let mine = self.starts[me].add(self.chunk(other).start);
                let theirs = self.starts[other].add(self.chunk(me).start);
                std::ptr::swap_nonoverlapping(mine, theirs, self.chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `body` on every rank; results in rank order.
    fn on_all<T: Send>(threads: &Threads, body: impl Fn(Rank) -> T + Sync) -> Vec<T> {
        let ranks = threads.mesh.ranks();
        thread::scope(|scope| {
            let handles: Vec<_> = (0..ranks)
                .map(|rank| {
                    scope.spawn({
                        let body = &body;
                        move || body(rank)
                    })
                })
                .collect();
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        })
    }

    fn line(dp: usize) -> Threads {
        Threads::new(Mesh { dp, pp: 1, tp: 1, ..Mesh::ONE })
    }

    /// Different for every rank and element; sums of them round.
    fn value(rank: Rank, i: usize) -> f32 {
        ((rank * 7919 + i * 104_729) % 1009) as f32 / 1009.0
    }

    fn summed(ranks: usize, i: usize) -> f32 {
        (1..ranks).fold(value(0, i), |sum, rank| sum + value(rank, i))
    }

    fn exchanged(ranks: usize, op: Collective, elems: usize) -> Vec<Vec<f32>> {
        let threads = line(ranks);
        on_all(&threads, |rank| {
            let mut data: Vec<f32> = (0..elems).map(|i| value(rank, i)).collect();
            if op.sums() {
                threads.sum(rank, Axis::Dp, op, &mut data).unwrap();
            } else {
                threads.exchange(rank, Axis::Dp, op, 4, bytemuck::cast_slice_mut(&mut data)).unwrap();
            }
            data
        })
    }

    #[test]
    fn narrow_elements_stay_whole() {
        // Shards of an odd number of halves, which no word is.
        let (ranks, chunk) = (3, 5);
        let threads = line(ranks);
        let number = |rank: usize, i: usize| (100 * rank + i) as u16;
        let exchange = |op| {
            on_all(&threads, |rank| {
                let mut data: Vec<u16> = (0..ranks * chunk).map(|i| number(rank, i)).collect();
                threads.exchange(rank, Axis::Dp, op, 2, bytemuck::cast_slice_mut(&mut data)).unwrap();
                data
            })
        };
        for got in exchange(Collective::AllGather) {
            assert!((0..ranks * chunk).all(|i| got[i] == number(i / chunk, i)));
        }
        for (rank, got) in exchange(Collective::AllToAll).into_iter().enumerate() {
            assert!((0..ranks * chunk).all(|i| got[i] == number(i / chunk, rank * chunk + i % chunk)));
        }
        for (rank, got) in exchange(Collective::Rotate).into_iter().enumerate() {
            assert!((0..ranks * chunk).all(|i| got[i] == number((rank + ranks - 1) % ranks, i)));
        }
    }

    #[test]
    fn all_reduce_sums_in_rank_order_on_every_rank() {
        for (ranks, elems) in [(1, 3), (2, 1), (2, 10_000), (3, 4099), (4, 65)] {
            let want: Vec<f32> = (0..elems).map(|i| summed(ranks, i)).collect();
            for got in exchanged(ranks, Collective::AllReduce, elems) {
                assert_eq!(got, want, "{ranks} ranks, {elems} elements");
            }
        }
    }

    #[test]
    fn shards_are_summed_gathered_and_exchanged() {
        let (ranks, chunk) = (3, 2500);
        let elems = ranks * chunk;
        for (rank, got) in exchanged(ranks, Collective::ReduceScatter, elems).into_iter().enumerate() {
            let mine = rank * chunk..(rank + 1) * chunk;
            assert!(mine.clone().all(|i| got[i] == summed(ranks, i)));
        }
        for got in exchanged(ranks, Collective::AllGather, elems) {
            assert!((0..elems).all(|i| got[i] == value(i / chunk, i)));
        }
        for (rank, got) in exchanged(ranks, Collective::Rotate, elems + 1).into_iter().enumerate() {
            assert!((0..elems + 1).all(|i| got[i] == value((rank + ranks - 1) % ranks, i)));
        }
        for (rank, got) in exchanged(ranks, Collective::AllToAll, elems).into_iter().enumerate() {
            assert!((0..elems).all(|i| got[i] == value(i / chunk, rank * chunk + i % chunk)));
        }
    }

    #[test]
    fn groups_of_each_axis_are_apart() {
        let mesh = Mesh { dp: 2, pp: 1, tp: 2, ..Mesh::ONE };
        let threads = Threads::new(mesh);
        let got = on_all(&threads, |rank| {
            [Axis::Tp, Axis::Dp].map(|axis| {
                let mut data = [rank as f32];
                threads.sum(rank, axis, Collective::AllReduce, &mut data).unwrap();
                data[0]
            })
        });
        assert_eq!(got, [[1.0, 2.0], [1.0, 4.0], [5.0, 2.0], [5.0, 4.0]]);
    }

    #[test]
    fn messages_arrive_in_order_and_their_memory_is_reused() {
        let threads = line(2);
        let got = on_all(&threads, |rank| {
            let mut got = Vec::new();
            for i in 0..200 {
                let mut data = [i as u8; 256];
                if rank == 0 {
                    threads.send(0, 1, 0, &data).unwrap();
                    threads.recv(0, 1, 0, &mut data).unwrap();
                } else {
                    threads.recv(1, 0, 0, &mut data).unwrap();
                    threads.send(1, 0, 0, &[!data[0]; 256]).unwrap();
                }
                got.push(data[255]);
            }
            got
        });
        assert!((0..200).all(|i| got[1][i] == i as u8 && got[0][i] == !(i as u8)));
        assert_eq!([0, 1].map(|rank| threads.staging_bytes(rank)), [256, 256]);
    }

    #[test]
    fn ranks_that_wait_for_one_that_failed_are_told() {
        let threads = line(3);
        let errors = on_all(&threads, |rank| {
            let mut data = [0.0; 8];
            match rank {
                0 => threads.recv(0, 2, 0, &mut [0; 32]).unwrap_err(),
                1 => threads.sum(1, Axis::Dp, Collective::AllReduce, &mut data).unwrap_err(),
                _ => {
                    thread::sleep(Duration::from_millis(5));
                    threads.abort();
                    threads.barrier(2).unwrap_err()
                }
            }
        });
        for (rank, error) in errors.into_iter().enumerate() {
            assert!(matches!(error, ExecutorError::PeerFailed { rank: who } if who == rank), "{error}");
        }
    }

    #[test]
    fn sizes_that_do_not_match_are_errors_on_every_rank() {
        let threads = line(2);
        let errors = on_all(&threads, |rank| {
            let mut data = vec![0.0; 4 + rank];
            threads.sum(rank, Axis::Dp, Collective::AllReduce, &mut data).unwrap_err().to_string()
        });
        assert!(errors.iter().all(|error| error.contains("[4, 5]")), "{errors:?}");
        threads.send(0, 1, 0, &[1; 3]).unwrap();
        let error = threads.recv(1, 0, 0, &mut [0; 2]).unwrap_err().to_string();
        assert!(error.contains("waits for 2") && error.contains("sent 3"), "{error}");
    }
}
