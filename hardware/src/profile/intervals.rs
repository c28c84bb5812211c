//! How far measured runs lie from their predictions, by how well what was measured supports a prediction.
//!
//! In: `profiles/intervals.toml`, written with the stacks' figures by the fit. Out: [`Intervals`].
//!
//! Invariant: a band is of residuals of runs that the fit behind the prediction has not seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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

/// Between which shares of its prediction eight in ten measured values lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
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

/// The bands of steps and of memory, by support, and of gains.
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
    /// Of how many times as long another plan of the job takes as the one predicted to be fastest.
    pub gain: Band,
}
