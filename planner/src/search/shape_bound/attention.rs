//! A floor of attention in a layer: its scores and values, of a rank's own tokens or over context parallelism.
//!
//! In: a job, a shape, prices. Out: [`Times`] of a microbatch's passes.
//!
//! Invariant: these ops as tapes have them ([`crate::model`]), and no others.

use meshwright_hardware::op::{AttentionDims, ContextDims, Op};
use meshwright_hardware::price::PriceError;

use super::super::cached_prices::CachedPrices;
use super::super::space::KernelShape;
use super::super::times::Times;
use crate::job::Job;

/// Attention's scores and values, forward and backward.
pub(super) fn core(job: &Job, shape: &KernelShape, links: &mut CachedPrices) -> Result<Times, PriceError> {
    let model = &job.model;
    let latent = model.family.as_ref().and_then(|family| family.latent.as_ref());
    let heads = model.heads / shape.tp;
    let (kv_heads, head_dim) = latent
        .map_or(((model.kv_heads / shape.tp).max(1), model.head_dim()), |latent| (heads, latent.nope + latent.rope));
    let (batch, seq) = (shape.microbatch * (job.seq / job.sample()), job.sample() / shape.cp);
    let dims = AttentionDims { batch, seq, heads, kv_heads, head_dim, causal: model.causal() };
    let elem = links.prices.elem();
    let mut both = |forward: Op, backward: Op, times: f64| -> Result<Times, PriceError> {
        let [forward, backward] = [forward, backward].map(|op| links.op(&op, elem));
        Ok(Times { forward: times * forward?, backward: times * backward?, ..Times::default() })
    };
    if shape.cp == 1 {
        // No layer has less to do than one with a window.
        return match job.window() {
            Some(window) => both(Op::WindowAttention { dims, window }, Op::WindowAttentionGrad { dims, window }, 1.0),
            None => both(Op::Attention(dims), Op::AttentionGrad(dims), 1.0),
        };
    }
    let AttentionDims { causal, .. } = dims;
    let (cp, blocks, stride) = (shape.cp, if shape.ring { 1 } else { shape.cp }, dims.qkv_cols());
    let dims = ContextDims { batch, seq, keys: seq, heads, kv_heads, head_dim, stride, causal, cp, blocks, hop: 0 };
    let mut all = both(Op::ContextAttention(dims), Op::ContextAttentionGrad(dims), 1.0)?;
    if shape.ring {
        let later = ContextDims { hop: 1, ..dims };
        all.plus(&both(Op::ContextAttention(later), Op::ContextAttentionGrad(later), (cp - 1) as f64)?);
    }
    Ok(all)
}
