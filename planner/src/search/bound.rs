//! Floors of combinations: what no step undercuts, however its layers are partitioned over stages.
//!
//! In: costs, a pipeline. Out: seconds of a step.
//!
//! Every floor is a path through the simulated graph, or a mean of such paths over stages: those that hold for every order of
//! microbatches stand in [`crate::schedule::PipelineSchedule`], those of one schedule beside that.
//!
//! Invariant: floor ≤ played bound ≤ simulated step (tests over every schedule).

use rustc_hash::FxHashMap;

use crate::job::Model;
use crate::plan::{Plan, Recompute, Stage};
use crate::schedule::{Pipeline, StepWork};

use super::times::{Costs, PieceCost, ShareTimes, Times};

/// What of a step does not depend on how layers are partitioned over stages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whole {
    /// All stages together, nothing made again.
    pub times: Times,
    /// Gathering all weights once, and those of the largest piece.
    pub gathers: [f64; 2],
    /// Scattering all gradients once, and those of the largest piece.
    pub scatters: [f64; 2],
    /// What goes round rings, forward and backward.
    pub rings: [f64; 2],
    /// Once a step, of all stages together.
    pub once: ShareTimes,
    /// Of its sums, those that may begin before the last pass: where weights are apart, of what is whole before them. And the
    /// norms that do not wait for other sums.
    pub early: [f64; 2],
    /// The shortest layer.
    pub layer: Times,
    /// Layers.
    pub layers: usize,
    /// Head, loss and their load.
    pub head: f64,
    /// A message from stage to stage, on its way.
    pub hop: f64,
    /// Summing the norm over all ranks.
    pub norm_sum: f64,
    /// Of a collective's time beside compute, what it takes from compute.
    pub shown: f64,
    /// Before the host issues the first kernel.
    pub starts: f64,
}

impl Whole {
    /// Of a plan's costs.
    pub fn of(plan: &Plan, costs: &Costs) -> Whole {
        let mut whole = Whole::of_passes(&plan.job.model, costs);
        (whole.hop, whole.norm_sum) = (costs.hop, costs.norm_sum);
        (whole.shown, whole.starts) = (costs.shown, costs.starts);
        whole.times.forward += costs.load[0];
        whole.times.backward += costs.load[1];
        whole.head += costs.load[1];
        if plan.schedule.splits() {
            let (embed, head) = (&costs.embed.share, &costs.head.share);
            let parts = whole.once.parts - embed.parts - head.parts;
            whole.early = [embed.reduce + head.reduce + parts, embed.norm];
        }
        whole
    }

    /// Of pieces alone.
    pub(super) fn of_passes(model: &Model, costs: &Costs) -> Whole {
        let Costs { embed, layers, head, .. } = costs;
        let mut whole = Whole { layers: model.depth(), ..Whole::default() };
        let mut shortest = f64::INFINITY;
        for (kind, piece) in layers {
            let count = (0..model.depth()).filter(|&layer| model.kind(layer) == *kind).count() as f64;
            let mut one = Times::default();
            one.layer(piece, Recompute::None);
            if one.total() < shortest {
                (shortest, whole.layer) = (one.total(), one);
            }
            whole.add(piece, count);
        }
        whole.add(embed, 1.0);
        whole.add(head, 1.0);
        let mut last = Times::default();
        last.layer(head, Recompute::None);
        whole.head = last.total();
        whole
    }

    fn add(&mut self, piece: &PieceCost, count: f64) {
        let PieceCost { pass, share, .. } = piece;
        let mut one = Times::default();
        one.layer(piece, Recompute::None);
        self.times.plus(&one.scaled(count));
        self.once.add(share, count);
        for (sum, one) in [(&mut self.gathers, share.gather), (&mut self.scatters, share.scatter)] {
            *sum = [sum[0] + count * one, sum[1].max(one)];
        }
        self.rings = [0, 1].map(|way| self.rings[way] + count * pass.ring[way]);
    }

