//! A trace as Perfetto and chrome://tracing open it: Chrome's "Trace Event Format", microseconds.
//!
//! In: a trace and its program. Out: JSON: a process a rank with a lane a stream, and one for the collectives that kernels wait
//! for; arrows from where a message leaves to where it is there; live bytes; marks where the step begins and ends.
//!
//! Invariant: every arrow leads from a span to a span that are both shown.

use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use crate::hazards::{FormalUse, accesses, formal_uses};
use crate::mesh::Rank;
use crate::program::{Buffer, Instr, Kind, Lifetime, Program, RankProgram, Stream};
use crate::trace::{Lane, Span, Trace};

/// The lane of communication that nothing runs beside.
const EXPOSED: usize = Stream::COUNT;

impl Trace {
    /// The trace in Chrome's trace-event format, which Perfetto and chrome://tracing open.
    pub fn to_chrome_json(&self, program: &Program) -> String {
        let uses: Vec<_> = program.blocks.iter().map(formal_uses).collect();
        let memory: Vec<Vec<i64>> = program.roles.iter().map(|role| grown(role, program, &uses)).collect();
        let mut events = marks(self);
        for lane in &self.lanes {
            let role = &program.roles[lane.role];
            events.extend(self.names(lane, program));
            let instrs = lane.spans.iter().zip(&role.instrs).enumerate();
            events.extend(instrs.filter(|(_, (span, _))| shows(span)).map(|(index, (span, instr))| {
                json!({
                    "ph": "X", "name": instr.name(program), "cat": instr.phase().map_or("communication", |p| p.name()),
                    "pid": lane.rank, "tid": thread(instr), "ts": micros(span.start.0), "dur": micros(span.duration().0),
                    "args": { "instruction": index, "microbatch": instr.microbatch, "layer": instr.layer },
                })
            }));
            events.extend(counters(lane, role, &memory[lane.role]));
        }
        events.extend(arrows(self, program));
        json!({ "traceEvents": events, "displayTimeUnit": "ms" }).to_string()
    }

    /// What a rank and its lanes are called.
    fn names(&self, lane: &Lane, program: &Program) -> Vec<Value> {
        let (_, stage) = program.class_and_stage(lane.role);
        let of = |kind: &str, thread: usize, name: String| json!({ "ph": "M", "name": kind, "pid": lane.rank, "tid": thread, "args": { "name": name } });
        let rank = format!("rank {} (stage {stage}, {})", lane.rank, self.origin.name());
        let streams = Stream::ALL.map(|stream| of("thread_name", stream as usize, stream.name().to_owned()));
        let exposed = of("thread_name", EXPOSED, "exposed communication".to_owned());
        [of("process_name", 0, rank), exposed].into_iter().chain(streams).collect()
    }
}

/// Chrome counts microseconds.
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn shows(span: &Span) -> bool {
    span.duration().0 > 0
}

/// The lane of an instruction: its stream's, or that of what kernels wait for.
fn thread(instr: &Instr) -> usize {
    match (instr.stream, &instr.kind) {
        (Stream::Compute, Kind::Collective { .. } | Kind::Send { .. } | Kind::Recv { .. }) => EXPOSED,
        (stream, _) => stream as usize,
    }
}

/// Where the step begins and ends.
fn marks(trace: &Trace) -> Vec<Value> {
    let Some(first) = trace.lanes.first() else { return Vec::new() };
    let mark = |name: &str, nanos: u64| json!({ "ph": "i", "s": "g", "name": name, "cat": "step", "pid": first.rank, "tid": 0, "ts": micros(nanos) });
    vec![mark("step begins", 0), mark("step ends", trace.step_time().0)]
}

/// By instruction, bytes of the device by which what a rank keeps for backward grows, or shrinks.
fn grown(role: &RankProgram, program: &Program, uses: &[Vec<FormalUse>]) -> Vec<i64> {
    let mut live = vec![false; role.buffers.len()];
    let saved = |index: usize| role.buffers[index].lifetime == Lifetime::Saved;
    let of = |instr: &Instr| {
        let mut change = 0;
        accesses(instr, uses, &program.mesh, &role.buffers, |access| {
            let index = access.buffer as usize;
            let holds = access.writes && !access.frees;
            if saved(index) && access.writes && live[index] != holds {
                let bytes = role.buffers[index].bytes() as i64;
                change += if holds { bytes } else { -bytes };
                live[index] = holds;
            }
        });
        change
    };
    role.instrs.iter().map(of).collect()
}

