//! Offers: a plan, the devices that it needs, and what training by it takes; advice: a change, and what is offered with it.
//!
//! In: a plan's prediction on a cluster. Out: [`Offer`], [`Advice`].
//!
//! Invariant: all devices of the cluster are paid for and draw power, from the first step to the last.

use meshwright_hardware::profile::Cluster;
use serde::Serialize;

use crate::goodput::{Training, TrainingFloor, days_to_train};
use crate::job::{Goal, Job, Objective};
use crate::plan::Plan;
use crate::predict::Figures;

/// A plan and what it takes.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The devices that it needs: all that the user has, or fewer nodes.
    pub cluster: Cluster,
    /// The plan.
    pub plan: Plan,
    /// Of a step.
    pub figures: Figures,
    /// Of all steps.
    pub training: Training,
    /// Share of its device's memory that the rank leaves free that leaves least.
    pub headroom: f64,
}

impl Offer {
    /// What a job's training takes by a plan.
    pub fn of(job: &Job, plan: Plan, figures: Figures, cluster: &Cluster) -> Offer {
        let plan = Plan { job: job.clone(), ..plan };
        let training = days_to_train(figures.step_time(), figures.busy(), job, cluster);
        let taken = cluster.stack.memory.taken(figures.peak_memory_bytes);
        let alone = 1.0 - taken as f64 / cluster.pools[0].device.memory.value.0 as f64;
        let headroom = figures.pools.iter().map(|pool| pool.headroom).reduce(f64::min).unwrap_or(alone);
        Offer { cluster: cluster.clone(), plan, figures, training, headroom }
    }

    /// Devices that the plan has ranks for, of all sites.
    pub fn ranks(&self) -> usize {
        self.plan.mesh.ranks() * self.plan.site_count()
    }

    /// Days, dollars or kWh; none where a price or a power is unknown.
    pub fn measure(&self, objective: Objective) -> Option<f64> {
        let Training { days, dollars, energy_kwh, .. } = self.training;
        measure(objective, &TrainingFloor { days, dollars, energy_kwh })
    }

    /// Whether it keeps a goal's limits.
    pub fn keeps(&self, goal: &Goal) -> bool {
        let Training { days, dollars, energy_kwh, .. } = self.training;
        keeps(goal, &TrainingFloor { days, dollars, energy_kwh })
    }
}

/// What of this is to be least.
pub fn measure(objective: Objective, of: &TrainingFloor) -> Option<f64> {
    match objective {
        Objective::Time => Some(of.days),
        Objective::Cost => of.dollars,
        Objective::Energy => of.energy_kwh,
    }
}

/// Whether this keeps a goal's limits. What has no known price is in no budget.
pub fn keeps(goal: &Goal, of: &TrainingFloor) -> bool {
    goal.deadline.is_none_or(|deadline| of.days * 86400.0 <= deadline.0)
        && goal.budget.is_none_or(|budget| of.dollars.is_some_and(|dollars| dollars <= budget.0))
}

/// A change and what it brings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// What to change, in words.
    pub change: String,
    /// The arguments, or the key of the job, that do.
    pub how: String,
    /// The plan that is then found, in a line.
    pub plan: String,
    /// Its step.
    pub step_time_s: f64,
    /// From the first step to the last, expected.
    pub days: f64,
    /// For all devices over that time; none where a price is unknown.
    pub dollars: Option<f64>,
    /// The share of memory that it leaves free.
    pub headroom: f64,
}

impl Advice {
    /// A change, and an offer that was found with it.
    pub(super) fn of(change: String, how: String, offer: &Offer) -> Advice {
        Advice {
            change,
            how,
            plan: offer.plan.summary(),
            step_time_s: offer.figures.step_time_s,
            days: offer.training.days,
            dollars: offer.training.dollars,
            headroom: offer.headroom,
        }
    }

    /// Whether what it brings keeps a goal's limits.
    pub(super) fn keeps(&self, goal: &Goal) -> bool {
        let least = TrainingFloor { days: self.days, dollars: self.dollars, energy_kwh: None };
        keeps(goal, &least)
    }
}
