//! Knobs fitted to measured runs.
//!
//! In: runs. Out: the knobs of each family and stack, and what each device sustains; held-out predictions for each source.
//!
//! First every family's knobs on all its rows, then each stack's with a pull towards its family, and the devices' sustained
//! rates between; all by coordinate search on the mean absolute logarithm of predicted over measured. A source is held out
//! by fitting again without it: its stack on what is left, or where nothing is, its family, or all.
//!
//! Invariant: deterministic; no constant belongs to a row.

use std::collections::BTreeMap;

use meshwright_hardware::profile::{Knobs, Stack};

use super::summary::{measured_tokens_per_s, memory_error};
use super::{Run, predict};

/// What a fit finds.
#[derive(Clone, Debug, Default)]
pub struct Fitted {
    /// By stack.
    pub stacks: BTreeMap<String, Knobs>,
    /// By family.
    pub families: BTreeMap<String, Knobs>,
    /// By device.
    pub sustained: BTreeMap<String, f64>,
}

/// How strongly a stack's knobs are pulled to its family's: as if by so many rows a tenth off.
const PULL: f64 = 0.6;

/// Weight of memory beside time.
const MEMORY: f64 = 0.7;

/// The loss of a run: absolute logarithms of time and of memory.
fn loss(run: &Run, stack: &Stack, knobs: &Knobs) -> f64 {
    let prediction = predict(run, stack, knobs);
    let mut loss = 0.0;
    if let Some(measured) = measured_tokens_per_s(run, &prediction).filter(|_| run.timed) {
        loss += blunt((prediction.tokens_per_s / measured).ln());
    }
    if let Some(error) = memory_error(run, &prediction) {
        loss += MEMORY * blunt((1.0 + error / 100.0).max(0.05).ln());
    }
    if run.measured.oom && prediction.fits {
        loss += 0.05;
    }
    loss
}

/// The absolute value, with a tip so that small errors are evened out, and a cap so that outliers do not lead.
fn blunt(error: f64) -> f64 {
    let error = error.abs().min(1.0);
    if error < 0.02 { error * error / 0.04 + 0.01 } else { error }
}

fn total(runs: &[&Run], knobs: &Knobs, prior: &Knobs, pull: f64) -> f64 {
    let rows: f64 = runs.iter().map(|run| loss(run, run.stack, knobs)).sum();
    rows + pull * distance(knobs, prior)
}

/// Squared distance of knobs, each over a third of its usual range.
fn distance(a: &Knobs, b: &Knobs) -> f64 {
    let (mut a, mut b) = (a.clone(), b.clone());
    let each = |index: usize| {
        let (_, low, high) = Knobs::ALL[index];
        let scale = 0.15 * (high - low).min(4.0 * (b.at(index).abs() + 0.05));
        ((*a.at(index) - *b.at(index)) / scale).powi(2)
    };
    (0..Knobs::ALL.len()).map(each).sum()
}

/// Coordinate search from `start`.
fn search(runs: &[&Run], start: &Knobs, prior: &Knobs, pull: f64, sweeps: usize) -> Knobs {
    let mut best = start.clone();
    let mut least = total(runs, &best, prior, pull);
    let mut steps = vec![0.25; Knobs::ALL.len()];
    for _ in 0..sweeps {
        let before = least;
        for (index, &(_, low, high)) in Knobs::ALL.iter().enumerate() {
            let now = *best.at(index);
            let reach = steps[index];
            let moves =
                [now * (1.0 + reach) + 0.02 * reach * (high - low), now / (1.0 + reach) - 0.02 * reach * (high - low)];
            let mut moved = false;
            for to in moves.map(|to| to.clamp(low, high)) {
                let mut tried = best.clone();
                *tried.at(index) = to;
                let loss = total(runs, &tried, prior, pull);
                if loss < least - 1e-9 {
                    (best, least, moved) = (tried, loss, true);
                    break;
                }
            }
            steps[index] = if moved { (reach * 1.3).min(0.6) } else { (reach * 0.5).max(0.01) };
        }
        if before - least < 1e-4 * before {
            break;
        }
    }
    best
}

