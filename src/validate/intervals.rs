//! Bands of measured over predicted values, by how well what was measured supports a prediction.
//!
//! In: runs and their errors by fits that have not seen them. Out: [`Intervals`], and how many of the runs each covers that it was not
//! made from.
//!
//! Invariant: what supports a run is counted among those that its fit has seen; a run's own publisher is in no band that is judged
//! on it.

use std::collections::{BTreeMap, BTreeSet};

use meshwright_hardware::profile::{Band, Evidence, Support};
use statrs::statistics::{Data, OrderStatistics};

use super::Run;
use super::ranking::job_of;
use super::summary::measured_step_s;

/// Of ten measured values, those in a band.
const COVERED: f64 = 0.8;

/// A run beside a prediction that has not seen it.
#[derive(Clone, Debug)]
pub struct Residual<'a> {
    /// Who measured it.
    pub publisher: &'a str,
    /// What supports the prediction.
    pub support: Support,
    /// Measured over predicted.
    pub share: f64,
}

/// Residuals of runs, of which each was predicted by a fit to those of other keys; `error` is predicted over measured, less one.
pub fn residuals<'a>(
    runs: &[&'a Run],
    key: impl Fn(&Run) -> String,
    error: impl Fn(&Run) -> Option<f64>,
) -> Vec<Residual<'a>> {
    let known: Vec<(&'a Run, String, f64)> =
        runs.iter().filter_map(|run| Some((*run, key(run), error(run)?))).collect();
    let mut counted: BTreeMap<(&str, CountedBy), usize> = BTreeMap::new();
    for (run, key, _) in &known {
        for place in counted_by(run) {
            *counted.entry((key, place)).or_default() += 1;
        }
    }
    let mut all: BTreeMap<CountedBy, usize> = BTreeMap::new();
    for ((_, place), runs) in &counted {
        *all.entry(place.clone()).or_default() += runs;
    }
    let of = |(run, key, error): &(&'a Run, String, f64)| {
        let [own, stack, device] =
            counted_by(run).map(|place| all[&place] - counted.get(&(key.as_str(), place)).copied().unwrap_or(0));
        let support = Evidence { own, stack, device }.support();
        Residual { publisher: &run.publisher, support, share: 1.0 / (1.0 + error) }
    };
    known.iter().map(of).collect()
}

/// The band of gains: of each job's plans, of how many times as long each other takes as the one predicted to be fastest, measured over
/// predicted. `error` is of the step, predicted over measured, less one.
pub fn gains(runs: &[&Run], error: impl Fn(&Run) -> Option<f64>) -> Band {
    let mut jobs: BTreeMap<String, Vec<[f64; 2]>> = BTreeMap::new();
    for run in runs {
        let plan = &run.plans[0];
        if let (Some(measured), Some(error)) = (measured_step_s(run, plan), error(run)) {
            jobs.entry(job_of(run, plan)).or_default().push([measured * (1.0 + error), measured]);
        }
    }
    band(jobs.into_values().flat_map(shares_of_gains).collect())
}

/// Of plans of one job, each by its predicted and its measured step.
fn shares_of_gains(mut plans: Vec<[f64; 2]>) -> Vec<f64> {
    plans.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let first = plans.remove(0);
    plans.into_iter().map(|[predicted, measured]| (measured / first[1]) / (predicted / first[0])).collect()
}

/// What runs are counted by.
type CountedBy = (String, String);

/// Stack and accelerator with format; stack; accelerator with format.
fn counted_by(run: &Run) -> [CountedBy; 3] {
    let stack = run.stack().name.clone();
    let device = format!("{} {}", run.device().name, run.plans[0].job.precision);
    [(stack.clone(), device.clone()), (stack, String::new()), (String::new(), device)]
}

/// Residuals of runs by fits without their part of the rows, and by fits without their publisher.
pub struct Unseen<'a> {
    /// Of what a stack's own publishers measure next.
    pub rows: Vec<Residual<'a>>,
    /// Of what others do.
    pub publishers: Vec<Residual<'a>>,
}

