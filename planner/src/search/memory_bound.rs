//! A floor by memory: what no step undercuts whose stages have to hold all layers in memory.
//!
//! In: a shape's tapes, a mesh's costs and sizes, a pipeline. Out: seconds of a step.
//!
//! It is a linear relaxation of what [`super::stages`] decides. A stage with a budget of τ seconds a microbatch, n microbatches
//! in flight and R bytes holds x layers, o of them on the host and the rest made again for e seconds each, if
//!
//!   x·t + (x − o)·e ≤ τ,   2·o·moves ≤ τ,   x·state + n·(x − o)·kept(e) ≤ R
//!
//! where kept(e) is the convex hull of what recompute modes keep for what they take: the prices of their backward passes, with what
//! travels in them. A step of T seconds gives each of M microbatches τ = T / M; in 1F1B with M ≥ 2p, what the stages before it take of
//! the first one is off a stage's time too. The least T at which all stages together hold all layers is found by bisection.
//!
//! Embedding and head, and other layers of a single stage, are off a stage's time as they are, and what is done once off the step.
//!
//! Weights that are gathered for g seconds a layer, and gradients that are scattered for s, travel beside each pass, but for those of two
//! layers, which buckets may hold from before. So forward takes (x − 2)·g or more, and with b of t seconds backward
//!
//!   (x − 2)·g + x·b + (x − o)·e ≤ τ,   (x − 2)·g + (x − 2)·(g + s) ≤ τ
//!
//! Invariant: no plan's step is below it (tests over all plans of a job that hardly fits).

use std::collections::BTreeSet;
use std::sync::Arc;

use meshwright_hardware::mesh::Mesh;
use meshwright_hardware::price::{PriceError, Prices};
use meshwright_hardware::units::Bytes;

use crate::ability::{Ability, Reach};
use crate::job::{LayerKind, Model};
use crate::lower::{Formats, InFlight, PieceSize, Tapes, kept, kept_elems};
use crate::model::Step;
use crate::plan::{Plan, Recompute};
use crate::schedule::Pipeline;

use super::bound::Whole;
use super::cached_prices::CachedPrices;
use super::cost::PassWork;
use super::pass_ops::PassOps;
use super::times::{Costs, PieceCost, Times};

/// What layers of the most common kind keep of a microbatch, and the passes that keep less.
#[derive(Clone, Debug)]
pub struct Trade {
    /// The kind.
    pub kind: LayerKind,
    /// Layers of it.
    count: f64,
    /// By recompute mode: bytes kept, and backward.
    modes: Vec<(f64, PassWork)>,
    /// Modes that layers may have beside each other.
    beside: Vec<Vec<Recompute>>,
    /// Seconds of moving what is kept to the host or back, if that can be.
    moves: Option<f64>,
}

