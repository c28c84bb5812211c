//! A stack's overheads fitted to measured runs, by the prices that plans are predicted with.
//!
//! In: runs. Out: [`Overheads`] of all stacks together, and of each; errors of runs that were held out.
//!
//! First one set for a spread of all stacks' rows, pulled towards usual values, then each stack's, pulled towards that: a stack
//! with few rows keeps to what all do. Functional tests teach other stacks nothing. The loss is the absolute
//! logarithm of a step played over the one measured.
//!
//! Invariant: deterministic; no constant belongs to a row; what a plan is does not depend on what is fitted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwright_hardware::hash::fnv1a;
use meshwright_hardware::profile::{Overheads, Stack};
use meshwright_hardware::units::Precision;
use meshwright_planner::search::Compiled;
use rayon::prelude::*;

use super::{Run, chosen, summary};

/// How strongly a stack's overheads are pulled to those of all: the loss of a knob off by its spread.
const PULL: f64 = 0.1;
/// Rows that a stack counts for at most among all.
const MOST: usize = 8;
/// A stack with fewer rows has the overheads of all.
const FEW: usize = 4;
/// Sweeps over the knobs.
const SWEEPS: usize = 12;
/// Parts in which rows are held out.
const PARTS: u64 = 5;

/// A run whose step is compared.
pub struct FittedRow<'a> {
    /// The run.
    pub run: &'a Run,
    compiled: Compiled,
    graphs: bool,
    measured: f64,
}

impl FittedRow<'_> {
    /// The logarithm of the step with these overheads over the measured one.
    pub fn error(&self, overheads: &Overheads) -> f64 {
        let stack = Stack { overheads: overheads.clone(), ..self.run.stack().clone() };
        let cluster = self.run.cluster.clone().under(Arc::new(stack.launching(self.graphs)));
        self.compiled.step(&cluster).map_or(f64::NAN, |step| (step / self.measured).ln())
    }
}

/// What a fit finds.
pub struct FittedOverheads {
    /// Of all stacks together.
    pub typical: Overheads,
    /// By stack.
    pub stacks: BTreeMap<String, Overheads>,
    /// By stack, accelerator and format: rows that were fitted.
    pub measured: BTreeMap<String, BTreeMap<String, BTreeMap<Precision, usize>>>,
    /// By run: its relative error as fitted, by a fit without its part of the rows, and by one without its publisher.
    pub errors: BTreeMap<String, [f64; 3]>,
}

/// Fits the overheads of all stacks; of runs that do not become plans nothing is learnt.
pub fn fit(runs: &[&Run]) -> FittedOverheads {
    let rows = fitted_rows(runs);
    let all: Vec<&FittedRow> = rows.iter().collect();
    let typical = of_all(&all, &Overheads::default());
    let groups = by_stack(&all);
    let list: Vec<(&str, &Vec<&FittedRow>)> = groups.iter().map(|(name, rows)| (*name, rows)).collect();
    let found: Vec<_> = list.par_iter().map(|(_, rows)| of_stack(rows, &typical)).collect();
    let stacks: BTreeMap<String, Overheads> =
        list.iter().zip(found).map(|((name, _), found)| ((*name).to_owned(), found)).collect();
    let mut measured: BTreeMap<String, BTreeMap<String, BTreeMap<Precision, usize>>> = BTreeMap::new();
    for row in &rows {
        let devices = measured.entry(row.run.stack().name.clone()).or_default();
        let formats = devices.entry(row.run.device().name.clone()).or_default();
        *formats.entry(chosen(row.run).job.precision).or_default() += 1;
    }
    let held = held_out(&all, |row| part_of(row.run).to_string());
    let apart = held_out(&all, |row| row.run.publisher.clone());
    let errors = rows.iter().map(|row| {
        let fitted = row.error(&stacks[&row.run.stack().name]).exp() - 1.0;
        (row.run.id.clone(), [fitted, held[&row.run.id], apart[&row.run.id]])
    });
    FittedOverheads { typical, errors: errors.collect(), stacks, measured }
}

/// The runs that become plans with a measured step.
pub fn fitted_rows<'a>(runs: &[&'a Run]) -> Vec<FittedRow<'a>> {
    runs.par_iter().filter_map(|run| row(run)).collect()
}

/// Overheads fitted to rows, pulled towards a prior.
pub fn fitted_near(rows: &[&FittedRow], prior: &Overheads) -> Overheads {
    pattern(rows, prior, PULL)
}

fn row(run: &Run) -> Option<FittedRow<'_>> {
    let plan = chosen(run);
    let measured = summary::measured_step_s(run, plan)?;
    let compiled = Compiled::of(plan, run.stack());
    let row = FittedRow { run, compiled, graphs: plan.job.cuda_graphs, measured };
    row.error(&Overheads::default()).is_finite().then_some(row)
}

