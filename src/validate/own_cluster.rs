//! A stack of one's own: what a shipped one's overheads become by a few runs of one's own cluster.
//!
//! In: runs, the stack that they are of. Out: [`OwnFit`]: overheads, how far each run is off before and after, by a fit without it
//! too, and which overheads these runs cannot tell.
//!
//! Invariant: what no run depends on stays as it was; the band is the shipped one, narrowed as far as runs that were left out allow.

use std::collections::BTreeMap;

use meshwright_hardware::profile::{Band, Overheads, Stack};
use meshwright_hardware::units::Precision;

use super::fitted_row::{FittedRow, fitted_rows};
use super::own_figures::fitted_near;
use super::{Run, chosen};

/// Fewer runs tell no kernel from a link.
pub const FEWEST: usize = 3;
/// How many runs of its own outweigh what all other runs show of a stack's band.
const PRIOR_RUNS: f64 = 5.0;
/// How far off, in logarithms, even the nearest run may be after the fit.
const UNREACHED: f64 = 0.4;
/// By how much a step must change, when an overhead does by its spread, for a run to tell of it.
const TOLD: f64 = 0.01;

/// What runs of one's own make of a stack.
pub struct OwnFit {
    /// The stack, with its runs counted.
    pub stack: Stack,
    /// By run: predicted over measured, less one: by the shipped stack, by this, and by a fit without the run.
    pub errors: Vec<(String, [f64; 3])>,
    /// Names of overheads that the runs do not depend on.
    pub untold: Vec<&'static str>,
}

/// Fits a stack to runs of one's own.
///
/// # Errors
/// Why these runs cannot.
pub fn fit_own(runs: &[&Run], base: &Stack, prior: Band) -> Result<OwnFit, String> {
    let rows = fitted_rows(runs);
    if rows.len() < FEWEST {
        return Err(format!(
            "{} of {} runs have a plan and a measured step; {FEWEST} or more are needed to tell kernels from links and the host",
            rows.len(),
            runs.len()
        ));
    }
    let all: Vec<&FittedRow> = rows.iter().collect();
    let overheads = fitted_near(&all, &base.overheads);
    let without = |left: usize| {
        let others: Vec<&FittedRow> =
            all.iter().enumerate().filter(|(at, _)| *at != left).map(|(_, row)| *row).collect();
        all[left].error(&fitted_near(&others, &base.overheads))
    };
    let left_out: Vec<f64> = (0..all.len()).map(without).collect();
    let error = |log: f64| log.exp() - 1.0;
    let errors = all
        .iter()
        .zip(&left_out)
        .map(|(row, left)| (row.run.id.clone(), [row.error(&base.overheads), row.error(&overheads), *left].map(error)));
    let errors = errors.collect();
    let nearest = all.iter().map(|row| row.error(&overheads).abs()).fold(f64::INFINITY, f64::min);
    if nearest.is_nan() || nearest > UNREACHED {
        let share = 100.0 * error(all[0].error(&overheads));
        return Err(format!(
            "within their bounds no overheads of {} explain any of these runs ({share:+.0} % of {} at best): look at the units of what \
             was measured, and at what ran them",
            base.name, all[0].run.id
        ));
    }
    let stack = Stack {
        based_on: Some(base.shipped().to_owned()),
        source: format!("meshwright stacks fit: {} runs of one's own, over {}", all.len(), base.shipped()),
        default_for: Vec::new(),
        errors: None,
        step_band: Some(narrowed(prior, &left_out)),
        measured: counted(&all),
        overheads,
        ..base.clone()
    };
    Ok(OwnFit { errors, untold: untold(&all, &base.overheads), stack })
}

/// The band that the logarithms of predicted over measured steps show, between that and the prior by their number.
fn narrowed(prior: Band, left_out: &[f64]) -> Band {
    let own = left_out.len() as f64 / (left_out.len() as f64 + PRIOR_RUNS);
    // Measured over predicted; within one of its ends lies the prediction itself.
    let end = |prior: f64, pick: fn(f64, f64) -> f64| {
        let most = left_out.iter().map(|log| -log).fold(0.0, pick);
        (((1.0 - own) * prior.ln() + own * most).exp() * 1e3).round() / 1e3
    };
    Band { low: end(prior.low, f64::min), high: end(prior.high, f64::max), runs: left_out.len() }
}

fn counted(rows: &[&FittedRow]) -> BTreeMap<String, BTreeMap<Precision, usize>> {
    let mut measured: BTreeMap<String, BTreeMap<Precision, usize>> = BTreeMap::new();
    for row in rows {
        let formats = measured.entry(row.run.device().name.clone()).or_default();
        *formats.entry(chosen(row.run).job.precision).or_default() += 1;
    }
    measured
}

/// Overheads that no run depends on.
fn untold(rows: &[&FittedRow], at: &Overheads) -> Vec<&'static str> {
    let moves = |index: usize| {
        let knob = &Overheads::ALL[index];
        let mut moved = at.clone();
        let value = moved.at(index);
        let up = *value * (1.0 + knob.spread) + 0.01 * (knob.high - knob.low);
        *value = if up <= knob.high { up } else { *value / (1.0 + knob.spread) };
        rows.iter().any(|row| (row.error(&moved) - row.error(at)).abs() > TOLD)
    };
    (0..Overheads::ALL.len()).filter(|&index| !moves(index)).map(|index| Overheads::ALL[index].name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: five runs weigh as much as the prior; ends meet in the middle of logarithms.
    #[test]
    fn a_band_narrows_with_runs() {
        let prior = Band { low: 0.81, high: 1.21, runs: 1000 };
        let exact = narrowed(prior, &[0.0; 5]);
        assert_eq!((exact.low, exact.high, exact.runs), (0.9, 1.1, 5));
        let off = narrowed(prior, &[-(1.21f64.ln()); 5]);
        assert_eq!((off.low, off.high), (0.9, 1.21));
        assert!(narrowed(prior, &[0.0; 45]).high < 1.02);
    }
}
