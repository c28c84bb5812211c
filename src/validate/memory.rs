//! What stacks' allocators add, fitted to measured memory.
//!
//! In: runs. Out: an [`Allocator`] a stack: fragments of runs whose reserved bytes were measured, the reserve of those of which the
//! driver's were, where reserved bytes were not with the fragments that explain most; medians over its runs, within bounds, where that
//! pays ([`PRICE`]), else what is inherited. Of a stack of
//! which nobody measured either, the fragments with which as large shares as can be are told right of its runs that fitted and of
//! those that did not; of several such, what is nearest the usual.
//!
//! Invariant: what is declared is the program's; no run's own figure stays in a stack of fewer than [`FEW`] such runs.

use std::collections::{BTreeMap, BTreeSet};

use meshwright_hardware::profile::{Allocator, catalog};
use meshwright_planner::predict::declared;
use rayon::prelude::*;
use statrs::statistics::{Data, OrderStatistics};

use super::own_figures::PRICE;
use super::row::Measure;
use super::{Run, chosen};

/// A stack with fewer runs measured in a way keeps what it has.
const FEW: usize = 4;
/// The most that fragments may add.
const MOST_FRAGMENTS: f64 = 0.3;
/// The step in which fragments are tried.
const STEP: f64 = 0.01;
/// Runs that own fragments have to tell right which inherited ones tell wrong.
const MORE: usize = 2;
/// The most GB beside the allocator.
const MOST_RESERVE: f64 = 12.0;

/// The allocators of stacks of which memory was measured so.
pub fn fit(runs: &[&Run]) -> BTreeMap<String, Allocator> {
    let rows = rows(runs);
    fit_from(&rows.iter().collect::<Vec<_>>())
}

/// What a run's stack inherits; a stack that adds nothing has nothing of others.
fn inherited(run: &Run) -> Allocator {
    let stack = run.stack();
    if stack.memory.is_none() { stack.memory } else { catalog().inherited(&stack.family).memory }
}

/// A run with the bytes that its ranks declare.
struct DeclaredRun<'a> {
    run: &'a Run,
    /// Of the rank that declares most.
    most: u64,
    /// Of the rank whose memory the run's is.
    shown: u64,
}

fn rows<'a>(runs: &[&'a Run]) -> Vec<DeclaredRun<'a>> {
    let of = |run: &&'a Run| {
        let stages = declared(&chosen(run).under(run.stack()));
        let most = stages.iter().copied().max().unwrap_or(0);
        DeclaredRun { run, most, shown: if run.last_rank { stages.last().copied().unwrap_or(0) } else { most } }
    };
    runs.par_iter().map(of).collect()
}

/// Relative errors of runs' memory by fits that have seen no run of the same key.
pub fn held_out(runs: &[&Run], key: impl Fn(&Run) -> String) -> BTreeMap<String, f64> {
    let keys: BTreeSet<String> = runs.iter().map(|run| key(run)).collect();
    let rows = rows(runs);
    let without = |one: String| -> Vec<(String, f64)> {
        let (held, others): (Vec<&DeclaredRun>, Vec<&DeclaredRun>) = rows.iter().partition(|row| key(row.run) == one);
        let fitted = fit_from(&others);
        let error = |DeclaredRun { run, shown, .. }: &&DeclaredRun| {
            let measured = run.measured.memory_gb.filter(|gb| *gb > 0.0 && !run.measured.oom)?;
            let allocator = fitted.get(&run.stack().name).copied().unwrap_or_else(|| inherited(run));
            Some((run.id.clone(), run.measure.bytes(&allocator, *shown) as f64 / 1e9 / measured - 1.0))
        };
        held.iter().filter_map(error).collect()
    };
    keys.into_iter().flat_map(without).collect()
}

/// The same of these rows.
fn fit_from(rows: &[&DeclaredRun]) -> BTreeMap<String, Allocator> {
    let mut stacks: BTreeMap<&str, Vec<&DeclaredRun>> = BTreeMap::new();
    for row in rows {
        stacks.entry(&row.run.stack().name).or_default().push(row);
    }
    let of = |(stack, rows): (&str, Vec<&DeclaredRun>)| (stack.to_owned(), of_stack(&rows));
    stacks.into_iter().map(of).collect()
}

fn of_stack(rows: &[&DeclaredRun]) -> Allocator {
    let mut allocator = inherited(rows[0].run);
    let measured = |row: &&DeclaredRun| row.run.measure != Measure::Allocated && row.run.measured.memory_gb.is_some();
    if !allocator.is_none() && rows.len() >= FEW && rows.iter().filter(|row| measured(row)).count() < FEW {
        allocator.fragments = by_what_fitted(&rows.iter().map(|row| Fitted::of(row)).collect::<Vec<_>>(), &allocator);
    }
    let mut apart = false;
    for how in [Measure::Reserved, Measure::Device] {
        let shown = |row: &&DeclaredRun| {
            let gb = row.run.measured.memory_gb.filter(|gb| *gb > 0.0 && row.run.measure == how)?;
            (!row.run.measured.oom).then_some((row.shown, gb))
        };
        let shown: Vec<(u64, f64)> = rows.iter().filter_map(shown).collect();
        if shown.len() >= FEW {
            let loss = |allocator: &Allocator| -> f64 {
                shown.iter().map(|&(bytes, gb)| (how.bytes(allocator, bytes) as f64 / 1e9 / gb).ln().abs()).sum()
            };
            let paid = |tried: &Allocator| loss(tried) + PRICE * figures_apart(tried, &allocator) as f64;
            let candidates = tried(&shown, how, &allocator).into_iter().take(if apart { 1 } else { usize::MAX });
            apart |= how == Measure::Reserved;
            let best = candidates.min_by(|a, b| paid(a).total_cmp(&paid(b)));
            if let Some(best) = best.filter(|best| paid(best) < loss(&allocator)) {
                allocator = best;
            }
        }
    }
    allocator
}

