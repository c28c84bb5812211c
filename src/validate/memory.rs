//! What stacks' allocators add, fitted to measured memory.
//!
//! In: runs. Out: an [`Allocator`] a stack: fragments of runs whose reserved bytes were measured, the reserve of those of which the
//! driver's were; each the median over its runs, within bounds. Of a stack of which nobody measured either, the fragments with
//! which as large shares as can be are told right of its runs that fitted and of those that did not; of several such, what is nearest
//! the usual.
//!
//! Invariant: what is declared is the program's; no run's own figure stays in a stack of fewer than [`FEW`] such runs.

use std::collections::{BTreeMap, BTreeSet};

use meshwright_hardware::profile::Allocator;
use meshwright_planner::predict::declared;
use rayon::prelude::*;
use statrs::statistics::{Data, OrderStatistics};

use super::row::Measure;
use super::{Run, chosen};

/// A stack with fewer runs measured in a way keeps what it has.
const FEW: usize = 4;
/// The most that fragments may add.
const MOST_FRAGMENTS: f64 = 0.3;
/// What they usually are, and the step in which others are tried.
const USUAL_FRAGMENTS: f64 = 0.04;
const STEP: f64 = 0.01;
/// The most GB beside the allocator.
const MOST_RESERVE: f64 = 12.0;

/// The allocators of stacks of which memory was measured so.
pub fn fit(runs: &[&Run]) -> BTreeMap<String, Allocator> {
    let rows = rows(runs);
    fit_from(&rows.iter().collect::<Vec<_>>(), |run| run.stack().memory)
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

/// Relative errors of runs' memory by fits that have seen no run of the same key; a stack without others has `usual`.
pub fn held_out(runs: &[&Run], usual: &Allocator, key: impl Fn(&Run) -> String) -> BTreeMap<String, f64> {
    let start = |run: &Run| if run.stack().memory.is_none() { Allocator::default() } else { *usual };
    let keys: BTreeSet<String> = runs.iter().map(|run| key(run)).collect();
    let rows = rows(runs);
    let without = |one: String| -> Vec<(String, f64)> {
        let (held, others): (Vec<&DeclaredRun>, Vec<&DeclaredRun>) = rows.iter().partition(|row| key(row.run) == one);
        let fitted = fit_from(&others, start);
        let error = |DeclaredRun { run, shown, .. }: &&DeclaredRun| {
            let measured = run.measured.memory_gb.filter(|gb| *gb > 0.0 && !run.measured.oom)?;
            let allocator = fitted.get(&run.stack().name).copied().unwrap_or_else(|| start(run));
            Some((run.id.clone(), run.measure.bytes(&allocator, *shown) as f64 / 1e9 / measured - 1.0))
        };
        held.iter().filter_map(error).collect()
    };
    keys.into_iter().flat_map(without).collect()
}

/// The same, where a run's stack has an allocator of `start` unless its runs say otherwise.
fn fit_from(rows: &[&DeclaredRun], start: impl Fn(&Run) -> Allocator) -> BTreeMap<String, Allocator> {
    let mut found: BTreeMap<String, Allocator> = BTreeMap::new();
    for how in [Measure::Reserved, Measure::Device] {
        let mut of_stacks: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.run.measure == how && !row.run.measured.oom) {
            let run = row.run;
            let Some(gb) = run.measured.memory_gb.filter(|gb| *gb > 0.0) else { continue };
            let known = found.get(&run.stack().name).copied().unwrap_or_else(|| start(run));
            of_stacks.entry(&run.stack().name).or_default().push(added(row.shown, how, &known, gb));
        }
        for (stack, all) in of_stacks.into_iter().filter(|(_, all)| all.len() >= FEW) {
            let own = rows.iter().find(|row| row.run.stack().name == stack).map(|row| start(row.run));
            let allocator = found.entry(stack.to_owned()).or_insert(own.unwrap_or_default());
            let median = (Data::new(all).median() * 1e4).round() / 1e4;
            match how {
                Measure::Reserved => allocator.fragments = median.clamp(0.0, MOST_FRAGMENTS),
                _ => allocator.reserve = median.clamp(0.0, MOST_RESERVE),
            }
        }
    }
    let mut unmeasured: BTreeMap<&str, Vec<&DeclaredRun>> = BTreeMap::new();
    let measured = |stack: &str| {
        let held = |run: &&Run| run.stack().name == stack && run.measure != Measure::Allocated;
        rows.iter().map(|row| row.run).filter(held).filter(|run| run.measured.memory_gb.is_some()).count()
    };
    for row in rows.iter().filter(|row| !row.run.stack().memory.is_none()) {
        let stack = &row.run.stack().name;
        if measured(stack) < FEW {
            unmeasured.entry(stack).or_default().push(row);
        }
    }
    for (stack, own) in unmeasured.into_iter().filter(|(_, own)| own.len() >= FEW) {
        let allocator = found.entry(stack.to_owned()).or_insert(start(own[0].run));
        allocator.fragments = by_what_fitted(&own.iter().map(|row| Fitted::of(row)).collect::<Vec<_>>(), allocator);
    }
    found
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

/// The fragments by which most runs are told right: the share of those that fitted, and the share of those that did not.
fn by_what_fitted(runs: &[Fitted], allocator: &Allocator) -> f64 {
    let wrong = |fragments: f64| {
        let tried = Allocator { fragments, ..*allocator };
        let share = |fits: bool| {
            let all = runs.iter().filter(|run| run.fits == fits);
            let wrong = all.clone().filter(|run| (tried.taken(run.declared) <= run.device) != fits).count();
            wrong as f64 / all.count().max(1) as f64
        };
        ((share(true) + share(false)) * 1e6).round() as u64
    };
    let steps = (MOST_FRAGMENTS / STEP).round() as usize;
    let tried = (0..=steps).map(|step| (step as f64 * STEP * 1e4).round() / 1e4);
    let far = |fragments: f64| ((fragments - USUAL_FRAGMENTS).abs() / STEP).round() as usize;
    tried.min_by_key(|&fragments| (wrong(fragments), far(fragments))).unwrap_or(USUAL_FRAGMENTS)
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

    /// By hand, on devices of 80 GB of which 2 are not the allocator's: 74 GB that fitted leave at most 5 %, 72 that did not at least 9.
    #[test]
    fn fragments_are_those_that_tell_most_runs_right() {
        let run = |gb: u64, fits| Fitted { declared: gb * 1_000_000_000, device: 80_000_000_000, fits };
        let allocator = Allocator { workspace: 0.0, fragments: 0.25, reserve: 0.5, context: 1.5 };
        let fitted = |runs: &[Fitted]| by_what_fitted(runs, &allocator);
        assert_eq!(fitted(&[run(60, true), run(78, false)]), USUAL_FRAGMENTS);
        assert_eq!(fitted(&[run(76, true), run(79, false)]), 0.02);
        assert_eq!(fitted(&[run(72, false), run(79, false), run(70, true)]), 0.09);
        assert_eq!(fitted(&[run(74, true), run(74, true), run(72, false)]), USUAL_FRAGMENTS);
        assert_eq!(fitted(&[run(74, true), run(60, true), run(72, false)]), 0.09);
    }
}
