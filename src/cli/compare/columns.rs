//! The columns of `compare`: one list for rows and `--columns`.
//!
//! In: [`Planned`]. Out: a value a column; nothing where it is not known.
//!
//! Invariant: names and order are stable; a new column goes to the end.

use std::sync::LazyLock;

use meshwright_hardware::profile::{Machine, assumed};
use meshwright_planner::goal::Offer;
use meshwright_planner::goodput::dollars_per_hour;
use meshwright_planner::predict::{FIGURES, Figure, Interval, beyond, interval};
use serde_json::{Value, json};

use super::planned::Planned;
use super::price::RENT;

/// A column.
#[derive(Clone, Copy)]
pub struct ScenarioColumn {
    /// Its name, with the unit.
    pub name: &'static str,
    /// What stands in it.
    pub about: &'static str,
    get: ColumnSource,
}

/// Where a column's value is from.
#[derive(Clone, Copy)]
enum ColumnSource {
    Scenario(fn(&Planned) -> Value),
    /// A figure of a step, as every answer has it.
    Step(&'static Figure),
}

impl ScenarioColumn {
    /// Its value; null where it is not known.
    pub fn value(&self, planned: &Planned) -> Value {
        match self.get {
            ColumnSource::Scenario(get) => get(planned),
            ColumnSource::Step(figure) => of(planned, |offer| figure.unit.json((figure.get)(&offer.figures))),
        }
    }
}

const fn column(name: &'static str, about: &'static str, get: fn(&Planned) -> Value) -> ScenarioColumn {
    ScenarioColumn { name, about, get: ColumnSource::Scenario(get) }
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
    let cluster = &planned.asked.case.cluster;
    json!(dollars_per_hour(cluster).map(|all| all / (cluster.devices() * cluster.sites()) as f64))
}

fn device_hours(offer: &Offer) -> f64 {
    offer.training.days * 24.0 * (offer.cluster.devices() * offer.cluster.sites()) as f64
}

/// Dollars of some parts of the price.
fn part(planned: &Planned, names: &[&str]) -> Value {
    let parts = &planned.asked.origin.parts;
    let sum = |named: &dyn Fn(&str) -> bool| parts.iter().filter(|(n, _)| named(n)).map(|(_, d)| d).sum::<f64>();
    let (some, all) = (sum(&|name| names.contains(&name)), sum(&|_| true));
    if !parts.iter().any(|(name, _)| names.contains(name)) {
        return Value::Null;
    }
    of(planned, |offer| json!(offer.training.dollars.map(|dollars| dollars * some / all)))
}

fn assumed_keys(planned: &Planned) -> Value {
    let keys = |pool: &Machine| [assumed(&pool.device), assumed(&pool.system)].concat();
    let mut keys: Vec<String> = planned.asked.case.cluster.pools.iter().flat_map(keys).collect();
    keys.sort();
    keys.dedup();
    text(&keys.join("; "))
}

/// Of the interval of a plan's prediction.
fn sure(planned: &Planned, get: impl Fn(&Interval, &Offer) -> Value) -> Value {
    of(planned, |o| interval(&o.plan, &o.figures, &o.cluster).map_or(Value::Null, |interval| get(&interval, o)))
}

/// All columns, in their order: a scenario's, then what other figures of a step there are.
pub static COLUMNS: LazyLock<Vec<ScenarioColumn>> = LazyLock::new(|| {
    let others = FIGURES.iter().filter(|figure| {
        let named = |column: &ScenarioColumn| column.name == figure.key;
        figure.key != "step_time_s" && !SCENARIO.iter().any(named)
    });
    let step = |figure: &'static Figure| ScenarioColumn {
        name: figure.key,
        about: figure.title,
        get: ColumnSource::Step(figure),
    };
    SCENARIO.iter().copied().chain(others.map(step)).collect()
});

