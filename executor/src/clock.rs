//! When each instruction of a rank ran.
//!
//! In: a rank's instructions, one after another. Out: a span each, and from all ranks' spans a trace of the step.
//!
//! Invariant: all ranks of a run read the same monotonic clock, so their spans can be compared.

use std::time::Instant;

use meshwright_hardware::trace::{Lane, Origin, Span, Trace};
use meshwright_hardware::units::Nanos;

/// Times a rank's instructions from a moment that all ranks share.
#[derive(Clone, Debug)]
pub struct Clock {
    epoch: Instant,
    spans: Vec<Span>,
}

impl Clock {
    /// A clock that counts from `epoch`.
    pub fn new(epoch: Instant) -> Self {
        Clock { epoch, spans: Vec::new() }
    }

    /// Runs an instruction and keeps its span.
    pub fn time<T>(&mut self, instruction: impl FnOnce() -> T) -> T {
        let start = self.now();
        let outcome = instruction();
        self.spans.push(Span { start, end: self.now() });
        outcome
    }

    /// The spans so far, in order, from the epoch on.
    pub fn into_spans(self) -> Vec<Span> {
        self.spans
    }

    fn now(&self) -> Nanos {
        Nanos(self.epoch.elapsed().as_nanos() as u64)
    }
}

/// The measured trace of a step: time starts with the first instruction of any rank.
pub fn trace(mut lanes: Vec<Lane>) -> Trace {
    let first = lanes.iter().flat_map(|lane| &lane.spans).map(|span| span.start).min().unwrap_or_default();
    for span in lanes.iter_mut().flat_map(|lane| &mut lane.spans) {
        *span = Span { start: span.start - first, end: span.end - first };
    }
    Trace { origin: Origin::Measured, lanes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_step_starts_at_its_first_instruction_on_any_rank() {
        let epoch = Instant::now();
        let lane = |rank, wait: u64| {
            let mut clock = Clock::new(epoch);
            std::thread::sleep(Duration::from_millis(wait));
            clock.time(|| std::thread::sleep(Duration::from_millis(2)));
            clock.time(|| ());
            Lane { rank, role: 0, spans: clock.into_spans() }
        };
        let trace = trace(vec![lane(0, 3), lane(1, 0)]);
        assert_eq!(trace.lanes[0].spans[0].start, Nanos(0));
        assert!(trace.lanes[0].spans[0].duration() >= Nanos(2_000_000));
        assert!(trace.lanes[1].spans[0].start >= trace.lanes[0].spans[1].end);
        assert!(trace.lanes.iter().all(|lane| lane.spans[1].start >= lane.spans[0].end));
    }
}
