//! What stacks' allocators add, fitted to measured memory.
//!
//! In: runs. Out: an [`Allocator`] a stack: fragments of runs whose reserved bytes were measured, the reserve of those of which the
//! driver's were; each the median over its runs, within bounds.
//!
//! Invariant: what is declared is the program's; no run's own figure stays in a stack of fewer than [`FEW`] such runs.

use std::collections::BTreeMap;

use meshwright_hardware::profile::Allocator;
use meshwright_planner::predict::declared;
use statrs::statistics::{Data, OrderStatistics};

use super::row::Measure;
use super::{Run, chosen};

/// A stack with fewer runs measured in a way keeps what it has.
const FEW: usize = 4;
/// The most that fragments may add.
const MOST_FRAGMENTS: f64 = 0.3;
/// The most GB beside the allocator.
const MOST_RESERVE: f64 = 12.0;

/// The allocators of stacks of which memory was measured so.
pub fn fit(runs: &[&Run]) -> BTreeMap<String, Allocator> {
    let mut found: BTreeMap<String, Allocator> = BTreeMap::new();
    for how in [Measure::Reserved, Measure::Device] {
        let mut of_stacks: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for run in runs.iter().filter(|run| run.measure == how && !run.measured.oom) {
            let Some(gb) = run.measured.memory_gb.filter(|gb| *gb > 0.0) else { continue };
            let known = found.get(&run.stack().name).unwrap_or(&run.stack().memory);
            of_stacks.entry(&run.stack().name).or_default().push(added(run, how, known, gb));
        }
        for (stack, all) in of_stacks.into_iter().filter(|(_, all)| all.len() >= FEW) {
            let own = runs.iter().find(|run| run.stack().name == stack).map(|run| run.stack().memory);
            let allocator = found.entry(stack.to_owned()).or_insert(own.unwrap_or_default());
            let median = (Data::new(all).median() * 1e4).round() / 1e4;
            match how {
                Measure::Reserved => allocator.fragments = median.clamp(0.0, MOST_FRAGMENTS),
                _ => allocator.reserve = median.clamp(0.0, MOST_RESERVE),
            }
        }
    }
    found
}

/// What a run shows of fragments (a share), or of the reserve (GB).
fn added(run: &Run, how: Measure, known: &Allocator, gb: f64) -> f64 {
    let stages = declared(&chosen(run).under(run.stack()));
    let most = if run.last_rank { stages.last().copied() } else { stages.into_iter().max() }.unwrap_or(0);
    match how {
        Measure::Reserved => gb * 1e9 / known.allocated(most) as f64 - 1.0,
        _ => gb - known.reserved(most) as f64 / 1e9 - known.context,
    }
}
