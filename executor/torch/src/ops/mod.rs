//! Each op by ATen's own operators and kernels, forward and backward.
//!
//! In: an op, its arguments as views of buffers, the rank's place, the step. Out: what the op writes, in place.
//!
//! Invariant: what does not stand in the table gets no number, and the executor runs it; nothing waits for a device, so that all of it can be
//! captured in a graph; sums have a fixed order. In-place operators give their own output again, which is dropped.

mod activation;
pub mod attention;
mod context;
mod embed;
mod experts;
mod latent;
mod loss;
mod matmul;
mod norm;
mod optimizer;
mod rotary;
mod wide;

use meshwright_executor::device::StepArgs;
use meshwright_executor::kernels::VocabShard;
use meshwright_hardware::mesh::Coord;
use meshwright_hardware::op::Op;
use tch::{Device, Kind, Tensor};

pub use optimizer::settle;

use crate::cache::TensorCache;
use crate::kernels;
use crate::view::{Outcome, TensorArgs, n};

/// Added to a variance: as every other device's.
const EPS: f64 = 1e-5;

/// Runs an op on regions that were checked.
pub fn run(op: &Op, x: &TensorArgs, at: &Coord, step: &StepArgs, device: Device, cache: &mut TensorCache) -> Outcome {
    settle(step, device, cache)?;
    if wide::is_native(op, x)? {
        return kernel(op, x, at, step, device, cache);
    }
    wide::run(op, x, device, |op, x| kernel(op, x, at, step, device, cache))
}

/// The table: patterns of ops, and what runs them, of elements that operators take.
macro_rules! table {
    (|$x:ident, $at:ident, $step:ident, $device:ident, $cache:ident| $($op:pat => $run:expr,)*) => {
        /// Whether an op stands in the table.
        #[allow(unused_variables)] // dims
        pub fn has(op: &Op) -> bool {
            match *op {
                $($op => true,)*
                #[allow(unreachable_patterns)] // if it has all
                _ => false,
            }
        }

        fn kernel(op: &Op, $x: &TensorArgs, $at: &Coord, $step: &StepArgs, $device: Device, $cache: &mut TensorCache) -> Outcome {
            match *op {
                $($op => $run,)*
                #[allow(unreachable_patterns)] // if it has all
                _ => unreachable!("{op:?} stands in no table, and gets no number"),
            }
        }
    };
}

table! {
    |x, at, step, device, cache|
    Op::Embed { rows, cols, vocab, shards } => {
        embed::forward(Op::Embed { rows, cols, vocab, shards }, x, [rows, cols, vocab], shard(shards, at.tp))
    },
    Op::EmbedGrad { rows, cols, vocab, shards } => embed::backward(x, [rows, cols, vocab], shard(shards, at.tp)),
    Op::Positions { rows, seq, cols, sp, cp } => {
        let places = embed::RankTokens { rows, seq, first: shard(sp, at.tp) * rows, cp, rank: at.cp };
        embed::positions(x, places, cols, device, cache)
    },
    Op::PositionsGrad { rows, seq, cols, sp, cp } => {
        let places = embed::RankTokens { rows, seq, first: shard(sp, at.tp) * rows, cp, rank: at.cp };
        embed::positions_grad(x, places, cols, device, cache)
    },
    Op::Norm { kind, rows, cols } => norm::forward(x, kind, rows, cols),
    Op::NormGrad { kind, rows, cols, accumulate } => norm::backward(x, kind, rows, cols, accumulate),
    Op::Matmul { layout, m, n, k, bias, accumulate } => matmul::one(x, layout, [m, n, k], bias, accumulate),
    Op::ExpertMatmul { layout, experts, sources, m, n, k, accumulate } => {
        matmul::experts(x, layout, [experts, sources], [m, n, k], accumulate)
    },
    Op::Route { rows, experts, top_k, capacity } => experts::route(x, [rows, experts, top_k, capacity], device),
    Op::RouteGrad { rows, experts, top_k, balance, .. } => {
        experts::route_grad(x, [rows, experts, top_k], f64::from(balance), cache)
    },
    Op::Dispatch { rows, cols, top_k, slots } => experts::dispatch(x, [rows, cols, top_k, slots]),
    Op::DispatchGrad { rows, cols, top_k, slots, accumulate } => {
        experts::dispatch_grad(x, [rows, cols, top_k, slots], accumulate)
    },
    Op::Combine { rows, cols, top_k, slots } => experts::combine(x, [rows, cols, top_k, slots]),
    Op::CombineGrad { rows, cols, top_k, slots } => experts::combine_grad(x, [rows, cols, top_k, slots]),
    Op::LatentPack(dims) => latent::forward(x, &dims, at.cp, device, cache),
    Op::LatentPackGrad(dims) => latent::backward(x, &dims, at.cp, device, cache),
    Op::Columns { rows, stride, first, cols, into } => {
        let (part, whole) = if into { (0, 1) } else { (1, 0) };
        let part = x.of(part, [rows, cols])?;
        let columns = x.strided(whole, [rows, cols], [stride, 1], first)?;
        if into { copy(&columns, &part) } else { copy(&part, &columns) }
    },
    Op::ContextAttention(dims) => context::forward(x, &dims, at.cp, device, cache),
    Op::ContextAttentionGrad(dims) => context::backward(x, &dims, at.cp, device, cache),
    Op::BiasGrad { rows, cols } => {
        let (sums, rows) = (x.of(1, [cols])?, x.of(0, [rows, cols])?);
        if x.is_cuda() { kernels::add_column_sums(sums, &rows) } else { add_column_sums(&sums, &rows) }
    },
    Op::Rope { rows, seq, stride, heads, head_dim, theta, cp, inverse } => {
        let turns = rotary::Turns { rows, seq, width: head_dim, theta, cp, rank: at.cp };
        let heads = x.strided(0, [rows, heads, head_dim], [stride, head_dim, 1], 0)?;
        rotary::turn(&heads, seq, &turns.table(device, cache)?, inverse)
    },
    Op::Attention(dims) => attention::forward(x, &dims),
    Op::AttentionGrad(dims) => attention::backward(x, &dims),
    Op::Activation { kind, rows, cols } => activation::forward(x, kind, rows, cols),
    Op::ActivationGrad { kind, rows, cols } => activation::backward(x, kind, rows, cols),
    Op::Add { rows, cols, bias } => add(x, rows, cols, bias),
    Op::LossStats { rows, vocab, words, shards } => {
        loss::stats(x, rows, VocabShard::of(vocab, words, shard(shards, at.tp)))
    }
    Op::Loss { rows, vocab, words, shards, scale } => {
        let columns = VocabShard::of(vocab, words, shard(shards, at.tp));
        loss::gradient(x, [rows, shards], columns, f64::from(scale), cache)
    },
    Op::Zero { .. } => x.flat(0)?.f_zero_().map(drop),
    Op::Copy { .. } => copy(&x.flat(1)?, &x.flat(0)?),
    Op::Accumulate { .. } => x.flat(1)?.f_add_(&x.flat(0)?).map(drop),
    Op::SquaredNorm { n, whole, copies, replicas, shards, axis } => {
        let whole = whole.saturating_sub(shard(shards, at.on(axis)) * n).min(n);
        optimizer::squared_norm(x, n, whole, [copies, replicas])
    },
    Op::AdamW { n, decayed, shards, axis, master } => {
        let decayed = decayed.saturating_sub(shard(shards, at.on(axis)) * n).min(n);
        optimizer::adamw(x, decayed, master, step, cache)
    },
}

