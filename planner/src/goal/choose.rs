//! Choosing: the plans that serve a goal best, on all of a cluster or on a part of it.
//!
//! In: a [`Case`]. Out: [`Chosen`]: the best plans, a bound, the Pareto front.
//!
//! Parts of the cluster are searched for their fastest plans, largest first, each only as far as it can still better what was
//! found: a step above some length cannot, as [`least_training`] says. Prices are a part's own, so that its fastest plan is
//! its cheapest too; of energy it need not be, and the gap says how much that can matter.
//!
//! Invariant: no plan on the whole or on any part that keeps the limits is better than the bound; equal inputs give equal
//! answers. Where time alone is wanted, parts stand in the front alone, and not all need be looked at: the search itself may leave
//! devices idle.

use std::collections::BTreeMap;
use std::time::Instant;

use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Seconds;

use super::case::Case;
use super::could_fit::could_fit;
use super::front::front;
use super::longest::longest_step;
use super::offer::{Offer, keeps, measure};
use super::parts::parts;
use crate::error::PlanError;
use crate::goodput::{dollars_per_hour, kilowatts, least_training};
use crate::job::{Goal, Job, Objective};
use crate::parallel::at_once;
use crate::search::sites::decide_with;
use crate::search::{Found, Progress, SearchOptions, TOLERANCE};

/// How changed jobs are searched: not as far as the answer is.
pub const QUICK: SearchOptions<'static> = SearchOptions { tolerance: 0.02, effort: 2000, ..SearchOptions::FULL };
/// How parts are searched for the front alone: plans that stand there are good ones, not proved the best. All their devices are
/// busy.
const ROUGH: SearchOptions<'static> =
    SearchOptions { tolerance: 0.05, effort: 500, rough: true, idle: false, ..SearchOptions::FULL };
/// Share of memory that one more look at the whole cluster leaves free, for the front.
const MORE_HEADROOM: f64 = 0.3;
/// Parts looked at at a time, whatever the number of cores, so that answers do not depend on it.
const AT_ONCE: usize = 2;
/// Relative difference in what is wanted below which the faster of two plans is the better one.
const ALIKE: f64 = 0.001;
/// Combinations that are looked at for the front alone: as many as for the answer itself, or these.
const FOR_FRONT: usize = 1_000_000;
/// Plans of a cluster that are compared by energy. A search orders them by time, and a slower one that waits more draws less power.
const FOR_ENERGY: usize = 20;

/// Is told which cluster is searched, and how far that is.
pub type Watch<'a> = dyn Fn(&Cluster, &Progress) + Sync + 'a;

/// What was chosen, and from what.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The best offers that keep the limits, best first; none if plans fit but none keeps them.
    pub best: Vec<Offer>,
    /// What no plan undercuts that keeps the limits, in days, dollars or kWh, as the objective counts.
    pub bound: f64,
    /// What no plan on the first one's devices undercuts, in seconds a step.
    pub bound_step_s: f64,
    /// How much better than the first any plan can be, as a fraction.
    pub gap: f64,
    /// The Pareto front of all offers that keep the limits.
    pub front: Vec<Offer>,
    /// All offers, whether they keep the limits or not.
    pub offers: Vec<Offer>,
    /// Clusters that were searched: the whole and parts of it.
    pub searched: usize,
    /// Combinations looked at.
    pub considered: usize,
    /// How many fell for which reason.
    pub rejected: BTreeMap<String, usize>,
    /// How many were simulated.
    pub simulated: usize,
    /// How long it took.
    pub seconds: f64,
}

/// Chooses plans for a job.
///
/// # Errors
/// [`PlanError::Infeasible`] if nothing fits on the cluster, nor, unless time alone is wanted, on any part of it;
/// [`PlanError::Unknown`] if what is wanted needs a price or a power that the cluster's profiles lack.
pub fn choose(case: &Case, top: usize, watch: &Watch) -> Result<Chosen, PlanError> {
    choose_with(case, top, true, watch)
}

/// Chooses the best plan alone: nothing is searched for the front.
///
/// # Errors
/// As [`choose`].
pub fn choose_best(case: &Case, watch: &Watch) -> Result<Chosen, PlanError> {
    choose_with(case, 1, false, watch)
}

