//! A scenario as it is searched, with the price of its devices; and what came of it.
//!
//! In: a [`Scenario`] and prices. Out: [`Ready`], and [`Planned`]: the best offer, or why there is none.
//!
//! Invariant: a mistake of the user ends the command before anything is searched; what only fits nowhere is an answer.

use meshwright_hardware::hash::fnv1a;
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Seconds;
use meshwright_planner::goal::{Case, Offer};
use meshwright_planner::job::{Goal, Objective};
use serde_json::json;

use super::super::goal::decided;
use super::super::plan::settle;
use super::super::stack::{StackArgument, ability_on};
use super::super::usual_job::{ModelArguments, read_job};
use super::price::{PriceOrigin, priced};
use crate::failure::Failure;
use crate::prices::PriceBook;
use crate::scenario::Scenario;

/// A scenario as it is searched.
pub struct Ready {
    /// What is asked.
    pub scenario: Scenario,
    /// The job, the cluster under its stack and its prices.
    pub case: Case,
    /// Of the price.
    pub origin: PriceOrigin,
    /// Why it is not searched.
    pub refused: Option<String>,
}

/// A scenario and its answer.
pub struct Planned<'a> {
    /// What was asked.
    pub asked: &'a Ready,
    /// The best plan, or why there is none.
    pub offer: Result<Offer, String>,
}

/// Reads what a scenario names.
///
/// # Errors
/// The user's mistakes, with the scenario's name.
pub fn ready(scenario: Scenario, book: &PriceBook, max_age: Option<Seconds>) -> Result<Ready, Failure> {
    let name = scenario.name.clone();
    read(scenario, book, max_age)
        .map_err(|failure| Failure { message: format!("scenario `{name}`: {failure}"), ..failure })
}

fn read(scenario: Scenario, book: &PriceBook, max_age: Option<Seconds>) -> Result<Ready, Failure> {
    let (mut job, mut known) = read_job(
        &scenario.job,
        &ModelArguments { seq: scenario.seq, global_batch: scenario.global_batch, family: None },
    )?;
    job.precision = scenario.precision.unwrap_or(job.precision);
    job.goal = Goal {
        objective: scenario.objective.unwrap_or(job.goal.objective),
        tokens: scenario.tokens.or(job.goal.tokens),
        headroom: job.goal.headroom,
        deadline: scenario.deadline.or(job.goal.deadline),
        budget: scenario.budget.or(job.goal.budget),
    };
    settle(&mut job, scenario.steps)?;
    known |= scenario.steps.is_some() || scenario.tokens.is_some();
    if !known {
        return Err(Failure::input("how long to train is not said: give tokens, as `300G`, or steps"));
    }
    let cluster = StackArgument::named(scenario.stack.clone()).on(Cluster::parse(&scenario.cluster)?, &job)?;
    let (cluster, origin) = priced(cluster, &scenario, book, max_age)?;
    let doubtful = origin.evidence.filter(|_| !scenario.any_price);
    let refused = doubtful.and_then(|worst| decided(&job.goal, worst, &origin.source).err());
    let refused = refused.or_else(|| priceless(&job.goal, &cluster, &scenario));
    job.stack = Some(cluster.stack.name.clone());
    let engine = ability_on(&cluster);
    let fix = job.fix.clone();
    Ok(Ready { case: Case { job, cluster, fix, engine }, scenario, origin, refused })
}

/// Where dollars decide and a price is not known: whose.
fn priceless(goal: &Goal, cluster: &Cluster, scenario: &Scenario) -> Option<String> {
    let pool = cluster.pools.iter().find(|pool| pool.system.price.is_none())?;
    let decides = goal.budget.is_some() || goal.objective == Objective::Cost;
    let (device, asked) = (&pool.device.name, scenario.pricing.as_deref().unwrap_or("list"));
    let place = scenario.region.as_ref().map_or(String::new(), |region| format!(" in {region}"));
    decides.then(|| {
        format!(
            "no price of {device} is known for `{asked}`{place}, and dollars decide; a file of --prices gives yours"
        )
    })
}

impl Ready {
    /// A hash of all that the answer depends on, this version among it.
    pub fn hash(&self) -> String {
        let Ready { scenario, case, origin, refused } = self;
        let all = json!([
            env!("CARGO_PKG_VERSION"),
            scenario.name,
            scenario.cluster,
            scenario.pricing,
            case.job,
            case.fix,
            case.cluster.pools,
            case.cluster.to_string(),
            case.cluster.stack.hash(),
            origin,
            refused
        ]);
        format!("{:016x}", fnv1a(&all.to_string()))
    }
}
