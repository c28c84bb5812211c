//! Where a step's time goes: every nanosecond of every stage has one cause.
//!
//! In: a program, its durations, the predicted trace. Out: [`StageTime`] a stage.
//!
//! What stands on a stage's compute queue counts in full. Where that queue waits, its host may have issued nothing yet; else the
//! communication that runs beside is exposed; where none runs, the stage waits for others.
//!
//! Invariant: a stage's causes sum to the step, to the nanosecond.

use std::collections::HashMap;

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::program::{Instr, Kind, Phase, Program, Stream};
use meshwright_hardware::simulate::{Durations, Host};
use meshwright_hardware::trace::{Lane, Span, Trace};
use serde::{Serialize, Serializer};

/// What time can go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Forward pass.
    Forward,
    /// Forward ops run again.
    Recompute,
    /// Backward pass.
    Backward,
    /// Gradients of weights, where they are apart.
    Weights,
    /// Zeroing, norms and updates.
    Optimizer,
    /// What compute takes longer beside collectives.
    Contention,
    /// Waiting for the host to issue kernels.
    Issue,
    /// Exposed communication of tensor parallelism.
    Tp,
    /// Of context parallelism.
    Cp,
    /// Of expert parallelism.
    Ep,
    /// Of data parallelism, of weights and of experts.
    Data,
    /// Of pipeline parallelism: messages under way.
    Pp,
    /// Of moves to and from the host's memory.
    Host,
    /// Loading of data.
    Load,
    /// Waiting for other stages.
    Bubble,
    /// The step's share of the meetings of sites.
    Sites,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Cause; 16] = [
        Cause::Forward,
        Cause::Recompute,
        Cause::Backward,
        Cause::Weights,
        Cause::Optimizer,
        Cause::Contention,
        Cause::Issue,
        Cause::Tp,
        Cause::Cp,
        Cause::Ep,
        Cause::Data,
        Cause::Pp,
        Cause::Host,
        Cause::Load,
        Cause::Bubble,
        Cause::Sites,
    ];

    /// Name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Forward => "forward",
            Cause::Recompute => "recompute",
            Cause::Backward => "backward",
            Cause::Weights => "weights",
            Cause::Optimizer => "optimizer",
            Cause::Contention => "contention",
            Cause::Issue => "issue",
            Cause::Tp => "tp",
            Cause::Cp => "cp",
            Cause::Ep => "ep",
            Cause::Data => "data",
            Cause::Pp => "pp",
            Cause::Host => "host",
            Cause::Load => "load",
            Cause::Bubble => "bubble",
            Cause::Sites => "sites",
        }
    }

    /// Whether it is communication that nothing hides.
    pub fn is_exposed(self) -> bool {
        matches!(self, Cause::Tp | Cause::Cp | Cause::Ep | Cause::Data | Cause::Pp | Cause::Host | Cause::Sites)
    }

    fn of_axis(axis: Axis) -> Cause {
        match axis {
            Axis::Tp | Axis::Etp => Cause::Tp,
            Axis::Cp => Cause::Cp,
            Axis::Ep => Cause::Ep,
            Axis::Dp | Axis::Data | Axis::Edp | Axis::Shard | Axis::Eshard | Axis::Replica => Cause::Data,
            Axis::Pp => Cause::Pp,
        }
    }

    fn of_phase(phase: Phase) -> Cause {
        match phase {
            Phase::Forward => Cause::Forward,
            Phase::Recompute => Cause::Recompute,
            Phase::Backward => Cause::Backward,
            Phase::Weights => Cause::Weights,
            Phase::Optimizer => Cause::Optimizer,
        }
    }

    fn of(kind: &Kind) -> Cause {
        match kind {
            Kind::Load { .. } => Cause::Load,
            Kind::Run { phase, .. } => Cause::of_phase(*phase),
            Kind::Send { .. } | Kind::Recv { .. } => Cause::Pp,
            Kind::Collective { axis, .. } => Cause::of_axis(*axis),
            Kind::Move { .. } | Kind::Free { .. } => Cause::Host,
        }
    }
}

/// A stage's step by causes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageTime {
    /// Nanoseconds, in the order of [`Cause::ALL`].
    nanos: [u64; Cause::ALL.len()],
}

impl Serialize for StageTime {
    /// Seconds by cause; JSON's keys are `forward_s`, `recompute_s`, ….
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(Cause::ALL.iter().map(|&cause| (format!("{}_s", cause.name()), self.seconds(cause))))
    }
}

impl StageTime {
    /// What goes to a cause.
    pub fn nanos(&self, cause: Cause) -> u64 {
        self.nanos[cause as usize]
    }

    /// The same in seconds.
    pub fn seconds(&self, cause: Cause) -> f64 {
        self.nanos(cause) as f64 * 1e-9
    }

    /// All causes: the step.
    pub fn total(&self) -> u64 {
        self.nanos.iter().sum()
    }

    /// All but waiting for others.
    pub fn busy(&self) -> u64 {
        self.total() - self.nanos(Cause::Bubble)
    }

    pub(super) fn add(&mut self, cause: Cause, nanos: u64) {
        self.nanos[cause as usize] += nanos;
    }

