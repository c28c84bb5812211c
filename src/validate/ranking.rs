//! Whether predictions choose well: of plans that were measured for one job, the one predicted to be fastest beside the fastest.
//!
//! In: runs with their predictions. Out: [`Ranking`].

use std::collections::BTreeMap;

use meshwright_planner::plan::Plan;
use serde_json::json;
use statrs::statistics::{Data, OrderStatistics, Statistics};

use super::summary::{Stats, measured_step_s};
use super::{Prediction, Run};

/// Plans of a job below which none is ranked.
const FEWEST: usize = 5;

/// Jobs of which several plans were measured, on the same devices by the same publisher.
pub struct Ranking {
    /// Of each, by how much the measured step of the plan predicted to be fastest is above the shortest, in per cent.
    loss: Vec<f64>,
    /// Of each, the rank correlation of predicted and measured steps (Spearman 1904); none where all are equal.
    correlation: Vec<f64>,
}

impl Ranking {
    /// Of all jobs among runs.
    pub fn of<'a>(rows: impl Iterator<Item = (&'a Run, &'a Prediction)>) -> Ranking {
        let mut jobs: BTreeMap<String, Vec<[f64; 2]>> = BTreeMap::new();
        for (run, p) in rows {
            let Some(measured) = measured_step_s(run, &p.plan) else { continue };
            jobs.entry(job_of(run, &p.plan)).or_default().push([p.figures.step_time_s, measured]);
        }
        jobs.retain(|_, plans| plans.len() >= FEWEST);
        let jobs: Vec<_> = jobs.into_values().collect();
        Ranking {
            loss: jobs.iter().map(|plans| 100.0 * loss(plans)).collect(),
            correlation: jobs.iter().filter_map(|plans| correlation(plans)).collect(),
        }
    }

    fn median_correlation(&self) -> f64 {
        Data::new(self.correlation.clone()).median()
    }

    /// For scripts.
    pub fn json(&self) -> serde_json::Value {
        let [median, p90] = Stats::of(&self.loss).shares();
        json!({
            "jobs": self.loss.len(),
            "first_over_best_pct": { "median": median, "p90": p90 },
            "rank_correlation": (!self.correlation.is_empty()).then(|| self.median_correlation()),
        })
    }

    /// For people; nothing where no job has so many plans.
    pub fn line(&self) -> Option<String> {
        let [Some(median), Some(p90)] = Stats::of(&self.loss).shares() else { return None };
        let correlation = match self.correlation.is_empty() {
            true => String::new(),
            false => format!("; rank correlation {:.2} in the median", self.median_correlation()),
        };
        Some(format!(
            "of {} jobs with {FEWEST} measured plans or more, the one predicted to be fastest took {median:.1} % longer than the \
             fastest in the median, {p90:.1} % at the 90th percentile{correlation}",
            self.loss.len(),
        ))
    }
}

/// What runs of one job have in common: their publisher, accelerators, model, sequences and batch.
pub fn job_of(run: &Run, plan: &Plan) -> String {
    let (job, device) = (&plan.job, &run.device().name);
    let (model, seq, batch) = (&job.model.name, job.seq, job.global_batch);
    format!("{} | {device} | {} | {model} | {seq} | {batch}", run.publisher, run.devices())
}

/// By how much the measured step of what is predicted to be fastest is above the shortest.
fn loss(plans: &[[f64; 2]]) -> f64 {
    let first = plans.iter().min_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let best = plans.iter().map(|plan| plan[1]).fold(f64::INFINITY, f64::min);
    first.map_or(f64::NAN, |first| first[1] / best - 1.0)
}

/// Pearson's correlation of the ranks of predicted and measured.
fn correlation(plans: &[[f64; 2]]) -> Option<f64> {
    let [predicted, measured] = [0, 1].map(|which| ranks(plans.iter().map(|plan| plan[which]).collect()));
    let spread = (&predicted).population_std_dev() * (&measured).population_std_dev();
    let found = (&predicted).population_covariance(&measured) / spread;
    found.is_finite().then_some(found)
}

/// Ranks from the least; equal values share the mean of theirs.
fn ranks(values: Vec<f64>) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        below as f64 + (equal - 1) as f64 / 2.0
    };
    values.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: ranks 0 1 2 3 4 against 1 0 2 3 4 differ by 1 in two places, ρ = 1 − 6·2 / (5·24) = 0.9; the first predicted took 11
    /// where 10 was the least.
    #[test]
    fn a_swap_of_the_first_two_is_a_loss_of_a_tenth() {
        let plans = [[1.0, 11.0], [2.0, 10.0], [3.0, 12.0], [4.0, 13.0], [5.0, 14.0]];
        assert!((loss(&plans) - 0.1).abs() < 1e-12);
        assert!((correlation(&plans).unwrap() - 0.9).abs() < 1e-12);
        assert_eq!(correlation(&[[1.0, 2.0]; 5]), None);
        assert_eq!(ranks(vec![3.0, 1.0, 3.0]), [1.5, 0.0, 1.5]);
    }
}
