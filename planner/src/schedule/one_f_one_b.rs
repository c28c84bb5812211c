//! 1F1B: one forward, one backward, after a warm-up (Narayanan et al. 2019), and interleaved 1F1B of several chunks a stage
//! (Narayanan et al. 2021).
//!
//! Floors of a stage s of one chunk, with the symbols of [`super::order`]:
//!
//! - the first backward comes after a trip to the last stage and back, then the other backwards and what forwards are left:
//!   Σ_{i≤s} f_i + Σ_{i>s} (f_i + b_i) + M·b_s + (M − p + s)⁺·f_s
//! - and so again, since a stage has no more than p − s microbatches in flight: n trips there and back pass before backward
//!   n·(p − s) ends
//! - what it does between the first backward and the last forward lies between two trips to the last stage:
//!   T ≥ Σ_i t_i + Σ_{i>s} t_i + (M − p + s)·t_s, for M ≥ p − s
//!
//! Interleaved, with v chunks a stage that take turns after g microbatches: from the first microbatch's way through all chunks,
//! over the last stage's work, to the last one's way back: T ≥ Σ f + Σ b + 2·(p·v − 1)·h + (M·v − (v − 1)·g − 1) times a chunk of
//! the last stage.

use std::ops::RangeInclusive;

use super::order::{PipelineSchedule, StageWork, StepWork};
use super::{Action, Pipeline};

/// The schedule.
pub(super) struct OneFOneB;

impl PipelineSchedule for OneFOneB {
    fn orders(&self, pipeline: &Pipeline) -> Vec<Vec<Action>> {
        let &Pipeline { stages, chunks, microbatches, .. } = pipeline;
        let list = |stage| {
            let (group, after) = (group(stages, chunks, microbatches), stages - 1 - stage);
            // Twice as far ahead, so that a chunk's backward never waits for another's (Narayanan et al. 2021, §2.2.2).
            let ahead = if chunks == 1 { after } else { 2 * after + (chunks - 1) * group };
            alternate(microbatches, group, chunks, ahead, None)
        };
        (0..stages).map(list).collect()
    }

    fn chunks(&self) -> RangeInclusive<usize> {
        1..=usize::MAX
    }

    /// Interleaving goes in whole rounds of as many microbatches as stages where it can.
    fn round(&self, stages: usize, chunks: usize) -> usize {
        if chunks > 1 { stages } else { 1 }
    }

    fn least(&self, stages: usize, chunks: usize) -> usize {
        self.round(stages, chunks)
    }

    /// What is left of whole rounds makes every round longer.
    fn settled(&self, pipeline: &Pipeline) -> usize {
        let &Pipeline { stages, chunks, microbatches, .. } = pipeline;
        let whole = microbatches.is_multiple_of(self.round(stages, chunks));
        if whole { microbatches.min(4 * stages) } else { microbatches }
    }

    fn least_in_flight(&self, pipeline: &Pipeline, stage: usize) -> usize {
        pipeline.microbatches.min(pipeline.stages - stage)
    }

    fn trips(&self, pipeline: &Pipeline) -> usize {
        if pipeline.chunks > 1 { 0 } else { pipeline.microbatches.saturating_sub(pipeline.stages) }
    }

    fn least_ratio(&self, pipeline: &Pipeline) -> f64 {
        least_ratio(pipeline.microbatches, pipeline.stages)
    }

    fn floor(&self, work: &StepWork) -> f64 {
        let Pipeline { stages, chunks, microbatches, .. } = *work.pipeline;
        if chunks == 1 {
            return (work.way * work.ratio).max(work.even);
        }
        let (p, v, m) = (stages as f64, chunks as f64, microbatches as f64);
        let (each, layer) = (work.chunk_layers(), work.layer.total());
        let last = m * (v * each * layer + work.head) + work.fill() * layer;
        let turn = group(stages, chunks, microbatches) as f64;
        let between = ((m * v - (v - 1.0) * turn - 1.0) * each).max(0.0);
        let trips = work.way + between * layer + 2.0 * (p * v - 1.0) * work.hop;
        (work.even + work.fill() / 2.0 * layer).max(last).max(trips)
    }

    fn last_backward(&self, work: &StageWork) -> f64 {
        let (m, p, s) = (work.pipeline.microbatches as f64, work.pipeline.stages as f64, work.stage as f64);
        let rounds = rounds(work, work.pipeline.stages - work.stage, m - 1.0);
        let between = m - p + s;
        if between < 0.0 {
            return rounds;
        }
        let trips = work.came + work.passes.forward + work.trip + work.passes.backward + work.trip;
        rounds.max(trips + between * (work.passes.total() + work.longer))
    }
}

