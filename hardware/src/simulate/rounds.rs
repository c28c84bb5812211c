//! Rounds: the part of a lane's list that a pipeline repeats from microbatch to microbatch, played more often than it is listed.
//!
//! In: a program of a few microbatches, its durations, and of how many microbatches a round is. Out: [`Rounds`], by which
//! [`super::step_time`] and [`Rounds::busy`] answer for any number of rounds more.
//!
//! Once the warm-up is over, a schedule does the same for every microbatch (GPipe, which has no such time, apart): the instructions
//! of two rounds in a row serve microbatches a round apart, are on the same streams, take as long, meet the same ranks and wait for
//! the same instructions as far back. What is repeated is the second of two such rounds, so that its waits lie in the round or in
//! the one before it.
//!
//! Invariant: a program with `more` rounds has the step time of the program that lists them all (tests over every schedule).

use super::{Durations, LaneDurations};
use crate::program::{Instr, Kind, Program, Stream};
use crate::units::Nanos;

/// A list of which one part is repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Repeated {
    /// Where the part begins.
    from: usize,
    /// Instructions of it.
    len: usize,
    /// How often it is repeated, beyond the once that is listed.
    more: usize,
}

impl Repeated {
    /// The listed instruction that is played at a position.
    pub(super) fn listed(&self, at: usize) -> usize {
        match at.checked_sub(self.from + self.len) {
            None => at,
            Some(beyond) if beyond < self.len * self.more => self.from + beyond % self.len,
            Some(_) => at - self.len * self.more,
        }
    }

    /// Instructions that are played of so many that are listed.
    pub(super) fn played(&self, listed: usize) -> usize {
        listed + self.len * self.more
    }
}

/// What each lane of a program repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rounds {
    /// By lane.
    pub(super) lanes: Vec<Repeated>,
}

impl Rounds {
    /// The rounds of a program whose lanes all have them, `microbatches` each, repeated `more` times.
    pub fn of(program: &Program, durations: &Durations, microbatches: usize, more: usize) -> Option<Rounds> {
        let round = |lane: &LaneDurations| {
            let (from, len) = round(&program.roles[lane.role].instrs, &lane.nanos, microbatches)?;
            Some(Repeated { from, len, more })
        };
        Some(Rounds { lanes: durations.lanes.iter().map(round).collect::<Option<_>>()? })
    }

    /// Lanes that play what is listed, and nothing more often.
    pub fn none(durations: &Durations) -> Rounds {
        Rounds { lanes: vec![Repeated::default(); durations.lanes.len()] }
    }

    /// How long each lane's instructions on a stream take together.
    pub fn busy(&self, program: &Program, durations: &Durations, stream: Stream) -> Vec<Nanos> {
        let busy = |(lane, repeated): (&LaneDurations, &Repeated)| {
            let round = repeated.from..repeated.from + repeated.len;
            let all = program.roles[lane.role].instrs.iter().zip(&lane.nanos).enumerate();
            let times = |at| 1 + if round.contains(&at) { repeated.more as u64 } else { 0 };
            let on_it = all.filter(|(_, (instr, _))| instr.stream == stream);
            Nanos(on_it.map(|(at, (_, nanos))| times(at) * nanos).sum())
        };
        durations.lanes.iter().zip(&self.lanes).map(busy).collect()
    }
}

/// Where the second of two equal rounds begins, and its length.
fn round(instrs: &[Instr], nanos: &[u64], microbatches: usize) -> Option<(usize, usize)> {
    let last = instrs.iter().filter_map(|instr| instr.microbatch).max()? as usize;
    let middle = (last / 2) as u32;
    let served = middle..middle + microbatches as u32;
    let len = instrs.iter().filter(|instr| instr.microbatch.is_some_and(|mb| served.contains(&mb))).count();
    // The longest run of instructions that look like those a round later.
    let (mut run, mut longest) = (0, (0, 0));
    for at in 0..instrs.len().saturating_sub(len) {
        let same = nanos[at] == nanos[at + len] && alike(instrs, (at, at + len), microbatches);
        run = if same { run + 1 } else { 0 };
        longest = longest.max((run, at + 1));
    }
    let (run, from) = longest;
    // What comes after is put off by the rounds between: it may wait for what lies among them, for nothing that lies before.
    let after = instrs.iter().skip(from + len).flat_map(|instr| &instr.waits);
    (len > 0 && run >= len && after.min().is_none_or(|&wait| wait as usize >= from - run)).then_some((from, len))
}

/// Whether a simulation sees two instructions as one, that take as long, where the later one serves so many microbatches after. Warm-up
/// and drain do the same for each microbatch too, but so many of their instructions serve more microbatches than a round does.
fn alike(instrs: &[Instr], (at, later): (usize, usize), microbatches: usize) -> bool {
    let [(a, from), (b, to)] = [at, later].map(|at| (&instrs[at], at));
    if a.microbatch.map(|served| served + microbatches as u32) != b.microbatch {
        return false;
    }
    let back = |(&wait, &other): (&u32, &u32)| from - wait as usize == to - other as usize;
    let meets = match (&a.kind, &b.kind) {
        (Kind::Recv { from: peer, tag, .. }, Kind::Recv { from: other, tag: line, .. })
        | (Kind::Send { to: peer, tag, .. }, Kind::Send { to: other, tag: line, .. }) => (peer, tag) == (other, line),
        (Kind::Collective { op, axis, .. }, Kind::Collective { op: other, axis: over, .. }) => {
            (op, axis) == (other, over)
        }
        (first, second) => std::mem::discriminant(first) == std::mem::discriminant(second),
    };
    a.stream == b.stream && meets && a.waits.len() == b.waits.len() && a.waits.iter().zip(&b.waits).all(back)
}
