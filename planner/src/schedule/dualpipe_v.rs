//! DualPipeV: two chunks a stage in the form of a V, with weights put off (DeepSeek-AI 2025).
//!
//! Chunk 0 goes down the stages, chunk 1 back up; weights fill what would be bubbles. Its floor is every schedule's.

use std::ops::RangeInclusive;

use super::order::PipelineSchedule;
use super::{Action, Pipeline};

/// The schedule.
pub(super) struct DualPipeV;

impl PipelineSchedule for DualPipeV {
    /// A simulation in which forward, backward and weights take one tick each, and no more microbatches than stages are in
    /// flight, decides the order.
    fn orders(&self, pipeline: &Pipeline) -> Vec<Vec<Action>> {
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
                if let Some((chunk, pass)) =
                    wanted.into_iter().find(|&(chunk, pass)| ready(virtual_stages[chunk], pass))
                {
                    let mb = before[virtual_stages[chunk]][pass];
                    done[virtual_stages[chunk]][pass] += 1;
                    left -= usize::from(pass == 2);
                    list.push([Action::Forward, Action::Backward, Action::Weights][pass](chunk, mb));
                }
            }
        }
        lists
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
