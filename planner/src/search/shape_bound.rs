//! A floor of a shape before anything of it is made: its matmuls, its attention, its experts and the sums of tensor parallelism.
//!
//! In: a job, a shape, prices. Out: [`Whole`] of the passes a microbatch takes on a rank that had the whole model, of which
//! only what these ops take is counted.
//!
//! Invariant: no more than the priced passes, of which these ops are a part.

mod attention;
mod experts;
mod travels;

use meshwright_hardware::op::{Layout, Op};
use meshwright_hardware::price::PriceError;
use meshwright_hardware::program::Elem;
use rustc_hash::FxHashMap;

use super::bound::Whole;
use super::cached_prices::CachedPrices;
use super::space::KernelShape;
use super::times::Times;
use crate::job::Job;
use crate::job::shape::Linear;
use crate::lower::Formats;
use travels::Travels;

/// A part of a floor: shapes are many, those that a part differs in are few.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum FloorPart {
    /// By TP and rows: attention's products, the feed-forward part's, the head's, and those of experts that every token goes to.
    Products([usize; 2]),
    /// By EP, TP and rows, of whole experts or not.
    Routed([usize; 3], bool),
    /// By TP and rows, with sequence parallelism or not.
    Beside([usize; 2], bool),
    /// By microbatch, TP and CP, round a ring or not: scores; keys and values that go round.
    Scores([usize; 3], bool),
}

/// Floors of a job's shapes, whose parts are made once.
pub struct ShapeFloors<'a> {
    job: &'a Job,
    model: crate::job::Shape,
    formats: Formats,
    known: FxHashMap<FloorPart, [Times; 4]>,
    /// By microbatch, TP and CP, round a ring or not, of whole experts or not.
    travels: FxHashMap<([usize; 3], [bool; 2]), Travels>,
}

impl<'a> ShapeFloors<'a> {
    /// Of a job.
    pub fn of(job: &'a Job) -> Self {
        let (model, formats) = (crate::job::Shape::from(&job.model), Formats::of(job));
        ShapeFloors { job, model, formats, known: FxHashMap::default(), travels: FxHashMap::default() }
    }

    /// A microbatch through all layers and the head, on one rank of TP, CP and EP.
    pub fn passes(&mut self, shape: &KernelShape, links: &mut CachedPrices) -> Result<Whole, PriceError> {
        let (job, layers) = (self.job, self.job.model.depth());
        if job.target() > 0 {
            return Ok(Whole { layers, ..Whole::default() });
        }
        let &KernelShape { tp, cp, ep, whole_experts, microbatch, sequence_parallel, ring, .. } = shape;
        let rows = microbatch * job.seq / cp;
        let [attention, dense, mut head, shared] = self.part(FloorPart::Products([tp, rows]), shape, links)?;
        let [mut routed, ..] = match self.model.experts {
            Some(_) => self.part(FloorPart::Routed([ep, tp, rows], whole_experts), shape, links)?,
            None => Default::default(),
        };
        routed.plus(&shared);
        let [mut same, ..] = self.part(FloorPart::Beside([tp, rows], sequence_parallel), shape, links)?;
        let [scores, rings, ..] = self.part(FloorPart::Scores([microbatch, tp, cp], ring), shape, links)?;
        same.plus(&scores);
        same.plus(&attention);
        let mut travels = self.travels_of(shape, links)?;
        let layer_of = |rest: &Times, travels: &Travels| {
            let mut layer = same;
            layer.plus(rest);
            travels.beside(layer, shape.splits)
        };
        let dense = layer_of(&dense, &travels);
        travels.exchange(job, shape, links)?;
        let routed = layer_of(&routed, &travels);
        let routing = self.model.expert_share();
        let mut times = dense.scaled((1.0 - routing) * layers as f64);
        times.plus(&routed.scaled(routing * layers as f64));
        // The shortest layer is of one kind or the other.
        let mut layer = match routing {
            0.0 => dense,
            1.0 => routed,
            _ if routed.total() < dense.total() => routed,
            _ => dense,
        };
        if job.tuning.is_some() {
            // Frozen weights have no gradients.
            (times.weights, layer.weights, head.weights) = (0.0, 0.0, 0.0);
        }
        // A head's forward is a part of its backward, which is never split.
        times.backward += head.total();
        if !shape.splits {
            for times in [&mut times, &mut layer] {
                (times.backward, times.weights) = (times.backward + times.weights, 0.0);
            }
        }
        let rings = [rings.forward, rings.backward].map(|seconds| seconds * layers as f64);
        Ok(Whole { times, layer, layers, rings, head: head.total(), ..Whole::default() })
    }

    /// What travels in a shape's layer without experts.
    fn travels_of(&mut self, shape: &KernelShape, links: &mut CachedPrices) -> Result<Travels, PriceError> {
        let key = ([shape.microbatch, shape.tp, shape.cp], [shape.ring, shape.whole_experts]);
        if let Some(&known) = self.travels.get(&key) {
            return Ok(known);
        }
        let travels = Travels::of(self.job, &self.model, shape, links)?;
        self.travels.insert(key, travels);
        Ok(travels)
    }