/// This rank's part of something `shards` ranks share; something whole is the first part of one.
fn shard(shards: usize, position: usize) -> usize {
    if shards == 1 { 0 } else { position }
}

/// `to = from`.
fn copy(to: &Tensor, from: &Tensor) -> Outcome {
    to.shallow_clone().f_copy_(from)
}

/// `out = from` or `out += from`.
fn store(out: &Tensor, from: &Tensor, accumulate: bool) -> Outcome {
    if accumulate { out.shallow_clone().f_add_(from).map(drop) } else { copy(out, from) }
}

/// `sums += Σ_r rows[r]`, in fp32.
fn add_column_sums(sums: &Tensor, rows: &Tensor) -> Outcome {
    let added = rows.f_sum_dim_intlist(0, false, Kind::Float)?;
    sums.shallow_clone().f_add_(&added).map(drop)
}

/// `table[to[r]] += rows[r]`, in the order of rows: on CUDA by sorting, as additions there would meet in any order.
fn scatter_rows(table: &Tensor, to: &Tensor, rows: &Tensor) -> Outcome {
    let (to, mut table, rows) = (to.f_to_kind(Kind::Int64)?, table.shallow_clone(), rows.f_to_kind(table.kind())?);
    if matches!(table.device(), Device::Cuda(_)) {
        return table.f_index_put_(&[Some(to)], &rows, true).map(drop);
    }
    table.f_scatter_add_(0, &to.f_unsqueeze(1)?.f_expand_as(&rows)?, &rows).map(drop)
}

/// The residual, which may be written over one of its operands.
fn add(x: &TensorArgs, rows: usize, cols: usize, bias: bool) -> Outcome {
    let [a, b, out] = [0, 1, x.len() - 1].map(|i| x.of(i, [rows, cols]));
    let mut out = out?;
    if kernels::runs(&Op::Add { rows, cols, bias }, x)? {
        let bias = bias.then(|| x.of(2, [cols])).transpose()?;
        return kernels::add([&a?, &b?, &out], bias.as_ref());
    }
    drop(a?.f_add_out(&out, &b?)?);
    if bias {
        drop(out.f_add_(&x.of(2, [cols])?)?);
    }
    Ok(())
}

/// A table of numbers on the device, made once.
fn table(
    cache: &mut TensorCache,
    key: String,
    device: Device,
    make: impl FnOnce() -> Outcome<Tensor>,
) -> Outcome<&Tensor> {
    use std::collections::hash_map::Entry;
    match cache.tables.entry(key) {
        Entry::Occupied(known) => Ok(known.into_mut()),
        Entry::Vacant(place) => Ok(place.insert(make()?.f_to(device)?)),
    }
}

/// How many rows of this width make a part that stays in caches on the CPU, and is little beside the rest on CUDA.
fn rows_at_once(width: usize, device: Device) -> usize {
    let elems = if matches!(device, Device::Cuda(_)) { 1 << 26 } else { 1 << 20 };
    (elems / width.max(1)).max(1)
}

/// A tensor's rows from `first` on.
fn rows_of(tensor: &Tensor, first: usize, count: usize) -> Outcome<Tensor> {
    tensor.f_narrow(0, n(first), n(count))
}
