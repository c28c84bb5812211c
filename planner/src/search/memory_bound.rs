//! A floor by memory: what no step undercuts whose stages have to hold all layers in memory.
//!
//! In: a shape's tapes, a mesh's costs and sizes, a pipeline. Out: seconds of a step.
//!
//! It is a linear relaxation of what [`super::stages`] decides. A stage with a budget of τ seconds a microbatch, n microbatches
//! in flight and R bytes holds x layers, o of them on the host and the rest made again for e seconds each, if
//!
//!   x·t + (x − o)·e ≤ τ,   2·o·moves ≤ τ,   x·state + n·(x − o)·kept(e) ≤ R
//!
//! where kept(e) is the convex hull of what recompute modes keep for what they take. A step of T seconds gives each of M
//! microbatches τ = T / M; in 1F1B with M ≥ 2p, what the stages before it take of the first one is off a stage's time too.
//! The least T at which all stages together hold all layers is found by bisection.
//!
//! Invariant: no plan's step is below it (tests over all plans of a job that hardly fits).

use meshwright_hardware::price::{PriceError, Prices};
use meshwright_hardware::units::Bytes;

use crate::ability::{Ability, Reach};
use crate::job::LayerKind;
use crate::lower::{Formats, InFlight, PieceSize, Tapes, ValueFormats, kept, kept_elems};
use crate::model::Step;
use crate::plan::{Plan, Recompute};
use crate::schedule::Pipeline;

use super::times::{PieceCost, Times};

/// What layers of the most common kind keep of a microbatch, and what it takes to keep less.
#[derive(Clone, Debug)]
pub struct Trade {
    /// The kind.
    pub kind: LayerKind,
    /// Layers of it.
    count: f64,
    /// Convex hulls of the modes that layers may have beside each other, by their corners: seconds of making again, bytes kept;
    /// each keeps less than the one before.
    hulls: Vec<Vec<[f64; 2]>>,
    /// Seconds of moving what is kept to the host or back, if that can be.
    moves: Option<f64>,
}

impl Trade {
    /// Of a plan's shape on a pool; in the modes of an engine.
    pub fn of(plan: &Plan, prices: &mut Prices, within: Option<&Ability>) -> Result<Trade, PriceError> {
        let tapes = Tapes::of(plan);
        let model = &plan.job.model;
        let count = |kind: LayerKind| (0..model.depth()).filter(|&layer| model.kind(layer) == kind).count();
        let kind = tapes.layers.keys().copied().max_by_key(|&kind| count(kind)).expect("a model has layers");
        let tape = &tapes.layers[&kind];
        let back = tape.backward();
        let width = Formats::of(&plan.job);
        let formats = ValueFormats::of(tape, &back.steps, width);
        let mut all = Vec::new();
        let mut moves = None;
        for mode in Recompute::ALL {
            let (saved, again) = kept(tape, &back, mode);
            let bytes = width.bytes(kept_elems(tape, &saved, &back, mode, width));
            let mut seconds = 0.0;
            for step in &again {
                if let Step::Call(op, uses) = step {
                    seconds += prices.op(op, uses.iter().map(|used| formats.elem(used.value)))?.0;
                }
            }
            if mode == Recompute::None && !plan.schedule.splits() && within.is_none() {
                moves = prices.moved(Bytes(bytes[0])).ok().map(|seconds| seconds.0);
            }
            all.push([seconds, bytes.iter().sum::<u64>() as f64]);
        }
        let none = all[0][0];
        all.iter_mut().for_each(|corner| corner[0] = (corner[0] - none).max(0.0));
        let hulls = match within {
            None => vec![hull(all)],
            Some(ability) => {
                beside(ability).into_iter().map(|modes| hull(modes.iter().map(|&m| all[m as usize]))).collect()
            }
        };
        Ok(Trade { kind, count: count(kind) as f64, hulls, moves })
    }
}

/// Modes that layers of one plan of an engine may have beside each other.
fn beside(ability: &Ability) -> Vec<Vec<Recompute>> {
    let mut all = match ability.full {
        Reach::Nowhere => vec![vec![Recompute::None]],
        Reach::Everywhere => vec![vec![Recompute::None], vec![Recompute::Full]],
        Reach::Leading => vec![vec![Recompute::None, Recompute::Full]],
    };
    match ability.selective {
        Reach::Nowhere => {}
        Reach::Everywhere => all.push(vec![Recompute::Selective]),
        Reach::Leading => all.push(vec![Recompute::None, Recompute::Selective]),
    }
    all
}

/// The lower left hull of points.
fn hull(all: impl IntoIterator<Item = [f64; 2]>) -> Vec<[f64; 2]> {
    let mut all: Vec<[f64; 2]> = all.into_iter().collect();
    all.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let mut corners: Vec<[f64; 2]> = Vec::new();
    for point in all {
        if corners.last().is_some_and(|last| last[1] <= point[1]) {
            continue;
        }
        let above = |corners: &[[f64; 2]]| match corners {
            [.., a, b] => (b[1] - a[1]) * (point[0] - a[0]) >= (point[1] - a[1]) * (b[0] - a[0]),
            _ => false,
        };
        while above(&corners) {
            corners.pop();
        }
        corners.push(point);
    }
    corners
}

/// What a stage on a pool can hold.
#[derive(Clone, Debug)]
pub struct LayerCapacity {
    trade: Trade,
    /// Seconds of a layer a microbatch.
    layer: f64,
    /// Bytes of its parameters.
    state: f64,
    /// Bytes for layers.
    capacity: f64,
}

