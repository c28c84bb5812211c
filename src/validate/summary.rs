//! Errors of predictions: per run, and by accelerator, framework and model family.
//!
//! In: runs and predictions. Out: signed errors, [`Stats`], tables.
//!
//! Invariant: throughput is compared as tokens a second and device, whatever the source printed.

use std::collections::BTreeMap;

use serde_json::json;
use statrs::statistics::{Data, OrderStatistics};

use meshwright_hardware::units::Precision;

use super::{Peak, Prediction, Run, Skip, Timing};

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

    /// Median and 90th percentile, where there is an error.
    fn shares(&self) -> [Option<f64>; 2] {
        [self.median, self.p90].map(|share| Some(share).filter(|_| self.count > 0))
    }
}

/// Tokens a second and device that the run reached, from whichever figure its source prints.
pub fn measured_tokens_per_s(run: &Run, prediction: &Timing) -> Option<f64> {
    let m = &run.measured;
    let tokens = prediction.layout.global as f64 * run.tokens_per_sequence;
    let of_step = |step: f64| tokens / step / run.devices as f64;
    let of_tflops = |tflops: f64| tflops * 1e12 / prediction.flops_per_token;
    let found = m.tokens_per_s.or_else(|| m.step_time_s.map(of_step)).or_else(|| m.tflops.map(of_tflops));
    found
        .or_else(|| m.mfu.map(|mfu| mfu * peak(run) / prediction.flops_per_token))
        .filter(|rate| *rate > 0.0 && rate.is_finite())
}

/// Seconds of a step that the run took, where the row's time is meant to be compared.
pub fn measured_step_s(run: &Run) -> Option<f64> {
    let timing = super::timing(run, &run.stack.knobs, 1.0);
    let rate = measured_tokens_per_s(run, &timing).filter(|_| run.timed)?;
    Some(timing.layout.global as f64 * run.tokens_per_sequence / rate / run.devices as f64)
}

/// The peak that a model FLOPs utilisation refers to: of 16 bits, or of the run's format where its source says so.
pub fn peak(run: &Run) -> f64 {
    let precision = if run.peak_of_format { run.layouts[0].precision } else { Precision::Bf16 };
    run.device.peak_in(precision).map_or(0.0, |peak| peak.0)
}

/// Signed error of throughput in per cent, where the row's time is meant to be compared.
pub fn throughput_error(run: &Run, prediction: &Timing) -> Option<f64> {
    let measured = measured_tokens_per_s(run, prediction).filter(|_| run.timed)?;
    Some((prediction.tokens_per_s / measured - 1.0) * 100.0)
}

/// Signed error of memory in per cent.
pub fn memory_error(run: &Run, prediction: &Peak) -> Option<f64> {
    let measured = run.measured.memory_gb.filter(|gb| *gb > 0.0 && !run.measured.oom)?;
    Some((prediction.gb / measured - 1.0) * 100.0)
}

/// Statistics by a key of each run.
pub fn by<'a>(errors: &[(&'a Run, f64)], key: impl Fn(&'a Run) -> String) -> BTreeMap<String, Stats> {
    let mut groups: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (run, error) in errors {
        groups.entry(key(run)).or_default().push(*error);
    }
    groups.into_iter().map(|(name, errors)| (name, Stats::of(&errors))).collect()
}

