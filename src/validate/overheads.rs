//! A stack's overheads fitted to measured runs, by the prices that plans are predicted with.
//!
//! In: runs. Out: [`Overheads`] of all stacks together, of families, and of each stack; errors of runs that were held out.
//!
//! First one set for a spread of all stacks' rows, beside usual values, then each family's beside that, then each stack's beside its
//! family's: a figure is somebody's own where rows pay for it (`own_figures.rs`), and inherited elsewhere. Functional tests teach
//! other stacks nothing.
//!
//! Invariant: deterministic; no constant belongs to a row; what a plan is does not depend on what is fitted.

use std::collections::{BTreeMap, BTreeSet};

use meshwright_hardware::hash::fnv1a;
use meshwright_hardware::profile::Overheads;
use meshwright_hardware::units::Precision;
use rayon::prelude::*;

use super::fitted_row::{FittedRow, fitted_rows};
use super::own_figures::beside;
use super::{Run, chosen};

/// Rows that a stack counts for at most among others.
const MOST: usize = 8;
/// A stack with fewer rows has the overheads of its family.
const FEW: usize = 4;
/// Parts in which rows are held out.
const PARTS: u64 = 5;

/// What a fit finds.
pub struct FittedOverheads {
    /// Of all stacks together.
    pub typical: Overheads,
    /// By family.
    pub families: BTreeMap<String, Overheads>,
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
    let shared = SharedOverheads::by(&all);
    let groups = by_stack(&all);
    let list: Vec<(&str, &Vec<&FittedRow>)> = groups.iter().map(|(name, rows)| (*name, rows)).collect();
    let found: Vec<_> = list.par_iter().map(|(_, rows)| of_stack(rows, shared.with(rows[0]))).collect();
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
    let (errors, SharedOverheads { typical, families }) = (errors.collect(), shared);
    FittedOverheads { typical, families, errors, stacks, measured }
}

/// What stacks inherit.
struct SharedOverheads {
    typical: Overheads,
    families: BTreeMap<String, Overheads>,
}

impl SharedOverheads {
    /// Of rows of several stacks of which none outweighs the others; a family of one stack shares nothing.
    fn by(rows: &[&FittedRow]) -> SharedOverheads {
        let typical = beside(&spread(rows), &Overheads::default(), true);
        let groups = grouped(rows, |row| &row.run.stack().family);
        let several = |rows: &Vec<&FittedRow>| by_stack(rows).len() > 1;
        let groups: Vec<_> = groups.into_iter().filter(|(_, rows)| several(rows)).collect();
        let family =
            |(name, rows): &(&str, Vec<&FittedRow>)| ((*name).to_owned(), beside(&spread(rows), &typical, true));
        let families = groups.par_iter().map(family).collect();
        SharedOverheads { typical, families }
    }

    /// What a row's stack inherits.
    fn with(&self, row: &FittedRow) -> &Overheads {
        self.families.get(&row.run.stack().family).unwrap_or(&self.typical)
    }
}

/// At most [`MOST`] rows of each stack, in even steps; of functional tests none.
fn spread<'a, 'b>(rows: &[&'b FittedRow<'a>]) -> Vec<&'b FittedRow<'a>> {
    let mut groups = by_stack(rows);
    groups.retain(|_, rows| !rows[0].run.stack().functional_tests);
    let some = |group: &Vec<&'b FittedRow<'a>>| -> Vec<&'b FittedRow<'a>> {
        group.iter().step_by(group.len().div_ceil(MOST)).copied().collect()
    };
    groups.values().flat_map(some).collect()
}

/// What has the same key, in order.
fn grouped<'b, T>(all: &[&'b T], key: impl Fn(&'b T) -> &'b String) -> BTreeMap<&'b str, Vec<&'b T>> {
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

fn by_stack<'a, 'b>(rows: &[&'b FittedRow<'a>]) -> BTreeMap<&'b str, Vec<&'b FittedRow<'a>>> {
    grouped(rows, |row| &row.run.stack().name)
}

/// Relative errors of rows by fits that have not seen those of the same key: neither of their stack nor of those that it
/// inherits from.
fn held_out(rows: &[&FittedRow], key: impl Fn(&FittedRow) -> String + Sync) -> BTreeMap<String, f64> {
    let keys: BTreeSet<String> = rows.iter().map(|row| key(row)).collect();
    let without = |one: &String| -> Vec<(String, f64)> {
        let (held, others): (Vec<&FittedRow>, Vec<&FittedRow>) = rows.iter().partition(|row| key(row) == *one);
        let (shared, known) = (SharedOverheads::by(&others), by_stack(&others));
        let stacks: Vec<(&str, Vec<&FittedRow>)> = by_stack(&held).into_iter().collect();
        let of = |(stack, held): &(&str, Vec<&FittedRow>)| {
            let overheads = of_stack(known.get(stack).map_or(&[], Vec::as_slice), shared.with(held[0]));
            held.iter().map(|row| (row.run.id.clone(), row.error(&overheads).exp() - 1.0)).collect::<Vec<_>>()
        };
        stacks.par_iter().flat_map_iter(of).collect()
    };
    keys.into_iter().collect::<Vec<_>>().par_iter().flat_map_iter(without).collect()
}

fn of_stack(rows: &[&FittedRow], inherited: &Overheads) -> Overheads {
    if rows.len() < FEW { inherited.clone() } else { beside(rows, inherited, false) }
}