/// Allocators that explain what runs show: of reserved bytes the median of their fragments; of what drivers show the median of the
/// reserve, with the fragments that are known, and with any others, which nobody measured apart.
fn tried(shown: &[(u64, f64)], how: Measure, known: &Allocator) -> Vec<Allocator> {
    let median = |known: &Allocator| {
        let all: Vec<f64> = shown.iter().map(|&(bytes, gb)| added(bytes, how, known, gb)).collect();
        (Data::new(all).median() * 1e4).round() / 1e4
    };
    if how == Measure::Reserved {
        return vec![Allocator { fragments: median(known).clamp(0.0, MOST_FRAGMENTS), ..*known }];
    }
    let reserve = |known: Allocator| Allocator { reserve: median(&known).clamp(0.0, MOST_RESERVE), ..known };
    let others = steps().map(|fragments| Allocator { fragments, ..*known });
    // A reserve at its bound explains nothing, whatever the fragments.
    let others = others.map(reserve).filter(|tried| tried.reserve < MOST_RESERVE);
    std::iter::once(reserve(*known)).chain(others).collect()
}

/// How many figures of two allocators differ.
fn figures_apart(one: &Allocator, other: &Allocator) -> usize {
    usize::from(one.fragments != other.fragments) + usize::from(one.reserve != other.reserve)
}

/// Fragments to try.
fn steps() -> impl Iterator<Item = f64> {
    (0..=(MOST_FRAGMENTS / STEP).round() as usize).map(|step| (step as f64 * STEP * 1e4).round() / 1e4)
}

/// What is known of a run whose memory nobody measured.
struct Fitted {
    /// Bytes it declares.
    declared: u64,
    /// Bytes its device has.
    device: u64,
    /// Whether it fitted.
    fits: bool,
}

impl Fitted {
    fn of(row: &DeclaredRun) -> Fitted {
        Fitted { declared: row.most, device: row.run.device().memory.value.0, fits: !row.run.measured.oom }
    }
}

/// The fragments by which most runs are told right: the share of those that fitted, and the share of those that did not; what is
/// inherited unless that tells [`MORE`] runs right.
fn by_what_fitted(runs: &[Fitted], allocator: &Allocator) -> f64 {
    let wrong = |fragments: f64, fits: bool| {
        let tried = Allocator { fragments, ..*allocator };
        let all = runs.iter().filter(|run| run.fits == fits);
        let wrong = all.clone().filter(|run| (tried.taken(run.declared) <= run.device) != fits).count();
        (wrong, wrong as f64 / all.count().max(1) as f64)
    };
    let shares = |fragments: f64| ((wrong(fragments, true).1 + wrong(fragments, false).1) * 1e6).round() as u64;
    let far = |fragments: f64| ((fragments - allocator.fragments).abs() / STEP).round() as usize;
    let usual = allocator.fragments;
    let best = steps().min_by_key(|&fragments| (shares(fragments), far(fragments))).unwrap_or(usual);
    let count = |fragments: f64| wrong(fragments, true).0 + wrong(fragments, false).0;
    if count(best) + MORE <= count(usual) { best } else { usual }
}

/// What a run shows of fragments (a share), or of the reserve (GB).
fn added(shown: u64, how: Measure, known: &Allocator, gb: f64) -> f64 {
    match how {
        Measure::Reserved => gb * 1e9 / known.allocated(shown) as f64 - 1.0,
        _ => gb - known.reserved(shown) as f64 / 1e9 - known.context,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, on devices of 80 GB of which 2 are not the allocator's: 76 GB that fitted leave at most 2 %, 72 that did not at least 9.
    #[test]
    fn fragments_are_those_that_tell_most_runs_right() {
        let run = |gb: u64, fits| Fitted { declared: gb * 1_000_000_000, device: 80_000_000_000, fits };
        let allocator = Allocator { workspace: 0.0, fragments: 0.04, reserve: 0.5, context: 1.5 };
        let fitted = |runs: &[Fitted]| by_what_fitted(runs, &allocator);
        assert_eq!(fitted(&[run(60, true), run(78, false)]), 0.04);
        assert_eq!(fitted(&[run(76, true), run(79, false)]), 0.04, "one run more is not enough");
        assert_eq!(fitted(&[run(76, true), run(76, true), run(79, false)]), 0.02);
        assert_eq!(fitted(&[run(72, false), run(72, false), run(79, false), run(70, true)]), 0.09);
    }
}