impl Unseen<'_> {
    /// The bands: where a stack was measured of rows that were held out, else of publishers that were. None is narrower than that of
    /// a better support, as less evidence makes nothing surer.
    pub fn bands(&self) -> BTreeMap<Support, Band> {
        self.bands_without("")
    }

    fn bands_without(&self, publisher: &str) -> BTreeMap<Support, Band> {
        let mut widest = Band { low: f64::INFINITY, high: f64::NEG_INFINITY, runs: 0 };
        let of = |support: Support| {
            let residuals = if support == Support::Measured { &self.rows } else { &self.publishers };
            let others = residuals.iter().filter(|r| r.support == support && r.publisher != publisher);
            let own = band(others.map(|r| r.share).collect());
            widest = Band { low: own.low.min(widest.low), high: own.high.max(widest.high), runs: own.runs };
            (support, widest)
        };
        Support::ALL.into_iter().map(of).collect()
    }

    /// Of rows held out, then of publishers, by support and of all: runs, and how many lie in bands to which their publisher has not
    /// added.
    pub fn coverage(&self) -> [BTreeMap<&'static str, [usize; 2]>; 2] {
        let all = || self.rows.iter().chain(&self.publishers);
        let publishers: BTreeSet<&str> = all().map(|r| r.publisher).collect();
        let bands: BTreeMap<&str, _> = publishers.into_iter().map(|one| (one, self.bands_without(one))).collect();
        [&self.rows, &self.publishers].map(|residuals| {
            let mut counts: BTreeMap<&'static str, [usize; 2]> = BTreeMap::new();
            for r in residuals {
                let band = bands[r.publisher][&r.support];
                let inside = (band.low..=band.high).contains(&r.share);
                for name in [r.support.name(), "all"] {
                    let [runs, covered] = counts.entry(name).or_default();
                    (*runs, *covered) = (*runs + 1, *covered + usize::from(inside));
                }
            }
            counts
        })
    }
}

/// Where eight in ten shares lie, in thousandths; of no shares a band that no other is narrower than.
fn band(shares: Vec<f64>) -> Band {
    let runs = shares.len();
    let mut data = Data::new(shares);
    let rounded = |value: f64| (value * 1e3).round() / 1e3;
    let tail = (1.0 - COVERED) / 2.0;
    match runs {
        0 => Band { low: f64::INFINITY, high: f64::NEG_INFINITY, runs },
        _ => Band { low: rounded(data.quantile(tail)), high: rounded(data.quantile(1.0 - tail)), runs },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn residual(publisher: &'static str, support: Support, share: f64) -> Residual<'static> {
        Residual { publisher, support, share }
    }

    /// By hand: of 101 shares from 0.5 to 1.5 one in ten is below 0.6 and one in ten above 1.4.
    #[test]
    fn eight_in_ten_lie_in_a_band_and_less_evidence_is_no_narrower() {
        let shares =
            |support, by: f64| (0..=100).map(move |n| residual("a", support, 1.0 + (n as f64 / 100.0 - 0.5) * by));
        let publishers = shares(Support::Near, 1.0).chain(shares(Support::Extrapolated, 0.1)).collect();
        let bands = Unseen { rows: shares(Support::Measured, 0.2).collect(), publishers }.bands();
        let near = |band: Band, low: f64, high: f64| {
            assert!((band.low - low).abs() < 0.01 && (band.high - high).abs() < 0.01 && band.runs == 101, "{band:?}");
        };
        near(bands[&Support::Measured], 0.92, 1.08);
        near(bands[&Support::Near], 0.6, 1.4);
        near(bands[&Support::Extrapolated], 0.6, 1.4);
    }

    /// By hand: predicted 10 and 12 s, measured 11 and 12.1: 1.1 times as long where 1.2 times was predicted.
    #[test]
    fn a_gain_is_of_the_plan_predicted_to_be_fastest() {
        let shares = shares_of_gains(vec![[12.0, 12.1], [10.0, 11.0]]);
        assert!(shares.len() == 1 && (shares[0] - 1.1 / 1.2).abs() < 1e-12, "{shares:?}");
        assert!(shares_of_gains(vec![[1.0, 1.0]]).is_empty());
    }

    /// A publisher whose runs all take twice as long as those of the others lies in no band of theirs.
    #[test]
    fn no_publisher_is_covered_by_its_own_runs() {
        let near = |publisher, share| residual(publisher, Support::Near, share);
        let usual = (0..20).map(|n| near(["a", "b"][n % 2], 0.95 + n as f64 / 200.0));
        let publishers = usual.chain((0..20).map(|_| near("slow", 2.0))).collect();
        let [rows, publishers] = Unseen { rows: Vec::new(), publishers }.coverage();
        assert!(rows.is_empty());
        assert_eq!(publishers["near"], publishers["all"]);
        let [runs, covered] = publishers["near"];
        assert!(runs == 40 && covered <= 20, "{publishers:?}");
    }
}