fn choose_with(case: &Case, top: usize, front: bool, watch: &Watch) -> Result<Chosen, PlanError> {
    let Case { job, cluster, .. } = case;
    known(&job.goal, cluster)?;
    let mut choice = Chooser::of(case, top.max(1), watch);
    choice.whole(cluster)?;
    if choice.wants_time_alone() {
        choice.some_pools(cluster)?;
        if !front {
            return choice.end();
        }
    }
    // For the front alone halves will do.
    let mut parts = parts(cluster, !choice.wants_time_alone());
    parts.retain(|part| choice.bounds.iter().all(|(searched, _)| searched != part));
    let mut looks: Vec<Look> = parts.into_iter().map(|cluster| Look { cluster, more_headroom: false }).collect();
    if front && choice.wants_headroom() {
        looks.insert(looks.len().min(1), Look { cluster: cluster.clone(), more_headroom: true });
    }
    for some in looks.chunks(AT_ONCE) {
        if choice.wants_time_alone() && choice.for_front >= FOR_FRONT.max(choice.considered) {
            break;
        }
        choice.look_at(some)?;
    }
    choice.end()
}

/// What else is searched.
struct Look {
    cluster: Cluster,
    /// Whether only plans that leave more memory free will do.
    more_headroom: bool,
}

/// Refuses goals that need figures which the profiles do not have.
fn known(goal: &Goal, cluster: &Cluster) -> Result<(), PlanError> {
    let unknown = |wanted: &str, what: &str, lacks: &dyn Fn(&meshwright_hardware::profile::Machine) -> bool| {
        let without = cluster.pools.iter().filter(|pool| lacks(pool)).map(|pool| pool.words()).collect::<Vec<_>>();
        Err(PlanError::Unknown { wanted: wanted.to_owned(), what: what.to_owned(), without: without.join(", ") })
    };
    let priceless = dollars_per_hour(cluster).is_none();
    let price =
        |wanted: &str| unknown(wanted, "a price of a device-hour (give --price)", &|p| p.system.price.is_none());
    match goal {
        Goal { budget: Some(_), .. } if priceless => price("a budget"),
        Goal { objective: Objective::Cost, .. } if priceless => price("the objective cost"),
        Goal { objective: Objective::Energy, .. } if kilowatts(cluster, 1.0).is_none() => {
            unknown("the objective energy", "the power of the device", &|pool| pool.device.power.is_none())
        }
        _ => Ok(()),
    }
}

/// A cluster's pools without one or more of them, the most devices first.
fn without_pools(cluster: &Cluster) -> Vec<Cluster> {
    let kept = |chosen: usize| {
        let pools = cluster.pools.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1);
        Cluster { pools: pools.map(|(_, pool)| pool.clone()).collect(), ..cluster.clone() }
    };
    let mut all: Vec<Cluster> = (1..(1_usize << cluster.pools.len()) - 1).map(kept).collect();
    all.sort_by_key(|some| std::cmp::Reverse(some.devices()));
    all
}

struct Chooser<'a> {
    case: &'a Case,
    top: usize,
    watch: &'a Watch<'a>,
    started: Instant,
    /// What is known of clusters, the whole first: what no plan undercuts, in seconds a step, as far as it can matter.
    bounds: Vec<(Cluster, f64)>,
    offers: Vec<Offer>,
    /// How many of `offers` are the whole's own, in order.
    own: usize,
    /// Combinations looked at on the whole, or for the answer.
    considered: usize,
    /// Combinations looked at for the front alone.
    for_front: usize,
    rejected: BTreeMap<String, usize>,
    simulated: usize,
    /// Why nothing fits on the whole.
    infeasible: Option<PlanError>,
}

impl<'a> Chooser<'a> {
    fn of(case: &'a Case, top: usize, watch: &'a Watch) -> Self {
        Chooser {
            case,
            top,
            watch,
            started: Instant::now(),
            bounds: vec![(case.cluster.clone(), f64::INFINITY)],
            offers: Vec::new(),
            own: 0,
            considered: 0,
            for_front: 0,
            rejected: BTreeMap::new(),
            simulated: 0,
            infeasible: None,
        }
    }