/// Microbatches after which a stage's chunks take turns: the fewest, no fewer than stages, of which whole groups are left and a last
/// one as large as stages are many (Megatron Core's `microbatch_group_size_per_vp_stage`, of which it allows no others).
fn group(stages: usize, chunks: usize, microbatches: usize) -> usize {
    let fits = |group: &usize| microbatches.is_multiple_of(*group) || microbatches % group >= stages;
    let several = stages..microbatches;
    if chunks == 1 { 1 } else { several.into_iter().find(fits).unwrap_or(microbatches.max(1)) }
}

/// Forward `ahead` times, then backward and forward in turns. Chunks take turns after `group` microbatches, the last ones after
/// what is left; weights run `behind` backwards later, where they are apart.
pub(super) fn alternate(
    microbatches: usize,
    group: usize,
    chunks: usize,
    ahead: usize,
    behind: Option<usize>,
) -> Vec<Action> {
    let total = microbatches * chunks;
    let whole = microbatches / group * group;
    let turn = |i: usize| match i.checked_sub(whole * chunks) {
        None => (i / group % chunks, i / (group * chunks) * group + i % group),
        Some(late) => (late / (microbatches - whole), whole + late % (microbatches - whole)),
    };
    let forward = |i| {
        let (chunk, mb) = turn(i);
        Action::Forward(chunk, mb)
    };
    let backward = |i| {
        let (chunk, mb) = turn(i);
        Action::Backward(chunks - 1 - chunk, mb)
    };
    let ahead = ahead.min(total);
    let mut all: Vec<Action> = (0..ahead).map(forward).collect();
    let mut weights = 0;
    for i in 0..total {
        if ahead + i < total {
            all.push(forward(ahead + i));
        }
        all.push(backward(i));
        // At the end there is time to wait for the next backward: it is filled.
        let late = behind.is_some_and(|behind| ahead + i >= total || i + 1 - weights > behind);
        if late && weights < total {
            all.push(Action::Weights(0, weights));
            weights += 1;
        }
    }
    if behind.is_some() {
        all.extend((weights..total).map(|mb| Action::Weights(0, mb)));
    }
    all
}

/// When a stage's last backward ends whose forward of a microbatch waits for the backward of `ahead` microbatches before it: after
/// the first trip, and after as many as are over when backward `most` ends.
pub(super) fn rounds(work: &StageWork, ahead: usize, most: f64) -> f64 {
    let m = work.pipeline.microbatches as f64;
    let ahead = ahead as f64;
    let passes = &work.passes;
    let round = passes.forward + work.trip + passes.backward;
    let after = |rounds: f64| {
        let (forwards, backwards) = ((m - ahead * (rounds + 1.0)).max(0.0), m - ahead * rounds - 1.0);
        let left = forwards * passes.forward + backwards * passes.backward + m * passes.weights - work.weights;
        work.came + round + rounds * round + left
    };
    work.straight().max(after(0.0)).max(after((most / ahead).floor()))
}

/// The least step of 1F1B for work of one second, spread over `p` stages in whichever parts: the linear program
/// min T over t ≥ 0 with Σ t = 1, T ≥ Σ_{i<s} t_i + M·t_s and the paths between two trips (without messages).
///
/// It is solved from its last stage to its first: for a given T each stage takes as much as its paths leave it; the least T
/// at which they take all is found by bisection. Where M < 2p, a later stage's work may cost earlier ones more than it takes
/// over, so only the first family counts, for which a closed form holds: 1 / (1 − (1 − 1/M)^p).
fn least_ratio(microbatches: usize, stages: usize) -> f64 {
    let (m, p) = (microbatches as f64, stages as f64);
    if stages == 1 {
        return m;
    }
    let simple = 1.0 / (1.0 - (1.0 - 1.0 / m).powi(stages as i32));
    let simple = simple.max(m / p);
    if microbatches < 2 * stages {
        return simple;
    }
    let takes = |t: f64| {
        let mut later = 0.0f64;
        for s in (0..stages).rev() {
            later += ((t - 1.0 - later) / (m - p + s as f64)).max(0.0);
        }
        later
    };
    let (mut low, mut high) = (simple, (m + p - 1.0) / p);
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if takes(middle) < 1.0 { low = middle } else { high = middle }
    }
    low
}
