//! Advice: the smallest changes that would make a job fit, or keep its limits.
//!
//! In: a job that no plan fits, or whose limits no plan keeps. Out: a few [`Advice`]s, each with the plan that then is found.
//!
//! A change is looked for by halves, with frugal plans alone, which is quick; then the search itself is run at the change, and
//! its plan is what the advice shows. Node counts are round ones, by which batches, heads and layers divide.
//!
//! Invariant: every advice was followed by the search, which found a plan that fits and keeps the limits.

use meshwright_hardware::units::{Dollars, Seconds, Tokens};

use super::Chosen;
use super::case::Case;
use super::offer::{Advice, Offer};
use crate::job::{Goal, Job};

/// Advices that are given at the most.
const MOST: usize = 6;

/// What would make a job fit that no plan fits: changes of decisions and of the job first, then more hardware.
pub fn advise(case: &Case) -> Vec<Advice> {
    let mut all = case.lifted();
    all.extend(case.any_engine());
    all.extend(case.less_headroom());
    all.extend(case.fewer_nodes());
    all.extend(case.other_batch());
    all.extend(case.narrower());
    all.extend(case.shorter());
    all.extend(case.smaller_batch());
    all.extend(case.more_nodes(0, &|case| case.fits()));
    all.extend(case.more_memory());
    all.truncate(MOST);
    all
}

/// What would make a job keep its limits that some plans fit, but none keeps.
pub fn advise_limits(case: &Case, chosen: &Chosen) -> Vec<Advice> {
    let Case { job, cluster, .. } = case;
    let goal = &job.goal;
    let mut all = Vec::new();
    // The offer that comes nearest to one limit and keeps the other.
    let nearest = |kept: Goal, of: &dyn Fn(&Offer) -> Option<f64>| {
        let offers = chosen.offers.iter().filter(|offer| offer.keeps(&kept));
        let known = offers.filter_map(|offer| of(offer).map(|value| (value, offer)));
        known.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(value, offer)| (value, offer.clone()))
    };
    if goal.deadline.is_some() {
        let days = nearest(Goal { deadline: None, ..goal.clone() }, &|offer| Some(offer.training.days));
        if let Some((days, offer)) = days {
            let days = round_up(days);
            all.push(Advice::of(format!("a deadline of {days} days"), format!("--deadline {days}d"), &offer));
        }
    }
    if goal.budget.is_some() {
        let dollars = nearest(Goal { budget: None, ..goal.clone() }, &|offer| offer.training.dollars);
        if let Some((dollars, offer)) = dollars {
            let dollars = Dollars(round_up(dollars));
            let how = format!("--budget '{}'", dollars.exact());
            all.push(Advice::of(format!("a budget of {dollars}"), how, &offer));
        }
    }
    all.extend(fewer_tokens(case, chosen));
    all.extend(case.lifted().into_iter().filter(|advice| advice.keeps(goal)));
    if let Some(deadline) = goal.deadline {
        // Twice the nodes take half the time at the best.
        let days = chosen.offers.iter().map(|offer| offer.training.days * offer.cluster.devices() as f64);
        let days = days.fold(f64::INFINITY, f64::min) / cluster.devices() as f64;
        let nodes = cluster.pools.iter().max_by_key(|pool| pool.devices()).map_or(1, |pool| pool.nodes);
        let from = (nodes as f64 * days * 86400.0 / deadline.0) as usize;
        all.extend(case.more_nodes(from, &|case| case.in_time()));
    }
    all.truncate(MOST);
    all
}

/// As many tokens as an offer trains within the limits.
fn fewer_tokens(case: &Case, chosen: &Chosen) -> Option<Advice> {
    let goal = &case.job.goal;
    let share = |offer: &Offer| {
        let in_time = goal.deadline.map_or(1.0, |deadline| deadline.0 / 86400.0 / offer.training.days);
        let in_budget = goal.budget.zip(offer.training.dollars).map_or(1.0, |(budget, dollars)| budget.0 / dollars);
        in_time.min(in_budget)
    };
    let best = chosen.offers.iter().max_by(|a, b| share(a).total_cmp(&share(b)))?;
    let mut tokens = round_down(case.job.tokens().0 * share(best));
    // What a run begins with weighs more the shorter it is.
    for _ in 0..8 {
        let mut job = case.job.clone();
        job.goal.tokens = Some(Tokens(tokens));
        job.settle();
        let offer = Offer::of(&job, best.plan.clone(), best.figures.clone(), &best.cluster);
        if offer.keeps(goal) {
            let tokens = Tokens(tokens);
            let how = format!("--tokens {}", tokens.exact().replace(' ', ""));
            return Some(Advice::of(format!("{tokens} at the most"), how, &offer));
        }
        tokens = round_down(tokens * 0.98);
    }
    None
}

/// At least as much, in three digits.
fn round_up(value: f64) -> f64 {
    let digit = 10f64.powf(value.log10().floor() - 2.0);
    let rounded = (value / digit).ceil() * digit;
    // As few digits as say it.
    format!("{rounded:.6e}").parse().unwrap_or(rounded)
}

/// At most as much, in three digits.
fn round_down(value: f64) -> f64 {
    let digit = 10f64.powf(value.log10().floor() - 2.0);
    let rounded = (value / digit).floor() * digit;
    format!("{rounded:.6e}").parse().unwrap_or(rounded)
}

/// What a deadline or a budget leaves unkept, in words.
pub fn missed(job: &Job, chosen: &Chosen) -> String {
    let goal = &job.goal;
    let fastest = chosen.offers.iter().min_by(|a, b| a.training.days.total_cmp(&b.training.days));
    let cheapest = chosen.offers.iter().filter_map(|offer| offer.training.dollars).min_by(f64::total_cmp);
    let mut parts = Vec::new();
    if let Some((deadline, fastest)) = goal.deadline.zip(fastest) {
        let takes = Seconds(fastest.training.days * 86400.0);
        parts.push(format!("the deadline is {deadline}, the fastest plan takes {takes}"));
    }
    if let Some((budget, cheapest)) = goal.budget.zip(cheapest) {
        parts.push(format!("the budget is {budget}, the cheapest plan costs {}", Dollars(cheapest)));
    }
    let tokens = job.tokens();
    format!("no plan trains {tokens} within the limits: {}", parts.join("; "))
}