/// The rate that a device sustains, least wrong over its runs.
fn sustained(runs: &mut [Run], device: &str, knobs: impl Fn(&Run) -> Knobs, skip: &str) -> f64 {
    let mut best = (f64::INFINITY, 1.0);
    for percent in (60..=104).step_by(4) {
        let share = f64::from(percent) / 100.0;
        let mut sum = 0.5 * (share - 0.9_f64).powi(2);
        for run in runs.iter_mut().filter(|run| run.device.name == device && run.group != skip) {
            set(run, share);
            sum += loss(run, run.stack, &knobs(run));
        }
        if sum < best.0 {
            best = (sum, share);
        }
    }
    best.1
}

fn set(run: &mut Run, share: f64) {
    if let Some(gemm) = &mut run.device.gemm {
        gemm.sustained = share;
    }
}

/// Fits everything to all runs but those of the source `skip`.
pub fn fit(runs: &mut [Run], skip: &str, sweeps: usize, start: Option<&Fitted>) -> Fitted {
    let mut fitted = start.cloned().unwrap_or_default();
    for round in 0..2 {
        let families: BTreeMap<String, Knobs> = grouped(runs, skip, |run| run.stack.family.clone())
            .into_iter()
            .map(|(family, rows)| {
                let start = fitted.families.get(&family).cloned().unwrap_or_default();
                (family, search(&rows, &start, &Knobs::default(), 0.2, sweeps))
            })
            .collect();
        fitted.families = families;
        let all: Vec<&Run> = runs.iter().filter(|run| run.group != skip).collect();
        let groups = grouped(runs, skip, |run| run.stack.name.clone());
        let _ = all;
        let one = |(name, rows): (&String, &Vec<&Run>)| {
            let family = fitted.families[&rows[0].stack.family].clone();
            let start = fitted.stacks.get(name).unwrap_or(&family).clone();
            (name.clone(), search(rows, &start, &family, PULL, sweeps))
        };
        let (left, right): (Vec<_>, Vec<_>) = groups.iter().enumerate().partition(|(index, _)| index % 2 == 0);
        let stacks = std::thread::scope(|scope| {
            let other = scope.spawn(|| right.iter().map(|(_, group)| one(*group)).collect::<Vec<_>>());
            let mut found: Vec<_> = left.iter().map(|(_, group)| one(*group)).collect();
            found.extend(other.join().expect("a search does not panic"));
            found
        });
        fitted.stacks = stacks.into_iter().collect();
        if round == 0 && skip.is_empty() {
            devices(runs, &mut fitted, skip);
        }
    }
    fitted
}

/// Fits what each device sustains.
fn devices(runs: &mut [Run], fitted: &mut Fitted, skip: &str) {
    let names: std::collections::BTreeSet<String> = runs.iter().map(|run| run.device.name.clone()).collect();
    for name in names {
        let stacks = fitted.stacks.clone();
        let share = sustained(runs, &name, |run| stacks.get(&run.stack.name).cloned().unwrap_or_default(), skip);
        runs.iter_mut().filter(|run| run.device.name == name).for_each(|run| set(run, share));
        fitted.sustained.insert(name, share);
    }
}

fn grouped<'a>(runs: &'a [Run], skip: &str, key: impl Fn(&Run) -> String) -> BTreeMap<String, Vec<&'a Run>> {
    let mut groups: BTreeMap<String, Vec<&Run>> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.group != skip) {
        groups.entry(key(run)).or_default().push(run);
    }
    groups
}

/// Knobs for a source that no fit has seen: of its stack's other sources, else of its family's, else of all.
pub fn held_out(runs: &[Run], source: &str, fitted: &Fitted) -> BTreeMap<String, Knobs> {
    let others = grouped(runs, source, |run| run.stack.name.clone());
    let mut found = BTreeMap::new();
    for run in runs.iter().filter(|run| run.group == source) {
        let name = &run.stack.name;
        if found.contains_key(name) {
            continue;
        }
        let of_family: Vec<&Run> =
            runs.iter().filter(|r| r.group != source && r.stack.family == run.stack.family).collect();
        let family = if of_family.is_empty() {
            let everything: Vec<&Run> = runs.iter().filter(|r| r.group != source).step_by(3).collect();
            search(&everything, &Knobs::default(), &Knobs::default(), 0.2, 5)
        } else {
            let start = &fitted.families[&run.stack.family];
            search(&of_family, start, &Knobs::default(), 0.2, 5)
        };
        let knobs = match others.get(name) {
            Some(rows) => search(rows, &family, &family, PULL, 10),
            None => family,
        };
        found.insert(name.clone(), knobs);
    }
    found
}
