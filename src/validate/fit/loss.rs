//! The loss of a run's prediction: of its step, and of its memory.
//!
//! In: a run, knobs. Out: the absolute logarithm of predicted over measured, evened out and capped.
//!
//! Invariant: what was measured is read here alone.

use meshwright_hardware::profile::Knobs;

use crate::validate::summary::{measured_tokens_per_s, memory_error};
use crate::validate::{Run, memory_of, timing};

/// Cost of saying wrongly whether a run fits.
const FITS: f64 = 0.03;

/// What knobs bear on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FitTarget {
    Time,
    Memory,
}

impl FitTarget {
    /// Places of its knobs in [`Knobs::ALL`].
    pub fn knobs(self) -> Vec<usize> {
        (0..Knobs::ALL.len()).filter(|index| Knobs::ALL[*index].memory == (self == FitTarget::Memory)).collect()
    }
}

/// A run, and what its device sustains relative to its profile.
#[derive(Clone, Copy)]
pub(super) struct FitRow<'a> {
    pub run: &'a Run,
    pub power: f64,
}

impl FitRow<'_> {
    /// The loss: of time, or of memory.
    pub fn loss(&self, part: FitTarget, knobs: &Knobs) -> f64 {
        if part == FitTarget::Time { self.time(knobs) } else { self.memory(knobs) }
    }

    fn time(&self, knobs: &Knobs) -> f64 {
        let timing = timing(self.run, knobs, self.power);
        measured_tokens_per_s(self.run, &timing).map_or(0.0, |measured| huber((timing.tokens_per_s / measured).ln()))
    }

    fn memory(&self, knobs: &Knobs) -> f64 {
        let run = self.run;
        let peak = match &run.layouts[..] {
            [only] => memory_of(run, only, knobs),
            _ => memory_of(run, &timing(run, knobs, self.power).layout, knobs),
        };
        // A run that ended for want of memory must not fit, one that went on must.
        match memory_error(run, &peak) {
            Some(error) => huber((1.0 + error / 100.0).max(0.05).ln()),
            None if run.measured.oom == peak.fits => FITS,
            None => 0.0,
        }
    }

    /// Whether it says anything of a part.
    pub fn bears(&self, part: FitTarget) -> bool {
        part == FitTarget::Memory || self.run.timed
    }
}

/// The absolute value, with a tip so that small errors are evened out, and a cap so that outliers do not lead.
fn huber(error: f64) -> f64 {
    let error = error.abs().min(CAP);
    if error < TIP { error * error / (2.0 * TIP) + TIP / 2.0 } else { error }
}

/// Below this error is noise.
const TIP: f64 = 0.02;

/// Above this error a row is not understood.
const CAP: f64 = 1.5;