    /// These passes, with what ranks share beside.
    pub fn with(&self, rest: &Whole) -> Whole {
        let mut whole = Whole { layers: self.layers, rings: self.rings, ..*rest };
        whole.times.plus(&self.times);
        whole.layer.plus(&self.layer);
        whole.head += self.head;
        whole
    }

    /// Seconds a microbatch takes all stages, in `chunks` chunks in all; forward and backward have their own gathers and
    /// scatters beside them, but for the two pieces at each turn that buckets may hold from before. And seconds of its way
    /// through all of them, messages not counted.
    pub fn microbatch(&self, chunks: usize) -> (f64, f64) {
        let chunks = 2.0 * chunks as f64;
        let [gathered, scattered] = [self.gathers, self.scatters].map(|[sum, most]| sum - chunks * most);
        let gathered = gathered.max(0.0);
        let [forward, backward] = [self.times.forward, self.times.backward + self.shown * self.scatters[0]];
        let forward = (forward + self.shown * gathered).max(gathered).max(self.rings[0]);
        let back = (backward + self.shown * gathered).max(gathered + scattered.max(0.0)).max(self.rings[1]);
        let beside = 2.0 * gathered + self.scatters[0];
        let way = forward + back + self.times.weights;
        (way.max(beside), way)
    }

    /// A step of any stages: floors of its schedule's paths over all ways to spread the work, with the `ratio` of
    /// [`least_ratio`].
    pub fn floor(&self, pipeline: &Pipeline, ratio: f64) -> f64 {
        let (p, once, work) = (pipeline.stages as f64, &self.once, self.work(pipeline, ratio));
        let filled = if pipeline.stages == 1 { work.even } else { pipeline.schedule.order().floor(&work) };
        let reduce = once.reduce + once.replicate;
        let late = reduce - self.early[0] - self.times.backward - self.times.weights - self.early[1];
        let sums = late.max(self.shown * reduce).max(0.0);
        // A host issues ahead of what is cleared.
        let issued = pipeline.microbatches as f64 * self.times.issue / p;
        let passes = (filled + (sums + once.clear) / p).max(issued);
        self.starts + passes + (once.norm + once.update.max(once.renew)) / p + self.norm_sum
    }

    /// What a schedule's floor is made of.
    pub(super) fn work<'a>(&self, pipeline: &'a Pipeline, ratio: f64) -> StepWork<'a> {
        let (p, m) = (pipeline.stages as f64, pipeline.microbatches as f64);
        let (busy, way) = self.microbatch(pipeline.stages * pipeline.chunks);
        // Some stage has at least so many layers.
        let most = if pipeline.chunks == 1 { self.layers.div_ceil(pipeline.stages) as f64 } else { 0.0 };
        let even = m * (busy / p).max(most * self.layer.total());
        let (layer, layers, head, hop) = (self.layer.passes(), self.layers, self.head, self.hop);
        StepWork { pipeline, even, way, ratio, layer, layers, head, hop }
    }
}

/// What a schedule takes of its work at the least, by [`crate::schedule::PipelineSchedule::least_ratio`], which takes a while.
pub(super) fn least_ratio(pipeline: &Pipeline, known: &mut FxHashMap<Pipeline, f64>) -> f64 {
    if pipeline.chunks > 1 {
        return 1.0;
    }
    *known.entry(*pipeline).or_insert_with(|| pipeline.schedule.order().least_ratio(pipeline))
}

/// Seconds of gathering weights for a microbatch's two passes over pieces: at both turns between the passes, the two buckets may
/// still hold what comes next.
fn gathers(sum: f64, most: f64) -> f64 {
    (2.0 * sum - 4.0 * most).max(0.0)
}