/// A rank's bytes over time: all that is declared, and of it what holds activations for backward.
fn counters(lane: &Lane, role: &RankProgram, grown: &[i64]) -> Vec<Value> {
    let of = |instr: usize, span: &Span| {
        let at = if grown[instr] > 0 { span.start } else { span.end };
        (at.0, grown[instr])
    };
    let changes = lane.spans.iter().enumerate().filter(|(instr, _)| grown[*instr] != 0).map(|(i, span)| of(i, span));
    let mut changes: Vec<(u64, i64)> = std::iter::once((0, 0)).chain(changes).collect();
    changes.sort_by_key(|(at, _)| *at);
    let saved: u64 = role.buffers.iter().filter(|buffer| buffer.lifetime == Lifetime::Saved).map(Buffer::bytes).sum();
    let rest = role.bytes() - saved;
    let mut kept = 0;
    let counter = |(at, change): (u64, i64)| {
        kept += change;
        json!({
            "ph": "C", "name": "memory, bytes", "pid": lane.rank, "ts": micros(at),
            "args": { "weights, states and working space": rest, "kept for backward": kept.max(0) },
        })
    };
    changes.into_iter().map(counter).collect()
}

/// Arrows from sends to the receives of the same messages.
fn arrows(trace: &Trace, program: &Program) -> Vec<Value> {
    let of_rank: FxHashMap<Rank, &Lane> = trace.lanes.iter().map(|lane| (lane.rank, lane)).collect();
    // A simulation has a lane for all ranks that do the same.
    let of_role: FxHashMap<usize, &Lane> = trace.lanes.iter().rev().map(|lane| (lane.role, lane)).collect();
    let received: Vec<_> = program.roles.iter().map(received).collect();
    let mut arrows = Vec::new();
    for lane in &trace.lanes {
        let at = program.mesh.coord_of(lane.rank);
        let mut sent: FxHashMap<(usize, u32), usize> = FxHashMap::default();
        for (span, instr) in lane.spans.iter().zip(&program.roles[lane.role].instrs) {
            let Kind::Send { to, tag, .. } = instr.kind else { continue };
            let number = sent.entry((to, tag)).or_default();
            *number += 1;
            let (class, stage) = program.class_and_stage(lane.role);
            let exact = of_rank.get(&program.mesh.peer(at, to)).filter(|there| there.role == program.role(class, to));
            let Some(there) = exact.or_else(|| of_role.get(&program.role(class, to))) else { continue };
            let line = received[there.role].get(&(stage, tag));
            let Some(&index) = line.and_then(|line| line.get(*number - 1)) else { continue };
            let (got, instr_there) = (&there.spans[index], &program.roles[there.role].instrs[index]);
            if shows(span) && shows(got) {
                let id = arrows.len();
                let end = |ph: &str, pid: Rank, thread: usize, nanos: u64| {
                    json!({
                        "ph": ph, "bp": "e", "id": id, "name": "message", "cat": "messages", "pid": pid, "tid": thread,
                        "ts": micros(nanos),
                    })
                };
                arrows.push(end("s", lane.rank, thread(instr), span.start.0));
                // Just before it ends, so that it lies in its span.
                arrows.push(end("f", there.rank, thread(instr_there), got.end.0 - 1));
            }
        }
    }
    arrows
}

/// Where a rank receives the messages of each line from a stage, in order.
fn received(role: &RankProgram) -> FxHashMap<(usize, u32), Vec<usize>> {
    let mut lines: FxHashMap<(usize, u32), Vec<usize>> = FxHashMap::default();
    for (index, instr) in role.instrs.iter().enumerate() {
        if let Kind::Recv { from, tag, .. } = instr.kind {
            lines.entry((from, tag)).or_default().push(index);
        }
    }
    lines
}
