//! A floor over every way to partition layers over stages of one chunk.
//!
//! In: costs of each stage, a pipeline. Out: seconds of a step that no partition undercuts.
//!
//! Paths through the simulated graph. The last backward of stage s does not end before its schedule's
//! [`crate::schedule::PipelineSchedule::last_backward`], nor before the last backward of the stage behind it and its own.
//! A step ends after the last backward of any stage, its weights left and the sums of its gradients that those do not hide.
//!
//! Floor: each path depends on how many layers stand before stage s and on how many it has, so that the best partition for
//! their maximum is found stage by stage: best(s, n) = min_k max(best(s − 1, n − k), path_s(n − k, k)).
//!
//! Invariant: no more than the played step of any partition (tests against enumeration).

use crate::job::Model;
use crate::plan::Recompute;
use crate::schedule::{Pipeline, StageWork};

use super::times::{Costs, PieceCost, Times};

/// Running sums over layers.
struct Sums {
    /// Of the first n layers, for each n: kernels, gathers, scatters.
    kernels: Vec<Times>,
    gather: Vec<f64>,
    scatter: Vec<f64>,
    reduce: Vec<f64>,
    /// Of sums of gradients, those that wait for weights that are apart.
    late: Vec<f64>,
    /// Gathers and scatters of the largest piece.
    most: [f64; 2],
}

impl Sums {
    fn of(model: &Model, costs: &Costs) -> Sums {
        let none = || vec![0.0];
        let (kernels, most) = (vec![Times::default()], [0.0; 2]);
        let mut sums = Sums { kernels, gather: none(), scatter: none(), reduce: none(), late: none(), most };
        for layer in 0..model.depth() {
            let piece = costs.layer(model.kind(layer));
            let mut next = sums.kernels[layer];
            next.layer(piece, Recompute::None);
            sums.kernels.push(next);
            sums.gather.push(sums.gather[layer] + piece.share.gather);
            sums.scatter.push(sums.scatter[layer] + piece.share.scatter);
            sums.reduce.push(sums.reduce[layer] + piece.share.reduce + piece.share.replicate);
            sums.late.push(sums.late[layer] + piece.share.reduce - piece.share.parts);
        }
        for piece in costs.layers.iter().map(|(_, piece)| piece).chain([&costs.embed, &costs.head]) {
            sums.most = [sums.most[0].max(piece.share.gather), sums.most[1].max(piece.share.scatter)];
        }
        sums
    }

    /// Forward, backward and weights of layers `from..to`; gathers and scatters beside them, but for those of two pieces.
    fn between(&self, from: usize, to: usize) -> Times {
        let [low, high] = [from, to].map(|at| self.kernels[at]);
        let gathered = (self.gather[to] - self.gather[from] - 2.0 * self.most[0]).max(0.0);
        let scattered = (self.scatter[to] - self.scatter[from] - 2.0 * self.most[1]).max(0.0);
        Times {
            forward: (high.forward - low.forward).max(gathered),
            backward: (high.backward - low.backward).max(gathered + scattered),
            weights: high.weights - low.weights,
            ..Times::default()
        }
    }
}

/// What paths are made of.
pub(super) struct Paths<'a> {
    pub(super) pipeline: &'a Pipeline,
    costs: &'a [&'a Costs],
    /// By pool, and of each stage which of them.
    sums: Vec<Sums>,
    own: Vec<usize>,
    /// Embedding and head of each stage, its loads and receives.
    ends: Vec<Times>,
    /// Running sums of the fastest pool.
    pub(super) low: Vec<Times>,
    pub(super) hop: f64,
    /// Sums of gradients that the first stage's last pass does not hide.
    summed: f64,
    /// What no step is without, once all gradients are summed.
    pub(super) rest: f64,
}

/// A stage's part in paths.
pub(super) struct Passed {
    /// Its passes, as far as they are known.
    pub(super) passes: Times,
    /// When its last backward ends, at the earliest.
    pub(super) last: f64,
    /// Its passes of weights after that.
    pub(super) weights: f64,
    /// Sums of its gradients that its last pass does not hide.
    pub(super) exposed: f64,
    /// All its work: grows with its layers, as paths need not.
    pub(super) busy: f64,
}

