//! A scenario as it is searched, with the price of its devices; and what came of it.
//!
//! In: a [`Scenario`] and rents. Out: [`Ready`], and [`Planned`]: the best offer, or why there is none.
//!
//! Invariant: a mistake of the user ends the command before anything is searched; what only fits nowhere is an answer.

use meshwright_engines::engine;
use meshwright_hardware::profile::{Cluster, Sourced};
use meshwright_hardware::units::Dollars;
use meshwright_planner::goal::{Case, Offer};
use meshwright_planner::job::Goal;

use super::super::plan::{is_spanned, read_job, settle};
use super::super::stack::StackArgument;
use crate::failure::Failure;
use crate::prices::{Rent, latest, rents_of};
use crate::scenario::Scenario;

/// Where the price of a scenario's devices is from.
#[derive(Clone, Debug, Default)]
pub struct PriceOrigin {
    /// Who says so: list, secondary, assumed, profile or given.
    pub kind: String,
    /// When it was so.
    pub date: String,
    /// Where it was so.
    pub region: String,
    /// Where it is written.
    pub source: String,
}

/// A scenario as it is searched.
pub struct Ready {
    /// What is asked.
    pub scenario: Scenario,
    /// The job, the cluster under its stack and its prices.
    pub case: Case,
    /// Of the price.
    pub origin: PriceOrigin,
}

/// A scenario and its answer.
pub struct Planned {
    /// What was asked.
    pub scenario: Scenario,
    /// The job, the cluster under its stack and its prices.
    pub case: Case,
    /// Of the price.
    pub origin: PriceOrigin,
    /// The best plan, or why there is none.
    pub offer: Result<Offer, String>,
}

/// Reads what a scenario names.
///
/// # Errors
/// The user's mistakes, with the scenario's name.
pub fn ready(scenario: Scenario, rents: &[Rent]) -> Result<Ready, Failure> {
    let name = scenario.name.clone();
    read(scenario, rents).map_err(|failure| Failure { message: format!("scenario `{name}`: {failure}"), ..failure })
}

fn read(scenario: Scenario, rents: &[Rent]) -> Result<Ready, Failure> {
    let (mut job, mut known) = read_job(&scenario.job, scenario.seq, scenario.global_batch)?;
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
    let (cluster, origin) = priced(cluster, &scenario, rents)?;
    job.stack = Some(cluster.stack.name.clone());
    let engine =
        engine::of_stack(&cluster.stack.name).filter(|_| is_spanned(&cluster)).map(|engine| &engine.about().ability);
    let fix = job.fix.clone();
    Ok(Ready { case: Case { job, cluster, fix, engine }, scenario, origin })
}

/// The cluster at the scenario's price: none where that is not known.
fn priced(mut cluster: Cluster, scenario: &Scenario, rents: &[Rent]) -> Result<(Cluster, PriceOrigin), Failure> {
    let mut found: Vec<PriceOrigin> = Vec::new();
    let pricing = scenario.pricing.as_deref().unwrap_or("list");
    let rents = if pricing == "list" { Vec::new() } else { rents_of(rents, pricing)? };
    for pool in &mut cluster.pools {
        if let Some(price) = scenario.price {
            pool.system.price = Some(Sourced::new(price, "the scenario"));
            found.push(PriceOrigin { kind: "given".to_owned(), ..PriceOrigin::default() });
        } else if pricing == "list" {
            let Some(price) = &pool.system.price else { continue };
            let kind = if price.is_assumed() { "assumed" } else { "profile" };
            found.push(PriceOrigin { kind: kind.to_owned(), source: price.source.clone(), ..PriceOrigin::default() });
        } else {
            let rent = latest(&rents, &pool.device.name);
            pool.system.price = rent.map(|rent| Sourced::new(Dollars(rent.usd_per_device_hour), &rent.source));
            found.extend(rent.map(|rent| PriceOrigin {
                kind: rent.kind.name().to_owned(),
                date: rent.date.clone(),
                region: rent.region.clone().unwrap_or_default(),
                source: rent.source.clone(),
            }));
        }
    }
    let all = |get: fn(&PriceOrigin) -> &String| {
        let mut values: Vec<&str> = found.iter().map(|origin| get(origin).as_str()).collect();
        values.retain(|value| !value.is_empty());
        values.dedup();
        values.join("; ")
    };
    let origin = PriceOrigin {
        kind: all(|origin| &origin.kind),
        date: all(|origin| &origin.date),
        region: all(|origin| &origin.region),
        source: all(|origin| &origin.source),
    };
    Ok((cluster, origin))
}