    /// The mean over stages, by cause, in seconds.
    pub fn mean(stages: &[StageTime], cause: Cause) -> f64 {
        stages.iter().map(|stage| stage.seconds(cause)).sum::<f64>() / stages.len().max(1) as f64
    }
}

/// Starts and ends of sends by sender, receiver and line, in order.
type Sent = HashMap<(usize, usize, u32), Vec<Span>>;

/// The causes of every lane's time. `overlap` as it was simulated.
pub fn split(program: &Program, durations: &Durations, trace: &Trace, overlap: bool) -> Vec<StageTime> {
    let mut sent = Sent::new();
    for lane in &trace.lanes {
        for (instr, span) in program.roles[lane.role].instrs.iter().zip(&lane.spans) {
            if let Kind::Send { to, tag, .. } = instr.kind {
                sent.entry((lane.role, to, tag)).or_default().push(*span);
            }
        }
    }
    let step = trace.step_time().0;
    let lanes = trace.lanes.iter().zip(&durations.lanes);
    let split = lanes.map(|(lane, alone)| {
        let instrs = &program.roles[lane.role].instrs;
        let time = StageTime::default();
        Splitter { instrs, lane, alone: &alone.nanos, issued: issued(instrs, &alone.host), overlap, sent: &sent, time }
            .run(step)
    });
    split.collect()
}

/// When the host begins to issue each instruction, and when it is through with all.
fn issued(instrs: &[Instr], host: &Host) -> Vec<u64> {
    let mut clock = host.starts;
    let mut all = vec![clock];
    all.extend((0..instrs.len()).map(|at| {
        clock += host.nanos.get(at).copied().unwrap_or(0);
        clock
    }));
    all
}

struct Splitter<'a> {
    instrs: &'a [Instr],
    lane: &'a Lane,
    alone: &'a [u64],
    issued: Vec<u64>,
    overlap: bool,
    sent: &'a Sent,
    time: StageTime,
}

impl Splitter<'_> {
    fn run(mut self, step: u64) -> StageTime {
        let (mut beside, queue): (Vec<usize>, Vec<usize>) = (0..self.instrs.len()).partition(|&at| self.is_beside(at));
        beside.sort_by_key(|&at| self.lane.spans[at].start);
        let (mut clock, mut next) = (0, 0);
        let mut received: HashMap<(usize, u32), usize> = HashMap::new();
        for at in queue {
            let span = self.lane.spans[at];
            let held_up = self.issued[at].clamp(clock, span.start.0.max(clock));
            self.time.add(Cause::Issue, held_up - clock);
            self.gap(held_up, span.start.0, &beside, &mut next);
            self.queued(at, span, &mut received);
            clock = span.end.0;
        }
        self.gap(clock, step, &beside, &mut next);
        self.time
    }

    fn is_beside(&self, at: usize) -> bool {
        self.overlap && self.instrs[at].stream != Stream::Compute
    }

    /// The queue waits: for what runs beside, or for others.
    fn gap(&mut self, from: u64, to: u64, beside: &[usize], next: &mut usize) {
        let mut clock = from;
        while clock < to {
            let Some(&at) = beside.get(*next) else { break };
            let span = self.lane.spans[at];
            if span.end.0 <= clock {
                *next += 1;
                continue;
            }
            if span.start.0 >= to {
                break;
            }
            let (start, end) = (span.start.0.max(clock), span.end.0.min(to));
            self.time.add(Cause::Bubble, start - clock);
            self.time.add(Cause::of(&self.instrs[at].kind), end - start);
            clock = end;
        }
        self.time.add(Cause::Bubble, to.saturating_sub(clock));
    }

    /// What stands on the queue: its own time, and what came before it could begin.
    fn queued(&mut self, at: usize, span: Span, received: &mut HashMap<(usize, u32), usize>) {
        let (kind, whole) = (&self.instrs[at].kind, span.duration().0);
        let own = self.alone[at].min(whole);
        self.time.add(Cause::of(kind), own);
        let rest = whole - own;
        match kind {
            Kind::Run { .. } => {
                let late = self.issued[at + 1].saturating_sub(span.start.0 + own);
                let waits = if span.end.0 == self.issued[at + 1] { late.min(rest) } else { 0 };
                self.time.add(Cause::Issue, waits);
                self.time.add(Cause::Contention, rest - waits);
            }
            // A message's way is its sender's time: what of it falls into the wait is exposed.
            Kind::Recv { from, tag, .. } => {
                let ordinal = received.entry((*from, *tag)).or_default();
                let sent = self.sent.get(&(*from, self.lane.role, *tag)).and_then(|all| all.get(*ordinal));
                *ordinal += 1;
                let (start, end) = (span.start.0, span.start.0 + rest);
                let on_its_way = sent.map_or(0, |s| s.end.0.min(end).saturating_sub(s.start.0.max(start)));
                self.time.add(Cause::Pp, on_its_way);
                self.time.add(Cause::Bubble, rest - on_its_way);
            }
            Kind::Collective { .. } | Kind::Load { .. } | Kind::Send { .. } | Kind::Move { .. } | Kind::Free { .. } => {
                self.time.add(Cause::Bubble, rest);
            }
        }
    }
}
