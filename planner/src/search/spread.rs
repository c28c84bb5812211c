//! A floor over every way to spread layers over stages of one chunk.
//!
//! In: costs of each stage, a pipeline. Out: seconds of a step that no spreading undercuts.
//!
//! Paths through the simulated graph, with f, b and w seconds of a stage's passes, t = f + b + w, M microbatches, p stages:
//!
//! - 1F1B: stage s starts after those before it, works M times, and those before it still have the last backward:
//!   Σ_{i<s} t_i + M·t_s; and between the first backward and the last forward it works between two trips to the last stage:
//!   Σ_i t_i + Σ_{i>s} t_i + (M − p + s)·t_s, for M ≥ p − s
//! - GPipe: Σ_i t_i + (M − 1)·t_s
//! - ZB-H1: stage s has r_s = min(s, max(M − p + 1 + s, 0)) + 1 passes of weights left when its last backward begins, and the
//!   first stage one: Σ_{i<s} (f_i + b_i) + M·t_s − r_s·w_s + w_0
//! - all: a stage sums its gradients after the pass that makes the last of them: Σ_{i<s} f_i + M·t_s + what of the sums that
//!   pass does not hide
//!
//! Each depends on how many layers stand before stage s and on how many it has, so that the best spreading for their maximum
//! is found stage by stage: best(s, n) = min_k max(best(s − 1, n − k), path_s(n − k, k)).
//!
//! Invariant: no more than the played step of any spreading (tests against enumeration).

use crate::job::Model;
use crate::plan::{Recompute, Schedule};
use crate::schedule::Pipeline;

use super::bound::Times;
use super::cost::{Costs, PieceCost};

/// Running sums over layers.
struct Sums {
    /// Of the first n layers, for each n: kernels, gathers, scatters.
    kernels: Vec<Times>,
    gather: Vec<f64>,
    scatter: Vec<f64>,
    reduce: Vec<f64>,
    /// Gathers and scatters of the largest piece.
    most: [f64; 2],
}

impl Sums {
    fn of(model: &Model, costs: &Costs) -> Sums {
        let none = || vec![0.0];
        let (kernels, most) = (vec![Times::default()], [0.0; 2]);
        let mut sums = Sums { kernels, gather: none(), scatter: none(), reduce: none(), most };
        for layer in 0..model.depth() {
            let piece = costs.layer(model.kind(layer));
            let mut next = sums.kernels[layer];
            next.layer(piece, Recompute::None);
            sums.kernels.push(next);
            sums.gather.push(sums.gather[layer] + piece.share.gather);
            sums.scatter.push(sums.scatter[layer] + piece.share.scatter);
            sums.reduce.push(sums.reduce[layer] + piece.share.reduce);
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
            beside: 0.0,
        }
    }
}

/// What paths are made of.
struct Paths<'a> {
    pipeline: &'a Pipeline,
    costs: &'a [&'a Costs],
    /// Of each stage: layers of its own pool, and of the fastest.
    own: Vec<usize>,
    sums: Vec<Sums>,
    low: Vec<Times>,
    hop: f64,
    /// Sums of gradients that the first stage's last pass does not hide.
    summed: f64,
    /// What no step is without, beside its passes.
    rest: f64,
}

