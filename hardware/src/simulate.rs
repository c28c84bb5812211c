//! Discrete-event simulation: durations of instructions to the times at which they run.
//!
//! In: a verified program and a duration of each instruction. Out: a [`Trace`].
//!
//! A lane is a rank, or one rank standing for all that do the same on the same devices. Each of its streams runs in list order; an
//! instruction starts when the one before it on its stream and those it waits for have ended, a receive ends after its
//! message was sent, and a collective proceeds when all lanes of its group have reached it. A lane's host issues instructions in
//! list order too: a block begins no sooner than its first kernel is issued and ends no sooner than its last one is.
//!
//! Invariant: times are the longest paths of that graph, so they depend on nothing but program and durations; the cost is
//! linear in instructions.

mod rounds;
mod spans;

use rustc_hash::FxHashMap;

use crate::mesh::{Axis, Coord, Rank};
use crate::program::{Instr, Kind, Program, Stream};
use crate::trace::{Lane, Origin, Span, Trace};
use crate::units::Nanos;

use rounds::Repeated;
pub use rounds::Rounds;
use spans::Spans;

/// Number of axes.
const AXES: usize = Axis::ALL.len();

/// A duration for every instruction of the lanes to simulate.
#[derive(Clone, Debug, PartialEq)]
pub struct Durations {
    /// One a role and pool, or one a rank.
    pub lanes: Vec<LaneDurations>,
}

/// One lane's durations.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneDurations {
    /// The rank, or the first of those it stands for.
    pub rank: Rank,
    /// Its role.
    pub role: usize,
    /// How many ranks it stands for.
    pub ranks: usize,
    /// Nanoseconds, one an instruction.
    pub nanos: Vec<u64>,
    /// Whether its device runs its streams at once.
    pub overlap: bool,
    /// What compute takes longer, of its own time, while a collective runs beside it and takes units and memory bandwidth
    /// from it; 0 where durations were measured so.
    pub contention: f64,
    /// Of a collective's time beside compute, what it takes from compute wherever it runs: 0 where durations were measured so.
    pub beside: f64,
    /// The host that issues its instructions.
    pub host: Host,
}

/// A host that issues a lane's instructions one after another, ahead of the device where it can.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// Nanoseconds before it issues the first.
    pub starts: u64,
    /// Nanoseconds that it takes for each; none where it takes no time.
    pub nanos: Vec<u64>,
}

/// Durations that do not fit the program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulateError {
    /// A lane has another number of durations than its role has instructions.
    #[error("lane {lane} has {given} durations for {wanted} instructions of role {role}")]
    Length {
        /// Which lane.
        lane: usize,
        /// Its role.
        role: usize,
        /// Durations given.
        given: usize,
        /// Instructions there are.
        wanted: usize,
    },
    /// Lanes wait for each other, or for a lane that is not there.
    #[error("lane {lane} (role {role}) never gets past instruction {instr}: {what} has no partner among the lanes")]
    Stuck {
        /// Which lane.
        lane: usize,
        /// Its role.
        role: usize,
        /// The instruction it stops at.
        instr: usize,
        /// What that is.
        what: String,
    },
}

/// Runs the program on paper. Without `overlap` all streams of a lane are one, whatever its device can do.
pub fn simulate(
    program: &Program,
    durations: &Durations,
    overlap: bool,
    origin: Origin,
) -> Result<Trace, SimulateError> {
    let mut simulation = Simulation::new(program, durations, overlap)?;
    simulation.run()?;
    Ok(simulation.trace(origin))
}

/// The length of a step in which each lane repeats its rounds, streams overlapping where their device lets them.
pub fn step_time(program: &Program, durations: &Durations, rounds: &Rounds) -> Result<Nanos, SimulateError> {
    let mut simulation = Simulation::new(program, durations, true)?;
    for (lane, &repeated) in simulation.lanes.iter_mut().zip(&rounds.lanes) {
        lane.repeated = repeated;
        lane.spans = Spans::as_far_as_waits(&program.roles[lane.role].instrs);
    }
    simulation.run()?;
    Ok(simulation.lanes.iter().map(|lane| lane.spans.latest).max().unwrap_or_default())
}