/// What has the same key, in order.
fn grouped<'a, T>(all: &[&'a T], key: impl Fn(&'a T) -> &'a String) -> BTreeMap<&'a str, Vec<&'a T>> {
    let mut groups: BTreeMap<&str, Vec<&T>> = BTreeMap::new();
    for one in all {
        groups.entry(key(one)).or_default().push(one);
    }
    groups
}

/// In which part a run is held out: by its name, so that others beside it change nothing (FNV-1a).
pub fn part_of(run: &Run) -> u64 {
    fnv1a(&run.id) % PARTS
}

fn by_stack<'a>(rows: &[&'a FittedRow]) -> BTreeMap<&'a str, Vec<&'a FittedRow<'a>>> {
    grouped(rows, |row| &row.run.stack().name)
}

/// Relative errors of rows by fits that have not seen those of the same key: neither their stack's nor that of all stacks.
fn held_out(rows: &[&FittedRow], key: impl Fn(&FittedRow) -> String + Sync) -> BTreeMap<String, f64> {
    let keys: BTreeSet<String> = rows.iter().map(|row| key(row)).collect();
    let without = |one: &String| -> Vec<(String, f64)> {
        let (held, others): (Vec<&FittedRow>, Vec<&FittedRow>) = rows.iter().partition(|row| key(row) == *one);
        let (typical, known) = (of_all(&others, &Overheads::default()), by_stack(&others));
        let stacks = by_stack(&held);
        let of = |(stack, held): (&str, Vec<&FittedRow>)| {
            let overheads = of_stack(known.get(stack).map_or(&[], Vec::as_slice), &typical);
            held.iter().map(|row| (row.run.id.clone(), row.error(&overheads).exp() - 1.0)).collect::<Vec<_>>()
        };
        stacks.into_iter().flat_map(of).collect()
    };
    keys.into_iter().collect::<Vec<_>>().par_iter().flat_map_iter(without).collect()
}

/// Of rows of several stacks of which none outweighs the others.
fn of_all(rows: &[&FittedRow], start: &Overheads) -> Overheads {
    let some =
        |group: &Vec<&FittedRow>| -> Vec<usize> { (0..group.len()).step_by(group.len().div_ceil(MOST)).collect() };
    let mut groups = by_stack(rows);
    groups.retain(|_, rows| !rows[0].run.stack().functional_tests);
    let chosen: Vec<&FittedRow> =
        groups.values().flat_map(|group| some(group).into_iter().map(|at| group[at])).collect();
    fitted_near(&chosen, start)
}

fn of_stack(rows: &[&FittedRow], typical: &Overheads) -> Overheads {
    if rows.len() < FEW { typical.clone() } else { fitted_near(rows, typical) }
}

/// Of little weight where it is small, and of no more where it is absurd.
fn blunt(error: f64) -> f64 {
    let error = if error.is_finite() { error.abs().min(1.5) } else { 1.5 };
    if error < 0.02 { error * error / 0.04 + 0.01 } else { error }
}

/// Distance to a prior, of all knobs.
fn distance(overheads: &Overheads, prior: &Overheads) -> f64 {
    let (mut a, mut b) = (overheads.clone(), prior.clone());
    let each = |index: usize| Overheads::ALL[index].distance(*a.at(index), *b.at(index));
    (0..Overheads::ALL.len()).map(each).sum()
}

/// Pattern search from a prior (Hooke & Jeeves 1961), a knob at a time.
fn pattern(rows: &[&FittedRow], prior: &Overheads, pull: f64) -> Overheads {
    let cost = |overheads: &Overheads| {
        let losses: Vec<f64> = rows.par_iter().map(|row| blunt(row.error(overheads))).collect();
        losses.iter().sum::<f64>() + pull * distance(overheads, prior)
    };
    let (mut best, mut least) = (prior.clone(), cost(prior));
    let mut steps: Vec<f64> = Overheads::ALL.iter().map(|knob| knob.spread.min(0.4)).collect();
    for _ in 0..SWEEPS {
        let before = least;
        for (index, knob) in Overheads::ALL.iter().enumerate() {
            let mut moved = false;
            for up in [true, false] {
                let mut tried = best.clone();
                let (value, by) = (tried.at(index), 0.05 * steps[index] * (knob.high - knob.low));
                let next = if up { *value * (1.0 + steps[index]) + by } else { *value / (1.0 + steps[index]) - by };
                *value = next.clamp(knob.low, knob.high);
                let loss = cost(&tried);
                if loss < least - 1e-9 {
                    (best, least, moved) = (tried, loss, true);
                    break;
                }
            }
            steps[index] = if moved { (steps[index] * 1.4).min(0.8) } else { (steps[index] * 0.55).max(0.004) };
        }
        if before - least < 1e-4 * before && steps.iter().all(|step| *step < 0.05) {
            break;
        }
    }
    // As files keep them.
    for index in 0..Overheads::ALL.len() {
        let value = best.at(index);
        *value = (*value * 1e4).round() / 1e4;
    }
    best
}