/// Seconds of a chunk of a stage.
fn chunk_times(plan: &Plan, costs: &Costs, stage: usize, chunk: usize) -> Times {
    let depth = plan.mesh.pp * plan.chunks;
    let model = &plan.job.model;
    let place = plan.virtual_stage(stage, chunk);
    let (first, decided) = (plan.first_layer(place), plan.stages[place]);
    let mut times = Times::default();
    let (mut gathered, mut most) = (0.0, 0.0f64);
    for i in 0..decided.layers {
        let piece = costs.layer(model.kind(first + i));
        times.layer(piece, decided.mode(i));
        gathered += piece.share.gather;
        most = most.max(piece.share.gather);
        if i < decided.offload {
            times.moves += 2.0 * piece.moves.all;
        }
    }
    times.beside += gathers(gathered, most);
    ends(&mut times, (place, depth), costs);
    times
}

/// Adds what stands at the ends of a chunk at `place` of `depth`: embedding, head, loads and receives.
pub fn ends(times: &mut Times, (place, depth): (usize, usize), costs: &Costs) {
    if place == 0 {
        times.layer(&costs.embed, Recompute::None);
        times.forward += costs.load[0];
    } else {
        times.forward += costs.recv;
    }
    if place + 1 == depth {
        times.layer(&costs.head, Recompute::None);
        times.backward += costs.load[1];
    } else {
        times.backward += costs.recv;
    }
}

/// Seconds of a stage a microbatch, and once a step beside its passes.
pub fn of_stage(plan: &Plan, costs: &Costs, stage: usize) -> (f64, f64) {
    let chunks = (0..plan.chunks).map(|chunk| chunk_times(plan, costs, stage, chunk)).collect::<Vec<_>>();
    let tail = Tail::of(plan, costs, stage, &chunks);
    (chunks.iter().map(Times::longer).sum(), tail.before + costs.norm_sum + tail.after)
}

/// What a stage does once a step, beside its passes.
struct Tail {
    /// Until its squared gradients are known, beyond the passes.
    before: f64,
    /// From the norm on.
    after: f64,
}

impl Tail {
    fn of(plan: &Plan, costs: &Costs, stage: usize, chunks: &[Times]) -> Tail {
        let pieces = pieces(plan, costs, stage);
        let sum = |pick: fn(&ShareTimes) -> f64| pieces.iter().map(|(share, _)| pick(share)).sum::<f64>();
        // Sums start as pieces are done with the last microbatch, one after the other.
        let mut compute = 0.0f64;
        let mut travel = 0.0f64;
        for (share, backward) in pieces.iter().rev() {
            compute += backward;
            travel = travel.max(compute) + share.reduce + share.replicate;
        }
        // Of several chunks, those before the last may have been summed long before.
        let exposed = if chunks.len() > 1 { 0.0 } else { (travel - compute).max(0.0) };
        let tied = if stage == 0 || stage + 1 == plan.mesh.pp { costs.tied.total() } else { 0.0 };
        let (mut updated, mut renewed) = (0.0, 0.0f64);
        for (share, _) in &pieces {
            updated += share.update;
            renewed = renewed.max(updated) + share.renew;
        }
        Tail { before: sum(|s| s.clear) + exposed + tied + sum(|s| s.norm), after: updated.max(renewed) }
    }
}

/// A stage's pieces in order, each with its share and the pass that makes its gradients whole.
fn pieces<'a>(plan: &Plan, costs: &'a Costs, stage: usize) -> Vec<(&'a ShareTimes, f64)> {
    let depth = plan.mesh.pp * plan.chunks;
    let splits = plan.schedule.splits();
    let last = |piece: &PieceCost, mode: Recompute| {
        if splits && piece.pass.weights > 0.0 { piece.pass.weights } else { piece.pass.backward[mode as usize] }
    };
    let mut all = Vec::new();
    for chunk in 0..plan.chunks {
        let place = plan.virtual_stage(stage, chunk);
        let (first, decided): (usize, Stage) = (plan.first_layer(place), plan.stages[place]);
        if place == 0 {
            all.push((&costs.embed.share, last(&costs.embed, Recompute::None)));
        }
        for i in 0..decided.layers {
            let piece = costs.layer(plan.job.model.kind(first + i));
            all.push((&piece.share, last(piece, decided.mode(i))));
        }
        if place + 1 == depth {
            all.push((&costs.head.share, last(&costs.head, Recompute::None)));
        }
    }
    all
}
