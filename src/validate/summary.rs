//! Errors of predictions: per run, and by publisher, accelerator, stack and model family; baselines beside them.
//!
//! In: runs and predictions. Out: signed errors, [`Stats`], tables.
//!
//! Invariant: an error is that of the step, |predicted / measured − 1|, whatever figure the source printed.

use std::collections::BTreeMap;

use serde_json::json;
use statrs::statistics::{Data, OrderStatistics};

use meshwright_hardware::units::Precision;
use meshwright_planner::plan::Plan;
use meshwright_planner::predict::interval;

use super::{Prediction, Run, Skip, cluster};

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
    pub(super) fn shares(&self) -> [Option<f64>; 2] {
        [self.median, self.p90].map(|share| Some(share).filter(|_| self.count > 0))
    }
}

/// Tokens a second and device that the run reached, from whichever figure its source prints.
fn measured_tokens_per_s(run: &Run, plan: &Plan) -> Option<f64> {
    let m = &run.measured;
    let flops = run.convention.flops_per_token(plan);
    let of_step = |step: f64| plan.job.tokens_per_step() as f64 / step / run.devices() as f64;
    let of_tflops = |tflops: f64| tflops * 1e12 / flops;
    let found = m.tokens_per_s.or_else(|| m.step_time_s.map(of_step)).or_else(|| m.tflops.map(of_tflops));
    found.or_else(|| m.mfu.map(|mfu| mfu * peak(run, plan) / flops)).filter(|rate| *rate > 0.0 && rate.is_finite())
}

/// Seconds of a step that the run took by a plan of it, where the row's time is meant to be compared.
pub fn measured_step_s(run: &Run, plan: &Plan) -> Option<f64> {
    let rate = measured_tokens_per_s(run, plan).filter(|_| run.timed)?;
    Some(plan.job.tokens_per_step() as f64 / rate / run.devices() as f64)
}

/// The peak that a model FLOPs utilisation refers to: of 16 bits, or of the run's format where its source says so.
pub fn peak(run: &Run, plan: &Plan) -> f64 {
    let precision = if run.peak_of_format { plan.job.precision } else { Precision::Bf16 };
    run.device().peak_in(precision).map_or(0.0, |peak| peak.0)
}

