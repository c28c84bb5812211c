//! Times of what a lane has played: of all of it, or of as much as may still be waited for.
//!
//! In: spans, in order. Out: their ends, by position.
//!
//! Invariant: of what is asked for, nothing is forgotten.

use crate::program::Instr;
use crate::trace::Span;
use crate::units::Nanos;

/// The latest spans of a lane.
pub(super) struct Spans {
    /// All of them, or the latest so many, each at its position modulo their number.
    pub(super) last: Vec<Span>,
    /// How many there were.
    played: usize,
    /// One less than how many are kept, a power of two.
    mask: usize,
    /// When the last to end of all ended.
    pub(super) latest: Nanos,
}

impl Spans {
    /// Keeps everything.
    pub(super) fn all(capacity: usize) -> Spans {
        Spans { last: Vec::with_capacity(capacity), played: 0, mask: usize::MAX, latest: Nanos(0) }
    }

    /// Keeps what instructions may wait for.
    pub(super) fn as_far_as_waits(instrs: &[Instr]) -> Spans {
        let back = |(at, instr): (usize, &Instr)| instr.waits.iter().map(|&wait| at - wait as usize).max();
        let farthest = instrs.iter().enumerate().filter_map(back).max().unwrap_or(0);
        Spans { mask: (farthest + 1).next_power_of_two() - 1, ..Spans::all(0) }
    }

    /// How many there were.
    pub(super) fn len(&self) -> usize {
        self.played
    }

    /// When what was played at a position ended, in nanoseconds.
    pub(super) fn end(&self, at: usize) -> u64 {
        self.last[at & self.mask].end.0
    }

    pub(super) fn push(&mut self, span: Span) {
        self.latest = self.latest.max(span.end);
        match self.last.get_mut(self.played & self.mask) {
            Some(forgotten) => *forgotten = span,
            None => self.last.push(span),
        }
        self.played += 1;
    }
}
