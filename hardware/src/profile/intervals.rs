//! How far measured runs lie from their predictions, by how well what was measured supports a prediction.
//!
//! In: `profiles/intervals.toml`, written with the stacks' figures by the fit. Out: [`Intervals`].
//!
//! Invariant: a band is of residuals of runs that the fit behind the prediction has not seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Stack, catalog};
use crate::units::Precision;

/// How well what was measured supports a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Support {
    /// The stack was measured on these accelerators in this format.
    Measured,
    /// The stack was measured elsewhere, or these accelerators were under another stack.
    Near,
    /// Neither.
    Extrapolated,
}

/// Runs in fewer than which a stack does not count as measured.
const FEW: usize = 3;

impl Support {
    /// Each, from the best.
    pub const ALL: [Support; 3] = [Support::Measured, Support::Near, Support::Extrapolated];

    /// Name in files and answers.
    pub fn name(self) -> &'static str {
        match self {
            Support::Measured => "measured",
            Support::Near => "near",
            Support::Extrapolated => "extrapolated",
        }
    }
}

/// Measured runs that bear on a prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Of the stack on the accelerator in the format.
    pub own: usize,
    /// Of the stack anywhere.
    pub stack: usize,
    /// Of any stack on the accelerator in the format.
    pub device: usize,
}

impl Evidence {
    /// Of a stack on an accelerator in a format, beside the stacks that ship.
    pub fn of(stack: &Stack, device: &str, precision: Precision) -> Evidence {
        let others = catalog().stacks.iter().filter(|other| other.name != stack.shipped());
        let own = stack.runs_in(device, precision);
        let elsewhere: usize = others.map(|other| other.runs_in(device, precision)).sum();
        Evidence { own, stack: stack.runs(), device: own + elsewhere }
    }

    /// What they support.
    pub fn support(self) -> Support {
        match self {
            Evidence { own: FEW.., .. } => Support::Measured,
            Evidence { stack: FEW.., .. } | Evidence { device: FEW.., .. } => Support::Near,
            _ => Support::Extrapolated,
        }
    }
}

/// Between which shares of its prediction eight in ten measured values lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    /// One in ten is below this share.
    pub low: f64,
    /// One in ten is above this share.
    pub high: f64,
    /// Runs behind it.
    pub runs: usize,
}

/// Of machines that were calibrated, and of plans that the executor ran on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibratedBands {
    /// Which runs.
    pub source: String,
    /// Of a step's time.
    pub step: Band,
    /// Of a device's memory.
    pub memory: Band,
}

/// The bands of steps and of memory, by support.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intervals {
    /// Which runs, and how they were held out.
    pub source: String,
    /// Where machine and run were one's own.
    pub executor: CalibratedBands,
    /// Of a step's time.
    pub step: BTreeMap<Support, Band>,
    /// Of a device's memory.
    pub memory: BTreeMap<Support, Band>,
}
