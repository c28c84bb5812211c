//! What a measured trace says of each instruction alone: its duration without what it waited for others.
//!
//! In: a program and the measured trace of every rank. Out: [`Durations`] that the simulator replays.
//!
//! Invariant: a kernel's duration is its span; a receive's counts from when the message had been sent, a collective's from
//! when the last of its group had come.

use std::collections::HashMap;

use crate::mesh::Axis;
use crate::program::{Kind, Program};
use crate::simulate::{Durations, Host, LaneDurations};
use crate::trace::{Lane, Trace};

/// The durations of a measured trace that has a lane for every rank.
pub fn durations(program: &Program, measured: &Trace) -> Durations {
    let partners = Partners::of(program, measured);
    let lanes = measured.lanes.iter().map(|lane| LaneDurations {
        rank: lane.rank,
        role: lane.role,
        ranks: 1,
        overlap: true,
        contention: 0.0,
        beside: 0.0,
        host: Host::default(),
        nanos: partners.alone(program, lane),
    });
    Durations { lanes: lanes.collect() }
}

/// When partners were ready.
struct Partners {
    /// By sender, receiver and line: the ends of sends, in order.
    sends: HashMap<(usize, usize, u32), Vec<u64>>,
    /// By axis and first rank of the group: the latest start of each collective.
    meetings: HashMap<(Axis, usize), Vec<u64>>,
}

impl Partners {
    fn of(program: &Program, measured: &Trace) -> Partners {
        let mut all = Partners { sends: HashMap::new(), meetings: HashMap::new() };
        for lane in &measured.lanes {
            let mut met: HashMap<Axis, usize> = HashMap::new();
            for (instr, span) in program.roles[lane.role].instrs.iter().zip(&lane.spans) {
                match &instr.kind {
                    Kind::Send { to, tag, .. } => {
                        let key = (lane.rank, peer(program, lane, *to), *tag);
                        all.sends.entry(key).or_default().push(span.end.0);
                    }
                    Kind::Collective { axis, .. } => {
                        let ordinal = met.entry(*axis).or_default();
                        let group = all.meetings.entry((*axis, first(program, lane, *axis))).or_default();
                        if group.len() <= *ordinal {
                            group.push(0);
                        }
                        group[*ordinal] = group[*ordinal].max(span.start.0);
                        *ordinal += 1;
                    }
                    Kind::Load { .. }
                    | Kind::Run { .. }
                    | Kind::Recv { .. }
                    | Kind::Move { .. }
                    | Kind::Free { .. } => {}
                }
            }
        }
        all
    }

    fn alone(&self, program: &Program, lane: &Lane) -> Vec<u64> {
        let mut received: HashMap<(usize, u32), usize> = HashMap::new();
        let mut met: HashMap<Axis, usize> = HashMap::new();
        let mut one = |(instr, span): (&crate::program::Instr, &crate::trace::Span)| {
            let from = match &instr.kind {
                Kind::Recv { from, tag, .. } => {
                    let sender = peer(program, lane, *from);
                    let ordinal = received.entry((sender, *tag)).or_default();
                    *ordinal += 1;
                    self.sends.get(&(sender, lane.rank, *tag)).and_then(|ends| ends.get(*ordinal - 1)).copied()
                }
                Kind::Collective { axis, .. } => {
                    let ordinal = met.entry(*axis).or_default();
                    *ordinal += 1;
                    Some(self.meetings[&(*axis, first(program, lane, *axis))][*ordinal - 1])
                }
                Kind::Load { .. } | Kind::Run { .. } | Kind::Send { .. } | Kind::Move { .. } | Kind::Free { .. } => {
                    None
                }
            };
            span.end.0.saturating_sub(span.start.0.max(from.unwrap_or(0)))
        };
        program.roles[lane.role].instrs.iter().zip(&lane.spans).map(&mut one).collect()
    }
}

/// The rank of another stage with the same other coordinates.
fn peer(program: &Program, lane: &Lane, stage: usize) -> usize {
    program.mesh.peer(program.mesh.coord_of(lane.rank), stage)
}

/// The first rank of a lane's group on an axis.
fn first(program: &Program, lane: &Lane, axis: Axis) -> usize {
    program.mesh.group(lane.rank, axis)[0]
}