/// What a lane has done.
struct State<'a> {
    coord: Coord,
    role: usize,
    nanos: &'a [u64],
    repeated: Repeated,
    overlap: bool,
    contention: f64,
    share: f64,
    host: &'a [u64],
    /// When the host has issued all so far.
    issued: u64,
    /// Of what was played so far, which is what is listed unless something is repeated.
    spans: Spans,
    /// By instruction that is listed: the line that its message takes; none where it has no partner among the lanes.
    lines: Vec<u32>,
    /// End of the last instruction of each stream.
    free: [u64; Stream::COUNT],
    /// Start and end of the latest collective beside compute.
    beside: (u64, u64),
    /// Collectives passed on each axis.
    met: [usize; AXES],
    /// Whether it has reached the meeting it stands at.
    arrived: bool,
}

/// Arrivals of one group at one of its collectives: how many came, and when the last was ready.
#[derive(Clone, Copy, Default)]
struct Meeting {
    came: usize,
    start: u64,
}

/// Messages from one lane to another: ends of sends, in order, and receives so far.
struct MessageLine {
    to: usize,
    sent: Vec<u64>,
    received: usize,
}

/// No line.
const NONE: u32 = u32::MAX;

struct Simulation<'a> {
    program: &'a Program,
    lanes: Vec<State<'a>>,
    lines: Vec<MessageLine>,
    /// By axis and first lane of the group: its meetings.
    meetings: [Vec<Vec<Meeting>>; AXES],
    /// By axis and lane: the lanes of its group.
    groups: [Vec<Vec<usize>>; AXES],
}

impl MessageLine {
    /// When the next message was sent, if it was.
    fn next(&mut self) -> Option<u64> {
        let sent = *self.sent.get(self.received)?;
        self.received += 1;
        Some(sent)
    }
}

/// Gives each message of each lane the line that it takes, by its sender, the stage it goes to and its tag.
fn lines(program: &Program, lanes: &mut [State], lane_of: &[Option<usize>]) -> Vec<MessageLine> {
    let (mut all, mut known) = (Vec::new(), FxHashMap::default());
    for (lane, state) in lanes.iter_mut().enumerate() {
        let partner = |stage: usize| lane_of[program.mesh.peer(state.coord, stage)];
        let mut line = |from: usize, to: usize, stage: usize, tag: u32| {
            *known.entry((from, stage, tag)).or_insert_with(|| {
                all.push(MessageLine { to, sent: Vec::new(), received: 0 });
                all.len() as u32 - 1
            })
        };
        let of = |instr: &Instr| match instr.kind {
            Kind::Send { to, tag, .. } => partner(to).map(|receiver| line(lane, receiver, to, tag)),
            Kind::Recv { from, tag, .. } => partner(from).map(|sender| line(sender, lane, state.coord.pp, tag)),
            _ => None,
        };
        state.lines = program.roles[state.role].instrs.iter().map(of).map(|line| line.unwrap_or(NONE)).collect();
    }
    all
}

impl<'a> Simulation<'a> {
    fn new(program: &'a Program, durations: &'a Durations, overlap: bool) -> Result<Self, SimulateError> {
        let mesh = program.mesh;
        let mut lane_of = vec![None; mesh.ranks()];
        let mut lanes = Vec::new();
        for (lane, given) in durations.lanes.iter().enumerate() {
            let wanted = program.roles[given.role].instrs.len();
            if given.nanos.len() != wanted {
                return Err(SimulateError::Length { lane, role: given.role, given: given.nanos.len(), wanted });
            }
            lane_of[given.rank] = Some(lane);
            lanes.push(State {
                coord: mesh.coord_of(given.rank),
                role: given.role,
                nanos: &given.nanos,
                repeated: Repeated::default(),
                overlap: overlap && given.overlap,
                contention: given.contention,
                share: given.beside,
                host: &given.host.nanos,
                issued: given.host.starts,
                spans: Spans::all(wanted),
                lines: Vec::new(),
                free: [0; Stream::COUNT],
                beside: (0, 0),
                met: [0; AXES],
                arrived: false,
            });
        }
        let group = |lane: &State, axis| -> Vec<usize> {
            mesh.group(mesh.rank_of(lane.coord), axis).into_iter().filter_map(|rank| lane_of[rank]).collect()
        };
        let groups = Axis::ALL.map(|axis| lanes.iter().map(|lane| group(lane, axis)).collect());
        let meetings = Axis::ALL.map(|_| vec![Vec::new(); lanes.len()]);
        let lines = lines(program, &mut lanes, &lane_of);
        Ok(Simulation { program, lanes, lines, meetings, groups })
    }

