//! ZB-V: two chunks a stage in the form of a V, with the activations of 1F1B (Qi et al. 2024, *Pipeline Parallelism with
//! Controllable Memory*).
//!
//! Chunk 0 goes down the stages, chunk 1 back up. A stage s of p has 2p − 1 forwards of both chunks ahead, then forward, backward
//! and weights of each chunk in turns, so that no more than 2p chunks are under way; at the end weights fill what would be bubbles
//! (PyTorch's `ScheduleZBVZeroBubble`). Its floor is every schedule's.

use std::ops::RangeInclusive;

use super::order::PipelineSchedule;
use super::{Action, Pipeline};

/// The schedule.
pub(super) struct ZbV;

impl PipelineSchedule for ZbV {
    fn orders(&self, pipeline: &Pipeline) -> Vec<Vec<Action>> {
        (0..pipeline.stages).map(|stage| order(pipeline, stage)).collect()
    }

    fn splits(&self) -> bool {
        true
    }

    fn chunks(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn turns(&self) -> bool {
        true
    }
}

/// A stage's passes so far: of each chunk's forward, backward and weights how many.
#[derive(Default)]
struct Written {
    all: Vec<Action>,
    count: [[usize; 2]; 3],
}

impl Written {
    /// The chunk's next forward (0), backward (1) or weights (2).
    fn next(&mut self, pass: usize, chunk: usize) {
        let mb = &mut self.count[pass][chunk];
        self.all.push([Action::Forward, Action::Backward, Action::Weights][pass](chunk, *mb));
        *mb += 1;
    }

    fn passes(&mut self, chunk: usize, passes: &[usize]) {
        passes.iter().for_each(|&pass| self.next(pass, chunk));
    }
}

/// What a stage does: of so few microbatches that the pipeline does not fill as of enough, without those that there are not.
fn order(pipeline: &Pipeline, stage: usize) -> Vec<Action> {
    let &Pipeline { stages, microbatches, .. } = pipeline;
    let enough = microbatches.max(2 * stages - 1);
    let mut written = Written::default();
    (0..2 * (stages - stage) - 1).for_each(|_| written.next(0, 0));
    for _ in 0..stage {
        written.next(0, 1);
        written.next(0, 0);
    }
    (0..stages - stage).for_each(|_| written.passes(1, &[0, 1, 2]));
    while written.count[0][1] < enough {
        if written.count[0][0] < enough {
            written.next(0, 0);
        }
        written.passes(0, &[1, 2]);
        written.passes(1, &[0, 1, 2]);
    }
    for _ in 0..stage {
        written.next(1, 0);
        written.next(1, 1);
    }
    (0..stages - stage).for_each(|_| written.passes(0, &[1, 2]));
    for chunk in [1, 0] {
        while written.count[2][chunk] < enough {
            written.next(2, chunk);
        }
    }
    let there = |action: &Action| match *action {
        Action::Forward(_, mb) | Action::Backward(_, mb) | Action::Weights(_, mb) => mb < microbatches,
    };
    written.all.into_iter().filter(there).collect()
}