    fn goal(&self) -> &'a Goal {
        &self.case.job.goal
    }

    /// Whether plans are to be fast, whatever they cost: then fewer nodes than there are do no better, since every search
    /// may leave devices idle.
    fn wants_time_alone(&self) -> bool {
        self.goal().objective == Objective::Time && self.goal().budget.is_none()
    }

    fn search(&self, job: &Job, cluster: &Cluster, options: &SearchOptions) -> Result<Found, PlanError> {
        let watch = |progress: &Progress| (self.watch)(cluster, progress);
        let top = match self.goal().objective {
            _ if options.rough => 1,
            Objective::Energy => self.top.max(FOR_ENERGY),
            _ => self.top,
        };
        let options = SearchOptions { watch: Some(&watch), engine: self.case.engine, ..*options };
        decide_with(job, cluster, None, &self.case.fix, top, &options)
    }

    /// Takes in what was found on a cluster, for the answer or for the front alone; returns its bound.
    fn take(&mut self, found: Found, cluster: &Cluster, answers: bool) -> f64 {
        let parts: Vec<Cluster> = (0..found.best.len()).map(|place| found.part(place, cluster)).collect();
        if answers {
            self.considered += found.considered;
            self.simulated += found.simulated;
            found.rejected.into_iter().for_each(|(reason, count)| *self.rejected.entry(reason).or_default() += count);
        } else {
            self.for_front += found.considered;
        }
        for ((plan, figures), part) in found.best.into_iter().zip(&parts) {
            self.offers.push(Offer::of(&self.case.job, plan, figures, part));
        }
        found.bound
    }

    /// Searches the whole.
    fn whole(&mut self, cluster: &Cluster) -> Result<(), PlanError> {
        match self.search(&self.case.job, cluster, &SearchOptions::FULL) {
            Ok(found) => self.bounds[0].1 = self.take(found, cluster, true),
            Err(error @ PlanError::Infeasible { .. }) if !self.wants_time_alone() || cluster.pools.len() > 1 => {
                self.infeasible = Some(error);
            }
            Err(error) => return Err(error),
        }
        self.own = self.offers.len();
        Ok(())
    }

    /// Searches some of several pools without the others, where a plan may be faster. With all of them it was searched, nodes
    /// idle or not.
    fn some_pools(&mut self, cluster: &Cluster) -> Result<(), PlanError> {
        for alone in without_pools(cluster) {
            let fastest = self.offers.iter().map(|offer| offer.figures.step_time_s).fold(f64::INFINITY, f64::min);
            let below = fastest * (1.0 - TOLERANCE);
            let bound = match self.search(&self.case.job, &alone, &SearchOptions { below, ..SearchOptions::FULL }) {
                Ok(found) => self.take(found, &alone, true),
                Err(PlanError::Infeasible { .. } | PlanError::Price(_)) => below,
                Err(error) => return Err(error),
            };
            self.bounds.push((alone, bound.min(below)));
        }
        self.offers.sort_by(|a, b| a.figures.step_time_s.total_cmp(&b.figures.step_time_s));
        self.own = self.offers.len().min(self.top);
        let least = self.bounds.iter().map(|(_, step)| *step).fold(f64::INFINITY, f64::min);
        self.bounds[0].1 = least;
        Ok(())
    }

    /// Whether it is worth a look whether plans leave much more memory free than those that were found.
    fn wants_headroom(&self) -> bool {
        let job = self.more_headroom();
        self.own > 0 && job.goal.check().is_ok() && self.offers.iter().all(|offer| offer.headroom < job.goal.headroom)
    }

    fn more_headroom(&self) -> Job {
        let mut job = self.case.job.clone();
        job.goal.headroom += MORE_HEADROOM;
        job
    }

    /// Searches parts as far as they can matter.
    fn look_at(&mut self, looks: &[Look]) -> Result<(), PlanError> {
        let far = |look: &Look| if look.more_headroom { f64::INFINITY } else { self.longest_step(&look.cluster) };
        let asked: Vec<(&Look, f64)> = looks.iter().map(|look| (look, far(look))).collect();
        let search = |&(look, below): &(&Look, f64)| {
            let answers = !self.wants_time_alone() && !look.more_headroom;
            let options = if answers { SearchOptions::FULL } else { ROUGH };
            let job = if look.more_headroom { self.more_headroom() } else { self.case.job.clone() };
            let possible = below > 0.0 && could_fit(&job, &look.cluster);
            possible.then(|| self.search(&job, &look.cluster, &SearchOptions { below, ..options }))
        };
        let found = at_once(&asked, search);
        for ((look, below), found) in asked.into_iter().zip(found) {
            let answers = !self.wants_time_alone() && !look.more_headroom;
            let bound = match found {
                Some(Ok(found)) => self.take(found, &look.cluster, answers),
                // No plan, or none that could matter; what the profile lacks for it, it lacks for the whole too.
                Some(Err(PlanError::Infeasible { .. } | PlanError::Price(_))) | None => below,
                Some(Err(error)) => return Err(error),
            };
            if !look.more_headroom {
                let bound = if below > 0.0 { bound.min(below) } else { f64::INFINITY };
                self.bounds.push((look.cluster.clone(), bound));
            }
        }
        Ok(())
    }

    /// The least that was offered within the limits.
    fn value(&self, objective: Objective) -> f64 {
        let kept = self.offers.iter().filter(|offer| offer.keeps(self.goal()));
        kept.filter_map(|offer| offer.measure(objective)).fold(f64::INFINITY, f64::min)
    }

    /// The longest step on a part at which training can keep the limits and better what was offered, in what is wanted; for
    /// the front, in dollars or in energy.
    fn longest_step(&self, part: &Cluster) -> f64 {
        let better: &[Objective] = match self.goal().objective {
            Objective::Time if self.wants_time_alone() => &[Objective::Cost, Objective::Energy],
            Objective::Time => &[Objective::Time],
            Objective::Cost => &[Objective::Cost],
            Objective::Energy => &[Objective::Energy],
        };
        let targets: Vec<(Objective, f64)> =
            better.iter().map(|&objective| (objective, self.value(objective) * (1.0 - TOLERANCE))).collect();
        longest_step(&self.case.job, part, &|least| {
            let betters =
                |&(objective, target): &(Objective, f64)| measure(objective, least).is_some_and(|v| v < target);
            keeps(self.goal(), least) && targets.iter().any(betters)
        })
    }

    /// What no plan undercuts that keeps the limits.
    fn bound(&self) -> f64 {
        let of = |(cluster, step): &(Cluster, f64)| {
            let least = least_training(Seconds(*step), &self.case.job, cluster);
            let value = measure(self.goal().objective, &least).unwrap_or(f64::INFINITY);
            if keeps(self.goal(), &least) { value } else { f64::INFINITY }
        };
        let finite = self.bounds.iter().filter(|(_, step)| step.is_finite());
        finite.map(of).fold(f64::INFINITY, f64::min)
    }

    /// Sorts out what was offered.
    fn end(self) -> Result<Chosen, PlanError> {
        if self.offers.is_empty() {
            let none = PlanError::Infeasible { considered: self.considered, rejected: self.rejected };
            return Err(self.infeasible.unwrap_or(none));
        }
        let (goal, objective) = (self.goal(), self.goal().objective);
        let kept: Vec<Offer> = self.offers.iter().filter(|offer| offer.keeps(goal)).cloned().collect();
        let value = |offer: &Offer| offer.measure(objective).unwrap_or(f64::INFINITY);
        let mut best: Vec<Offer> = Vec::new();
        if self.wants_time_alone() {
            // As the search sorted them.
            best.extend(self.offers[..self.own].iter().filter(|offer| offer.keeps(goal)).cloned());
        } else {
            let mut left: Vec<&Offer> = Vec::new();
            for offer in &kept {
                if !left.iter().any(|other| other.plan == offer.plan && other.cluster == offer.cluster) {
                    left.push(offer);
                }
            }
            while best.len() < self.top && !left.is_empty() {
                // Who pays as much has it sooner.
                let least = left.iter().map(|offer| value(offer)).fold(f64::INFINITY, f64::min);
                let alike = (0..left.len()).filter(|&at| value(left[at]) <= least * (1.0 + ALIKE));
                let first = alike.min_by(|&a, &b| left[a].training.days.total_cmp(&left[b].training.days));
                best.push(left.remove(first.unwrap_or(0)).clone());
            }
        }
        let (bound, step, gap) = match best.first() {
            None => (self.bound(), f64::INFINITY, 0.0),
            Some(first) if self.wants_time_alone() => {
                let step = self.bounds[0].1;
                let days = least_training(Seconds(step), &self.case.job, &first.cluster).days;
                (days.min(value(first)), step, (1.0 - step / first.figures.step_time_s).max(0.0))
            }
            Some(first) => {
                let bound = self.bound().min(value(first));
                let step = self.bounds.iter().find(|(cluster, _)| *cluster == first.cluster);
                let step = step.map_or(0.0, |(_, step)| *step).min(first.figures.step_time_s);
                (bound, step, 1.0 - bound / value(first))
            }
        };
        Ok(Chosen {
            front: front(&kept),
            best,
            bound,
            bound_step_s: step,
            gap,
            searched: self.bounds.len(),
            offers: self.offers,
            considered: self.considered,
            rejected: self.rejected,
            simulated: self.simulated,
            seconds: self.started.elapsed().as_secs_f64(),
        })
    }
}
