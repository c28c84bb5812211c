//! A case: what is asked for.
//!
//! In: a job, a cluster, what is fixed, the engine to plan for. Out: [`Case`].
//!
//! Invariant: all that an answer depends on, but for how many plans are wanted.

use meshwright_hardware::profile::Cluster;

use crate::ability::Ability;
use crate::job::{Fix, Job};
use crate::predict::memory_margin;

/// A job on a cluster, with decisions fixed, for an engine.
#[derive(Clone)]
pub struct Case {
    /// What is trained, and what is wanted of it.
    pub job: Job,
    /// What there is.
    pub cluster: Cluster,
    /// What is fixed.
    pub fix: Fix,
    /// The engine to plan for.
    pub engine: Option<&'static Ability>,
}

impl Case {
    /// A job on a cluster, with nothing fixed, for any engine.
    pub fn of(job: &Job, cluster: &Cluster) -> Case {
        Case { job: job.clone(), cluster: cluster.clone(), fix: Fix::default(), engine: None }
    }

    /// The same, for plans that leave as much memory free as one run in ten needs beyond its prediction; none where the goal says how
    /// much to leave, or nothing is known of it.
    pub fn with_margin(&self) -> Option<Case> {
        let margin = memory_margin(self.job.precision, &self.cluster);
        let mut roomy = self.clone();
        // Upwards, so that no interval passes the memory by rounding.
        roomy.job.goal.headroom = (margin * 1e3).ceil() / 1e3;
        (margin > 0.0 && self.job.goal.headroom == 0.0).then_some(roomy)
    }
}
