//! Collectives and messages, timed.
//!
//! In: the ranks of a calibration, at the same time. Out: a timing a class and size.
//!
//! Invariant: what only moves elements is of the format that is asked for; sums are of floats, as of gradients.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::program::Collective;

use super::Bench;
use super::timing::REPEATS;
use crate::device::Access;
use crate::error::ExecutorError;
use crate::transport::{Transport, collective};

/// Kinds of collectives.
pub(super) const COLLECTIVES: usize = 5;
/// Sizes of messages and collectives, bytes.
pub(super) const MESSAGES: [usize; 4] = [1 << 12, 1 << 16, 1 << 20, 1 << 24];
/// Those up to so many bytes are timed however late it is.
const SMALL: usize = MESSAGES[1];

impl Bench<'_> {
    /// Times collectives in groups of every size, and messages between pairs of ranks.
    /// At the `latest` share of the budget of all, leaves out what is large.
    pub(super) fn communication(&mut self, budget: Duration, latest: f64) -> Result<(), ExecutorError> {
        let (shared, rank, width) = (self.shared, self.rank, self.shared.config.elem.bytes() as usize);
        let kinds: [_; COLLECTIVES] = [
            Collective::AllReduce,
            Collective::ReduceScatter,
            Collective::AllGather,
            Collective::AllToAll,
            Collective::Rotate,
        ];
        let mut late = false;
        for (size, group) in &shared.groups {
            for (kind, bytes) in kinds.into_iter().flat_map(|kind| MESSAGES.map(|bytes| (kind, bytes))) {
                late = late || bytes > SMALL && self.late(latest)?;
                if late && bytes > SMALL {
                    continue;
                }
                // Sums are of gradients, most of all.
                let (buffer, width) = if kind.sums() { (0, 4) } else { (self.floats(), width) };
                let elems = (bytes / width).next_multiple_of(*size);
                let mut places = self.places(buffer, elems);
                let times = self.times(budget, &[], |bench, _| {
                    let place = places.next().expect("endless");
                    collective(group, bench.device.as_mut(), place, rank, (Axis::Tp, kind))
                })?;
                let (class, bytes, size) = (kind.class(), (width * elems) as f64, *size as f64);
                self.keep(class, vec![size, bytes], bytes, times);
            }
        }
        if shared.config.ranks > 1 {
            for bytes in MESSAGES {
                late = late || bytes > SMALL && self.late(latest)?;
                if !late || bytes <= SMALL {
                    self.message(bytes, budget)?;
                }
            }
        }
        Ok(())
    }

    /// Even ranks send to the next; then, when all messages are there, odd ranks receive.
    fn message(&mut self, bytes: usize, budget: Duration) -> Result<(), ExecutorError> {
        let (shared, rank) = (self.shared, self.rank);
        let (sends, receives) = (rank.is_multiple_of(2) && rank + 1 < shared.config.ranks, !rank.is_multiple_of(2));
        let (mut times, mut places) =
            (Vec::new(), self.places(self.floats(), bytes / shared.config.elem.bytes() as usize));
        let start = Instant::now();
        // The first message is staged in fresh memory, later ones in the same.
        for repeat in 0..=REPEATS {
            shared.world.barrier(rank)?;
            let place = places.next().expect("endless");
            let began = Instant::now();
            if sends {
                let mut send = |bytes: &mut [u8]| shared.world.send(rank, rank + 1, 0, bytes);
                self.device.with_bytes(place, Access::Read, &mut send)?;
            }
            let mut seconds = began.elapsed().as_secs_f64();
            shared.world.barrier(rank)?;
            let began = Instant::now();
            if receives {
                let mut recv = |bytes: &mut [u8]| shared.world.recv(rank, rank - 1, 0, bytes);
                self.device.with_bytes(place, Access::Write, &mut recv)?;
            }
            seconds += began.elapsed().as_secs_f64();
            times.push(seconds);
            if rank == 0 {
                shared.repeats.store(usize::from(repeat < 2 || start.elapsed() < budget), Ordering::Release);
            }
            shared.world.barrier(rank)?;
            if shared.repeats.load(Ordering::Acquire) == 0 {
                break;
            }
        }
        let times = times.split_off(1);
        for (class, does) in [("send", sends), ("recv", receives)] {
            self.keep(class, vec![bytes as f64], bytes as f64, if does { times.clone() } else { Vec::new() });
        }
        Ok(())
    }
}
