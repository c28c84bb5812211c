//! Attention to keys and values of ranks that share sequences, gathered or one block at a time.
//!
//! In: a rank's queries, blocks of keys and values. Out: results, which those of earlier blocks are part of.
//!
//! Invariant: what a query sees follows from positions; a query that sees nothing of a block keeps what it had.

use meshwright_executor::device::Region;
use meshwright_hardware::op::{ContextDims, position};
use tch::{Device, Tensor};

use super::attention::{AttentionSizes, Gradient, HeadRows, attend, attend_grad};
use super::{copy, table};
use crate::cache::TensorCache;
use crate::ffi::Masking;
use crate::view::{Outcome, TensorArgs, n};

/// What each query sees, `[queries, keys]`, row by row.
fn seen(d: &ContextDims, rank: usize) -> Vec<bool> {
    let mut all = Vec::with_capacity(d.seq * d.blocks * d.keys);
    for query in 0..d.seq {
        let at = position(query, d.seq, d.cp, rank);
        for block in 0..d.blocks {
            let owner = if d.blocks == d.cp { block } else { (rank + d.cp - d.hop) % d.cp };
            all.extend((0..d.keys).map(|key| !d.causal || position(key, d.keys, d.cp, owner) <= at));
        }
    }
    all
}

/// What is added to scores, and which queries see nothing; none where all see all. Queries that see nothing are masked
/// only for the gradient: attention to nothing has no result.
fn masks(
    d: &ContextDims,
    rank: usize,
    back: bool,
    device: Device,
    cache: &mut TensorCache,
) -> Outcome<Option<[Tensor; 2]>> {
    if !d.causal {
        return Ok(None);
    }
    let keys = d.blocks * d.keys;
    let seen = || seen(d, rank);
    let blind = |seen: &[bool]| -> Vec<bool> { seen.chunks(keys).map(|row| !row.contains(&true)).collect() };
    let make = || {
        let seen = seen();
        let blind = blind(&seen);
        let added = |(i, &seen): (usize, &bool)| {
            let masked = !seen && (back || !blind[i / keys]);
            if masked { f32::NEG_INFINITY } else { 0.0 }
        };
        let mask: Vec<f32> = seen.iter().enumerate().map(added).collect();
        Tensor::f_from_slice(&mask)?.f_view([n(d.seq), n(keys)])
    };
    let mask = table(cache, format!("mask {d:?} {rank} {back}"), device, make)?.shallow_clone();
    let nothing = || Tensor::f_from_slice(&blind(&seen()))?.f_view([1, n(d.seq), 1]);
    let nothing = table(cache, format!("blind {d:?} {rank}"), device, nothing)?.shallow_clone();
    Ok(Some([mask, nothing]))
}

/// Whether keys and values of a sequence lie one after another.
fn lies_in_order(d: &ContextDims) -> bool {
    d.blocks == 1 || d.batch == 1
}

/// Keys and values with those of a sequence one after another, in memory of their own: `[batch, blocks · keys, …]`.
fn gathered(x: &TensorArgs, argument: usize, d: &ContextDims) -> Outcome<Tensor> {
    let cols = 2 * d.kv_heads * d.head_dim;
    x.of(argument, [d.blocks, d.batch, d.keys, cols])?.f_transpose(0, 1)?.f_contiguous()
}

fn sizes(d: &ContextDims) -> AttentionSizes {
    let (queries, keys) = (d.seq, d.blocks * d.keys);
    AttentionSizes { batch: d.batch, queries, keys, heads: d.heads, kv_heads: d.kv_heads, width: d.head_dim }
}

fn queries(argument: usize, d: &ContextDims) -> HeadRows {
    HeadRows { argument, first: 0, sequence: d.seq * d.stride, token: d.stride }
}

fn keys_and_values(argument: usize, d: &ContextDims) -> [HeadRows; 2] {
    let token = 2 * d.kv_heads * d.head_dim;
    let sequence = d.blocks * d.keys * token;
    [0, d.kv_heads * d.head_dim].map(|first| HeadRows { argument, first, sequence, token })
}

