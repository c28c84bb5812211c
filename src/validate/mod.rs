//! Published runs predicted again: each row of a table of measured trainings beside what Meshwright says of it.
//!
//! In: rows of a CSV file. Out: predictions with signed errors, or the reason why there is none; their summary; fitted knobs.
//!
//! Invariant: a row is predicted from what it states of model, machine and plan; what was measured is read only to compare.

pub mod convention;
pub mod fit;
mod model;
pub mod place;
mod plan;
pub mod row;
pub mod summary;

use meshwright_hardware::profile::Knobs;
use meshwright_planner::estimate::{Estimate, Layout, Site, estimate, memory};

pub use row::{Run, Skip};

/// What is said of a run.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The plan with what the row leaves open filled in.
    pub layout: Layout,
    /// The step by cause.
    pub estimate: Estimate,
    /// Tokens a second and device.
    pub tokens_per_s: f64,
    /// FLOPs a token by the row's own convention.
    pub flops_per_token: f64,
    /// Peak memory as the row's way of measuring would show it, in GB of 1e9 bytes.
    pub memory_gb: f64,
    /// Whether it fits the device.
    pub fits: bool,
}

/// What a device keeps for its driver and context.
const CONTEXT_GB: f64 = 1.5;

/// Predicts a run with knobs of its stack; `power` is 1 but in a fit.
pub fn predict(run: &Run, knobs: &Knobs, power: f64) -> Prediction {
    let stack = run.stack;
    let site = Site { device: &run.device, stack, knobs, topology: &run.topology, per_node: run.per_node, power };
    let usable = run.device.memory.value.0 as f64 - CONTEXT_GB * 1e9;
    let fits = |found: &Estimate| found.memory.total() * (1.0 + knobs.fragments) <= usable;
    // What a row leaves open is chosen as its authors would: the fastest that fits, else the last. Of two as fast, the first.
    let mut best: Option<(Estimate, &Layout)> = None;
    for layout in &run.layouts {
        let found = estimate(&run.shape, layout, &site);
        let better = match &best {
            Some((so_far, _)) if fits(so_far) => fits(&found) && found.step_time * 1.0001 < so_far.step_time,
            _ => true,
        };
        if better {
            best = Some((found, layout));
        }
    }
    let (estimate, layout) = best.expect("a run has a layout");
    let tokens = layout.global as f64 * run.tokens_per_sequence;
    let measured = match run.last_rank {
        true => memory::peak(&run.shape, layout, &site, false),
        false => estimate.memory,
    };
    let allocated = measured.total();
    let memory_gb = match run.measure {
        row::Measure::Allocated => allocated,
        row::Measure::Reserved => allocated * (1.0 + knobs.fragments),
        row::Measure::Device => allocated * (1.0 + knobs.fragments) + CONTEXT_GB * 1e9,
    } / 1e9;
    Prediction {
        tokens_per_s: tokens / estimate.step_time / run.devices as f64,
        flops_per_token: convention::flops_per_token(run, layout),
        memory_gb,
        fits: fits(&estimate),
        layout: layout.clone(),
        estimate,
    }
}
