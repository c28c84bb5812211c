//! The nearest alternatives: one decision changed, the rest as it is but for what must follow.
//!
//! In: a plan and its breakdown. Out: an [`Alternative`] for each change, with its step time or why it cannot be.
//!
//! An axis that grows takes its ranks from data parallelism, or else from the pipeline; layers are then spread evenly and
//! recompute as little as fits, so that an alternative does not lose for want of care.

use meshwright_hardware::mesh::{Mesh, Order};
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Seconds;
use serde::Serialize;

use super::refit::{fit, spread, usable};
use super::time::{Cause, StageTime};
use super::{Seen, parallel, see};
use crate::error::PlanError;
use crate::plan::{Plan, Schedule, Stage};

/// One decision changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alternative {
    /// Which decision, and how.
    pub change: String,
    /// The changed plan in a line.
    pub plan: String,
    /// None if it cannot be.
    pub step_time_s: Option<f64>,
    /// Of the rank that needs most.
    pub peak_memory_bytes: Option<u64>,
    /// How much longer its step is, as a share; below zero if it is shorter.
    pub slower: Option<f64>,
    /// Why it loses, or cannot be.
    pub why: String,
}

/// All changes of one decision, fastest first, then those that cannot be.
pub fn alternatives(plan: &Plan, cluster: &Cluster, seen: &Seen) -> Result<Vec<Alternative>, PlanError> {
    let tried = parallel(&changes(plan), |(change, plan)| weigh(change, plan.clone(), cluster, seen));
    let mut all = tried.into_iter().collect::<Result<Vec<_>, _>>()?;
    let time = |alternative: &Alternative| alternative.step_time_s.unwrap_or(f64::INFINITY);
    all.sort_by(|a, b| time(a).total_cmp(&time(b)));
    Ok(all)
}

/// A change, and whether its recomputation is part of it.
fn weigh(change: &Change, plan: Plan, cluster: &Cluster, seen: &Seen) -> Result<Alternative, PlanError> {
    let summary = |plan: &Plan| plan.summary();
    let cannot = |plan: String, why: String| Alternative {
        change: change.name.clone(),
        plan,
        step_time_s: None,
        peak_memory_bytes: None,
        slower: None,
        why,
    };
    if let Err(fault) = plan.check() {
        return Ok(cannot(String::new(), format!("`{}` is {}: {}", fault.key, fault.value, fault.problem)));
    }
    let usable = usable(&plan, cluster);
    let plan = match change.keeps_stages {
        true => plan,
        false => match fit(plan.clone(), &usable) {
            Ok(plan) => plan,
            Err(tight) => return Ok(cannot(summary(&plan), tight.to_string())),
        },
    };
    let other = match see(&plan, cluster) {
        Ok(other) => other,
        // What its profile or topology lacks for this change is the reason.
        Err(PlanError::Price(problem)) => return Ok(cannot(summary(&plan), problem.to_string())),
        Err(error) => return Err(error),
    };
    let over = other.memory.iter().zip(&usable).enumerate().find(|(_, (memory, usable))| memory.total() > **usable);
    if let Some((stage, (memory, &usable))) = over {
        let tight = super::refit::Tight { stage, bytes: memory.total(), usable };
        return Ok(cannot(summary(&plan), tight.to_string()));
    }
    let (now, then) = (seen.figures.step_time_s, other.figures.step_time_s);
    Ok(Alternative {
        change: change.name.clone(),
        plan: summary(&plan),
        step_time_s: Some(then),
        peak_memory_bytes: Some(other.figures.peak_memory_bytes),
        slower: Some(then / now - 1.0),
        why: why(&seen.time, &other.time, then > now),
    })
}

/// The cause that grew or shrank most, in the mean over stages.
fn why(now: &[StageTime], then: &[StageTime], slower: bool) -> String {
    // Gradients of weights are backward's, whether they are apart or not.
    let of = |stages: &[StageTime], cause| match cause {
        Cause::Weights => 0.0,
        Cause::Backward => StageTime::mean(stages, Cause::Backward) + StageTime::mean(stages, Cause::Weights),
        _ => StageTime::mean(stages, cause),
    };
    let grown = Cause::ALL.map(|cause| (cause, of(then, cause) - of(now, cause)));
    let most = grown.iter().max_by(|a, b| if slower { a.1.total_cmp(&b.1) } else { b.1.total_cmp(&a.1) });
    let Some(&(cause, difference)) = most.filter(|(_, difference)| difference.abs() > 1e-9) else {
        return "no difference".to_owned();
    };
    let what = if cause.is_exposed() { format!("exposed {}", cause.name()) } else { cause.name().to_owned() };
    let sign = if difference > 0.0 { '+' } else { '−' };
    format!("{what} {sign}{}", Seconds(difference.abs()))
}

struct Change {
    name: String,
    /// Whether recomputation is what is changed, so that it must not be fitted.
    keeps_stages: bool,
}

type Changed = (Change, Plan);

fn changed(name: String, plan: Plan) -> Changed {
    (Change { name, keeps_stages: false }, spread(plan))
}

