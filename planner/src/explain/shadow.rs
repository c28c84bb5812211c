//! Shadow prices: what a little more of something is worth.
//!
//! In: a plan, its cluster, what was seen. Out: [`ShadowPrice`]s: finite differences of the simulation.
//!
//! Three ways: the plan held as it is; its recomputation refitted; everything searched again. More memory and more nodes
//! are worth nothing to a plan that is held.

use meshwright_hardware::profile::{Cluster, Machine, Sourced};
use meshwright_hardware::units::Bytes;
use rayon::prelude::*;
use serde::Serialize;

use super::Breakdown;
use super::refit::{fit, usable};
use crate::error::PlanError;
use crate::goodput::dollars_per_hour;
use crate::job::Fix;
use crate::plan::Plan;
use crate::predict::predict;
use crate::search::sites;

/// What is decided again when the cluster changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decided {
    /// Nothing.
    Held,
    /// What is recomputed.
    Refitted,
    /// Everything.
    Searched,
}

/// What more of something is worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShadowPrice {
    /// More of what; where there are several pools, of which.
    pub more: String,
    /// What was decided again.
    pub decided: Decided,
    /// The step with it.
    pub step_time_s: f64,
    /// Tokens a second gained.
    pub tokens_per_s: f64,
    /// What the gain is worth an hour, at today's price of a token.
    pub dollars_per_hour: Option<f64>,
    /// Saved on a million tokens, were it free; of nodes, after their own price.
    pub dollars_per_m_tokens: Option<f64>,
    /// The same for the whole job.
    pub job_dollars: Option<f64>,
    /// What else there is to say.
    pub note: String,
}

/// A gigabyte, as vendors count.
const GB: u64 = 1_000_000_000;

/// More of everything, one thing at a time. With `again`, by searching too.
pub fn shadow_prices(
    plan: &Plan,
    cluster: &Cluster,
    seen: &Breakdown,
    again: bool,
) -> Result<Vec<ShadowPrice>, PlanError> {
    let books = Books { plan, cluster, tokens_per_s: seen.figures.tokens_per_s };
    let mut all = held(&books)?;
    all.extend(refitted(&books)?);
    all.extend(books.next_size()?);
    if again {
        all.extend(searched(&books)?);
    }
    Ok(all)
}

/// Today's figures, to which differences are taken.
struct Books<'a> {
    plan: &'a Plan,
    cluster: &'a Cluster,
    tokens_per_s: f64,
}

impl Books<'_> {
    /// The price of a gain over `from` tokens a second on a cluster that costs `dearer` times as much.
    fn entry(&self, more: impl Into<String>, decided: Decided, (from, to): (f64, f64), dearer: f64) -> ShadowPrice {
        let hour = dollars_per_hour(self.cluster);
        let a_token = |tokens_per_s: f64| hour.map(|hour| hour / 3600.0 / tokens_per_s);
        let saved = a_token(from).zip(a_token(to)).map(|(before, after)| before - after * dearer);
        let job_tokens = self.plan.job.tokens_per_step() as f64 * self.plan.job.steps as f64;
        ShadowPrice {
            more: more.into(),
            decided,
            step_time_s: self.plan.job.tokens_per_step() as f64 / to,
            tokens_per_s: to - from,
            dollars_per_hour: a_token(from).map(|token| token * (to - from) * 3600.0),
            dollars_per_m_tokens: saved.map(|saved| saved * 1e6),
            job_dollars: saved.map(|saved| saved * job_tokens),
            note: String::new(),
        }
    }

    /// The next size of data parallelism that divides the batch, which a node more may be on the way to.
    fn next_size(&self) -> Result<Option<ShadowPrice>, PlanError> {
        let [machine] = &self.cluster.pools[..] else { return Ok(None) };
        let (mut plan, now) = (self.plan.clone(), self.plan.mesh.dp);
        let most = plan.job.global_batch / plan.site_count() / plan.microbatch;
        let fits = |dp: &usize| {
            plan.mesh.dp = *dp;
            plan.check().is_ok()
        };
        let Some(dp) = (now + 1..=most).find(fits) else { return Ok(None) };
        plan.mesh.dp = dp;
        let nodes = plan.mesh.ranks().div_ceil(machine.system.count).max(machine.nodes);
        let larger = with(self.cluster, |machine| machine.nodes = nodes);
        let Some(to) = possible(&plan, &larger)? else { return Ok(None) };
        let dearer = nodes as f64 / machine.nodes as f64;
        let mut entry = self.entry("nodes for the next dp", Decided::Held, (self.tokens_per_s, to), dearer);
        let each = entry.tokens_per_s / (nodes - machine.nodes).max(1) as f64;
        entry.note =
            format!("dp {now} → {dp} on {nodes} nodes: {each:.0} tokens/s a node; fewer nodes more change nothing");
        Ok(Some(entry))
    }
}