/// Convex hulls of the modes that layers may have beside each other, by their corners: seconds of making again, bytes kept; each
/// keeps less than the one before.
pub type TradeHulls = Arc<[Vec<[f64; 2]>]>;

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
        let kept = Recompute::ALL.map(|mode| kept(tape, &back, mode));
        let bytes = |(mode, (saved, _)): (Recompute, &(BTreeSet<usize>, Vec<Step>))| {
            width.bytes(kept_elems(tape, saved, &back, mode, width))
        };
        let bytes: Vec<_> = Recompute::ALL.into_iter().zip(&kept).map(bytes).collect();
        let splits = plan.schedule.splits();
        let here = bytes[Recompute::None as usize][0];
        let moves = if splits || within.is_some() { None } else { prices.moved(Bytes(here)).ok() };
        let passes = PassOps::backward(tape, &back, splits, width, &kept.map(|(_, again)| again));
        let modes = passes
            .iter()
            .zip(&bytes)
            .map(|(pass, bytes)| Ok((bytes.iter().sum::<u64>() as f64, PassWork::of(pass, prices)?)));
        let modes = modes.collect::<Result<_, PriceError>>()?;
        let beside = within.map_or_else(|| vec![Recompute::ALL.to_vec()], beside);
        Ok(Trade { kind, count: count(kind) as f64, modes, beside, moves: moves.map(|seconds| seconds.0) })
    }

    /// What keeping less takes on a mesh.
    pub fn hulls(&self, mesh: &Mesh, links: &mut CachedPrices) -> Result<TradeHulls, PriceError> {
        let mut all = Vec::with_capacity(self.modes.len());
        for (bytes, pass) in &self.modes {
            all.push([pass.seconds(links, mesh)?.0, *bytes]);
        }
        let none = all[0][0];
        all.iter_mut().for_each(|corner| corner[0] = (corner[0] - none).max(0.0));
        Ok(self.beside.iter().map(|modes| hull(modes.iter().map(|&mode| all[mode as usize]).collect())).collect())
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
fn hull(mut all: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
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
    /// The layers that count.
    pub kind: LayerKind,
    count: f64,
    moves: Option<f64>,
    hulls: TradeHulls,
    /// Seconds of a layer's kernels a microbatch.
    layer: f64,
    /// What layers take with what they make again: each a time a layer, what is off it once, and whether embedding and head add
    /// to it.
    with_again: Vec<[f64; 3]>,
    /// The same of what travels, beside which anything is made again.
    travels: [f64; 3],
    /// Bytes of its parameters.
    state: f64,
    /// Bytes for layers.
    capacity: f64,
}

impl LayerCapacity {
    /// Of a layer's costs and sizes on a device of so many bytes, where collectives take a share from compute beside them.
    pub fn of(
        (trade, hulls): (&Trade, TradeHulls),
        cost: &PieceCost,
        size: &PieceSize,
        (capacity, shown): (u64, f64),
    ) -> LayerCapacity {
        let mut times = Times::default();
        times.layer(cost, Recompute::None);
        let capacity = capacity.saturating_sub(size.once.bytes()) as f64;
        let (layer, share) = (times.total(), &cost.share);
        let (gather, scatter) = (share.gather, share.scatter);
        let mut with_again = vec![[layer, 0.0, 1.0]];
        if gather + scatter > 0.0 {
            // Gathers and scatters take from compute, and what was scattered is added up there: the last of it beside other stages.
            let (each, late) = (shown * gather + share.copy, share.settle + shown * scatter);
            with_again.push([layer + late + 2.0 * each, 4.0 * each + late, 1.0]);
            with_again.push([layer - times.forward + gather, 2.0 * gather, 0.0]);
        }
        let travels = [2.0 * gather + scatter, 4.0 * gather + 2.0 * scatter, 0.0];
        let &Trade { kind, count, moves, .. } = trade;
        let state = size.state as f64;
        LayerCapacity { kind, count, moves, hulls, layer, with_again, travels, state, capacity }
    }

    /// Layers it can hold at the most, with so many microbatches in flight and so many seconds for each, of which embedding and head
    /// take some.
    fn most(&self, slots: f64, budget: f64, ends: f64) -> f64 {
        let ways = self.hulls.iter().map(|corners| self.most_of(corners, slots, (budget, ends)));
        ways.fold(0.0, f64::max)
    }

    /// The same in modes of one hull.
    fn most_of(&self, corners: &[[f64; 2]], slots: f64, (budget, ends): (f64, f64)) -> f64 {
        let time = |[_, once, beside]: [f64; 3]| (budget + once - beside * ends).max(0.0);
        let within = |takes: [f64; 3], again: f64| time(takes) / (takes[0] + again);
        let mut most = self.count.min(self.capacity / self.state);
        if self.travels[0] > 0.0 {
            most = most.min(within(self.travels, 0.0));
        }
        let most = self.with_again.iter().fold(most, |most, &takes| most.min(within(takes, corners[0][0])));
        let away = self.moves.map_or(0.0, |moves| budget / (2.0 * moves));
        if most <= away {
            return most;
        }
        // What is kept of layers here is on or above every edge of the hull, k − s·e for e seconds: (x − o)·k − s·(τ − x·t) ≤
        // (R − x·state) / n.
        let edge = |kept: f64, slope: f64, takes: [f64; 3]| {
            let room = self.capacity / slots + away * kept + slope * time(takes);
            room / (kept + slope * takes[0] + self.state / slots)
        };
        let mut least = most;
        for pair in corners.windows(2) {
            let slope = (pair[0][1] - pair[1][1]) / (pair[1][0] - pair[0][0]);
            let kept = pair[0][1] + slope * pair[0][0];
            least = self.with_again.iter().fold(least, |least, &takes| least.min(edge(kept, slope, takes)));
        }
        let fewest = corners.last().map(|corner| edge(corner[1], 0.0, [0.0; 3]));
        fewest.map_or(least, |fewest| least.min(fewest)).max(away)
    }

    /// Seconds of making again that keep so few bytes, if any do.
    fn again(&self, bytes: f64) -> Option<f64> {
        self.hulls.iter().filter_map(|corners| again_of(corners, bytes)).reduce(f64::min)
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

/// What a step of stages of one chunk has beside layers of the kind that counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepRest {
    /// Once, whatever stages do.
    once: f64,
    /// A microbatch, on the first stage, on those between, and on the last.
    ends: [f64; 3],
}

impl StepRest {
    /// Of costs on a mesh of so many stages.
    pub fn of(model: &Model, costs: &Costs, whole: &Whole, (stages, kind): (usize, LayerKind)) -> StepRest {
        let end = |place: (usize, usize)| {
            let mut times = Times::default();
            super::bound::ends(&mut times, place, costs);
            times.total()
        };
        let share = &whole.once;
        let once = whole.starts + whole.norm_sum + share.update.max(share.renew) / stages as f64;
        if stages > 1 {
            return StepRest { once, ends: [end((0, stages)), end((1, 3)), end((stages - 1, stages))] };
        }
        let mut others = Times::default();
        for layer in (0..model.depth()).map(|layer| model.kind(layer)).filter(|other| *other != kind) {
            others.layer(costs.layer(layer), Recompute::None);
        }
        StepRest { once: once + share.clear + share.norm, ends: [end((0, 1)) + others.total(); 3] }
    }
}

/// A step of stages of one chunk, each on its layer_capacity, that is no shorter than `least`; as far as it ends before a time.
pub fn floor<'a>(
    pipeline: &Pipeline,
    layer_capacity: impl Fn(usize) -> &'a LayerCapacity,
    beside: &StepRest,
    (least, before): (f64, f64),
) -> f64 {
    let all = layer_capacity(0).count;
    let holds = |end: f64| held(pipeline, &layer_capacity, beside, end) >= all * (1.0 - 1e-9);
    if least >= before || holds(least) {
        return least;
    }
    let mut ends = [least, before];
    if before.is_finite() && !holds(before) {
        return before;
    }
    if before.is_infinite() {
        ends[1] = least;
        while !holds(ends[1]) {
            if ends[1] > 8.0 * least {
                return ends[1];
            }
            ends = [ends[1], 1.4 * ends[1]];
        }
    }
    for _ in 0..7 {
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
fn held<'a>(
    pipeline: &Pipeline,
    layer_capacity: &impl Fn(usize) -> &'a LayerCapacity,
    beside: &StepRest,
    end: f64,
) -> f64 {
    let (p, m) = (pipeline.stages, pipeline.microbatches);
    let order = pipeline.schedule.order();
    // Whole backward passes the stages before once more, so that T ≥ Σ_{i<s} t_i + M·t_s.
    let fills = !order.splits() && m >= 2 * p;
    let (mut all, mut before) = (0.0, 0.0);
    // Neighbours are often alike.
    let mut last: Option<(&LayerCapacity, usize, [f64; 2], f64)> = None;
    for stage in 0..p {
        let (own, slots) = (layer_capacity(stage), order.least_in_flight(pipeline, stage));
        let ends = beside.ends[if stage == 0 {
            0
        } else if stage + 1 == p {
            2
        } else {
            1
        }];
        let budget = ((end - beside.once - before) / m as f64).max(0.0);
        let most = match last {
            Some((other, flown, given, most))
                if std::ptr::eq(own, other) && (flown, given) == (slots, [budget, ends]) =>
            {
                most
            }
            _ => own.most(slots as f64, budget, ends),
        };
        last = Some((own, slots, [budget, ends], most));
        all += most;
        if fills {
            before += most * own.layer;
        }
    }
    all
}
