//! GPipe: all forward, then all backward (Huang et al. 2019).
//!
//! Floors: all forwards come before all backwards, so that T ≥ Σ_i t_i + (M − 1)·(max f + max b) + 2·(p − 1)·h, and between a
//! stage's forwards and its backwards lies a trip to the last stage and back: Σ_{i<s} f_i + M·t_s + Σ_{i>s} (f_i + b_i).

use super::one_f_one_b::alternate;
use super::order::{PipelineSchedule, StageWork, StepWork};
use super::{Action, Pipeline};

/// The schedule.
pub(super) struct GPipe;

impl PipelineSchedule for GPipe {
    fn orders(&self, pipeline: &Pipeline) -> Vec<Vec<Action>> {
        vec![alternate(pipeline.microbatches, 1, 1, pipeline.microbatches, None); pipeline.stages]
    }

    fn settled(&self, pipeline: &Pipeline) -> usize {
        pipeline.microbatches
    }

    fn least_in_flight(&self, pipeline: &Pipeline, _stage: usize) -> usize {
        pipeline.microbatches
    }

    fn floor(&self, work: &StepWork) -> f64 {
        let Pipeline { stages, microbatches, .. } = *work.pipeline;
        let (p, m) = (stages as f64, microbatches as f64);
        // One microbatch's way through all stages, and the others' through the busiest.
        (work.way + work.even * (1.0 - 1.0 / m)).max(work.even) + 2.0 * (p - 1.0) * work.hop
    }

    fn last_backward(&self, work: &StageWork) -> f64 {
        work.straight() + work.trip
    }
}