/// Arguments, with more tensors behind them as whole regions. Those must own their memory from its start.
struct More {
    buffers: Vec<Tensor>,
    regions: Vec<Region>,
}

impl More {
    fn new(x: &TensorArgs, more: &[&Tensor]) -> Outcome<More> {
        let mut buffers: Vec<Tensor> = x.buffers.iter().map(Tensor::shallow_clone).collect();
        let mut regions = x.regions.to_vec();
        for tensor in more {
            let elems = tensor.numel();
            regions.push(Region { buffer: buffers.len(), start: 0, elems });
            buffers.push(tensor.f_view([n(elems)])?);
        }
        Ok(More { buffers, regions })
    }

    fn args(&self) -> TensorArgs<'_> {
        TensorArgs { buffers: &self.buffers, regions: &self.regions }
    }
}

pub fn forward(x: &TensorArgs, d: &ContextDims, rank: usize, device: Device, cache: &mut TensorCache) -> Outcome {
    let masks = masks(d, rank, false, device, cache)?;
    let masking = Masking { causal: false, mask: masks.as_ref().map(|[mask, _]| mask) };
    let wide = [d.batch, d.seq, d.heads, d.head_dim];
    let (mut out, mut lse) = (x.of(2, wide)?, x.of(3, [d.batch, d.seq, d.heads])?);
    let (made, mut made_lse) = (out.f_empty_like()?, lse.f_empty_like()?);
    // Behind the op's four arguments.
    let (more, kv) = if lies_in_order(d) {
        (More::new(x, &[&made, &made_lse])?, 1)
    } else {
        (More::new(x, &[&made, &made_lse, &gathered(x, 1, d)?])?, 6)
    };
    let [k, v] = keys_and_values(kv, d);
    attend(&more.args(), sizes(d), [queries(0, d), k, v], masking, 4, 5)?;
    if d.hop == 0 {
        copy(&out, &made)?;
        return copy(&lse, &made_lse);
    }
    if let Some([_, blind]) = &masks {
        drop(made_lse.f_masked_fill_(blind, f64::NEG_INFINITY)?);
    }
    // Both parts weigh by what they sum over: exp(lse).
    let both = lse.f_logaddexp(&made_lse)?;
    let weight = |part: &Tensor| part.f_sub(&both)?.f_exp_()?.f_unsqueeze(3);
    drop(out.f_mul_(&weight(&lse)?)?);
    drop(out.f_addcmul_(&made, &weight(&made_lse)?)?);
    lse.f_copy_(&both)
}

pub fn backward(x: &TensorArgs, d: &ContextDims, rank: usize, device: Device, cache: &mut TensorCache) -> Outcome {
    let masks = masks(d, rank, true, device, cache)?;
    let masking = Masking { causal: false, mask: masks.as_ref().map(|[mask, _]| mask) };
    // What lies beside the queries in their rows has no gradient here.
    if d.hop == 0 {
        drop(x.flat(5)?.f_zero_()?);
    }
    let gradient =
        |[dk, dv]: [HeadRows; 2]| Gradient { out: 2, lse: 3, dout: 4, to: [queries(5, d), dk, dv], adds: true };
    if lies_in_order(d) {
        let [k, v] = keys_and_values(1, d);
        return attend_grad(x, sizes(d), [queries(0, d), k, v], masking, gradient(keys_and_values(6, d)));
    }
    let kv = gathered(x, 1, d)?;
    let dkv = kv.f_empty_like()?;
    // Behind the op's seven arguments.
    let more = More::new(x, &[&kv, &dkv])?;
    let [k, v] = keys_and_values(7, d);
    attend_grad(&more.args(), sizes(d), [queries(0, d), k, v], masking, gradient(keys_and_values(8, d)))?;
    let cols = 2 * d.kv_heads * d.head_dim;
    copy(&x.of(6, [d.blocks, d.batch, d.keys, cols])?, &dkv.f_transpose(0, 1)?)
}
