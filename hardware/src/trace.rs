//! Traces: when each instruction ran, predicted or measured.
//!
//! Inputs: spans from the simulator or the executor. Outputs: themselves; [`crate::chrome`] has them for Perfetto.
//! Invariant: a lane's spans stand in the order of its role's instructions, one each; integer nanoseconds from the
//! start of the step.

use crate::mesh::Rank;
use crate::program::Program;
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
}