    /// A part of a floor; `shape` is one that has it.
    fn part(
        &mut self,
        part: FloorPart,
        shape: &KernelShape,
        links: &mut CachedPrices,
    ) -> Result<[Times; 4], PriceError> {
        if let Some(&known) = self.known.get(&part) {
            return Ok(known);
        }
        let (job, model, formats) = (self.job, &self.model, self.formats);
        let rows = shape.microbatch * job.seq / shape.cp;
        let none = Times::default();
        let made = match part {
            FloorPart::Products(_) => self.products(shape.tp, rows, links)?,
            FloorPart::Routed(..) => {
                let experts = model.experts.as_ref().expect("there are experts");
                [experts::routed(job, shape, (experts, rows, formats), links)?, none, none, none]
            }
            FloorPart::Beside(..) => [beside(job, model, shape, rows, links), none, none, none],
            FloorPart::Scores(..) => {
                let [forward, backward] = travels::rotations(job, shape, links)?;
                [attention::core(job, shape, links)?, Times { forward, backward, ..none }, none, none]
            }
        };
        self.known.insert(part, made);
        Ok(made)
    }

    /// A layer's products of so many rows, the head's, and those of experts that every token goes to.
    fn products(&self, tp: usize, rows: usize, links: &mut CachedPrices) -> Result<[Times; 4], PriceError> {
        let (job, model) = (self.job, &self.model);
        let mut kernels = |linears: &[Linear]| -> Result<Times, PriceError> {
            let mut all = Times::default();
            for linear in linears {
                all.plus(&passes(linear, tp, rows, self.formats, links)?);
            }
            Ok(all)
        };
        let table = Linear {
            inputs: job.model.hidden as f64,
            outputs: (job.model.vocab_on(tp) * tp) as f64,
            split: crate::job::shape::LinearSplit::Columns,
        };
        let shared = model.experts.as_ref().map_or(0, |experts| experts.shared_ffn);
        Ok([
            kernels(&attention_linears(job, model, tp))?,
            kernels(&model.ffn_linears(model.ffn as f64))?,
            if job.model.causal() { kernels(&[table])? } else { Times::default() },
            if shared > 0 { kernels(&model.ffn_linears(shared as f64))? } else { Times::default() },
        ])
    }
}

/// Linear layers of attention, with a key/value head at least on each of `tp` ranks.
fn attention_linears(job: &Job, model: &crate::job::Shape, tp: usize) -> Vec<Linear> {
    let mut linears = model.attention_linears();
    if model.latent.is_none() {
        linears[0].outputs = model.q() + (2 * job.model.kv_heads_on(tp) * model.head_dim * tp) as f64;
    }
    linears
}

/// What a layer has beside matmuls and attention: two norms and two residuals, forward and backward, and the activation, each
/// read and written once.
fn beside(job: &Job, model: &crate::job::Shape, shape: &KernelShape, rows: usize, links: &CachedPrices) -> Times {
    let kept = rows / if shape.sequence_parallel { shape.tp } else { 1 };
    // An activation's own width, forward and backward.
    let gates = if model.gated { [3.0, 5.0] } else { [2.0, 3.0] };
    let each = if model.parallel_block { 4.0 } else { 8.0 };
    let [forward, backward] = gates.map(|gate| {
        let through = gate * (1.0 - model.expert_share()) * model.ffn as f64 / shape.tp as f64;
        let elems = each * (kept * job.model.hidden) as f64 + rows as f64 * through;
        0.8 * links.prices.streamed(elems * Elem::of(job.precision).bytes() as f64).0
    });
    Times { forward, backward, ..Times::default() }
}

/// Bytes of so many numbers that are activations.
fn activations(job: &Job, elems: usize) -> u64 {
    elems as u64 * Elem::of(job.precision).bytes()
}

/// A linear layer's three matmuls.
fn passes(
    linear: &Linear,
    tp: usize,
    rows: usize,
    formats: Formats,
    links: &mut CachedPrices,
) -> Result<Times, PriceError> {
    let (inputs, outputs) = linear.on_rank(tp as f64);
    let (k, n) = (inputs as usize, outputs as usize);
    if let Some(&known) = links.linears.get(&(rows, n, k)) {
        return Ok(known);
    }
    let model = links.prices.elem();
    let mut matmul = |layout, m, n, k, accumulate| -> Result<f64, PriceError> {
        // Only gradients of weights are added to what is there.
        let result = if accumulate { formats.gradients } else { model };
        let operands = [formats.inputs(), formats.inputs(), result];
        Ok(links.prices.op(&Op::Matmul { layout, m, n, k, bias: false, accumulate }, operands)?.0)
    };
    let times = Times {
        forward: matmul(Layout::Nt, rows, n, k, false)?,
        backward: matmul(Layout::Nn, rows, k, n, false)?,
        weights: matmul(Layout::Tn, n, k, rows, true)?,
        ..Times::default()
    };
    links.linears.insert((rows, n, k), times);
    Ok(times)
}
