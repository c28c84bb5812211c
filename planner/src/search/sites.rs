//! The search on a cluster of several sites: that of one site, whose plans then meet with those of the others.
//!
//! In: a job, a cluster, how sites share their work. Out: [`Found`].
//!
//! Invariant: on a cluster of one site it is the search itself; every plan found fits with what the sites need to meet.

use meshwright_hardware::profile::Cluster;

use crate::error::PlanError;
use crate::job::{Fix, Job};
use crate::plan::{Plan, Sites};
use crate::predict::predict_figures;

use super::{Found, SearchOptions, search_with};

/// How often a site is searched, for plans that leave more room each time, where none had any for what sites need to meet.
const MORE_HEADROOM: usize = 8;
/// By how much of a device's memory, at the least.
const LEAST_ROOM: f64 = 0.02;

/// The best plans for a job on a cluster; on one of several sites, the best of a site with its share of the batch, which meet
/// as `sites` says, or as usual.
pub fn decide(job: &Job, cluster: &Cluster, sites: Option<Sites>, fix: &Fix, top: usize) -> Result<Found, PlanError> {
    decide_with(job, cluster, sites, fix, top, &SearchOptions::FULL)
}

/// The same, by searches in some options.
pub fn decide_with(
    job: &Job,
    cluster: &Cluster,
    sites: Option<Sites>,
    fix: &Fix,
    top: usize,
    options: &SearchOptions,
) -> Result<Found, PlanError> {
    let Some(wan) = cluster.wan else { return search_with(job, cluster, fix, top, options) };
    let sites = sites.unwrap_or(Sites::usual(wan.sites));
    if !job.global_batch.is_multiple_of(sites.count) {
        let considered = 1;
        let reason = format!("global batch {} not divisible by {} sites", job.global_batch, sites.count);
        return Err(PlanError::Infeasible { considered, rejected: [(reason, considered)].into() });
    }
    let own = Job { global_batch: job.global_batch / sites.count, ..job.clone() };
    let site = Cluster { wan: None, ..cluster.clone() };
    // What the outer state needs is known only then: a few more, of which some may not fit.
    // And a step that is short enough inside a site may be too long with its meetings.
    let options = SearchOptions { enough: 0.0, ..*options };
    let mut found = search_with(&own, &site, fix, top + 8, &options)?;
    let (mut best, mut more_headroom) = (Vec::new(), own);
    for _ in 0..MORE_HEADROOM {
        // By how much the one that lacks least lacks memory, as a share of a device's.
        let mut missing = f64::INFINITY;
        let parts: Vec<Cluster> = (0..found.best.len()).map(|place| found.part(place, cluster)).collect();
        for (place, (plan, _)) in std::mem::take(&mut found.best).into_iter().enumerate() {
            let plan = Plan { sites: Some(sites), job: job.clone(), ..plan };
            let figures = predict_figures(&plan, &parts[place])?;
            let reason = match figures.fits {
                true if best.len() < top => {
                    best.push((plan, figures, found.nodes[place].clone()));
                    continue;
                }
                true => "slower when simulated",
                false => "out of memory with what sites need to meet",
            };
            let least = cluster.pools.iter().map(|pool| pool.device.memory.value.0).min().unwrap_or(1);
            missing = missing.min(-figures.headroom_bytes as f64 / least as f64);
            *found.rejected.entry(reason.to_owned()).or_default() += 1;
        }
        more_headroom.goal.headroom += missing.max(LEAST_ROOM);
        if !best.is_empty() || more_headroom.goal.check().is_err() {
            break;
        }
        // Only plans that leave that room.
        let Ok(next) = search_with(&more_headroom, &site, fix, top + 8, &options) else { break };
        found = Found { considered: found.considered + next.considered, best: next.best, nodes: next.nodes, ..found };
    }
    best.sort_by(|a, b| a.1.step_time_s.total_cmp(&b.1.step_time_s));
    if best.is_empty() {
        return Err(PlanError::Infeasible { considered: found.considered, rejected: found.rejected });
    }
    let nodes = best.iter().map(|(_, _, nodes)| nodes.clone()).collect();
    Ok(Found { best: best.into_iter().map(|(plan, figures, _)| (plan, figures)).collect(), nodes, ..found })
}