/// Signed error of the step in per cent, predicted over measured, where the row's time is meant to be compared.
pub fn step_error(run: &Run, prediction: &Prediction) -> Option<f64> {
    let measured = measured_step_s(run, &prediction.plan)?;
    Some((prediction.figures.step_time_s / measured - 1.0) * 100.0)
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

/// What is said of a table of runs as a whole.
pub struct Summary<'a> {
    rows: usize,
    skipped: BTreeMap<&'static str, usize>,
    step: Vec<(&'a Run, f64)>,
    memory: Vec<(&'a Run, f64)>,
    /// What no model of a machine would say of the same steps.
    baselines: [(&'static str, Stats); 2],
    /// Runs out of memory, and how many of them were foretold; runs that fitted, and how many of those were.
    oom: [usize; 4],
    /// By support: runs with a measured step, and how many lie within their prediction's interval.
    intervals: BTreeMap<&'static str, [usize; 2]>,
}

impl<'a> Summary<'a> {
    /// Of every row's run and its prediction, or the reason why there is none.
    pub fn of(rows: &[Result<(&'a Run, &'a Prediction), &Skip>]) -> Summary<'a> {
        let mut skipped = BTreeMap::new();
        for skip in rows.iter().filter_map(|row| row.as_ref().err()) {
            *skipped.entry(skip.reason).or_default() += 1;
        }
        let both = || rows.iter().flatten().copied();
        let step = both().filter_map(|(run, p)| Some((run, step_error(run, p)?))).collect();
        let memory = both().filter_map(|(run, p)| Some((run, memory_error(run, p)?))).collect();
        let count = |oom: bool, fits: Option<bool>| {
            both().filter(|(run, p)| run.measured.oom == oom && fits.is_none_or(|fits| p.figures.fits == fits)).count()
        };
        let oom = [count(true, None), count(true, Some(false)), count(false, None), count(false, Some(true))];
        Summary {
            rows: rows.len(),
            skipped,
            step,
            memory,
            baselines: baselines(both()),
            oom,
            intervals: intervals(both()),
        }
    }

    /// Statistics of the step by publisher, accelerator, stack and model family.
    fn groups(&self) -> [(&'static str, BTreeMap<String, Stats>); 4] {
        [
            ("publisher", by(&self.step, |run| run.publisher.clone())),
            ("accelerator", by(&self.step, |run| run.device().name.clone())),
            ("stack", by(&self.step, |run| run.stack().name.clone())),
            ("model family", by(&self.step, |run| run.family.to_owned())),
        ]
    }

    /// Statistics of the step and of memory over all runs.
    pub fn all(&self) -> (Stats, Stats) {
        let errors = |all: &[(&Run, f64)]| all.iter().map(|(_, error)| *error).collect::<Vec<_>>();
        (Stats::of(&errors(&self.step)), Stats::of(&errors(&self.memory)))
    }

    /// Over publishers, each of which is one by the median of its errors.
    fn votes(&self) -> Stats {
        let publishers = by(&self.step, |run| run.publisher.clone());
        Stats::of(&publishers.values().map(|stats| stats.median).collect::<Vec<_>>())
    }

    /// For scripts.
    pub fn json(&self) -> serde_json::Value {
        let stats = |s: &Stats| {
            let [median, p90] = s.shares();
            json!({ "count": s.count, "median_abs_error_pct": median, "p90_abs_error_pct": p90 })
        };
        let all = |all: &BTreeMap<String, Stats>| {
            serde_json::Value::Object(all.iter().map(|(name, s)| (name.clone(), stats(s))).collect())
        };
        let groups = self.groups().iter().map(|(name, of)| ((*name).to_owned(), all(of))).collect();
        let (step, memory) = self.all();
        let baselines = self.baselines.iter().map(|(name, s)| ((*name).to_owned(), stats(s))).collect();
        json!({
            "rows": self.rows,
            "predicted": self.rows - self.skipped.values().sum::<usize>(),
            "skipped": self.skipped,
            "step": stats(&step),
            "step_by_publisher_as_one": stats(&self.votes()),
            "baselines": serde_json::Value::Object(baselines),
            "memory": stats(&memory),
            "intervals": self.intervals.iter().map(|(name, [runs, within])| json!({ "support": name, "runs": runs, "within": within }))
                .collect::<Vec<_>>(),
            "oom": { "runs": self.oom[0], "foretold": self.oom[1], "fitted": self.oom[2], "fit_foretold": self.oom[3] },
            "groups": serde_json::Value::Object(groups),
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let (step, memory) = self.all();
        let skipped: usize = self.skipped.values().sum();
        let mut text = format!("{} rows, {} predicted", self.rows, self.rows - skipped);
        for (reason, count) in &self.skipped {
            text += &format!("; {count} skipped: {reason}");
        }
        text += &format!("\n\n{:<44} {:>6} {:>9} {:>9}\n", "|predicted / measured - 1|", "runs", "median", "90th");
        let line = |name: &str, s: &Stats| {
            let [median, p90] = s.shares().map(|share| share.map_or("–".to_owned(), |share| format!("{share:.1} %")));
            format!("{name:<44} {:>6} {median:>9} {p90:>9}\n", s.count)
        };
        text += &line("step", &step);
        text += &line("step, each publisher one by its median", &self.votes());
        for (name, stats) in &self.baselines {
            text += &line(name, stats);
        }
        text += &line("peak memory", &memory);
        for (name, groups) in self.groups() {
            text += &format!("\nstep by {name}\n");
            groups.iter().for_each(|(name, stats)| text += &line(name, stats));
        }
        text += "\nmemory by stack\n";
        let memory = by(&self.memory, |run| run.stack().name.clone());
        memory.iter().for_each(|(name, stats)| text += &line(name, stats));
        let [runs, foretold, fitted, fit] = self.oom;
        text +=
            &format!("\nout of memory: {foretold} of {runs} foretold; of {fitted} that fitted, {fit} were to fit\n");
        let held = |(name, [runs, within]): (&&str, &[usize; 2])| format!("{name} {within} of {runs}");
        text += &format!(
            "80 % intervals of steps hold: {}\n",
            self.intervals.iter().map(held).collect::<Vec<_>>().join(", ")
        );
        text += "\nworst ten\n";
        let mut worst: Vec<_> = self.step.iter().collect();
        worst.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        for (run, error) in worst.iter().take(10) {
            let (model, devices) = (&run.plans[0].job.model.name, run.devices());
            text += &format!("{:<34} {error:>+8.1} %  {model} on {devices} {}\n", run.id, run.accelerator);
        }
        text
    }
}

/// How many measured steps lie within the intervals of their predictions, by support.
fn intervals<'a>(rows: impl Iterator<Item = (&'a Run, &'a Prediction)>) -> BTreeMap<&'static str, [usize; 2]> {
    let mut counts: BTreeMap<&'static str, [usize; 2]> = BTreeMap::new();
    for (run, p) in rows {
        let Some(measured) = measured_step_s(run, &p.plan) else { continue };
        let Some(interval) = interval(&p.plan, &p.figures, &cluster(run, &p.plan)) else { continue };
        let within = (interval.step_time_low_s..=interval.step_time_high_s).contains(&measured);
        let [runs, held] = counts.entry(interval.support.name()).or_default();
        (*runs, *held) = (*runs + 1, *held + usize::from(within));
    }
    counts
}

/// What would be said of steps without a model of the machine: with each device's usual MFU; and of a machine without software,
/// times one figure a stack. Both are the medians of these very runs.
fn baselines<'a>(rows: impl Iterator<Item = (&'a Run, &'a Prediction)>) -> [(&'static str, Stats); 2] {
    let mut of_device: BTreeMap<(&str, Precision), Vec<f64>> = BTreeMap::new();
    let mut of_stack: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (run, p) in rows {
        let Some(measured) = measured_step_s(run, &p.plan) else { continue };
        // Work over the step, of which the peak is the same for all of a device's.
        let flops = p.plan.job.model_flops_per_step() / run.devices() as f64;
        of_device.entry((&run.device().name, p.plan.job.precision)).or_default().push(flops / measured);
        if let Some(ideal) = p.ideal_step_s {
            of_stack.entry(&run.stack().name).or_default().push(measured / ideal);
        }
    }
    // Predicted over measured, if all had the median of their like.
    fn errors<K>(groups: BTreeMap<K, Vec<f64>>, error: impl Fn(f64, f64) -> f64) -> Stats {
        let each = groups.into_values().flat_map(|all| {
            let median = Data::new(all.clone()).median();
            all.into_iter().map(|one| 100.0 * (error(one, median) - 1.0)).collect::<Vec<_>>()
        });
        Stats::of(&each.collect::<Vec<_>>())
    }
    [
        ("baseline: one MFU a device and format", errors(of_device, |rate, usual| rate / usual)),
        ("baseline: one scalar a stack", errors(of_stack, |longer, usual| usual / longer)),
    ]
}
