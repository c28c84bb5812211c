//! DualPipeV: two chunks a stage in the form of a V, each forward beside a backward of the other (DeepSeek-AI 2025).
//!
//! Chunk 0 goes down the stages, chunk 1 back up. Weights follow their backward, but for those at the end, which fill what would be
//! bubbles. Its floor is every schedule's.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::order::PipelineSchedule;
use super::{Action, Pipeline};

/// The schedule.
pub(super) struct DualPipeV;

impl PipelineSchedule for DualPipeV {
    fn orders(&self, pipeline: &Pipeline) -> Vec<Vec<Action>> {
        match pipeline.microbatches < 2 * pipeline.stages {
            true => of_few(pipeline),
            false => (0..pipeline.stages).map(|stage| Steps::of(pipeline, stage)).collect(),
        }
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

/// What a stage does, written step by step as in DeepSeek's `dualpipev.py`.
#[derive(Default)]
struct Steps {
    list: Vec<Action>,
    /// Of each chunk, microbatches done forward and backward.
    done: [[usize; 2]; 2],
    /// Backward passes whose weights are put off.
    put_off: VecDeque<(usize, usize)>,
}

impl Steps {
    fn of(&Pipeline { stages, microbatches, .. }: &Pipeline, stage: usize) -> Vec<Action> {
        let (mut steps, after) = (Steps::default(), stages - stage - 1);
        (0..2 * after).for_each(|_| steps.forward(0));
        (0..=stage).for_each(|_| (0..2).for_each(|chunk| steps.forward(chunk)));
        for _ in 0..after {
            steps.backward(1, false);
            steps.forward(1);
        }
        for _ in 0..microbatches + stage + 1 - 2 * stages {
            steps.forward(0);
            steps.backward(1, false);
            steps.forward(1);
            steps.backward(0, false);
        }
        for _ in 0..after {
            steps.backward(1, false);
            steps.forward(1);
            steps.backward(0, false);
        }
        // Of these passes the later half put their weights off, as do all that follow: as many in all as there are stages.
        for pass in 0..2 * (stage + 1) {
            steps.backward(1 - pass % 2, pass > stage);
        }
        for _ in 0..after {
            steps.weights();
            steps.backward(0, true);
        }
        (0..=stage).for_each(|_| steps.weights());
        steps.list
    }

    fn forward(&mut self, chunk: usize) {
        let microbatch = &mut self.done[chunk][0];
        self.list.push(Action::Forward(chunk, *microbatch));
        *microbatch += 1;
    }

    fn backward(&mut self, chunk: usize, put_off: bool) {
        let microbatch = self.done[chunk][1];
        self.done[chunk][1] += 1;
        self.list.push(Action::Backward(chunk, microbatch));
        match put_off {
            true => self.put_off.push_back((chunk, microbatch)),
            false => self.list.push(Action::Weights(chunk, microbatch)),
        }
    }

    /// The weights that were put off first.
    fn weights(&mut self) {
        self.list.extend(self.put_off.pop_front().map(|(chunk, microbatch)| Action::Weights(chunk, microbatch)));
    }
}

/// The order of a batch too small for the steps: a simulation in which forward, backward and weights take one tick each, and no more
/// microbatches than stages are in flight, decides it.
fn of_few(pipeline: &Pipeline) -> Vec<Vec<Action>> {
    let &Pipeline { stages, microbatches, .. } = pipeline;
    let depth = 2 * stages;
    let mut lists = vec![Vec::new(); stages];
    // By virtual stage: microbatches done forward, backward and weights, and what was done before this tick.
    let mut done = vec![[0usize; 3]; depth];
    let mut before = done.clone();
    let mut left = depth * microbatches;
    while left > 0 {
        before.clone_from(&done);
        for (stage, list) in lists.iter_mut().enumerate() {
            let virtual_stages = [stage, depth - 1 - stage];
            let ready = |k: usize, pass: usize| {
                let mb = before[k][pass];
                mb < microbatches
                    && match pass {
                        0 if k == 0 => mb < before[0][2] + stages.min(microbatches),
                        0 => mb < before[k - 1][0],
                        1 if k + 1 == depth => mb < before[k][0],
                        1 => mb < before[k + 1][1],
                        _ => mb < before[k][1],
                    }
            };
            let wanted = [(1, 1), (0, 1), (1, 0), (0, 0), (1, 2), (0, 2)];
            if let Some((chunk, pass)) = wanted.into_iter().find(|&(chunk, pass)| ready(virtual_stages[chunk], pass)) {
                let mb = before[virtual_stages[chunk]][pass];
                done[virtual_stages[chunk]][pass] += 1;
                left -= usize::from(pass == 2);
                list.push([Action::Forward, Action::Backward, Action::Weights][pass](chunk, mb));
            }
        }
    }
    lists
}
