//! A floor of a shape before its pieces are made: its matmuls, its attention and the sums of tensor parallelism.
//!
//! In: a job, a shape, prices. Out: seconds a microbatch takes on a rank that had the whole model.
//!
//! Invariant: no more than the pieces' priced passes, of which these ops are a part.

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::op::{AttentionDims, Layout, Op};
use meshwright_hardware::price::PriceError;
use meshwright_hardware::program::Collective;

use super::cost::Links;
use super::space::Shape;
use crate::job::Job;
use crate::shape::Linear;

/// Seconds of a microbatch through all layers and the head, on one rank of TP, CP and EP.
pub fn of_shape(job: &Job, shape: &Shape, links: &mut Links) -> Result<f64, PriceError> {
    if job.target() > 0 {
        return Ok(0.0);
    }
    let model = crate::shape::Shape::from(&job.model);
    let rows = shape.microbatch * job.seq / shape.cp;
    let mut kernels = |linears: &[Linear]| -> Result<f64, PriceError> {
        linears.iter().map(|linear| passes(linear, shape.tp, rows, links)).sum()
    };
    let attention = kernels(&model.attention_linears())?;
    let dense = kernels(&model.ffn_linears(model.ffn as f64))?;
    let table = Linear {
        inputs: job.model.hidden as f64,
        outputs: job.model.vocab as f64,
        split: crate::shape::Split::Columns,
    };
    let head = if job.model.causal() { kernels(&[table])? } else { 0.0 };
    // What routed experts get to do varies with their room: at the greatest rate, it is at least their share of the tokens.
    let routed = match &model.experts {
        Some(experts) => {
            let each = experts.top_k as f64 * model.expert_parameters(experts);
            0.9 * 6.0 * each * rows as f64 / shape.tp as f64 / links.prices.fastest_flops()?
        }
        None => 0.0,
    };
    let (layers, routing) = (job.model.depth() as f64, model.expert_share());
    let core = if model.latent.is_none() && shape.cp == 1 { core(job, shape, links)? } else { 0.0 };
    let mesh = Mesh { tp: shape.tp, ..Mesh::ONE };
    let summed = links.collective(&mesh, Collective::AllReduce, Axis::Tp, (rows * job.model.hidden * 4) as u64)?;
    let sums = if model.parallel_block { 2.0 } else { 4.0 };
    // Cut into a scatter and a gather it may be a little quicker than whole.
    let traffic = 0.9 * sums * summed;
    // Two norms and two residuals, forward and backward, and the activation, each read and written once.
    let kept = rows / if shape.sequence_parallel { shape.tp } else { 1 };
    let width = job.precision.stored().bytes() as f64;
    let through = if model.gated { 8.0 } else { 5.0 } * (1.0 - routing) * model.ffn as f64 / shape.tp as f64;
    let elems =
        if model.parallel_block { 8.0 } else { 16.0 } * (kept * job.model.hidden) as f64 + rows as f64 * through;
    let traffic = traffic + 0.8 * links.prices.streamed(elems * width).0;
    Ok(layers * (attention + (1.0 - routing) * dense + routing * routed + core + traffic) + head)
}

/// A linear layer's three matmuls.
fn passes(linear: &Linear, tp: usize, rows: usize, links: &mut Links) -> Result<f64, PriceError> {
    let (inputs, outputs) = linear.on_rank(tp as f64);
    let (k, n) = (inputs as usize, outputs as usize);
    let matmul = |layout, m, n, k, accumulate| Op::Matmul { layout, m, n, k, bias: false, accumulate };
    let all = [
        matmul(Layout::Nt, rows, n, k, false),
        matmul(Layout::Nn, rows, k, n, false),
        matmul(Layout::Tn, n, k, rows, true),
    ];
    all.iter().map(|op| Ok(links.prices.op(op)?.0)).sum()
}

/// Attention's scores and values, forward and backward.
fn core(job: &Job, shape: &Shape, links: &mut Links) -> Result<f64, PriceError> {
    let model = &job.model;
    let dims = AttentionDims {
        batch: shape.microbatch,
        seq: job.seq,
        heads: model.heads / shape.tp,
        kv_heads: model.kv_heads / shape.tp,
        head_dim: model.head_dim(),
        causal: model.causal(),
    };
    Ok(links.prices.op(&Op::Attention(dims))?.0 + links.prices.op(&Op::AttentionGrad(dims))?.0)
}
