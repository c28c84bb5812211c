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

use super::bound::Whole;
use super::cached_prices::CachedPrices;
use super::space::KernelShape;
use super::times::Times;
use crate::job::Job;
use crate::job::shape::Linear;
use crate::lower::Formats;
use travels::Travels;

/// A microbatch through all layers and the head, on one rank of TP, CP and EP.
pub fn of_shape(job: &Job, shape: &KernelShape, links: &mut CachedPrices) -> Result<Whole, PriceError> {
    let layers = job.model.depth();
    if job.target() > 0 {
        return Ok(Whole { layers, ..Whole::default() });
    }
    let model = crate::job::Shape::from(&job.model);
    let rows = shape.microbatch * job.seq / shape.cp;
    let formats = Formats::of(job);
    let mut kernels = |linears: &[Linear]| -> Result<Times, PriceError> {
        let mut all = Times::default();
        for linear in linears {
            all.plus(&passes(linear, shape.tp, rows, formats, links)?);
        }
        Ok(all)
    };
    let attention = kernels(&attention_linears(job, &model, shape.tp))?;
    let dense = kernels(&model.ffn_linears(model.ffn as f64))?;
    let table = Linear {
        inputs: job.model.hidden as f64,
        outputs: (job.model.vocab_on(shape.tp) * shape.tp) as f64,
        split: crate::job::shape::LinearSplit::Columns,
    };
    let mut head = if job.model.causal() { kernels(&[table])? } else { Times::default() };
    let mut routed = Times::default();
    if let Some(experts) = &model.experts {
        routed = experts::routed(job, shape, (experts, rows, formats), links)?;
        routed.plus(&kernels_of_shared(&model, shape, (rows, formats), links)?);
    }
    let mut same = beside(job, &model, shape, rows, links);
    same.plus(&attention::core(job, shape, links)?);
    same.plus(&attention);
    let mut travels = Travels::of(job, &model, shape, links)?;
    let layer_of = |rest: &Times, travels: &Travels| {
        let mut layer = same;
        layer.plus(rest);
        travels.beside(layer, shape.splits)
    };
    let dense = layer_of(&dense, &travels);
    travels.exchange(job, shape, links)?;
    let routed = layer_of(&routed, &travels);
    let routing = model.expert_share();
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
    let rings = travels::rotations(job, shape, links)?.map(|seconds| seconds * layers as f64);
    if !shape.splits {
        for times in [&mut times, &mut layer] {
            (times.backward, times.weights) = (times.backward + times.weights, 0.0);
        }
    }
    Ok(Whole { times, layer, layers, rings, head: head.total(), ..Whole::default() })
}

/// Linear layers of attention, with a key/value head at least on each of `tp` ranks.
fn attention_linears(job: &Job, model: &crate::job::Shape, tp: usize) -> Vec<Linear> {
    let mut linears = model.attention_linears();
    if model.latent.is_none() {
        linears[0].outputs = model.q() + (2 * job.model.kv_heads_on(tp) * model.head_dim * tp) as f64;
    }
    linears
}

/// The experts that every token goes to.
fn kernels_of_shared(
    model: &crate::job::Shape,
    shape: &KernelShape,
    (rows, formats): (usize, Formats),
    links: &mut CachedPrices,
) -> Result<Times, PriceError> {
    let mut all = Times::default();
    let width = model.experts.as_ref().map_or(0, |experts| experts.shared_ffn);
    if width > 0 {
        for linear in model.ffn_linears(width as f64) {
            all.plus(&passes(&linear, shape.tp, rows, formats, links)?);
        }
    }
    Ok(all)
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
        0.8 * links.prices.streamed(elems * Formats::of(job).inputs().bytes() as f64).0
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
