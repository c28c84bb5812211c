//! The nearest alternatives: one decision changed, the rest as it is but for what must follow.
//!
//! In: a plan and its breakdown. Out: an [`Alternative`] for each change, with its step time or why it cannot be.
//!
//! An axis that grows takes its ranks from data parallelism, or else from the pipeline; layers are then spread evenly and
//! recompute as little as fits, so that an alternative does not lose for want of care.

use meshwright_hardware::mesh::{Axis, Mesh, Order};
use meshwright_hardware::profile::Cluster;
use meshwright_hardware::units::Seconds;
use rayon::prelude::*;
use serde::Serialize;

use super::refit::{fit, spread, usable};
use super::time::{Cause, StageTime};
use super::{Breakdown, see};
use crate::error::PlanError;
use crate::plan::{Plan, Sites, Stage};
use crate::schedule::Schedule;

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
pub fn alternatives(plan: &Plan, cluster: &Cluster, seen: &Breakdown) -> Result<Vec<Alternative>, PlanError> {
    let weigh = |(change, plan): Changed| weigh(&change, plan, cluster, seen);
    let tried: Vec<_> = changes(plan).into_par_iter().map(weigh).collect();
    let mut all = tried.into_iter().collect::<Result<Vec<_>, _>>()?;
    let time = |alternative: &Alternative| alternative.step_time_s.unwrap_or(f64::INFINITY);
    all.sort_by(|a, b| time(a).total_cmp(&time(b)));
    Ok(all)
}

/// A change, and whether its recomputation is part of it.
fn weigh(change: &Change, plan: Plan, cluster: &Cluster, seen: &Breakdown) -> Result<Alternative, PlanError> {
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
    let plan = match change.keeps_stages {
        true => plan,
        false => match usable(&plan, cluster).map(|usable| fit(plan.clone(), &usable)) {
            Ok(Ok(plan)) => plan,
            Ok(Err(tight)) => return Ok(cannot(summary(&plan), tight.to_string())),
            Err(problem) => return Ok(cannot(summary(&plan), problem.to_string())),
        },
    };
    let other = match see(&plan, cluster) {
        Ok(other) => other,
        // What its profile or topology lacks for this change is the reason.
        Err(PlanError::Price(problem)) => return Ok(cannot(summary(&plan), problem.to_string())),
        Err(error) => return Err(error),
    };
    let over =
        other.memory.iter().zip(&other.usable).enumerate().find(|(_, (memory, usable))| memory.total() > **usable);
    if let Some((place, (memory, &usable))) = over {
        let stage = other.places[place].stage;
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
    use Axis::{Cp, Dp, Pp, Tp};
    for (axis, others) in [(Tp, [Dp, Pp]), (Pp, [Dp, Tp]), (Cp, [Dp, Pp])] {
        all.extend([true, false].into_iter().filter_map(|up| exchange(plan, axis, others, up)));
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
    if plan.zero > 0 && plan.mesh.is_hybrid() {
        let mesh = Mesh { shard: None, ..plan.mesh };
        all.push(changed(format!("ZeRO over all {} ranks", mesh.data()), Plan { mesh, ..plan.clone() }));
    }
    if plan.mesh.tp > 1 {
        let sequence_parallel = !plan.sequence_parallel;
        let name = if sequence_parallel { "with sequence parallelism" } else { "without sequence parallelism" };
        all.push(changed(name.to_owned(), Plan { sequence_parallel, ..plan.clone() }));
    }
    if plan.mesh.cp > 1 {
        let name = if plan.ring { "keys and values gathered" } else { "ring attention" };
        all.push(changed(name.to_owned(), Plan { ring: !plan.ring, ..plan.clone() }));
    }
    orders(plan, &mut all);
    meetings(plan, &mut all);
    recomputes(plan, &mut all);
    all
}

/// An axis twice or half as long, its ranks from or to another.
fn exchange(plan: &Plan, axis: Axis, others: [Axis; 2], up: bool) -> Option<Changed> {
    let from = plan.mesh.size(axis);
    if !up && !from.is_multiple_of(2) {
        return None;
    }
    let other = others.into_iter().find(|&other| !up || plan.mesh.size(other).is_multiple_of(2))?;
    let its = plan.mesh.size(other);
    let (to, left) = if up { (from * 2, its / 2) } else { (from / 2, its * 2) };
    let mesh = resized(resized(plan.mesh, axis, to), other, left);
    let mut next = Plan { mesh, ..plan.clone() };
    if mesh.pp == 1 {
        (next.chunks, next.schedule) = (1, Schedule::default());
    }
    Some(changed(format!("{} {from} → {to}, {} {its} → {left}", axis.name(), other.name()), next))
}

/// A mesh with one of its own axes of another size.
fn resized(mesh: Mesh, axis: Axis, size: usize) -> Mesh {
    match axis {
        Axis::Tp => Mesh { tp: size, ..mesh },
        Axis::Pp => Mesh { pp: size, ..mesh },
        Axis::Cp => Mesh { cp: size, ..mesh },
        Axis::Dp => Mesh { dp: size, ..mesh },
        Axis::Ep => Mesh { ep: size, ..mesh },
        Axis::Etp | Axis::Data | Axis::Edp | Axis::Shard | Axis::Eshard | Axis::Replica => {
            unreachable!("{} follows from others", axis.name())
        }
    }
}

fn schedules(plan: &Plan, all: &mut Vec<Changed>) {
    if plan.mesh.pp == 1 {
        return;
    }
    for (schedule, chunks) in Schedule::forms(2) {
        if (schedule, chunks) == (plan.schedule, plan.chunks) {
            continue;
        }
        let several = chunks > *schedule.order().chunks().start();
        let name = schedule.name().to_owned() + if several { ", 2 chunks a stage" } else { "" };
        all.push(changed(name, Plan { schedule, chunks, ..plan.clone() }));
    }
}

/// Orders of axes over ranks that differ in axes of several ranks.
fn orders(plan: &Plan, all: &mut Vec<Changed>) {
    let told_apart =
        |order: Order| order.axes().into_iter().filter(|&axis| plan.mesh.size(axis) > 1).collect::<Vec<_>>();
    let mut seen = vec![told_apart(plan.mesh.order)];
    for order in Order::ALL {
        if !seen.contains(&told_apart(order)) {
            seen.push(told_apart(order));
            let mesh = Mesh { order, ..plan.mesh };
            all.push(changed(format!("ranks in the order {}", order.name()), Plan { mesh, ..plan.clone() }));
        }
    }
}

/// How often sites meet, and how.
fn meetings(plan: &Plan, all: &mut Vec<Changed>) {
    let Some(sites) = plan.sites else { return };
    let mut push = |name: String, sites: Sites| all.push(changed(name, Plan { sites: Some(sites), ..plan.clone() }));
    for every in [2 * sites.every, sites.every / 2].into_iter().filter(|every| *every > 0) {
        push(format!("sites meet every {} → {every} steps", sites.every), Sites { every, ..sites });
    }
    if sites.bits > 4 {
        push(format!("sites exchange {} → 4 bits", sites.bits), Sites { bits: 4, ..sites });
    }
    if sites.fragments == 1 && sites.every > 1 {
        let (fragments, overlap) = (sites.every.min(24), (sites.every - 1).min(10));
        let name = format!("sites meet in {fragments} fragments, {overlap} steps beside");
        push(name, Sites { fragments, overlap, ..sites });
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
