//! Predicted, replayed and measured, side by side: per instruction, for the step, for memory and throughput.
//!
//! In: a program and its three traces. Out: [`Report`], which renders as a table, CSV, JSON and a page.
//!
//! Invariant: an instruction of a role (a stage, in one class of replicas) has one row; lanes are averaged over the role's
//! ranks, and every figure in any rendering comes from [`Report`].

mod data;
mod html;
mod spread;
mod table;

use meshwright_hardware::program::{Kind, Program};
use meshwright_hardware::trace::{Lane, Trace};
use meshwright_planner::predict::{Figure, Figures};
use serde::Serialize;

pub(crate) use html::{escape, fill};
pub use spread::Spread;

/// What a report is made from.
pub struct Inputs<'a> {
    /// What was run.
    pub program: &'a Program,
    /// One lane a stage.
    pub predicted: &'a Trace,
    /// One lane a rank.
    pub replayed: &'a Trace,
    /// One lane a rank.
    pub measured: &'a Trace,
    /// Predicted, replayed and measured.
    pub figures: [Figures; 3],
    /// Step and loss, in nats a token.
    pub losses: &'a [(u64, f64)],
    /// Length of every step, in seconds.
    pub step_times_s: Vec<f64>,
    /// What guessing by frequency alone would lose.
    pub unigram_entropy: Option<f64>,
    /// What else is shown by step.
    pub curves: Vec<StepCurve>,
    /// The plan's file.
    pub plan: String,
    /// Headline.
    pub title: &'a str,
    /// What was run on what: label and text.
    pub subtitle: Vec<(String, String)>,
}

/// A figure by step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepCurve {
    /// What it is, with its unit.
    pub title: &'static str,
    /// Steps and values; what is no number is left out.
    pub points: Vec<(u64, f64)>,
    /// A level to compare with, and what it is.
    pub level: Option<(&'static str, f64)>,
}

/// One instruction of a stage; times in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct InstrTimes {
    /// Stage.
    pub role: usize,
    /// Its place in the stage's list.
    pub index: usize,
    /// What it does.
    pub name: String,
    /// Phase of the step, or `communication`.
    pub phase: &'static str,
    /// Microbatch, if it serves one.
    pub microbatch: Option<u32>,
    /// Layer, if it serves one.
    pub layer: Option<u32>,
    /// When it was predicted to start.
    pub predicted_start: f64,
    /// Predicted, replayed and measured length, waiting for others included.
    pub nanos: [f64; 3],
    /// Whether it may wait for other ranks.
    pub waits: bool,
}

/// Instructions of one name and phase.
#[derive(Clone, Debug, PartialEq)]
pub struct InstrGroup {
    /// What they do.
    pub name: String,
    /// How many a step, over all stages.
    pub count: usize,
    /// Predicted, replayed and measured nanoseconds a step, over all stages.
    pub nanos: [f64; 3],
    /// Whether they may wait for other ranks.
    pub waits: bool,
}

/// A comparison.
#[derive(Clone, Debug)]
pub struct Report {
    /// Headline.
    pub title: String,
    /// What was run on what.
    pub subtitle: Vec<(String, String)>,
    /// What the profile foretold, what the simulator makes of measured durations, what happened.
    pub figures: [Figures; 3],
    /// How the run's steps varied.
    pub spread: Option<Spread>,
    /// One an instruction.
    pub rows: Vec<InstrTimes>,
    /// By name, longest measured first.
    pub groups: Vec<InstrGroup>,
    /// Step and loss.
    pub losses: Vec<(u64, f64)>,
    /// What guessing by frequency alone would lose.
    pub unigram_entropy: Option<f64>,
    curves: Vec<StepCurve>,
    plan: String,
    /// Predicted, replayed, measured.
    traces: [Trace; 3],
}

/// How far `predicted` is off, in per cent of `measured`.
pub fn error_pct(predicted: f64, measured: f64) -> f64 {
    if measured == 0.0 { 0.0 } else { (predicted - measured) / measured * 100.0 }
}

impl Report {
    /// Joins the traces.
    pub fn of(inputs: &Inputs) -> Report {
        let rows: Vec<InstrTimes> = (0..inputs.program.roles.len()).flat_map(|role| rows(inputs, role)).collect();
        Report {
            title: inputs.title.to_owned(),
            subtitle: inputs.subtitle.clone(),
            figures: inputs.figures.clone(),
            spread: Spread::of(inputs.step_times_s.clone()),
            groups: groups(&rows),
            rows,
            losses: inputs.losses.to_vec(),
            unigram_entropy: inputs.unigram_entropy,
            curves: inputs.curves.clone(),
            plan: inputs.plan.clone(),
            traces: [inputs.predicted.clone(), inputs.replayed.clone(), inputs.measured.clone()],
        }
    }

    /// How far the predicted step time is off, in per cent of the measured one.
    pub fn step_error_pct(&self) -> f64 {
        let [predicted, _, measured] = &self.figures;
        error_pct(predicted.step_time_s, measured.step_time_s)
    }

    /// A figure as predicted, replayed and measured; and the prediction's error in per cent, where it is told.
    fn compared(&self, figure: &Figure) -> ([f64; 3], Option<f64>) {
        let values = self.figures.each_ref().map(figure.get);
        (values, figure.relative.then(|| error_pct(values[0], values[2])))
    }
}

/// The rows of a stage.
fn rows(inputs: &Inputs, role: usize) -> Vec<InstrTimes> {
    let of = |trace: &Trace| -> Vec<Lane> { trace.lanes.iter().filter(|lane| lane.role == role).cloned().collect() };
    let lanes = [inputs.predicted, inputs.replayed, inputs.measured].map(of);
    let mean = |lanes: &[Lane], index: usize| {
        lanes.iter().map(|lane| lane.spans[index].duration().0 as f64).sum::<f64>() / lanes.len().max(1) as f64
    };
    let instrs = inputs.program.roles[role].instrs.iter().enumerate();
    let kept = instrs.filter(|(_, instr)| !matches!(instr.kind, Kind::Free { .. }));
    kept.map(|(index, instr)| InstrTimes {
        role,
        index,
        name: instr.name(inputs.program).to_owned(),
        phase: instr.phase().map_or("communication", |phase| phase.name()),
        microbatch: instr.microbatch,
        layer: instr.layer,
        predicted_start: lanes[0].first().map_or(0.0, |lane| lane.spans[index].start.0 as f64),
        nanos: [mean(&lanes[0], index), mean(&lanes[1], index), mean(&lanes[2], index)],
        waits: matches!(instr.kind, Kind::Recv { .. } | Kind::Collective { .. }),
    })
    .collect()
}

fn groups(rows: &[InstrTimes]) -> Vec<InstrGroup> {
    let mut groups: Vec<InstrGroup> = Vec::new();
    for row in rows {
        let group = match groups.iter_mut().find(|group| group.name == row.name) {
            Some(group) => group,
            None => {
                groups.push(InstrGroup { name: row.name.clone(), count: 0, nanos: [0.0; 3], waits: row.waits });
                groups.last_mut().expect("just added")
            }
        };
        group.count += 1;
        (0..3).for_each(|i| group.nanos[i] += row.nanos[i]);
    }
    groups.sort_by(|a, b| b.nanos[2].total_cmp(&a.nanos[2]));
    groups
}

#[cfg(test)]
mod tests;