/// A cluster with every pool changed.
fn with(cluster: &Cluster, change: impl Fn(&mut Machine)) -> Cluster {
    let mut changed = cluster.clone();
    changed.pools.iter_mut().for_each(change);
    changed
}

fn scale<T: Copy + std::ops::Mul<f64, Output = T>>(figure: &mut Sourced<T>) {
    figure.value = figure.value * MORE;
}

/// Ten per cent more.
const MORE: f64 = 1.1;

/// Whether a device's times are measured as a whole, so that no part of it can be changed alone.
fn is_measured(cluster: &Cluster) -> bool {
    cluster.pools.iter().any(|pool| !pool.device.curves.is_empty())
}

/// Tokens a second of a plan; none if it does not fit or cannot run there.
fn possible(plan: &Plan, cluster: &Cluster) -> Result<Option<f64>, PlanError> {
    match predict(plan, cluster) {
        Ok(predicted) => Ok(Some(predicted.figures.tokens_per_s)),
        Err(PlanError::Price(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A part of a machine made faster.
type Faster = fn(&mut Machine);

/// The plan as it is on a cluster with faster parts: of each pool alone, where there are several.
fn held(books: &Books) -> Result<Vec<ShadowPrice>, PlanError> {
    let cluster = books.cluster;
    let parts: [(&str, Faster); 4] = [
        ("10 % more FLOP/s", |m| m.device.peak.values_mut().for_each(scale)),
        ("10 % more memory bandwidth", |m| scale(&mut m.device.memory_bandwidth)),
        ("10 % more scale-up bandwidth", |m| scale(&mut m.system.scale_up.bandwidth)),
        ("10 % more scale-out bandwidth", |m| m.system.scale_out.iter_mut().for_each(|out| scale(&mut out.bandwidth))),
    ];
    let mut faster = Vec::new();
    for (at, (more, change)) in parts.into_iter().enumerate() {
        for (pool, machine) in cluster.pools.iter().enumerate() {
            if at == 3 && machine.system.scale_out.is_none() {
                continue;
            }
            let mut changed = cluster.clone();
            change(&mut changed.pools[pool]);
            faster.push((of_pool(more, machine, cluster), changed));
        }
    }
    if let Some(wan) = cluster.wan {
        let wan = Some(meshwright_hardware::profile::Wan { bandwidth: wan.bandwidth * MORE, ..wan });
        faster.push(("10 % more bandwidth between sites".to_owned(), Cluster { wan, ..cluster.clone() }));
    }
    let measured = is_measured(cluster);
    let price = |(more, faster): &(String, Cluster)| -> Result<ShadowPrice, PlanError> {
        let to = predict(books.plan, faster)?.figures.tokens_per_s;
        let mut entry = books.entry(more.as_str(), Decided::Held, (books.tokens_per_s, to), 1.0);
        if measured {
            entry.note =
                "the device's times are measured whole: this part alone changes what no curve prices".to_owned();
        }
        Ok(entry)
    };
    let priced: Vec<_> = faster.par_iter().map(price).collect();
    priced.into_iter().collect()
}

/// More memory, with as little recomputation as then fits.
fn refitted(books: &Books) -> Result<Option<ShadowPrice>, PlanError> {
    let (plan, cluster) = (books.plan, books.cluster);
    let tokens_with = |gigabytes: u64| -> Result<Option<f64>, PlanError> {
        let larger = more_memory(cluster, gigabytes);
        match fit(plan.clone(), &usable(plan, &larger)?) {
            Ok(fitted) => Ok(Some(predict(&fitted, &larger)?.figures.tokens_per_s)),
            Err(_) => Ok(None),
        }
    };
    let from = tokens_with(0)?.unwrap_or(0.0).max(books.tokens_per_s);
    let to = tokens_with(1)?.unwrap_or(0.0).max(from);
    let mut entry = books.entry("1 GB more memory", Decided::Refitted, (from, to), 1.0);
    let fitted = fit(plan.clone(), &usable(plan, cluster)?);
    if let Err(tight) = fitted {
        entry.note = format!("not even full recompute fits: the plan {tight}");
    } else if fitted.is_ok_and(|fitted| fitted.stages.iter().all(|stage| stage.full + stage.selective == 0)) {
        entry.note = "nothing need be recomputed: memory does not bind".to_owned();
    } else if to <= from {
        // A layer is a whole: the least amount that spares one is what counts.
        let sizes = [2u64, 4, 8, 16, 32, 64];
        for gigabytes in sizes {
            let gained = tokens_with(gigabytes)?.unwrap_or(0.0) - from;
            if gained > from * 1e-6 {
                entry.note = format!("{gigabytes} GB more give {gained:.0} tokens/s");
                break;
            }
        }
    }
    Ok(Some(entry))
}

/// What is more, and where there are several pools, of which.
fn of_pool(more: &str, pool: &Machine, cluster: &Cluster) -> String {
    if cluster.pools.len() > 1 { format!("{more}, {}", pool.device.name) } else { more.to_owned() }
}

/// More memory and a node more of each pool, with the search's best before and after.
fn searched(books: &Books) -> Result<Vec<ShadowPrice>, PlanError> {
    let cluster = books.cluster;
    let mut clusters = vec![(String::new(), cluster.clone()), ("1 GB more memory".to_owned(), more_memory(cluster, 1))];
    for (at, pool) in cluster.pools.iter().enumerate() {
        let mut larger = cluster.clone();
        larger.pools[at].nodes += 1;
        clusters.push((of_pool("one more node", pool, cluster), larger));
    }
    let best: Vec<_> = clusters.par_iter().map(|(_, cluster)| decide(books.plan, cluster)).collect();
    let mut best = best.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().zip(clusters);
    let Some((Some((from, plan)), _)) = best.next() else { return Ok(Vec::new()) };
    let entry = |more: String, larger: &Cluster, found: Option<(f64, String)>| {
        let Some((to, changed)) = found.filter(|(to, _)| *to > from) else {
            // What brings nothing need not be bought.
            let note = format!("no plan beats {plan}");
            return ShadowPrice { note, ..books.entry(more, Decided::Searched, (from, from), 1.0) };
        };
        let dearer = dollars_per_hour(larger).zip(dollars_per_hour(cluster)).map_or(1.0, |(more, now)| more / now);
        let note = if changed == plan { format!("with {plan}") } else { format!("{plan} becomes {changed}") };
        ShadowPrice { note, ..books.entry(more, Decided::Searched, (from, to), dearer) }
    };
    Ok(best.map(|(found, (more, larger))| entry(more, &larger, found)).collect())
}

fn more_memory(cluster: &Cluster, gigabytes: u64) -> Cluster {
    with(cluster, |machine| machine.device.memory.value = Bytes(machine.device.memory.value.0 + gigabytes * GB))
}

/// Tokens a second of the search's best plan, and the plan in a line; none if nothing fits.
fn decide(plan: &Plan, cluster: &Cluster) -> Result<Option<(f64, String)>, PlanError> {
    match sites::decide(&plan.job, cluster, plan.sites, &Fix::default(), 1) {
        Ok(found) => Ok(found.best.first().map(|(plan, figures)| (figures.tokens_per_s, plan.summary()))),
        Err(PlanError::Infeasible { .. } | PlanError::Price(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