const SCENARIO: &[ScenarioColumn] = &[
    column("scenario", "its name", |p| json!(p.asked.scenario.name)),
    column("status", "planned, or none: no plan fits and keeps the limits", |p| {
        json!(if p.offer.is_ok() { "planned" } else { "none" })
    }),
    column("reason", "why there is no plan", |p| json!(p.offer.as_ref().err())),
    column("model", "the model's name", |p| json!(p.asked.case.job.model.name)),
    column("cluster", "the devices, as given", |p| json!(p.asked.scenario.cluster)),
    column("devices", "devices of the cluster", |p| {
        json!(p.asked.case.cluster.devices() * p.asked.case.cluster.sites())
    }),
    column("devices_paid", "devices that the plan needs, paid for whole nodes", |p| {
        of(p, |o| json!(o.cluster.devices() * o.cluster.sites()))
    }),
    column("stack", "software that runs the plan", |p| json!(p.asked.case.cluster.stack.name)),
    column("stack_measured_runs", "runs on the first device that the stack's figures stand on", |p| {
        json!(p.asked.case.cluster.stack.runs_on(&p.asked.case.cluster.pools[0].device.name))
    }),
    column("objective", "what is least: time, cost or energy", |p| json!(p.asked.case.job.goal.objective)),
    column("sequence_tokens", "tokens a sequence", |p| json!(p.asked.case.job.seq)),
    column("global_batch_sequences", "sequences a step", |p| json!(p.asked.case.job.global_batch)),
    column("precision", "format of matmuls", |p| json!(p.asked.case.job.precision)),
    column("steps", "steps to train", |p| json!(p.asked.case.job.steps)),
    column("tokens", "tokens to train on", |p| {
        json!(p.asked.case.job.tokens_per_step() * p.asked.case.job.steps as u64)
    }),
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
    column("pricing", "whose price was asked for", |p| match p.asked.scenario.price {
        Some(_) => json!("given"),
        None => json!(p.asked.scenario.pricing.as_deref().unwrap_or("list")),
    }),
    column("usd_per_device_hour", "price, the mean over devices", price),
    column("price_kind", "who says so: list, secondary, assumed, profile, given", |p| text(&p.asked.origin.kind)),
    column("price_date", "when it was so", |p| text(&p.asked.origin.date)),
    column("price_region", "where it was so", |p| text(&p.asked.origin.region)),
    column("price_source", "where it is written", |p| text(&p.asked.origin.source)),
    column("usd", "device-hours at that price", |p| of(p, |o| json!(o.training.dollars))),
    column("energy_kwh", "devices and hosts, without the building's overhead", |p| {
        of(p, |o| json!(o.training.energy_kwh))
    }),
    column("assumed", "figures of profiles that are assumed", assumed_keys),
    column("extrapolated", "why it lies beyond what was measured", |p| {
        of(p, |o| json!(beyond(&o.plan, &o.figures, &o.cluster).map(|beyond| beyond.reason)))
    }),
    column("price_cloud", "who lets it", |p| text(&p.asked.origin.cloud)),
    column("price_doubt", "what speaks against the price: secondary, assumed, old", |p| text(&p.asked.origin.doubt)),
    column("usd_rent", "of usd: rent", |p| part(p, &[RENT])),
    column(
        "usd_hardware",
        "of usd: an owner's servers, network, storage and racks, less what they are sold for",
        |p| part(p, &["servers", "network", "storage", "racks"]),
    ),
    column("usd_interest", "of usd: on an owner's capital", |p| part(p, &["interest"])),
    column("usd_electricity", "of usd: an owner's", |p| part(p, &["electricity"])),
    column("usd_space", "of usd: an owner's", |p| part(p, &["space"])),
    column("usd_staff", "of usd: an owner's", |p| part(p, &["staff"])),
    column("usd_maintenance", "of usd: an owner's, taxes on property among it", |p| {
        part(p, &["maintenance and taxes"])
    }),
    column("utilisation", "share of hours in which an owner's devices are used", |p| json!(p.asked.origin.utilisation)),
    column("pue", "power of an owner's building over that of servers", |p| json!(p.asked.origin.pue)),
    column("device_memory_bytes", "of the first pool's device", |p| {
        json!(p.asked.case.cluster.pools[0].device.memory.value.0)
    }),
    column("mtbf_s", "between failures of all devices together, s", |p| of(p, |o| json!(o.training.mtbf_s))),
    column("checkpoint_write_s", "for which training stands still, s", |p| {
        of(p, |o| json!(o.training.checkpoint_write_s))
    }),
    column("restart_s", "from a failure until training goes on, s", |p| of(p, |o| json!(o.training.restart_s))),
    column("checkpoint_every_steps", "between checkpoints", |p| of(p, |o| json!(o.training.checkpoint_every_steps))),
    column("support", "how well what was measured supports the prediction: measured, near, extrapolated", |p| {
        sure(p, |i, _| json!(i.support))
    }),
    column("step_low_s", "one measured step in ten is shorter", |p| sure(p, |i, _| json!(i.step_time_low_s))),
    column("step_high_s", "one measured step in ten is longer", |p| sure(p, |i, _| json!(i.step_time_high_s))),
    column("days_low", "with that step", |p| sure(p, |i, o| json!(o.training.days * i.of_predicted(&o.figures)[0]))),
    column("days_high", "with that step", |p| sure(p, |i, o| json!(o.training.days * i.of_predicted(&o.figures)[1]))),
    column("usd_low", "with that step", |p| {
        sure(p, |i, o| json!(o.training.dollars.map(|usd| usd * i.of_predicted(&o.figures)[0])))
    }),
    column("usd_high", "with that step", |p| {
        sure(p, |i, o| json!(o.training.dollars.map(|usd| usd * i.of_predicted(&o.figures)[1])))
    }),
    column("memory_low_bytes", "taken of the fullest device, less in one run of ten", |p| {
        sure(p, |i, _| json!(i.memory_low_bytes))
    }),
    column("memory_high_bytes", "taken of the fullest device, more in one run of ten", |p| {
        sure(p, |i, _| json!(i.memory_high_bytes))
    }),
    column("inputs_hash", "of all that the row depends on; --resume keeps rows by it", |p| json!(p.asked.hash())),
];
