//! How steps vary, and how well their median is known.
//!
//! In: the length of every step. Out: [`Spread`], and the sentence that pages and tables say of it.
//!
//! Invariant: nothing is assumed of how step times are distributed, but that steps do not depend on each other.

use meshwright_hardware::units::Seconds;
use serde_json::{Value, json};
use statrs::distribution::{Binomial, DiscreteCDF};
use statrs::statistics::{Data, OrderStatistics};

/// Probability that the median of all steps there could be lies in [`Spread::confidence_s`], at least.
const CONFIDENCE: f64 = 0.95;

/// How steps vary: what a single prediction can be held to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// How many steps were timed.
    pub steps: usize,
    /// 5th percentile, in seconds.
    pub p5_s: f64,
    /// Half of the steps were faster, in seconds.
    pub median_s: f64,
    /// 95th percentile, in seconds.
    pub p95_s: f64,
    /// The median's 95 % confidence interval, in seconds; none of fewer than 6 steps.
    pub confidence_s: Option<[f64; 2]>,
}

impl Spread {
    /// The spread of step times in seconds; `None` of none.
    pub fn of(mut step_times_s: Vec<f64>) -> Option<Spread> {
        let steps = step_times_s.len();
        step_times_s.sort_by(f64::total_cmp);
        let confidence_s = rank_below(steps).map(|rank| [step_times_s[rank - 1], step_times_s[steps - rank]]);
        let mut times = Data::new(step_times_s);
        (steps > 0).then(|| Spread {
            steps,
            p5_s: times.percentile(5),
            median_s: times.median(),
            p95_s: times.percentile(95),
            confidence_s,
        })
    }

    /// In a sentence, without its full stop.
    pub(super) fn words(&self) -> String {
        let [low, half, high] = [self.p5_s, self.median_s, self.p95_s].map(|x| Seconds(x).to_string());
        let confidence = self.confidence_s.map_or_else(String::new, |interval| {
            let [from, to] = interval.map(|x| Seconds(x).to_string());
            format!(" (95 % confidence: {from} to {to})")
        });
        format!("of {} steps, half took less than {half}{confidence}, nine in ten {low} to {high}", self.steps)
    }

    /// For scripts.
    pub(super) fn json(&self) -> Value {
        json!({ "count": self.steps, "p5_s": self.p5_s, "median_s": self.median_s, "p95_s": self.p95_s,
            "median_ci95_s": self.confidence_s })
    }
}

/// The rank from which, and to which from above, sorted samples hold their distribution's median with [`CONFIDENCE`]: how many
/// samples lie below it is binomial with one half, whatever the distribution (David & Nagaraja 2003, Order Statistics, §7.1).
/// `None` of too few.
fn rank_below(samples: usize) -> Option<usize> {
    let below = Binomial::new(0.5, samples as u64).expect("one half is a probability");
    // P(fewer than `rank` lie below) ≤ (1 − CONFIDENCE) / 2, on each side.
    let rank = (0..samples as u64).take_while(|&fewer| below.cdf(fewer) <= (1.0 - CONFIDENCE) / 2.0).count();
    (rank > 0).then_some(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As tabulated: Conover 1999, Practical Nonparametric Statistics, §3.2, and by hand for six, 1 − 2 · 2⁻⁶.
    #[test]
    fn ranks_of_the_interval_are_those_of_tables() {
        let ranks = [5, 6, 10, 20, 50, 100].map(rank_below);
        assert_eq!(ranks, [None, Some(1), Some(2), Some(6), Some(18), Some(40)]);
    }

    #[test]
    fn the_interval_holds_the_true_median_as_often_as_it_says() {
        // Skewed, as step times are: an exponential's median is ln 2.
        let mut state = 1u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            -(((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64).ln()
        };
        let holds = (0..2000).filter(|_| {
            let spread = Spread::of((0..30).map(|_| draw()).collect()).unwrap();
            let [from, to] = spread.confidence_s.unwrap();
            assert!(from <= spread.median_s && spread.median_s <= to);
            from <= std::f64::consts::LN_2 && std::f64::consts::LN_2 <= to
        });
        // At least 95 %; of 30 samples, by the table, 95.7 %.
        let held = holds.count() as f64 / 2000.0;
        assert!((0.94..0.975).contains(&held), "{held}");
    }
}
