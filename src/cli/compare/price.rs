//! The price of a scenario's devices: whose, from when, how sure, and of which parts.
//!
//! In: a scenario, its cluster, all prices. Out: the cluster at that price, and its [`PriceOrigin`].
//!
//! Invariant: what is not known has no price; parts sum to the price.

use meshwright_hardware::profile::{Cluster, Machine, Sourced};
use meshwright_hardware::units::{Dollars, Seconds};
use serde::Serialize;

use crate::failure::Failure;
use crate::prices::dates::{date_in, is_older};
use crate::prices::owning::{OwnPrice, PARTS};
use crate::prices::rent_of;
use crate::prices::{PriceBook, PriceKind, Pricing};
use crate::scenario::Scenario;

/// What a rent is, beside the parts of an owner's cost.
pub const RENT: &str = "rent";

/// Where the price of a scenario's devices is from.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PriceOrigin {
    /// Who says so: list, secondary, assumed, profile or given.
    pub kind: String,
    /// Who lets it; nobody where it is owned, or the price is not of a cloud.
    pub cloud: String,
    /// When it was so.
    pub date: String,
    /// Where it was so.
    pub region: String,
    /// Where it is written.
    pub source: String,
    /// What speaks against it: secondary, assumed, old.
    pub doubt: String,
    /// The worst that any part of it rests on.
    pub evidence: Option<PriceKind>,
    /// Dollars a device-hour by part, the mean over devices.
    pub parts: Vec<(&'static str, f64)>,
    /// Share of hours in which owned devices are used.
    pub utilisation: Option<f64>,
    /// Power of the owner's building over that of servers.
    pub pue: Option<f64>,
}

/// A price of one pool, and where it is from.
struct FoundPrice {
    dollars: Sourced<Dollars>,
    parts: Vec<(&'static str, f64)>,
    kind: &'static str,
    evidence: PriceKind,
    cloud: String,
    date: String,
    region: String,
}

/// The cluster at the scenario's price: none where that is not known.
pub fn priced(
    mut cluster: Cluster,
    scenario: &Scenario,
    book: &PriceBook,
    max_age: Option<Seconds>,
) -> Result<(Cluster, PriceOrigin), Failure> {
    let pricing = Pricing::read(scenario.pricing.as_deref().unwrap_or("list"), &book.rents)?;
    let devices = cluster.devices() as f64;
    let mut found: Vec<(FoundPrice, f64)> = Vec::new();
    for pool in &mut cluster.pools {
        let price = match (&pricing, scenario.price) {
            (_, Some(price)) => Some(given(price)),
            (Pricing::List, _) => listed(pool),
            (Pricing::Own, _) => owned(pool, book),
            (Pricing::Rent { .. }, _) => rented(pool, scenario, &pricing, book),
        };
        pool.system.price = price.as_ref().map(|price| price.dollars.clone());
        found.extend(price.map(|price| (price, pool.devices() as f64 / devices)));
    }
    let own = (pricing == Pricing::Own && scenario.price.is_none()).then_some(&book.own);
    let mut origin = joined(&found, max_age);
    origin.utilisation = own.map(|own| own.utilisation.value);
    origin.pue = own.map(|own| own.pue.value);
    Ok((cluster, origin))
}

fn given(price: Dollars) -> FoundPrice {
    FoundPrice {
        dollars: Sourced::new(price, "the scenario"),
        parts: vec![(RENT, price.0)],
        kind: "given",
        evidence: PriceKind::Given,
        cloud: String::new(),
        date: String::new(),
        region: String::new(),
    }
}

/// The profile's, whose source may say from when it is.
fn listed(pool: &Machine) -> Option<FoundPrice> {
    let price = pool.system.price.clone()?;
    let (kind, evidence) =
        if price.is_assumed() { ("assumed", PriceKind::Assumed) } else { ("profile", PriceKind::List) };
    let date = date_in(&price.source).unwrap_or_default().to_owned();
    let parts = vec![(RENT, price.value.0)];
    Some(FoundPrice { dollars: price, parts, kind, evidence, cloud: String::new(), date, region: String::new() })
}

fn rented(pool: &Machine, scenario: &Scenario, pricing: &Pricing, book: &PriceBook) -> Option<FoundPrice> {
    let Pricing::Rent { cloud, term } = pricing else { return None };
    let rent = rent_of(&book.rents, &pool.device.name, cloud.as_deref(), *term, scenario.region.as_deref())?;
    Some(FoundPrice {
        dollars: Sourced::new(Dollars(rent.usd_per_device_hour), &rent.source),
        parts: vec![(RENT, rent.usd_per_device_hour)],
        kind: rent.kind.name(),
        evidence: rent.kind,
        cloud: rent.cloud.clone(),
        date: rent.date.clone(),
        region: rent.region.clone().unwrap_or_default(),
    })
}

fn owned(pool: &Machine, book: &PriceBook) -> Option<FoundPrice> {
    let server = book.server(&pool.system.name)?;
    let price = OwnPrice::of(pool, server, &book.own)?;
    let facts = book.own.facts();
    let evidence = facts.iter().map(|(_, fact)| fact.kind).chain([server.kind]).max()?;
    let assumed: Vec<&str> =
        facts.iter().filter(|(_, fact)| fact.kind == PriceKind::Assumed).map(|(name, _)| *name).collect();
    let rests = if assumed.is_empty() { String::new() } else { format!("; assumed: {}", assumed.join(", ")) };
    Some(FoundPrice {
        dollars: Sourced::new(Dollars(price.total()), format!("{}{rests}", server.source)),
        parts: PARTS.into_iter().zip(price.parts).collect(),
        kind: evidence.name(),
        evidence,
        cloud: String::new(),
        date: server.date.clone(),
        region: String::new(),
    })
}

/// What is said of all pools together.
fn joined(found: &[(FoundPrice, f64)], max_age: Option<Seconds>) -> PriceOrigin {
    let all = |get: &dyn Fn(&FoundPrice) -> &str| {
        let mut values: Vec<&str> = found.iter().map(|(one, _)| get(one)).collect();
        values.retain(|value| !value.is_empty());
        values.dedup();
        values.join("; ")
    };
    let evidence = found.iter().map(|(one, _)| one.evidence).max();
    let old = |one: &FoundPrice| {
        let undated = one.evidence == PriceKind::Given && one.date.is_empty();
        max_age.is_some_and(|age| !undated && is_older(&one.date, age.0 / 86400.0))
    };
    let mut doubt: Vec<&str> = evidence.filter(|worst| worst.is_doubtful()).map(PriceKind::name).into_iter().collect();
    doubt.extend(found.iter().any(|(one, _)| old(one)).then_some("old"));
    let mut parts: Vec<(&'static str, f64)> = Vec::new();
    for (name, dollars) in found.iter().flat_map(|(one, share)| one.parts.iter().map(move |(n, d)| (*n, d * share))) {
        match parts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += dollars,
            None => parts.push((name, dollars)),
        }
    }
    PriceOrigin {
        kind: all(&|one| one.kind),
        cloud: all(&|one| &one.cloud),
        date: all(&|one| &one.date),
        region: all(&|one| &one.region),
        source: all(&|one| &one.dollars.source),
        doubt: doubt.join("; "),
        evidence,
        parts,
        utilisation: None,
        pue: None,
    }
}
