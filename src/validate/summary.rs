//! Errors of predictions: per run, and by accelerator, framework and model family.
//!
//! In: runs and predictions. Out: signed errors, [`Stats`], tables.
//!
//! Invariant: throughput is compared as tokens a second and device, whatever the source printed.

use std::collections::BTreeMap;

use statrs::statistics::{Data, OrderStatistics};

use super::{Prediction, Run};

/// Median and 90th percentile of absolute errors in per cent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Errors.
    pub count: usize,
    /// Median.
    pub median: f64,
    /// 90th percentile.
    pub p90: f64,
}

impl Stats {
    /// Of signed errors in per cent.
    pub fn of(errors: &[f64]) -> Stats {
        if errors.is_empty() {
            return Stats::default();
        }
        let mut data = Data::new(errors.iter().map(|error| error.abs()).collect::<Vec<f64>>());
        Stats { count: errors.len(), median: data.median(), p90: data.percentile(90) }
    }
}

/// Tokens a second and device that the run reached, from whichever figure its source prints.
pub fn measured_tokens_per_s(run: &Run, prediction: &Prediction) -> Option<f64> {
    let m = &run.measured;
    let tokens = prediction.layout.global as f64 * run.tokens_per_sequence;
    let of_step = |step: f64| tokens / step / run.devices as f64;
    let of_tflops = |tflops: f64| tflops * 1e12 / prediction.flops_per_token;
    let found = m.tokens_per_s.or_else(|| m.step_time_s.map(of_step)).or_else(|| m.tflops.map(of_tflops));
    found.or_else(|| m.mfu.map(|mfu| mfu * peak(run) / prediction.flops_per_token)).filter(|rate| *rate > 0.0)
}

/// The peak that a model FLOPs utilisation refers to: of 16 bits.
pub fn peak(run: &Run) -> f64 {
    run.device.peak_in(meshwright_hardware::units::Precision::Bf16).map_or(f64::NAN, |peak| peak.0)
}

/// Signed error of throughput in per cent, where the row's time is meant to be compared.
pub fn throughput_error(run: &Run, prediction: &Prediction) -> Option<f64> {
    let measured = measured_tokens_per_s(run, prediction).filter(|_| run.timed)?;
    Some((prediction.tokens_per_s / measured - 1.0) * 100.0)
}

/// Signed error of memory in per cent.
pub fn memory_error(run: &Run, prediction: &Prediction) -> Option<f64> {
    let measured = run.measured.memory_gb.filter(|gb| *gb > 0.0 && !run.measured.oom)?;
    Some((prediction.memory_gb / measured - 1.0) * 100.0)
}

/// Statistics by a key of each run.
pub fn by<'a>(errors: &[(&'a Run, f64)], key: impl Fn(&'a Run) -> String) -> BTreeMap<String, Stats> {
    let mut groups: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (run, error) in errors {
        groups.entry(key(run)).or_default().push(*error);
    }
    groups.into_iter().map(|(name, errors)| (name, Stats::of(&errors))).collect()
}
