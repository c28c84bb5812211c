//! When each instruction of a rank ran.
//!
//! In: a rank's instructions, one after another; a device's marks, where it keeps time itself. Out: a span each, and from all
//! ranks' spans a trace of the step.
//!
//! Invariant: all ranks of a run read the same monotonic clock, so their spans can be compared.

use std::time::Instant;

use meshwright_hardware::trace::{Lane, Origin, Span, Trace};
use meshwright_hardware::units::Nanos;

/// Times a rank's instructions from a moment that all ranks share.
#[derive(Clone, Debug)]
pub struct Clock {
    epoch: Instant,
    /// None if nothing is timed.
    kept: Option<Vec<Kept>>,
    spans: Vec<Span>,
}

/// What is known of an instruction's span.
#[derive(Clone, Copy, Debug)]
enum Kept {
    Known(Span),
    /// Between two of the device's marks.
    Marks(usize, usize),
    /// Nothing is done: it takes no time, after what comes before.
    Nothing,
}

impl Clock {
    /// A clock that counts from `epoch`.
    pub fn new(epoch: Instant) -> Self {
        Clock { epoch, kept: Some(Vec::new()), spans: Vec::new() }
    }

    /// One that keeps nothing, for steps that nobody looks into.
    pub fn off(epoch: Instant) -> Self {
        Clock { epoch, kept: None, spans: Vec::new() }
    }

    /// Whether it keeps spans.
    pub fn is_on(&self) -> bool {
        self.kept.is_some()
    }

    /// Runs an instruction and keeps its span.
    pub fn time<T>(&mut self, instruction: impl FnOnce() -> T) -> T {
        let Some(_) = self.kept else { return instruction() };
        let start = self.since(Instant::now());
        let outcome = instruction();
        let end = self.since(Instant::now());
        self.keep(Kept::Known(Span { start, end }));
        outcome
    }

    /// Keeps a span between two of the device's marks.
    pub fn between(&mut self, begin: usize, end: usize) {
        self.keep(Kept::Marks(begin, end));
    }

    /// Keeps the span of an instruction that does nothing.
    pub fn nothing(&mut self) {
        self.keep(Kept::Nothing);
    }

    /// The mark with which the last instruction that did something ended, if it did with one.
    pub fn last_mark(&self) -> Option<usize> {
        let last = self.kept.iter().flatten().rev().find(|kept| !matches!(kept, Kept::Nothing))?;
        if let Kept::Marks(_, end) = last { Some(*end) } else { None }
    }

    /// Turns what was kept into spans, as marks were passed at these moments. A device's time may lag the host's a little: no
    /// span begins before the one before it ends.
    pub fn settle(&mut self, marks: Vec<Instant>) {
        let marks: Vec<Nanos> = marks.into_iter().map(|mark| self.since(mark)).collect();
        for kept in self.kept.iter_mut().flat_map(std::mem::take) {
            let before = self.spans.last().map(|span| span.end).unwrap_or_default();
            let span = match kept {
                Kept::Known(span) => span,
                Kept::Marks(begin, end) => Span { start: marks[begin], end: marks[end] },
                Kept::Nothing => Span { start: before, end: before },
            };
            self.spans.push(Span { start: span.start.max(before), end: span.end.max(before) });
        }
    }

    /// The spans of settled instructions, in order, from the epoch on.
    pub fn into_spans(self) -> Vec<Span> {
        self.spans
    }

    fn keep(&mut self, kept: Kept) {
        if let Some(all) = &mut self.kept {
            all.push(kept);
        }
    }

    fn since(&self, moment: Instant) -> Nanos {
        Nanos(moment.saturating_duration_since(self.epoch).as_nanos() as u64)
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
            clock.settle(Vec::new());
            Lane { rank, role: 0, spans: clock.into_spans() }
        };
        let trace = trace(vec![lane(0, 3), lane(1, 0)]);
        assert_eq!(trace.lanes[0].spans[0].start, Nanos(0));
        assert!(trace.lanes[0].spans[0].duration() >= Nanos(2_000_000));
        assert!(trace.lanes[1].spans[0].start >= trace.lanes[0].spans[1].end);
        assert!(trace.lanes.iter().all(|lane| lane.spans[1].start >= lane.spans[0].end));
    }

    #[test]
    fn marks_tell_when_blocks_ran_and_order_is_kept() {
        let epoch = Instant::now();
        let at = |ms: u64| epoch + Duration::from_millis(ms);
        let mut clock = Clock::new(epoch);
        assert_eq!(clock.last_mark(), None);
        clock.between(0, 1);
        clock.nothing();
        assert_eq!(clock.last_mark(), Some(1));
        clock.between(1, 2);
        // A mark that lags behind the host's own clock.
        clock.time(|| std::thread::sleep(Duration::from_millis(1)));
        assert_eq!(clock.last_mark(), None);
        clock.settle(vec![at(10), at(30), at(60)]);
        let spans = clock.into_spans();
        let ms: Vec<(u64, u64)> = spans.iter().map(|span| (span.start.0 / 1_000_000, span.end.0 / 1_000_000)).collect();
        assert_eq!(ms, [(10, 30), (30, 30), (30, 60), (60, 60)]);
    }

    #[test]
    fn a_clock_that_is_off_keeps_nothing() {
        let mut clock = Clock::off(Instant::now());
        assert_eq!(clock.time(|| 7), 7);
        clock.settle(Vec::new());
        assert!(!clock.is_on() && clock.into_spans().is_empty());
    }
}