impl LayerCapacity {
    /// Of a layer's costs and sizes on a device of so many bytes.
    pub fn of(trade: &Trade, cost: &PieceCost, size: &PieceSize, capacity: u64) -> LayerCapacity {
        let mut times = Times::default();
        times.layer(cost, Recompute::None);
        let capacity = capacity.saturating_sub(size.once.bytes()) as f64;
        LayerCapacity { trade: trade.clone(), layer: times.total(), state: size.state as f64, capacity }
    }

    /// The layers that count.
    pub fn kind(&self) -> LayerKind {
        self.trade.kind
    }

    /// Layers it can hold at the most, with so many microbatches in flight and so many seconds for each.
    fn most(&self, slots: f64, budget: f64) -> f64 {
        let ways = self.trade.hulls.iter().map(|corners| self.most_of(corners, slots, budget));
        ways.fold(0.0, f64::max)
    }

    /// The same in modes of one hull.
    fn most_of(&self, corners: &[[f64; 2]], slots: f64, budget: f64) -> f64 {
        let most = (budget / (self.layer + corners[0][0])).min(self.trade.count).min(self.capacity / self.state);
        let away = self.trade.moves.map_or(0.0, |moves| budget / (2.0 * moves));
        if most <= away {
            return most;
        }
        // What is kept of layers here is on or above every edge of the hull, k − s·e for e seconds: (x − o)·k − s·(τ − x·t) ≤
        // (R − x·state) / n.
        let edge = |kept: f64, slope: f64| {
            let room = self.capacity / slots + away * kept + slope * budget;
            room / (kept + slope * self.layer + self.state / slots)
        };
        let edges = corners.windows(2).map(|pair| {
            let slope = (pair[0][1] - pair[1][1]) / (pair[1][0] - pair[0][0]);
            edge(pair[0][1] + slope * pair[0][0], slope)
        });
        let least = corners.last().map(|corner| edge(corner[1], 0.0));
        edges.chain(least).fold(most, f64::min).max(away)
    }

    /// Seconds of making again that keep so few bytes, if any do.
    fn again(&self, bytes: f64) -> Option<f64> {
        self.trade.hulls.iter().filter_map(|corners| again_of(corners, bytes)).reduce(f64::min)
    }
}

/// The same in modes of one hull.
fn again_of(corners: &[[f64; 2]], bytes: f64) -> Option<f64> {
    let at = corners.iter().position(|corner| corner[1] <= bytes)?;
    if at == 0 {
        return Some(corners[0][0]);
    }
    let ([from, more], [to, less]) = (corners[at - 1], corners[at]);
    Some(from + (to - from) * (more - bytes) / (more - less))
}

/// A step of stages of one chunk, each on its layer_capacity, that is no shorter than `least`.
pub fn floor<'a>(pipeline: &Pipeline, layer_capacity: impl Fn(usize) -> &'a LayerCapacity, least: f64) -> f64 {
    let all = layer_capacity(0).trade.count;
    let holds = |end: f64| held(pipeline, &layer_capacity, end) >= all * (1.0 - 1e-9);
    if holds(least) {
        return least;
    }
    let mut ends = [least, least];
    while !holds(ends[1]) {
        if ends[1] > 8.0 * least {
            return ends[1];
        }
        ends = [ends[1], 1.4 * ends[1]];
    }
    for _ in 0..6 {
        let middle = (ends[0] + ends[1]) / 2.0;
        ends[usize::from(holds(middle))] = middle;
    }
    ends[0]
}

/// Seconds a microbatch that a stage of several chunks makes again, or more; none if it does not fit. `layers` are those of the
/// capacity's kind, by place.
pub fn again(
    pipeline: &Pipeline,
    stage: usize,
    layer_capacity: &LayerCapacity,
    flight: &InFlight,
    layers: &[usize],
) -> Option<f64> {
    let own = |chunk: usize| layers[pipeline.virtual_stage(stage, chunk)];
    let (held, in_flight) = ((0..pipeline.chunks).map(own).sum::<usize>(), flight.brief.together(own));
    let left = layer_capacity.capacity - held as f64 * layer_capacity.state;
    let again = if in_flight > 0 { layer_capacity.again(left / in_flight as f64)? } else { 0.0 };
    (left >= 0.0).then_some(held as f64 * again)
}

/// Layers that all stages together hold at the most in a step that ends at a time.
fn held<'a>(pipeline: &Pipeline, layer_capacity: &impl Fn(usize) -> &'a LayerCapacity, end: f64) -> f64 {
    let (p, m) = (pipeline.stages, pipeline.microbatches);
    let order = pipeline.schedule.order();
    // Whole backward passes the stages before once more, so that T ≥ Σ_{i<s} t_i + M·t_s.
    let fills = !order.splits() && m >= 2 * p;
    let (mut all, mut before) = (0.0, 0.0);
    // Neighbours are often alike.
    let mut last: Option<(&LayerCapacity, usize, f64, f64)> = None;
    for stage in 0..p {
        let (own, slots, budget) =
            (layer_capacity(stage), order.least_in_flight(pipeline, stage), (end - before) / m as f64);
        let most = match last {
            Some((other, flown, given, most)) if std::ptr::eq(own, other) && (flown, given) == (slots, budget) => most,
            _ => own.most(slots as f64, budget),
        };
        last = Some((own, slots, budget, most));
        all += most;
        if fills {
            before += most * own.layer;
        }
    }
    all
}
