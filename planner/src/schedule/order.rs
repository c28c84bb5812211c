//! What a schedule says of itself: the order of its passes, and floors under a step of it.
//!
//! In: a [`Pipeline`], seconds. Out: lists of actions; seconds that no step undercuts.
//!
//! With f, b and w seconds of a stage's forward, backward and weights, t = f + b + w, messages of h seconds, M microbatches, p
//! stages. A schedule that says no more than its order has floors that hold for every order:
//!
//! - a stage works M times, and some stage has at least as many layers as are even
//! - stage s starts after those before it; what it ends with passes those before it once more, if it is a backward:
//!   T ≥ Σ_{i<s} f_i + M·t_s, and T ≥ Σ_{i<s} t_i + M·t_s where backward is whole
//!
//! A closed form of a schedule's own makes the search faster, never other than right: a floor must not exceed the simulation.

use std::ops::RangeInclusive;

use super::{Action, Pipeline};

/// A schedule. Only its order has to be given; the rest says what it can do, and sharpens the search's floors.
pub trait PipelineSchedule: Sync {
    /// What every stage does in a step.
    fn orders(&self, pipeline: &Pipeline) -> Vec<Vec<Action>>;

    /// Whether the gradients of weights are a pass of their own.
    fn splits(&self) -> bool {
        false
    }

    /// How many chunks a stage can have; on one stage there is one.
    fn chunks(&self) -> RangeInclusive<usize> {
        1..=1
    }

    /// Whether every other chunk goes back from the last stage to the first, as in a V; else all begin on the first.
    fn turns(&self) -> bool {
        false
    }

    /// What a search makes a step's microbatches a multiple of: others may be, but make more of them wait.
    fn round(&self, _stages: usize, _chunks: usize) -> usize {
        1
    }

    /// Microbatches that a step has at the least.
    fn least(&self, _stages: usize, _chunks: usize) -> usize {
        1
    }

    /// Microbatches after which no more are in flight at once than before: the warm-up and a few rounds.
    fn settled(&self, pipeline: &Pipeline) -> usize {
        pipeline.microbatches.min(4 * pipeline.stages)
    }

    /// Microbatches of a stage of one chunk that are between forward and backward (of inputs, where it is split) at once at some
    /// time, or fewer.
    fn least_in_flight(&self, _pipeline: &Pipeline, _stage: usize) -> usize {
        1
    }

    /// Microbatches that pass a stage one by one, each with a backward and the next forward, while all stages are busy: of a
    /// step of T seconds whose longest way takes W, every such trip has (T − W) / `trips`; 0 if there are none to speak of.
    fn trips(&self, _pipeline: &Pipeline) -> usize {
        0
    }

    /// Seconds of a step for every second of a microbatch's way through all stages of one chunk, in whichever parts the stages
    /// share it, or fewer.
    fn least_ratio(&self, pipeline: &Pipeline) -> f64 {
        pipeline.microbatches as f64 / pipeline.stages as f64
    }

    /// Seconds of a step on several stages, or fewer, however layers are spread.
    fn floor(&self, work: &StepWork) -> f64 {
        let back = if self.splits() { 0.0 } else { work.layer.backward };
        work.even + work.fill() / 2.0 * (work.layer.forward + back)
    }

    /// Passes of weights that a stage of one chunk has left after its last backward, or more.
    fn weights_left(&self, pipeline: &Pipeline, _stage: usize) -> f64 {
        if self.splits() { pipeline.microbatches as f64 } else { 0.0 }
    }

    /// When the last backward of a stage of one chunk ends, or sooner.
    fn last_backward(&self, work: &StageWork) -> f64 {
        work.straight()
    }
}

/// Seconds of a microbatch's passes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Passes {
    /// Forward.
    pub forward: f64,
    /// Backward; of inputs alone where it is split.
    pub backward: f64,
    /// Gradients of weights, where they are apart.
    pub weights: f64,
}

impl Passes {
    /// All three.
    pub fn total(&self) -> f64 {
        self.forward + self.backward + self.weights
    }
}

/// A step's work before its layers are spread over stages, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct StepWork<'a> {
    /// How it goes through stages.
    pub pipeline: &'a Pipeline,
    /// What the busiest stage does, in all.
    pub even: f64,
    /// A microbatch's way through all stages, messages not counted.
    pub way: f64,
    /// [`PipelineSchedule::least_ratio`], which is asked for once, not for every shape.
    pub ratio: f64,
    /// The shortest layer.
    pub layer: Passes,
    /// Layers in all.
    pub layers: usize,
    /// Head and loss.
    pub head: f64,
    /// A message from stage to stage.
    pub hop: f64,
}

impl StepWork<'_> {
    /// Layers that a chunk has at the least: several chunks a stage have even layers.
    pub fn chunk_layers(&self) -> f64 {
        let Pipeline { stages, chunks, .. } = *self.pipeline;
        if chunks == 1 { 1.0 } else { (self.layers / (stages * chunks)).max(1) as f64 }
    }

    /// Layers that the last stage's first chunk waits for, or fewer.
    pub fn fill(&self) -> f64 {
        (self.pipeline.stages - 1) as f64 * self.chunk_layers()
    }
}

/// A stage's work on a path through the simulated graph, in seconds; it has one chunk.
#[derive(Clone, Copy, Debug)]
pub struct StageWork<'a> {
    /// How microbatches go through stages.
    pub pipeline: &'a Pipeline,
    /// Which stage.
    pub stage: usize,
    /// Until the first microbatch has come: Σ_{i<s} f_i and the messages.
    pub came: f64,
    /// The stage's passes.
    pub passes: Passes,
    /// How much longer it is busy with a microbatch than with its passes.
    pub longer: f64,
    /// A trip from it through the stages behind it and back: Σ_{i>s} (f_i + b_i) and the messages.
    pub trip: f64,
    /// Weights that are left after its last backward, by [`PipelineSchedule::weights_left`].
    pub weights: f64,
}

impl StageWork<'_> {
    /// The path on which the first microbatch has come and the stage has worked: Σ_{i<s} f_i + M·t_s, less the weights left.
    pub fn straight(&self) -> f64 {
        let busy = self.passes.total() + self.longer;
        self.came + self.pipeline.microbatches as f64 * busy - self.weights
    }
}
