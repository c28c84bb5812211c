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
    kept: Option<Vec<KeptSpan>>,
    spans: Vec<Span>,
}

/// What is known of an instruction's span.
#[derive(Clone, Copy, Debug)]
enum KeptSpan {
    /// It ran between these.
    Between(Moment, Moment),
    /// Nothing is done: it takes no time, after what comes before.
    Nothing,
}

/// When an instruction began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// By the host's clock.
    Host(Instant),
    /// When the device passed its mark of this number.
    Mark(usize),
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
        if !self.is_on() {
            return instruction();
        }
        let begin = Moment::Host(Instant::now());
        let outcome = instruction();
        self.between(begin, Moment::Host(Instant::now()));
        outcome
    }

    /// When a block begins that is asked for now: where the one before it ends, if the device has not been waited for since.
    /// Else it is idle, and the host's work and the way to the device are part of the block, as is the wait for another rank
    /// that shares the device.
    pub fn begin(&mut self) -> Moment {
        self.last_mark().map_or_else(|| Moment::Host(Instant::now()), |mark| *mark)
    }

    /// Keeps a span.
    pub fn between(&mut self, begin: Moment, end: Moment) {
        self.keep(KeptSpan::Between(begin, end));
    }

    /// The host has waited for the device, so the last block took until now.
    pub fn waited(&mut self) {
        if let Some(mark) = self.last_mark() {
            *mark = Moment::Host(Instant::now());
        }
    }

    /// The mark with which the last instruction that did something ended, if it did with one.
    fn last_mark(&mut self) -> Option<&mut Moment> {
        let last = self.kept.iter_mut().flatten().rev().find(|kept| !matches!(kept, KeptSpan::Nothing))?;
        if let KeptSpan::Between(_, end @ Moment::Mark(_)) = last { Some(end) } else { None }
    }

    /// Keeps the span of an instruction that does nothing.
    pub fn nothing(&mut self) {
        self.keep(KeptSpan::Nothing);
    }

    /// Turns what was kept into spans, as marks were passed at these moments. A device's time may lag the host's a little: no
    /// span begins before the one before it ends, nor ends before it begins.
    pub fn settle(&mut self, marks: Vec<Instant>) {
        let epoch = self.epoch;
        let time = |moment| {
            let moment = match moment {
                Moment::Host(moment) => moment,
                Moment::Mark(number) => marks[number],
            };
            Nanos(moment.saturating_duration_since(epoch).as_nanos() as u64)
        };
        for kept in self.kept.iter_mut().flat_map(std::mem::take) {
            let before = self.spans.last().map(|span| span.end).unwrap_or_default();
            let span = match kept {
                KeptSpan::Between(begin, end) => Span { start: time(begin), end: time(end) },
                KeptSpan::Nothing => Span { start: before, end: before },
            };
            let start = span.start.max(before);
            self.spans.push(Span { start, end: span.end.max(start) });
        }
    }

    /// The spans of settled instructions, in order, from the epoch on.
    pub fn into_spans(self) -> Vec<Span> {
        self.spans
    }

    fn keep(&mut self, kept: KeptSpan) {
        if let Some(all) = &mut self.kept {
            all.push(kept);
        }
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
    fn a_mark_that_lags_behind_the_host_ends_no_span_before_it_begins() {
        let epoch = Instant::now();
        let mut clock = Clock::new(epoch);
        clock.between(Moment::Host(epoch + Duration::from_millis(5)), Moment::Mark(0));
        clock.settle(vec![epoch + Duration::from_millis(4)]);
        let spans = clock.into_spans();
        assert_eq!((spans[0].start, spans[0].end), (Nanos(5_000_000), Nanos(5_000_000)));
    }

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
        assert!(matches!(clock.begin(), Moment::Host(_)));
        clock.between(Moment::Host(at(10)), Moment::Mark(0));
        clock.nothing();
        assert_eq!(clock.begin(), Moment::Mark(0));
        let begin = clock.begin();
        clock.between(begin, Moment::Mark(1));
        // A mark that lags behind the host's own clock.
        clock.time(|| std::thread::sleep(Duration::from_millis(1)));
        assert!(matches!(clock.begin(), Moment::Host(_)));
        clock.settle(vec![at(30), at(60)]);
        assert_eq!(in_ms(clock), [(10, 30), (30, 30), (30, 60), (60, 60)]);
    }

    #[test]
    fn a_block_that_the_host_waits_for_lasts_until_it_knows() {
        let epoch = Instant::now();
        let mut clock = Clock::new(epoch);
        clock.between(Moment::Host(epoch), Moment::Mark(0));
        std::thread::sleep(Duration::from_millis(5));
        clock.waited();
        // Nothing has been asked for since.
        clock.waited();
        assert!(matches!(clock.begin(), Moment::Host(_)));
        clock.settle(vec![epoch + Duration::from_millis(1)]);
        let spans = in_ms(clock);
        assert!(spans.len() == 1 && spans[0].1 >= 5, "{spans:?}");
    }

    fn in_ms(clock: Clock) -> Vec<(u64, u64)> {
        let spans = clock.into_spans().into_iter();
        spans.map(|span| (span.start.0 / 1_000_000, span.end.0 / 1_000_000)).collect()
    }

    #[test]
    fn a_clock_that_is_off_keeps_nothing() {
        let mut clock = Clock::off(Instant::now());
        assert_eq!(clock.time(|| 7), 7);
        clock.settle(Vec::new());
        assert!(!clock.is_on() && clock.into_spans().is_empty());
    }
}
