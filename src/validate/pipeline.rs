//! The schedule of a row's pipeline.
//!
//! In: a [`Record`], its stack, stages and layers. Out: the order of microbatches, and chunks a stage.
//!
//! Invariant: what a row states is kept; chunks that it does not state follow from framework and year.

use meshwright_hardware::profile::Stack;
use meshwright_planner::schedule::Schedule;

use super::record::Record;

/// Chunks that a stage has at most where their number is not stated.
const MOST_CHUNKS: usize = 8;

/// Whether a pipeline whose chunks are not stated is interleaved: as Megatron's of 2022 and later usually are, two layers a chunk.
fn interleaves(record: &Record, stack: &Stack) -> bool {
    record.size("pp").is_some_and(|pp| pp > 1)
        && ["megatron", "megatron-core", "aa-scaling"].contains(&stack.family.as_str())
        && record.number("year").is_some_and(|year| year >= 2022.0)
}

/// The order of microbatches, and chunks a stage.
pub(super) fn schedule(record: &Record, stack: &Stack, (pp, layers): (usize, usize)) -> (Schedule, usize) {
    let framework = record.text("framework");
    let interleaved = framework.contains("Interleaved") && pp > 1;
    let chunks = record.size("vpp").unwrap_or(match () {
        () if interleaved => 2,
        () if interleaves(record, stack) => (layers / pp / 2).clamp(1, MOST_CHUNKS),
        () => 1,
    });
    match () {
        () if framework.contains("ZB-1p") || framework.contains("ZB-H1") => (Schedule::ZeroBubble, 1),
        () if framework.contains("ZB-2p") || framework.contains("ZB-H2") => (Schedule::ZeroBubble2p, 1),
        () if framework.contains("ZB-V") => (Schedule::ZbV, 2),
        () if framework.contains("DualPipe") => (Schedule::DualPipeV, 2),
        () if framework.contains("GPipe") => (Schedule::GPipe, 1),
        () => (Schedule::OneFOneB, chunks),
    }
}