fn changes(plan: &Plan) -> Vec<Changed> {
    let mut all = Vec::new();
    let meshes: [(&str, Part, &[(&str, Part)]); 3] = [
        ("tp", |mesh| &mut mesh.tp, &[("dp", |mesh| &mut mesh.dp), ("pp", |mesh| &mut mesh.pp)]),
        ("pp", |mesh| &mut mesh.pp, &[("dp", |mesh| &mut mesh.dp), ("tp", |mesh| &mut mesh.tp)]),
        ("cp", |mesh| &mut mesh.cp, &[("dp", |mesh| &mut mesh.dp), ("pp", |mesh| &mut mesh.pp)]),
    ];
    for (name, part, others) in meshes {
        for up in [true, false] {
            all.extend(exchange(plan, (name, part), others, up));
        }
    }
    if plan.job.model.experts().is_some() {
        for ep in [2 * plan.mesh.ep, plan.mesh.ep / 2].into_iter().filter(|ep| *ep > 0) {
            let mesh = Mesh { ep, ..plan.mesh };
            all.push(changed(format!("ep {} → {ep}", plan.mesh.ep), Plan { mesh, ..plan.clone() }));
        }
    }
    for microbatch in [2 * plan.microbatch, plan.microbatch / 2].into_iter().filter(|size| *size > 0) {
        all.push(changed(
            format!("microbatch {} → {microbatch}", plan.microbatch),
            Plan { microbatch, ..plan.clone() },
        ));
    }
    schedules(plan, &mut all);
    for zero in (0..=3).filter(|&zero| zero != plan.zero && plan.mesh.data() > 1) {
        all.push(changed(format!("ZeRO-{} → {zero}", plan.zero), Plan { zero, ..plan.clone() }));
    }
    if plan.mesh.tp > 1 && plan.job.target() == 0 {
        let sequence_parallel = !plan.sequence_parallel;
        let name = if sequence_parallel { "with sequence parallelism" } else { "without sequence parallelism" };
        all.push(changed(name.to_owned(), Plan { sequence_parallel, ..plan.clone() }));
    }
    if plan.mesh.cp > 1 {
        let name = if plan.ring { "keys and values gathered" } else { "ring attention" };
        all.push(changed(name.to_owned(), Plan { ring: !plan.ring, ..plan.clone() }));
    }
    let axes = [plan.mesh.tp, plan.mesh.data(), plan.mesh.pp].iter().filter(|ranks| **ranks > 1).count();
    for order in Order::ALL.into_iter().filter(|order| axes > 1 && *order != plan.mesh.order) {
        let mesh = Mesh { order, ..plan.mesh };
        all.push(changed(format!("ranks in the order {}", order.name()), Plan { mesh, ..plan.clone() }));
    }
    recomputes(plan, &mut all);
    all
}

type Part = fn(&mut Mesh) -> &mut usize;

/// An axis twice or half as long, its ranks from or to another.
fn exchange(plan: &Plan, (name, part): (&str, Part), others: &[(&str, Part)], up: bool) -> Option<Changed> {
    let (mut mesh, mut old) = (plan.mesh, plan.mesh);
    let from = *part(&mut old);
    if !up && !from.is_multiple_of(2) {
        return None;
    }
    let (other, taken) = others.iter().find(|(_, other)| !up || other(&mut old).is_multiple_of(2))?;
    let (own, its) = (part(&mut mesh), *taken(&mut old));
    *own = if up { from * 2 } else { from / 2 };
    let to = *own;
    *taken(&mut mesh) = if up { its / 2 } else { its * 2 };
    let mut next = Plan { mesh, ..plan.clone() };
    if mesh.pp == 1 {
        (next.chunks, next.schedule) = (1, Schedule::OneFOneB);
    }
    Some(changed(format!("{name} {from} → {to}, {other} {its} → {}", *taken(&mut mesh)), next))
}

fn schedules(plan: &Plan, all: &mut Vec<Changed>) {
    if plan.mesh.pp == 1 {
        return;
    }
    use Schedule::{DualPipeV, GPipe, OneFOneB, ZeroBubble};
    for (schedule, chunks) in [(GPipe, 1), (OneFOneB, 1), (OneFOneB, 2), (ZeroBubble, 1), (DualPipeV, 2)] {
        if (schedule, chunks) == (plan.schedule, plan.chunks) {
            continue;
        }
        let several = if schedule == OneFOneB && chunks > 1 { ", 2 chunks a stage" } else { "" };
        let name = format!("{}{several}", schedule.name());
        all.push(changed(name, Plan { schedule, chunks, ..plan.clone() }));
    }
}

fn recomputes(plan: &Plan, all: &mut Vec<Changed>) {
    let mut every = |name: &str, stage: &dyn Fn(&Stage) -> Stage| {
        let stages: Vec<Stage> = plan.stages.iter().map(stage).collect();
        if stages != plan.stages {
            let plan = Plan { stages, ..plan.clone() };
            all.push((Change { name: name.to_owned(), keeps_stages: true }, plan));
        }
    };
    every("recompute nothing", &|stage| Stage { full: 0, selective: 0, ..*stage });
    every("selective recompute everywhere", &|stage| Stage { full: 0, selective: stage.layers, ..*stage });
    every("full recompute everywhere", &|stage| Stage { full: stage.layers, selective: 0, ..*stage });
    let offloads = plan.stages.iter().any(|stage| stage.offload > 0);
    match offloads {
        true => every("no activations on the host", &|stage| Stage { offload: 0, ..*stage }),
        false if plan.schedule.splits() => {}
        false => every("all activations on the host", &|stage| Stage { offload: stage.layers, ..*stage }),
    }
}