impl<'a> Paths<'a> {
    fn of(model: &Model, pipeline: &'a Pipeline, costs: &'a [&'a Costs]) -> Paths<'a> {
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
                beside: 0.0,
            })
        });
        let low = low.map(Option::unwrap_or_default).collect();
        let least = |pick: &dyn Fn(&Costs) -> f64| known.iter().map(|costs| pick(costs)).fold(f64::INFINITY, f64::min);
        let (hop, norm) = (least(&|costs| costs.hop), least(&|costs| costs.norm_sum));
        let updates = least(&|costs| shared(model, costs, &|piece| piece.share.update));
        let renews = least(&|costs| shared(model, costs, &|piece| piece.share.renew));
        let rest = norm + updates.max(renews) / pipeline.stages as f64;
        let summed = summed(costs[0]);
        Paths { summed, pipeline, costs, own, sums, low, hop, rest }
    }

    /// Embedding and head of a stage.
    fn ends(&self, stage: usize) -> Times {
        let (costs, mut times) = (self.costs[stage], Times::default());
        if stage == 0 {
            times.layer(&costs.embed, Recompute::None);
        }
        if stage + 1 == self.pipeline.stages {
            times.layer(&costs.head, Recompute::None);
        }
        times
    }

    /// The longest path through a stage that has layers `from..to` and takes `least` or more.
    fn through(&self, stage: usize, (from, to): (usize, usize), least: f64) -> f64 {
        let (last, m) = (self.pipeline.stages - 1, self.pipeline.microbatches as f64);
        let mut own = self.sums[self.own[stage]].between(from, to);
        own.plus(&self.ends(stage));
        own.backward += (least - own.total()).max(0.0);
        let (mut before, mut after) = (self.low[from], self.low[self.low.len() - 1].less(&self.low[to]));
        if stage > 0 {
            before.plus(&self.ends(0));
        }
        if stage < last {
            after.plus(&self.ends(last));
        }
        let all = before.total() + own.total() + after.total();
        let (s, p) = (stage as f64, self.pipeline.stages as f64);
        let [here, there] = [2.0 * s * self.hop, 2.0 * (p - 1.0) * self.hop];
        let straight = before.forward + m * own.total() + here / 2.0 + self.exposed(stage, (from, to), &own);
        let back = match self.pipeline.schedule {
            Schedule::GPipe => all + (m - 1.0) * own.total() + there,
            Schedule::ZeroBubble => {
                let left = s.min((m - p + 1.0 + s).max(0.0)) + 1.0;
                let first = if stage == 0 { own.weights } else { self.low[1].weights };
                before.forward + before.backward + m * own.total() - left * own.weights + first + here
            }
            _ => {
                let straight = before.total() + m * own.total() + here;
                let between = m - p + s;
                let trips = all + after.total() + between * own.total() + there;
                if between >= 0.0 { straight.max(trips) } else { straight }
            }
        };
        straight.max(back + self.summed)
    }

    /// Sums of gradients that the last pass of a stage's own does not hide.
    fn exposed(&self, stage: usize, (from, to): (usize, usize), own: &Times) -> f64 {
        let (costs, sums) = (self.costs[stage], &self.sums[self.own[stage]].reduce);
        let mut reduce = sums[to] - sums[from];
        if stage == 0 {
            reduce += costs.embed.share.reduce;
        }
        if stage + 1 == self.pipeline.stages {
            reduce += costs.head.share.reduce;
        }
        // Pieces whose weights are not apart are done with backward, before.
        (reduce - own.weights - if self.pipeline.schedule.splits() { 0.0 } else { own.backward }).max(0.0)
    }
}

/// Of all pieces together.
fn shared(model: &Model, costs: &Costs, pick: &dyn Fn(&PieceCost) -> f64) -> f64 {
    let layers: f64 = (0..model.depth()).map(|layer| pick(costs.layer(model.kind(layer)))).sum();
    layers + pick(&costs.embed) + pick(&costs.head)
}

/// Sums of gradients that the first stage's last backward does not hide: of the embedding and one layer, the fewest it has.
fn summed(costs: &Costs) -> f64 {
    let late = |piece: &PieceCost| piece.share.reduce - piece.pass.backward[0] - piece.pass.weights;
    let layer = costs.layers.iter().map(|(_, piece)| late(piece)).fold(f64::INFINITY, f64::min);
    if layer > 0.0 { (layer + late(&costs.embed)).max(0.0) } else { 0.0 }
}

/// A step of any spreading of layers over stages. `costs` are by stage; `least` is what a stage of so many layers takes a
/// microbatch at the least where its memory decides that, or none if so many do not fit.
pub fn floor(model: &Model, pipeline: &Pipeline, costs: &[&Costs], least: &dyn Fn(usize, usize) -> Option<f64>) -> f64 {
    let (stages, layers) = (pipeline.stages, model.depth());
    let paths = Paths::of(model, pipeline, costs);
    let through = |stage: usize, from: usize, to: usize| match least(stage, to - from) {
        Some(least) => paths.through(stage, (from, to), least),
        None => f64::INFINITY,
    };
    // Nothing above an even spreading is of use.
    let (mut even, mut from) = (0.0f64, 0);
    for (stage, held) in crate::estimate::layers_of(layers, stages).into_iter().enumerate() {
        even = even.max(through(stage, from, from + held));
        from += held;
    }
    let mut best = vec![f64::INFINITY; layers + 1];
    best[0] = 0.0;
    for stage in 0..stages {
        let mut next = vec![f64::INFINITY; layers + 1];
        let most = layers + 1 + stage - stages;
        for from in stage..most {
            if best[from].is_infinite() {
                continue;
            }
            // More layers only take longer.
            for to in (if stage + 1 == stages { layers } else { from + 1 })..=most {
                let path = through(stage, from, to);
                if path > even {
                    break;
                }
                next[to] = next[to].min(path.max(best[from]));
            }
        }
        best = next;
    }
    best[layers] + paths.rest
}
