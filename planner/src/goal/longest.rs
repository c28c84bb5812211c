//! The longest step with which training still does.
//!
//! In: a job, a cluster, a test of what no training undercuts. Out: seconds.
//!
//! Invariant: the test fails for longer steps.

use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Seconds;

use crate::goodput::{TrainingFloor, least_training};
use crate::job::Job;

/// The longest step on a cluster at which what no training undercuts still passes a test that longer ones fail; zero if none.
pub fn longest_step(job: &Job, cluster: &Cluster, passes: &dyn Fn(&TrainingFloor) -> bool) -> f64 {
    const SHORTEST: f64 = 1e-9;
    let passes = |step: f64| passes(&least_training(Seconds(step), job, cluster));
    if !passes(SHORTEST) {
        return 0.0;
    }
    let (mut low, mut high) = (SHORTEST, 1.0);
    while passes(high) {
        if high > 1e30 {
            return f64::INFINITY;
        }
        (low, high) = (high, high * 2.0);
    }
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if passes(middle) { low = middle } else { high = middle }
    }
    high
}
