//! ZB-H1: 1F1B with the gradients of weights put off into what would be bubbles (Qi et al. 2023).
//!
//! Floors: T ≥ Σ_{i<s} f_i + M·t_s over all ways to share the work. A stage s puts weights off by s backwards, so that as many of
//! 1F1B's trips are without them.

use super::one_f_one_b::{alternate, rounds};
use super::order::{PipelineSchedule, StageWork, StepWork};
use super::{Action, Pipeline};

/// The schedule.
pub(super) struct ZbH1;

impl PipelineSchedule for ZbH1 {
    fn orders(&self, pipeline: &Pipeline) -> Vec<Vec<Action>> {
        let &Pipeline { stages, microbatches, .. } = pipeline;
        // Later stages put weights off for as many microbatches as earlier ones are ahead.
        (0..stages).map(|stage| alternate(microbatches, 1, 1, stages - 1 - stage, Some(stage))).collect()
    }

    fn splits(&self) -> bool {
        true
    }

    fn least_in_flight(&self, pipeline: &Pipeline, stage: usize) -> usize {
        pipeline.microbatches.min(pipeline.stages - stage)
    }

    fn floor(&self, work: &StepWork) -> f64 {
        one_way(work)
    }

    fn weights_left(&self, pipeline: &Pipeline, stage: usize) -> f64 {
        weights_left(pipeline, pipeline.stages - 1 - stage, stage) as f64
    }

    fn last_backward(&self, work: &StageWork) -> f64 {
        let (pipeline, ahead) = (work.pipeline, work.pipeline.stages - 1 - work.stage);
        rounds(work, ahead + 1, weights_left(pipeline, ahead, work.stage) as f64 - 1.0)
    }
}

/// T ≥ Σ_{i<s} f_i + M·t_s, over all ways to share the work.
pub(super) fn one_way(work: &StepWork) -> f64 {
    let m = work.pipeline.microbatches as f64;
    let share = work.layer.forward / work.layer.total();
    let rest = (1.0 - share / m).powi(work.pipeline.stages as i32);
    (work.layers as f64 * work.layer.total() * share / (1.0 - rest)).max(work.even)
}

/// Passes of weights after the last backward of a stage that goes forward `ahead` times first and puts weights off by `behind`
/// backwards, while there are forwards: min(behind, (M − ahead)⁺, M − 1) + 1. As many backwards come first, without weights.
pub(super) fn weights_left(pipeline: &Pipeline, ahead: usize, behind: usize) -> usize {
    let m = pipeline.microbatches;
    behind.min(m.saturating_sub(ahead)).min(m - 1) + 1
}
