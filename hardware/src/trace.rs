//! Traces: when each instruction ran, predicted or measured.
//!
//! Inputs: spans from the simulator or the executor. Outputs: themselves, and Chrome/Perfetto JSON.
//! Invariant: a lane's spans stand in the order of its role's instructions, one each; integer nanoseconds from the
//! start of the step.

use crate::mesh::Rank;
use crate::program::{Program, Stream};
use crate::units::Nanos;
use serde::{Deserialize, Serialize};

/// Where a trace's times come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Simulated with a profile's prices.
    Predicted,
    /// Simulated with measured durations.
    Replayed,
    /// Clocked on a device.
    Measured,
}

impl Origin {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Predicted => "predicted",
            Origin::Replayed => "replayed",
            Origin::Measured => "measured",
        }
    }
}

/// When one instruction ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Span {
    /// From the start of the step.
    pub start: Nanos,
    /// From the start of the step.
    pub end: Nanos,
}

impl Span {
    /// How long.
    pub fn duration(&self) -> Nanos {
        Nanos(self.end.0 - self.start.0)
    }
}

/// One rank's spans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// The rank; in a simulation it stands for all that do the same on the same devices.
    pub rank: Rank,
    /// Its role: index in [`Program::roles`].
    pub role: usize,
    /// One an instruction.
    pub spans: Vec<Span>,
}

/// When every instruction of a step ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Where the times come from.
    pub origin: Origin,
    /// One a rank, or one a role and pool.
    pub lanes: Vec<Lane>,
}

impl Trace {
    /// The step's length: the last instruction's end.
    pub fn step_time(&self) -> Nanos {
        self.lanes.iter().flat_map(|l| &l.spans).map(|s| s.end).max().unwrap_or_default()
    }

    /// Share of the ranks' time in which no kernel ran though the step went on: pipeline fill and drain, and waits.
    pub fn idle_fraction(&self, program: &Program) -> f64 {
        let total = self.step_time().0 as f64 * self.lanes.len() as f64;
        let busy: u64 = self
            .lanes
            .iter()
            .flat_map(|lane| lane.spans.iter().zip(&program.roles[lane.role].instrs))
            .filter(|(_, instr)| instr.phase().is_some())
            .map(|(span, _)| span.duration().0)
            .sum();
        if total == 0.0 { 0.0 } else { 1.0 - busy as f64 / total }
    }

    /// The trace in Chrome's trace-event format, which Perfetto and chrome://tracing open.
    /// Format: "Trace Event Format", complete events (`ph: X`), microseconds.
    pub fn to_chrome_json(&self, program: &Program) -> String {
        let mut events = Vec::new();
        for lane in &self.lanes {
            let (_, stage) = program.class_and_stage(lane.role);
            events.push(serde_json::json!({
                "ph": "M", "name": "process_name", "pid": lane.rank, "tid": 0,
                "args": { "name": format!("rank {} (stage {stage}, {})", lane.rank, self.origin.name()) },
            }));
            for stream in Stream::ALL {
                events.push(serde_json::json!({
                    "ph": "M", "name": "thread_name", "pid": lane.rank, "tid": stream as usize,
                    "args": { "name": stream.name() },
                }));
            }
            for (index, (span, instr)) in lane.spans.iter().zip(&program.roles[lane.role].instrs).enumerate() {
                if span.duration().0 == 0 {
                    continue;
                }
                events.push(serde_json::json!({
                    "ph": "X",
                    "name": instr.name(program),
                    "cat": instr.phase().map_or("communication", |p| p.name()),
                    "pid": lane.rank,
                    "tid": instr.stream as usize,
                    "ts": span.start.0 as f64 / 1e3,
                    "dur": span.duration().0 as f64 / 1e3,
                    "args": { "instruction": index, "microbatch": instr.microbatch, "layer": instr.layer },
                }));
            }
        }
        serde_json::json!({ "traceEvents": events, "displayTimeUnit": "ms" }).to_string()
    }
}
