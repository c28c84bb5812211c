//! A floor of stages of several chunks: their layers are even, so that every stage's work is known before anything is decided.
//!
//! In: costs of each stage, layers of each virtual stage, what memory makes stages do again. Out: seconds of a step.
//!
//! With f, b and t seconds of a stage's forward and backward of its first chunk and of all its passes, messages of h seconds, M
//! microbatches: no stage begins before the first microbatch has come through the first chunks of those before it, and where
//! backward is whole a stage ends with its first chunk's, which those before it pass on:
//!
//!   T ≥ Σ_{i<s} (f_i + h) + M·t_s,   T ≥ Σ_{i<s} (f_i + h) + M·t_s + Σ_{i<s} (b_i + h)
//!
//! Then come sums that the last pass does not hide, the norm, and the updates of the stage that has most of them.
//!
//! Invariant: no more than the played step of the plan that the combination stands for (tests over all plans of a job).

use std::sync::Arc;

use super::times::{Costs, PieceCost, Times};
use crate::job::LayerKind;
use crate::plan::Recompute;
use crate::schedule::Pipeline;

/// Layers of a kind on each virtual stage.
pub(super) type EvenLayers = (LayerKind, Arc<Vec<usize>>);

/// A stage's work.
#[derive(Default)]
struct StageTimes {
    /// All its passes of a microbatch.
    all: Times,
    /// Those of its first chunk.
    first: Times,
    /// Once a step: clearing gradients, norms, updates.
    clear: f64,
    norm: f64,
    update: f64,
    /// Sums of gradients: all of them, and of those of the first chunk what waits for its passes.
    sums: [f64; 2],
}

impl StageTimes {
    fn of(pipeline: &Pipeline, stage: usize, costs: &Costs, layers: &[EvenLayers]) -> StageTimes {
        let mut times = StageTimes::default();
        let depth = pipeline.stages * pipeline.chunks;
        let mut renew = 0.0;
        for chunk in 0..pipeline.chunks {
            let place = pipeline.virtual_stage(stage, chunk);
            let mut passes = Times::default();
            let mut add = |piece: &PieceCost, count: f64| {
                let mut one = Times::default();
                one.layer(piece, Recompute::None);
                passes.plus(&one.scaled(count));
                let share = &piece.share;
                times.clear += count * share.clear;
                times.norm += count * share.norm;
                times.update += count * share.update;
                renew += count * share.renew;
                times.sums[0] += count * share.reduce;
                times.sums[1] += if chunk == 0 { count * (share.reduce - share.parts) } else { 0.0 };
            };
            for (kind, held) in layers {
                add(costs.layer(*kind), held[place] as f64);
            }
            let from_others = |other: usize| if pipeline.chunk_at(other).0 == stage { 0.0 } else { costs.recv };
            if place == 0 {
                add(&costs.embed, 1.0);
            }
            if place + 1 == depth {
                add(&costs.head, 1.0);
            }
            passes.forward += if place == 0 { costs.load[0] } else { from_others(place - 1) };
            passes.backward += if place + 1 == depth { costs.load[1] } else { from_others(place + 1) };
            times.all.plus(&passes);
            if chunk == 0 {
                times.first = passes;
            }
        }
        times.update = times.update.max(renew);
        times
    }
}

/// A step of even layers, of which each stage makes so many seconds again a microbatch; endless if one does not fit.
pub(super) fn floor<'a>(
    pipeline: &Pipeline,
    costs: impl Fn(usize) -> &'a Costs,
    layers: &[EvenLayers],
    again: impl Fn(usize) -> Option<f64>,
) -> f64 {
    let (microbatches, splits) = (pipeline.microbatches as f64, pipeline.schedule.splits());
    let least = |pick: fn(&Costs) -> f64| (0..pipeline.stages).map(|s| pick(costs(s))).fold(f64::INFINITY, f64::min);
    let (hop, norm_sum) = (least(|costs| costs.hop), least(|costs| costs.norm_sum));
    let (mut came, mut back, mut cleared) = (0.0, 0.0, 0.0f64);
    let (mut summed, mut updated, mut norm) = (0.0f64, 0.0f64, 0.0);
    for stage in 0..pipeline.stages {
        let own = costs(stage);
        let times = StageTimes::of(pipeline, stage, own, layers);
        let Some(again) = again(stage) else { return f64::INFINITY };
        if stage == 0 {
            (cleared, norm) = (times.clear, times.norm);
        }
        let begins = (cleared + came).max(times.clear);
        let ends =
            own.starts + (begins + microbatches * (times.all.total() + again)).max(microbatches * times.all.issue);
        let late = if splits { 0.0 } else { times.sums[1] - times.first.backward - again };
        let own_sums = times.norm + own.shown * times.sums[0];
        summed = summed.max(ends + own_sums.max(late));
        if !splits {
            summed = summed.max(ends + back + norm);
        }
        updated = updated.max(times.update);
        came += times.first.forward + hop;
        back += times.first.backward + hop;
    }
    summed + norm_sum + updated
}
