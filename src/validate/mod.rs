//! Published runs predicted again: each row of a table of measured trainings beside what Meshwright says of it.
//!
//! In: rows of a CSV file. Out: predictions with signed errors, or the reason why there is none; their summary; fitted knobs.
//!
//! Invariant: a row is predicted from what it states of model, machine and plan; what was measured is read only to compare.

mod accelerator;
pub mod convention;
pub mod fit;
pub mod gain;
mod model;
pub mod overheads;
pub mod place;
mod plan;
mod record;
pub mod row;
pub mod summary;

use meshwright_hardware::profile::Knobs;
use meshwright_planner::estimate::{Estimate, Layout, Site, estimate, memory};

pub use record::Skip;
pub use row::Run;

/// A run's step, of the layout that is taken where the row leaves something open.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The plan with what the row leaves open filled in.
    pub layout: Layout,
    /// The step by cause.
    pub estimate: Estimate,
    /// Tokens a second and device.
    pub tokens_per_s: f64,
    /// FLOPs a token by the row's own convention.
    pub flops_per_token: f64,
}

/// What is said of a run.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The step.
    pub timing: Timing,
    /// Peak memory.
    pub memory: Peak,
}

/// Peak memory of a run.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// As the row's way of measuring would show it, in GB of 1e9 bytes.
    pub gb: f64,
    /// Whether it fits the device.
    pub fits: bool,
}

/// What a device keeps for its driver and context.
const CONTEXT_GB: f64 = 1.5;

/// Predicts a run with knobs of its stack; `power` is 1 but in a fit.
pub fn predict(run: &Run, knobs: &Knobs, power: f64) -> Prediction {
    let timing = timing(run, knobs, power);
    let memory = memory_of(run, &timing.layout, knobs);
    Prediction { timing, memory }
}

fn site<'a>(run: &'a Run, knobs: &'a Knobs, power: f64) -> Site<'a> {
    Site { device: &run.device, stack: run.stack, knobs, topology: &run.topology, per_node: run.per_node, power }
}

/// What the driver shows of what is allocated: with fragments, context, and what libraries allocate beside the allocator.
fn seen(bytes: f64, knobs: &Knobs) -> f64 {
    bytes * (1.0 + knobs.fragments) + (CONTEXT_GB + knobs.reserve) * 1e9
}

fn fits(run: &Run, bytes: f64, knobs: &Knobs) -> bool {
    seen(bytes, knobs) <= run.device.memory.value.0 as f64
}

/// The step alone.
pub fn timing(run: &Run, knobs: &Knobs, power: f64) -> Timing {
    let site = site(run, knobs, power);
    // What a row leaves open is chosen as its authors would: the fastest that fits, else the last. Of two as fast, the first.
    let mut best: Option<(Estimate, &Layout, bool)> = None;
    for layout in &run.layouts {
        let found = estimate(&run.shape, layout, &site);
        let fits = run.layouts.len() == 1 || fits(run, memory::peak(&run.shape, layout, &site, true).total(), knobs);
        let better = match &best {
            Some((so_far, _, true)) => fits && found.step_time * 1.0001 < so_far.step_time,
            _ => true,
        };
        if better {
            best = Some((found, layout, fits));
        }
    }
    let (estimate, layout, _) = best.expect("a run has a layout");
    let tokens = layout.global as f64 * run.tokens_per_sequence;
    Timing {
        tokens_per_s: tokens / estimate.step_time / run.devices as f64,
        flops_per_token: run.convention.flops_per_token(&run.shape, layout),
        layout: layout.clone(),
        estimate,
    }
}

/// Peak memory of one of a run's layouts.
pub fn memory_of(run: &Run, layout: &Layout, knobs: &Knobs) -> Peak {
    let site = site(run, knobs, 1.0);
    let fullest = memory::peak(&run.shape, layout, &site, true).total();
    let allocated = match run.last_rank {
        true => memory::peak(&run.shape, layout, &site, false).total(),
        false => fullest,
    };
    let gb = match run.measure {
        row::Measure::Allocated => allocated,
        row::Measure::Reserved => allocated * (1.0 + knobs.fragments),
        row::Measure::Device => seen(allocated, knobs),
    } / 1e9;
    Peak { gb, fits: fits(run, fullest, knobs) }
}
