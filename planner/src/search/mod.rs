//! Search: the best plan for a job on a cluster, how near to the best possible it is, and why the others lost.
//!
//! In: a job, a cluster, what is fixed. Out: [`Found`]: the best plans with their predictions, a bound, counted rejections.
//!
//! Branch and bound, best first: shapes (what kernels see) by a floor of FLOPs and traffic; their combinations by floors of
//! priced passes, of memory, of partitions; those by a bound once their stages are decided; and only then a simulation. It ends
//! when nothing left is below the best simulation by more than the tolerance, or after so many shapes; what is left then is in the
//! gap.
//!
//! Invariant: no combination that simulates faster than the best kept one, by more than the stated gap, was left out; equal
//! inputs give equal answers on any number of cores.

mod bound;
mod cached_prices;
mod compiled;
mod cost;
mod decide;
mod earliest_finish;
mod engine;
mod even_bound;
mod groups;
mod idle;
mod known_parts;
mod known_pools;
mod memory_bound;
pub mod milp;
mod open;
mod open_pools;
mod options;
pub mod partition;
mod partition_bound;
mod pass_ops;
mod pool_assignment;
mod pool_bound;
mod pool_parts;
mod prove;
mod queue;
mod quick_groups;
mod refine;
mod shape_bound;
mod shared_costs;
pub mod shares;
pub mod sites;
mod solver;
mod space;
mod stages;
mod state;
mod timeline;
mod times;
mod within;

use std::collections::BTreeMap;
use std::time::Instant;

use meshwright_hardware::profile::Cluster;

use crate::ability::Ability;
use crate::error::PlanError;
use crate::job::{Fix, Job, Software};
use crate::plan::Plan;
use crate::predict::Figures;

pub use compiled::{Compiled, played_step};
use known_pools::PoolParts;
pub use options::{Progress, SearchOptions};
use state::Search;

/// Relative gap to the best bound at which a search ends.
pub const TOLERANCE: f64 = 0.005;
/// Shapes that a search opens at the most, once it has a plan; what is left then counts in the gap.
const EFFORT: usize = 4500;
/// Simulations at a time, whatever the number of cores, so that answers do not depend on it.
const AT_ONCE: usize = 2;

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// The best plans, best first; at least one.
    pub best: Vec<(Plan, Figures)>,
    /// Combinations looked at, each by a bound of its own or of its shape.
    pub considered: usize,
    /// How many fell for which reason.
    pub rejected: BTreeMap<String, usize>,
    /// How many were simulated.
    pub simulated: usize,
    /// How long it took.
    pub seconds: f64,
    /// What no plan of the space undercuts, in seconds a step.
    pub bound: f64,
    /// Of each of the best: nodes of every pool that it is on, where it leaves nodes of several pools idle.
    pub nodes: Vec<Option<Vec<usize>>>,
}

impl Found {
    /// How much faster than the best found any plan can be, as a fraction of its step.
    pub fn gap(&self) -> f64 {
        (1.0 - self.bound / self.best[0].1.step_time_s).max(0.0)
    }

    /// The part of a cluster that one of the best is on.
    pub fn part(&self, place: usize, cluster: &Cluster) -> Cluster {
        let nodes = self.nodes.get(place).and_then(Option::as_ref);
        nodes.map_or_else(|| cluster.clone(), |nodes| pool_parts::with_nodes(cluster, nodes))
    }
}

/// The `top` best plans for a job on a cluster.
pub fn search(job: &Job, cluster: &Cluster, fix: &Fix, top: usize) -> Result<Found, PlanError> {
    search_with(job, cluster, fix, top, &SearchOptions::FULL)
}

/// The same, in some options. Where nothing is below the options' limit, nothing fits.
///
/// On meshes of all devices, and on those that leave some idle, where a faster plan can be: a batch, heads and layers may divide
/// among fewer. Of several pools every one takes part, with all of its nodes or some.
pub fn search_with(
    job: &Job,
    cluster: &Cluster,
    fix: &Fix,
    top: usize,
    options: &SearchOptions,
) -> Result<Found, PlanError> {
    let started = Instant::now();
    let top = top.max(1);
    let job = &job.under(&cluster.stack);
    let parts = PoolParts::of(cluster);
    let mut search = Search::of(job, cluster, fix, (top, *options))?.with_parts(&parts);
    search.run()?;
    let again = PoolParts::of(cluster);
    if search.guessed_wrong() {
        let options = SearchOptions { guesses: false, ..*options };
        search = Search::of(job, cluster, fix, (top, options))?.with_parts(&again);
        search.run()?;
    }
    let nodes = search.best.iter().map(|(_, _, part)| search.nodes_of(*part)).collect();
    let Search { considered, rejected, best, simulated, proved, .. } = search;
    let best = best.into_iter().map(|(plan, figures, _)| (plan, figures)).collect();
    let mut found = Found { best, considered, rejected, simulated, seconds: 0.0, bound: proved, nodes };
    let Some((_, first)) = found.best.first() else {
        return Err(PlanError::Infeasible { considered: found.considered, rejected: found.rejected });
    };
    found.bound = found.bound.min(first.step_time_s);
    // A plan is one for any software.
    found.best.iter_mut().for_each(|(plan, _)| plan.job.software = Software::default());
    found.seconds = started.elapsed().as_secs_f64();
    Ok(found)
}

/// Whether any plan fits that an engine can express: the search up to the first whose stages have the memory, without its simulation.
pub fn fits(job: &Job, cluster: &Cluster, fix: &Fix, engine: Option<&Ability>) -> Result<bool, PlanError> {
    let options = SearchOptions { unsimulated: true, engine, ..SearchOptions::FULL };
    let job = &job.under(&cluster.stack);
    let mut search = Search::of(job, cluster, fix, (1, options))?;
    search.begin()?;
    search.look()?;
    Ok(search.fits)
}

#[cfg(test)]
mod tests;
