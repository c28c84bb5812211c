//! ZB-H2: ZB-H1 with as many microbatches more in flight as fill the warm-up too (Qi et al. 2023, §2.2), in twice the
//! activations of 1F1B: 2p − 1 microbatches on every stage. What their scheduler finds within that memory they call ZB-2p.
//!
//! A step ends together on all stages, since updates wait for the norm of all gradients; their updates without that wait, put
//! right afterwards, are not here, so that p − 1 forwards are left of the bubble. Floors as in [`super::zb_h1`].

use super::one_f_one_b::{alternate, rounds};
use super::order::{PipelineSchedule, StageWork, StepWork};
use super::zb_h1::{one_way, weights_left};
use super::{Action, Pipeline};

/// The schedule.
pub(super) struct ZbH2;

/// Forwards before those that take turns with backwards, until the first of these has come, and backwards by which weights are
/// put off, so that a later stage does not wait for forwards at the end.
fn lead(pipeline: &Pipeline, stage: usize) -> (usize, usize) {
    (2 * (pipeline.stages - 1 - stage), 2 * stage)
}

impl PipelineSchedule for ZbH2 {
    fn orders(&self, pipeline: &Pipeline) -> Vec<Vec<Action>> {
        let list = |stage| {
            let (ahead, behind) = lead(pipeline, stage);
            alternate(pipeline.microbatches, 1, 1, ahead, Some(behind))
        };
        (0..pipeline.stages).map(list).collect()
    }

    fn splits(&self) -> bool {
        true
    }

    fn least_in_flight(&self, pipeline: &Pipeline, stage: usize) -> usize {
        pipeline.microbatches.min(lead(pipeline, stage).0 + 1)
    }

    fn floor(&self, work: &StepWork) -> f64 {
        one_way(work)
    }

    fn weights_left(&self, pipeline: &Pipeline, stage: usize) -> f64 {
        let (ahead, behind) = lead(pipeline, stage);
        weights_left(pipeline, ahead, behind) as f64
    }

    fn last_backward(&self, work: &StageWork) -> f64 {
        let (ahead, behind) = lead(work.pipeline, work.stage);
        rounds(work, ahead + 1, weights_left(work.pipeline, ahead, behind) as f64 - 1.0)
    }
}