    /// Runs a lane until it must wait for another; lanes it may have freed become ready.
    fn advance(&mut self, lane: usize, ready: &mut Vec<usize>) {
        let program = self.program;
        let instrs = &program.roles[self.lanes[lane].role].instrs;
        loop {
            let state = &self.lanes[lane];
            let at = state.spans.len();
            let listed = state.repeated.listed(at);
            let Some(instr) = instrs.get(listed) else { return };
            let stream = if state.overlap { instr.stream as usize } else { 0 };
            let waited = instr.waits.iter().map(|&wait| state.spans.end(at - (listed - wait as usize)));
            let begun = state.issued;
            let issued = begun + state.host.get(listed).copied().unwrap_or(0);
            let start = waited.fold(state.free[stream].max(begun), u64::max);
            let duration = state.nanos[listed];
            let end = match &instr.kind {
                Kind::Recv { .. } => {
                    let line = state.lines[listed];
                    let Some(sent) = self.lines.get_mut(line as usize).and_then(MessageLine::next) else { return };
                    start.max(sent) + duration
                }
                Kind::Collective { axis, .. } => {
                    let Some(common) = self.meet(lane, *axis, start, ready) else { return };
                    common + duration
                }
                Kind::Send { .. } => {
                    if let Some(line) = self.lines.get_mut(state.lines[listed] as usize) {
                        line.sent.push(start + duration);
                        ready.push(line.to);
                    }
                    start + duration
                }
                Kind::Run { .. } => (start + self.contended(lane, start, duration)).max(issued),
                Kind::Load { .. } | Kind::Move { .. } | Kind::Free { .. } => start + duration,
            };
            let state = &mut self.lanes[lane];
            state.issued = issued;
            if stream > 0 && matches!(instr.kind, Kind::Collective { .. }) {
                state.beside = (end - duration, end);
                state.free[Stream::Compute as usize] += (duration as f64 * state.share).round() as u64;
            }
            state.free[stream] = end;
            state.spans.push(Span { start: Nanos(start), end: Nanos(end) });
        }
    }

    /// How long compute takes that starts beside the latest collective known: instructions stand in the order in which
    /// they are issued, so what runs beside it was issued before.
    fn contended(&self, lane: usize, start: u64, duration: u64) -> u64 {
        let State { beside: (from, to), contention, .. } = self.lanes[lane];
        if contention == 0.0 || to <= start {
            return duration;
        }
        let alone = from.saturating_sub(start).min(duration);
        let slowed = (duration - alone) as f64 * (1.0 + contention);
        let together = slowed.min((to - start.max(from)) as f64);
        duration + (together * contention / (1.0 + contention)).round() as u64
    }

    /// When all lanes of the group have reached this lane's next collective on the axis, if they have.
    fn meet(&mut self, lane: usize, axis: Axis, start: u64, ready: &mut Vec<usize>) -> Option<u64> {
        let group = &self.groups[axis as usize][lane];
        if group.len() == 1 {
            return Some(start);
        }
        let ordinal = self.lanes[lane].met[axis as usize];
        let meetings = &mut self.meetings[axis as usize][group[0]];
        if meetings.len() <= ordinal {
            meetings.resize(ordinal + 1, Meeting::default());
        }
        let meeting = &mut meetings[ordinal];
        if !self.lanes[lane].arrived {
            meeting.came += 1;
            meeting.start = meeting.start.max(start);
            self.lanes[lane].arrived = true;
            if meeting.came == group.len() {
                ready.extend(group.iter().filter(|&&other| other != lane));
            }
        }
        if meeting.came < group.len() {
            return None;
        }
        self.lanes[lane].arrived = false;
        self.lanes[lane].met[axis as usize] += 1;
        Some(meeting.start)
    }

    /// Plays all lanes to their ends.
    fn run(&mut self) -> Result<(), SimulateError> {
        let mut ready: Vec<usize> = (0..self.lanes.len()).rev().collect();
        while let Some(lane) = ready.pop() {
            self.advance(lane, &mut ready);
        }
        for (lane, state) in self.lanes.iter().enumerate() {
            let (instrs, at) = (&self.program.roles[state.role].instrs, state.spans.len());
            if at < state.repeated.played(instrs.len()) {
                let instr = state.repeated.listed(at);
                let what = instrs[instr].name(self.program).to_owned();
                return Err(SimulateError::Stuck { lane, role: state.role, instr, what });
            }
        }
        Ok(())
    }

    fn trace(self, origin: Origin) -> Trace {
        let mesh = self.program.mesh;
        let lanes = self.lanes.into_iter();
        let lanes =
            lanes.map(|state| Lane { rank: mesh.rank_of(state.coord), role: state.role, spans: state.spans.last });
        Trace { origin, lanes: lanes.collect() }
    }
}

#[cfg(test)]
mod tests;
