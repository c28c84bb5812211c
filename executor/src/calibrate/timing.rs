//! A call timed, by all ranks at once.
//!
//! In: a call, how long that may take, and what it finds in caches. Out: seconds, of every repeat.
//!
//! Invariant: all ranks make as many calls, and begin each repeat together.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Bench, OVERTIME};
use crate::device::{Access, Region};
use crate::error::ExecutorError;
use crate::transport::Transport;

/// A repeat lasts at least so long, so that reading the clock does not count; and no longer where it need not, so that what is to
/// be in caches fits the smallest.
const REPEAT: Duration = Duration::from_micros(50);
/// As [`REPEAT`] where ops are queued: long enough that the wait at its end does not count.
const QUEUED_REPEAT: Duration = Duration::from_millis(5);
/// Repeats of which the median is taken, where time allows.
pub(super) const REPEATS: usize = 31;
/// Repeats on CUDA at least: a single call there tells how long it takes to ask for it.
const CUDA_REPEATS: usize = 3;
/// Bytes.
const CACHE_LINE: usize = 64;

impl Bench<'_> {
    /// Seconds of `call`, which all ranks make at once, and which is told its number; as many repeats as the budget allows. Where
    /// it allows none, the call that was to tell how many is the figure. `fresh` are what calls find in a processor's cache, by
    /// number, over and over.
    pub(super) fn times(
        &mut self,
        budget: Duration,
        fresh: &[Vec<Region>],
        mut call: impl FnMut(&mut Self, usize) -> Result<(), ExecutorError>,
    ) -> Result<Vec<f64>, ExecutorError> {
        let (shared, began) = (self.shared, Instant::now());
        call(self, 0)?;
        self.device.sync()?;
        shared.world.barrier(self.rank)?;
        let mut once = Duration::MAX;
        for number in 1..=2 {
            let start = Instant::now();
            call(self, number)?;
            self.device.sync()?;
            once = once.min(start.elapsed()).max(Duration::from_nanos(50));
        }
        let mut times = Vec::new();
        let least = if shared.config.device.entry().captures { CUDA_REPEATS } else { 0 };
        if self.rank == 0 {
            let repeat = if shared.config.device.entry().shares_cores { REPEAT } else { QUEUED_REPEAT };
            let calls = repeat.as_nanos().div_ceil(once.as_nanos()) as usize;
            let repeats = (budget.as_nanos() / (calls as u128 * once.as_nanos())) as usize;
            shared.calls.store(calls, Ordering::Release);
            shared.repeats.store(repeats.clamp(least, REPEATS), Ordering::Release);
        }
        shared.world.barrier(self.rank)?;
        let (calls, repeats) = (shared.calls.load(Ordering::Acquire), shared.repeats.load(Ordering::Acquire));
        if repeats == 0 {
            times.push(once.as_secs_f64());
        }
        // The first rounds on CUDA launch kernel by kernel, and capture what later ones replay.
        let warm_up = if shared.config.device.entry().captures { 2 } else { 0 };
        let mut number = 0;
        for round in 0..repeats + if repeats == 0 { 0 } else { warm_up } {
            // On CUDA rounds are alike, so that one is kept as a graph; elsewhere operands go on from place to place, so that
            // caches do not keep them.
            if warm_up > 0 {
                number = 0;
            }
            shared.world.barrier(self.rank)?;
            if round >= warm_up + shared.repeats.load(Ordering::Acquire) {
                break;
            }
            if shared.config.device.entry().shares_cores {
                let places = (number..number + calls.min(fresh.len())).flat_map(|call| &fresh[call % fresh.len()]);
                places.copied().try_for_each(|region| self.touch(region))?;
            }
            let start = Instant::now();
            let clock = self.device.mark()?.is_some();
            for _ in 0..calls {
                call(self, number)?;
                number += 1;
            }
            // Where the device keeps time, what the host does to ask it does not count: in a step it is done meanwhile.
            self.device.mark()?;
            let elapsed = match self.device.marks()?[..] {
                [begin, end] if clock => end.duration_since(begin),
                _ => start.elapsed(),
            };
            if round >= warm_up {
                times.push(elapsed.as_secs_f64() / calls as f64);
            }
            // Where ranks take turns, most of the time goes into waiting for each other.
            if self.rank == 0 && times.len() >= least.max(1) && began.elapsed() > budget.mul_f64(OVERTIME) {
                shared.repeats.store(times.len(), Ordering::Release);
            }
        }
        Ok(times)
    }

    /// Has a processor read a region, a word of every line of its caches.
    fn touch(&mut self, region: Region) -> Result<(), ExecutorError> {
        self.device.with_bytes(region, Access::Read, &mut |bytes| {
            std::hint::black_box(bytes.iter().step_by(CACHE_LINE).fold(0, |all, byte| all ^ byte));
            Ok(())
        })
    }
}

/// The median of some times.
pub(super) fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
