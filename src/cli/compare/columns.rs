//! The columns of `compare`: one list for the table, JSON and `--columns`.
//!
//! In: [`Planned`]. Out: a value a column; nothing where it is not known.
//!
//! Invariant: names and order are stable; a new column goes to the end.

use meshwright_hardware::profile::{Machine, assumed};
use meshwright_planner::goal::Offer;
use meshwright_planner::goodput::dollars_per_hour;
use meshwright_planner::predict::beyond;
use serde_json::{Value, json};

use super::planned::Planned;

/// A column.
pub struct ScenarioColumn {
    /// Its name, with the unit.
    pub name: &'static str,
    /// What stands in it.
    pub about: &'static str,
    /// Its value; null where it is not known.
    pub get: fn(&Planned) -> Value,
}

const fn column(name: &'static str, about: &'static str, get: fn(&Planned) -> Value) -> ScenarioColumn {
    ScenarioColumn { name, about, get }
}

/// Of the offer, if there is one.
fn of(planned: &Planned, get: impl Fn(&Offer) -> Value) -> Value {
    planned.offer.as_ref().map_or(Value::Null, get)
}

fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { json!(text) }
}

/// Dollars of a device-hour, the mean over all devices.
fn price(planned: &Planned) -> Value {
    let cluster = &planned.case.cluster;
    json!(dollars_per_hour(cluster).map(|all| all / (cluster.devices() * cluster.sites()) as f64))
}

fn device_hours(offer: &Offer) -> f64 {
    offer.training.days * 24.0 * (offer.cluster.devices() * offer.cluster.sites()) as f64
}

fn assumed_keys(planned: &Planned) -> Value {
    let keys = |pool: &Machine| [assumed(&pool.device), assumed(&pool.system)].concat();
    let mut keys: Vec<String> = planned.case.cluster.pools.iter().flat_map(keys).collect();
    keys.sort();
    keys.dedup();
    text(&keys.join("; "))
}

/// All columns, in their order.
pub const COLUMNS: &[ScenarioColumn] = &[
    column("scenario", "its name", |p| json!(p.scenario.name)),
    column("status", "planned, or none: no plan fits and keeps the limits", |p| {
        json!(if p.offer.is_ok() { "planned" } else { "none" })
    }),
    column("reason", "why there is no plan", |p| json!(p.offer.as_ref().err())),
    column("model", "the model's name", |p| json!(p.case.job.model.name)),
    column("cluster", "the devices, as given", |p| json!(p.scenario.cluster)),
    column("devices", "devices of the cluster", |p| json!(p.case.cluster.devices() * p.case.cluster.sites())),
    column("devices_paid", "devices that the plan needs, paid for whole nodes", |p| {
        of(p, |o| json!(o.cluster.devices() * o.cluster.sites()))
    }),
    column("stack", "software that runs the plan", |p| json!(p.case.cluster.stack.name)),
    column("stack_measured_runs", "runs on the first device that the stack's figures stand on", |p| {
        json!(p.case.cluster.stack.runs_on(&p.case.cluster.pools[0].device.name))
    }),
    column("objective", "what is least: time, cost or energy", |p| json!(p.case.job.goal.objective)),
    column("sequence_tokens", "tokens a sequence", |p| json!(p.case.job.seq)),
    column("global_batch_sequences", "sequences a step", |p| json!(p.case.job.global_batch)),
    column("precision", "format of matmuls", |p| json!(p.case.job.precision)),
    column("steps", "steps to train", |p| json!(p.case.job.steps)),
    column("tokens", "tokens to train on", |p| json!(p.case.job.tokens_per_step() * p.case.job.steps as u64)),
    column("plan", "the plan in a line", |p| of(p, |o| json!(o.plan.summary()))),
    column("step_s", "a step, s", |p| of(p, |o| json!(o.figures.step_time_s))),
    column("tokens_per_s", "of all devices, failures left out", |p| of(p, |o| json!(o.figures.tokens_per_s))),
    column("mfu", "model FLOPs utilisation, a share", |p| of(p, |o| json!(o.figures.mfu))),
    column("peak_memory_bytes", "of the fullest rank", |p| of(p, |o| json!(o.figures.peak_memory_bytes))),
    column("memory_free_share", "of the fullest device's memory", |p| of(p, |o| json!(o.headroom))),
    column("days", "first step to last, failures included, expected", |p| of(p, |o| json!(o.training.days))),
    column("days_p90", "nine runs in ten take less", |p| of(p, |o| json!(o.training.days_p90))),
    column("days_without_failures", "were nothing to fail", |p| of(p, |o| json!(o.training.days_without_failures))),
    column("goodput", "useful time over all time, a share", |p| of(p, |o| json!(o.training.goodput))),
    column("failures", "failures to expect", |p| of(p, |o| json!(o.training.failures))),
    column("device_hours", "paid for", |p| of(p, |o| json!(device_hours(o)))),
    column("pricing", "whose price was asked for", |p| match p.scenario.price {
        Some(_) => json!("given"),
        None => json!(p.scenario.pricing.as_deref().unwrap_or("list")),
    }),
    column("usd_per_device_hour", "price, the mean over devices", price),
    column("price_kind", "who says so: list, secondary, assumed, profile, given", |p| text(&p.origin.kind)),
    column("price_date", "when it was so", |p| text(&p.origin.date)),
    column("price_region", "where it was so", |p| text(&p.origin.region)),
    column("price_source", "where it is written", |p| text(&p.origin.source)),
    column("usd", "device-hours at that price", |p| of(p, |o| json!(o.training.dollars))),
    column("energy_kwh", "devices and hosts, without the building's overhead", |p| {
        of(p, |o| json!(o.training.energy_kwh))
    }),
    column("assumed", "figures of profiles that are assumed", assumed_keys),
    column("extrapolated", "why it lies beyond what was measured", |p| {
        of(p, |o| json!(beyond(&o.plan, &o.figures, &o.cluster).map(|beyond| beyond.reason)))
    }),
];

/// A row as CSV has it.
pub fn record(planned: &Planned) -> Vec<String> {
    let cell = |column: &ScenarioColumn| match (column.get)(planned) {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    };
    COLUMNS.iter().map(cell).collect()
}

/// A row as JSON has it.
pub fn row_json(planned: &Planned) -> Value {
    COLUMNS
        .iter()
        .map(|column| (column.name.to_owned(), (column.get)(planned)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