impl<'a> Paths<'a> {
    pub(super) fn of(model: &Model, pipeline: &'a Pipeline, costs: &'a [&'a Costs]) -> Paths<'a> {
        let (mut known, mut sums, mut own): (Vec<&Costs>, Vec<Sums>, Vec<usize>) = Default::default();
        for &costs in costs {
            let at = known.iter().position(|other| std::ptr::eq(*other, costs)).unwrap_or_else(|| {
                known.push(costs);
                sums.push(Sums::of(model, costs));
                known.len() - 1
            });
            own.push(at);
        }
        let low = (0..=model.depth()).map(|n| {
            let all = sums.iter().map(|sums| sums.kernels[n]);
            all.reduce(|a, b| Times {
                forward: a.forward.min(b.forward),
                backward: a.backward.min(b.backward),
                weights: a.weights.min(b.weights),
                ..Times::default()
            })
        });
        let low = low.map(Option::unwrap_or_default).collect();
        let least = |pick: &dyn Fn(&Costs) -> f64| known.iter().map(|costs| pick(costs)).fold(f64::INFINITY, f64::min);
        let (hop, norm) = (least(&|costs| costs.hop), least(&|costs| costs.norm_sum));
        let updates = least(&|costs| shared(model, costs, &|piece| piece.share.update));
        let renews = least(&|costs| shared(model, costs, &|piece| piece.share.renew));
        let rest = norm + updates.max(renews) / pipeline.stages as f64;
        let summed = summed(costs[0]);
        let ends = (0..pipeline.stages).map(|stage| {
            let mut times = Times::default();
            super::bound::ends(&mut times, (stage, pipeline.stages), costs[stage]);
            times
        });
        Paths { pipeline, costs, sums, own, ends: ends.collect(), low, hop, summed, rest }
    }

    /// Embedding and head of a stage, its loads and receives.
    pub(super) fn ends(&self, stage: usize) -> Times {
        self.ends[stage]
    }

    /// The earliest ends of a stage that has layers `from..to` and takes `least` or more a microbatch; a trip through those behind it
    /// and back takes `behind` or more.
    pub(super) fn pass(&self, stage: usize, (from, to): (usize, usize), least: LeastTime, behind: f64) -> Passed {
        let (end, m) = (self.pipeline.stages - 1, self.pipeline.microbatches as f64);
        let mut own = self.sums[self.own[stage]].between(from, to);
        own.plus(&self.ends(stage));
        own.backward = own.backward.max(least.kernels - own.forward - own.weights);
        let longer = (least.busy - own.total()).max(0.0);
        let (mut before, mut after) = (self.low[from], self.low[self.low.len() - 1].less(&self.low[to]));
        if stage > 0 {
            before.plus(&self.ends(0));
        }
        if stage < end {
            after.plus(&self.ends(end));
        }
        let (s, p) = (stage as f64, self.pipeline.stages as f64);
        let came = before.forward + s * self.hop;
        let trip = (after.total() - after.weights + 2.0 * (p - 1.0 - s) * self.hop).max(behind);
        let (order, pipeline, passes) = (self.pipeline.schedule.order(), self.pipeline, own.passes());
        let weights = order.weights_left(pipeline, stage) * own.weights;
        let last = order.last_backward(&StageWork { pipeline, stage, came, passes, longer, trip, weights });
        let exposed = self.exposed(stage, (from, to), &own);
        Passed { passes: own, last, weights, exposed, busy: m * (own.total() + longer) }
    }

    /// Sums of gradients that the last pass of a stage's own does not hide.
    fn exposed(&self, stage: usize, (from, to): (usize, usize), own: &Times) -> f64 {
        let (costs, sums) = (self.costs[stage], &self.sums[self.own[stage]]);
        if self.pipeline.schedule.splits() {
            // Embedding and head, whose weights are not apart, are done with backward, before.
            return (sums.late[to] - sums.late[from] - own.weights).max(0.0);
        }
        let mut reduce = sums.reduce[to] - sums.reduce[from];
        if stage == 0 {
            reduce += costs.embed.share.reduce + costs.embed.share.replicate;
        }
        if stage + 1 == self.pipeline.stages {
            reduce += costs.head.share.reduce + costs.head.share.replicate;
        }
        (reduce - own.backward - own.weights).max(0.0)
    }

    /// Layers that a stage can have in a step that ends at a time, or more.
    fn most(&self, stage: usize, end: f64) -> usize {
        let layers = self.low.len() - 1;
        let kinds = self.costs[stage].layers.iter().map(|(_, piece)| {
            let mut one = Times::default();
            one.layer(piece, Recompute::None);
            one.total()
        });
        let each = kinds.fold(f64::INFINITY, f64::min);
        let left = end / self.pipeline.microbatches as f64 - self.ends(stage).total();
        // One more than there is time for, so that nothing depends on how the last digit is rounded.
        if each > 0.0 { ((left / each).max(0.0) as usize + 1).min(layers) } else { layers }
    }

    /// The longest path through a stage, and all its work.
    fn through(&self, stage: usize, span: (usize, usize), least: LeastTime) -> (f64, f64) {
        let passed = self.pass(stage, span, least, 0.0);
        let mut back = self.low[span.0].backward;
        let mut first = passed.weights;
        if stage > 0 {
            back += self.ends(0).backward + stage as f64 * self.hop;
            first = if self.pipeline.schedule.splits() { self.low[1].weights } else { 0.0 };
        }
        let ends = (passed.weights + passed.exposed).max(back + first + self.summed);
        (passed.last + ends + self.rest, passed.busy)
    }
}

/// What a stage takes a microbatch at the least where its memory decides that, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastTime {
    /// All that it is busy with.
    pub busy: f64,
    /// Kernels, what is made again among them.
    pub kernels: f64,
}

/// What a stage of so many layers takes, or none if so many do not fit.
pub type Least<'a> = dyn Fn(usize, usize) -> Option<LeastTime> + 'a;

/// Of all pieces together.
fn shared(model: &Model, costs: &Costs, pick: &dyn Fn(&PieceCost) -> f64) -> f64 {
    let layers: f64 = (0..model.depth()).map(|layer| pick(costs.layer(model.kind(layer)))).sum();
    layers + pick(&costs.embed) + pick(&costs.head)
}

/// Sums of gradients that the first stage's last backward does not hide: of the embedding and one layer, the fewest it has.
fn summed(costs: &Costs) -> f64 {
    let late =
        |piece: &PieceCost| piece.share.reduce + piece.share.replicate - piece.pass.backward[0] - piece.pass.weights;
    let layer = costs.layers.iter().map(|(_, piece)| late(piece)).fold(f64::INFINITY, f64::min);
    if layer > 0.0 { (layer + late(&costs.embed)).max(0.0) } else { 0.0 }
}

/// A step of any partition of layers over stages, as far as it ends before a time: else that. `costs` are by stage.
pub fn floor(model: &Model, pipeline: &Pipeline, costs: &[&Costs], least: &Least, before: f64) -> f64 {
    let (stages, layers) = (pipeline.stages, model.depth());
    let paths = Paths::of(model, pipeline, costs);
    let through = |stage: usize, from: usize, to: usize| match least(stage, to - from) {
        Some(least) => paths.through(stage, (from, to), least),
        None => (f64::INFINITY, f64::INFINITY),
    };
    // Nothing above an even spreading, or above the time, is of use.
    let (mut even, mut from) = (0.0f64, 0);
    for (stage, held) in crate::plan::layers_of(layers, stages).into_iter().enumerate() {
        even = even.max(through(stage, from, from + held).0);
        from += held;
    }
    let end = even.min(before);
    // Layers that stages from each one on can hold.
    let mut hold = vec![0; stages + 1];
    for stage in (0..stages).rev() {
        hold[stage] = hold[stage + 1] + paths.most(stage, end);
    }
    let mut best = vec![f64::INFINITY; layers + 1];
    best[0] = 0.0;
    let mut next = best.clone();
    for stage in 0..stages {
        next.fill(f64::INFINITY);
        let most = layers + 1 + stage - stages;
        for (from, &so_far) in best.iter().enumerate().take(most) {
            if so_far.is_infinite() {
                continue;
            }
            let fewest = (from + 1).max(layers.saturating_sub(hold[stage + 1]));
            for (to, longest) in next.iter_mut().enumerate().take(most + 1).skip(fewest) {
                let (path, busy) = through(stage, from, to);
                if busy > end {
                    break;
                }
                if path <= end {
                    *longest = longest.min(path.max(so_far));
                }
            }
        }
        std::mem::swap(&mut best, &mut next);
    }
    best[layers].min(before)
}