/// What is said of a table of runs as a whole.
pub struct Summary<'a> {
    rows: usize,
    skipped: BTreeMap<&'static str, usize>,
    throughput: Vec<(&'a Run, f64)>,
    memory: Vec<(&'a Run, f64)>,
    /// Runs out of memory, and how many of them were foretold; runs that fitted, and how many of those were.
    oom: [usize; 4],
}

impl<'a> Summary<'a> {
    /// Of each row's reason to be skipped, if there is one, and of all others' predictions.
    pub fn of(reasons: impl Iterator<Item = Option<Skip>>, runs: &'a [Run], predictions: &[Prediction]) -> Summary<'a> {
        let (mut rows, mut skipped) = (0, BTreeMap::new());
        for reason in reasons {
            rows += 1;
            if let Some(Skip(reason)) = reason {
                *skipped.entry(reason).or_default() += 1;
            }
        }
        let both = || runs.iter().zip(predictions);
        let throughput = both().filter_map(|(run, p)| Some((run, throughput_error(run, &p.timing)?))).collect();
        let memory = both().filter_map(|(run, p)| Some((run, memory_error(run, &p.memory)?))).collect();
        let count = |oom: bool, fits: Option<bool>| {
            both().filter(|(run, p)| run.measured.oom == oom && fits.is_none_or(|fits| p.memory.fits == fits)).count()
        };
        let oom = [count(true, None), count(true, Some(false)), count(false, None), count(false, Some(true))];
        Summary { rows, skipped, throughput, memory, oom }
    }

    /// Statistics of throughput by accelerator, framework and model family.
    pub fn groups(&self) -> [(&'static str, BTreeMap<String, Stats>); 3] {
        [
            ("accelerator", by(&self.throughput, |run| run.device.name.clone())),
            ("framework", by(&self.throughput, |run| run.stack.name.clone())),
            ("model family", by(&self.throughput, |run| run.family.to_owned())),
        ]
    }

    /// Statistics of throughput and of memory over all runs.
    pub fn all(&self) -> (Stats, Stats) {
        let errors = |all: &[(&Run, f64)]| all.iter().map(|(_, error)| *error).collect::<Vec<_>>();
        (Stats::of(&errors(&self.throughput)), Stats::of(&errors(&self.memory)))
    }

    /// For scripts.
    pub fn json(&self) -> serde_json::Value {
        let stats = |s: &Stats| {
            let [median, p90] = s.shares();
            json!({ "count": s.count, "median_abs_error_pct": median, "p90_abs_error_pct": p90 })
        };
        let groups: serde_json::Map<String, serde_json::Value> = self
            .groups()
            .iter()
            .map(|(name, all)| {
                let all = all.iter().map(|(name, s)| (name.clone(), stats(s)));
                ((*name).to_owned(), serde_json::Value::Object(all.collect()))
            })
            .collect();
        let (throughput, memory) = self.all();
        let ([median, p90], [memory_median, memory_p90]) = (throughput.shares(), memory.shares());
        let skipped: usize = self.skipped.values().sum();
        json!({
            "rows": self.rows,
            "predicted": self.rows - skipped,
            "skipped": self.skipped,
            "compared": throughput.count,
            "median_abs_error_pct": median,
            "p90_abs_error_pct": p90,
            "memory_compared": memory.count,
            "memory_median_abs_error_pct": memory_median,
            "memory_p90_abs_error_pct": memory_p90,
            "oom": { "runs": self.oom[0], "foretold": self.oom[1], "fitted": self.oom[2], "fit_foretold": self.oom[3] },
            "groups": groups,
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let (throughput, memory) = self.all();
        let skipped: usize = self.skipped.values().sum();
        let mut text = format!("{} rows, {} predicted", self.rows, self.rows - skipped);
        for (reason, count) in &self.skipped {
            text += &format!("; {count} skipped: {reason}");
        }
        text += &format!("\n\n{:<34} {:>6} {:>9} {:>9}\n", "absolute error", "runs", "median", "90th");
        let line = |name: &str, s: &Stats| {
            let [median, p90] = s.shares().map(|share| share.map_or("–".to_owned(), |share| format!("{share:.1} %")));
            format!("{name:<34} {:>6} {median:>9} {p90:>9}\n", s.count)
        };
        text += &line("throughput", &throughput);
        text += &line("peak memory", &memory);
        for (name, groups) in self.groups() {
            text += &format!("\nthroughput by {name}\n");
            groups.iter().for_each(|(name, stats)| text += &line(name, stats));
        }
        text += "\nmemory by framework\n";
        let memory = by(&self.memory, |run| run.stack.name.clone());
        memory.iter().for_each(|(name, stats)| text += &line(name, stats));
        let [runs, foretold, fitted, fit] = self.oom;
        text +=
            &format!("\nout of memory: {foretold} of {runs} foretold; of {fitted} that fitted, {fit} were to fit\n");
        text += "\nworst ten\n";
        let mut worst: Vec<_> = self.throughput.iter().collect();
        worst.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        for (run, error) in worst.iter().take(10) {
            text +=
                &format!("{:<34} {error:>+8.1} %  {} on {} {}\n", run.id, run.shape.name, run.devices, run.accelerator);
        }
        text
    }
}
