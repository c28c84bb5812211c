//! Collectives straight through the ranks' memory.
//!
//! In: where each rank's vector lies. Out: the same vectors, summed or exchanged.
//!
//! Invariant: ranks only touch what each method says, so that between two barriers each stretch has one writer or only readers.

use std::ops::Range;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use meshwright_hardware::program::Collective;

use super::gate::Gate;

/// Bytes of a cache line: chunks of an all-reduce are multiples of it.
const LINE: usize = 64;
/// Floats summed at a time, so that the running sum stays in the first-level cache.
const BLOCK: usize = 2048;

/// A rank's vector in a collective.
pub(super) struct OfferedVector {
    pub start: *mut u8,
    pub elems: usize,
    /// Bytes of an element.
    pub width: usize,
}

/// The ranks of a collective: where each one's vector lies, and how many elements it has.
pub(super) struct CollectiveGroup {
    pub gate: Gate,
    offered: Vec<(AtomicPtr<u8>, AtomicUsize)>,
}

impl CollectiveGroup {
    pub fn new(members: usize) -> CollectiveGroup {
        let offered = (0..members).map(|_| Default::default()).collect();
        CollectiveGroup { gate: Gate::new(members), offered }
    }

    pub fn offer(&self, me: usize, mine: &OfferedVector) {
        let (start, elems) = &self.offered[me];
        start.store(mine.start, Ordering::Release);
        elems.store(mine.elems, Ordering::Release);
    }

    /// All vectors, once all are there; every rank finds the same mistakes.
    pub fn vectors(&self, op: Collective, mine: &OfferedVector) -> Result<Vectors, String> {
        let (members, &OfferedVector { elems, width, .. }) = (self.offered.len(), mine);
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
pub(super) struct Vectors {
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
    pub unsafe fn sum_chunk(&self, me: usize) {
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
    pub unsafe fn rotate_chunk(&self, me: usize) {
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
    pub unsafe fn copy_chunks(&self, me: usize) {
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
    pub unsafe fn swap_chunks(&self, me: usize) {
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
