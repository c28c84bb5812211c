//! What would explain a step that was measured: each overhead of a stack alone, moved until the prediction meets it.
//!
//! In: a plan, its cluster, a measured step. Out: [`Explains`] an overhead that the step depends on, nearest to usual first.
//!
//! Invariant: an overhead stays within its bounds; one that cannot explain the step says how far it reaches.

use std::sync::Arc;

use meshwright_hardware::profile::{Cluster, Overheads, Stack};
use meshwright_planner::error::PlanError;
use meshwright_planner::plan::Plan;
use meshwright_planner::search::Compiled;
use serde::Serialize;

/// A change of the step, as a share, below which it does not depend on an overhead.
const MOVES: f64 = 0.005;
/// Halvings of an overhead's range.
const HALVINGS: usize = 30;

/// An overhead, and the value at which the prediction is the measured step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explains {
    /// Its name in a stack's file.
    pub overhead: &'static str,
    /// Its value in the stack.
    pub now: f64,
    /// What would explain the step alone; none within its bounds.
    pub needed: Option<f64>,
    /// The step at the bound nearest to the measured one, in seconds, where nothing within them explains it.
    pub reaches_s: Option<f64>,
    /// How unusual the needed value is: its distance in units of what stacks differ by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance: Option<f64>,
}

/// What explains a measured step of a plan on a cluster, in seconds.
///
/// # Errors
/// [`PlanError::Price`] where the plan has no price there.
pub fn causes(plan: &Plan, cluster: &Cluster, measured_s: f64) -> Result<Vec<Explains>, PlanError> {
    let compiled = Compiled::of(plan, &cluster.stack);
    let step = |overheads: &Overheads| {
        let stack = Stack { overheads: overheads.clone(), ..Stack::clone(&cluster.stack) };
        compiled.step(&cluster.clone().under(Arc::new(stack)))
    };
    let now = step(&cluster.stack.overheads)?;
    let mut found = Vec::new();
    for (index, knob) in Overheads::ALL.iter().enumerate() {
        let mut moved = cluster.stack.overheads.clone();
        let value = *moved.at(index);
        let mut at = |value: f64| {
            *moved.at(index) = value;
            step(&moved)
        };
        let [low, high] = [at(knob.low)?, at(knob.high)?];
        if (low - high).abs() < MOVES * now {
            continue;
        }
        let within = measured_s >= low.min(high) && measured_s <= low.max(high);
        let needed = within.then(|| crossing([knob.low, knob.high], low < high, measured_s, &mut at)).transpose()?;
        let nearest = [low, high].into_iter().min_by(|a, b| (a - measured_s).abs().total_cmp(&(b - measured_s).abs()));
        found.push(Explains {
            overhead: knob.name,
            now: value,
            needed,
            reaches_s: nearest.filter(|_| needed.is_none()),
            distance: needed.map(|needed| knob.distance(needed, value).exp_m1().sqrt()),
        });
    }
    found.sort_by(|a, b| a.distance.unwrap_or(f64::INFINITY).total_cmp(&b.distance.unwrap_or(f64::INFINITY)));
    Ok(found)
}

/// Where a step that rises or falls with an overhead is as measured, by halving its range.
fn crossing(
    [mut low, mut high]: [f64; 2],
    rises: bool,
    measured_s: f64,
    step: &mut impl FnMut(f64) -> Result<f64, PlanError>,
) -> Result<f64, PlanError> {
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if (step(middle)? < measured_s) == rises {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(0.5 * (low + high))
}
