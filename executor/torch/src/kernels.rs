//! Kernels of our own on CUDA, `../cuda`: embeddings, norms, sums, SwiGLU, rotary positions, cross-entropy, AdamW. ATen's would take
//! copies in fp32 of what is narrower, or several passes.
//!
//! In: an op and its arguments on a CUDA device. Out: the arguments written, rounded once.
//!
//! Invariant: whether a kernel runs depends on the op, the formats and where arguments lie alone; sums have a fixed order.

use meshwright_executor::kernels::VocabShard;
use meshwright_hardware::op::{ActivationKind, DtypeClass, NormKind, Op};
use tch::{Kind, Tensor};

use crate::launch::{
    ELEMENTWISE, KernelArg, THREADS, at, elementwise, floats, int, long, named, run, size, sizes, threads, width,
};
use crate::view::{Outcome, TensorArgs, n};

/// Vectors of a row of a norm that a thread holds, as in `common.cu`.
const HELD: usize = 3;
/// Rows of a part, as in `embed.cu`.
const PART: usize = 16;
/// Blocks whose sums are added in the end: a few for each of a large device's processors.
const PARTS: usize = 1056;

/// Threads for rows of a norm, by x and y: a warp a row, four at once, where that holds a row.
fn norm_threads(vectors: usize) -> [usize; 2] {
    let across = threads(vectors.div_ceil(HELD));
    [across, if across == 32 { 4 } else { 1 }]
}

/// Whether a kernel here runs an op: weights and activations are of one format, and rows of norms not too long.
pub fn runs(op: &Op, x: &TensorArgs) -> Outcome<bool> {
    let signature = op.signature();
    let floats: Vec<usize> = (0..x.len()).filter(|&i| signature[i].takes == DtypeClass::Float).collect();
    if !x.is_cuda() || floats.iter().any(|&i| x.kind(i) != x.kind(floats[0])) {
        return Ok(false);
    }
    Ok(match *op {
        Op::Norm { cols, .. } | Op::NormGrad { cols, .. } => {
            let tensors = floats.iter().map(|&i| x.flat(i)).collect::<Outcome<Vec<_>>>()?;
            let width = width(x.kind(floats[0]), &[cols], &tensors.iter().collect::<Vec<_>>());
            cols.div_ceil(width) <= THREADS * HELD
        }
        Op::BiasGrad { .. } | Op::Rope { .. } | Op::LossStats { .. } | Op::Loss { .. } | Op::AdamW { .. } => true,
        Op::Activation { kind, .. } | Op::ActivationGrad { kind, .. } => kind == ActivationKind::SwiGlu,
        Op::Embed { .. } | Op::EmbedGrad { .. } => true,
        Op::Add { .. } => true,
        _ => false,
    })
}

/// LayerNorm or RMSNorm of `[x, gain, bias]`, of which RMSNorm has no bias, to `[y, stats]`.
pub fn norm(kind: NormKind, x: &[Tensor], [y, stats]: [&Tensor; 2], eps: f64) -> Outcome {
    let [rows, cols] = sizes(&x[0]);
    let elems = y.kind();
    let width = width(elems, &[cols], &[&x[0], &x[1], &x[x.len() - 1], y]);
    let threads = norm_threads(cols.div_ceil(width));
    let mut values = vec![int(rows), int(cols), KernelArg::Float(eps as f32)];
    values.extend(x.iter().map(at).chain([at(y), at(stats)]));
    let name = if kind == NormKind::Layer { "layer_norm" } else { "rms_norm" };
    run(elems, &named(name, width), [rows.div_ceil(threads[1]), 1], threads, &mut values)
}

/// Its gradient from `[x, gain, stats, dy]` into dx, added if it accumulates, and added to those of gain and bias.
pub fn norm_grad(kind: NormKind, given: [&Tensor; 4], dx: &Tensor, accumulate: bool, sums: &[Tensor]) -> Outcome {
    let [x, gain, stats, dy] = given;
    let [rows, cols] = sizes(x);
    let elems = dx.kind();
    let width = width(elems, &[cols], &[x, gain, dy, dx]);
    let threads = norm_threads(cols.div_ceil(width));
    let blocks = rows.div_ceil(threads[1]).min(PARTS / threads[1] * 2);
    let parts = floats(blocks * sums.len() * cols, dx)?;
    let mut values = vec![int(rows), int(cols), KernelArg::Int(accumulate.into())];
    values.extend([x, gain, stats, dy, dx, &parts].map(at));
    let name = if kind == NormKind::Layer { "layer_norm_grad" } else { "rms_norm_grad" };
    run(elems, &named(name, width), [blocks, 1], threads, &mut values)?;
    add_parts(&parts, blocks, cols, sums)
}

/// Adds the sums of columns of `[blocks, sums.len() · cols]`.
fn add_parts(parts: &Tensor, blocks: usize, cols: usize, sums: &[Tensor]) -> Outcome {
    let more = &sums[sums.len() - 1];
    let mut values = [int(blocks), int(sums.len() * cols), int(cols), at(parts), at(&sums[0]), at(more)];
    run(Kind::Float, "add_parts", [cols.div_ceil(32), sums.len()], [32, 16], &mut values)
}

/// `sums += Σ_r x[r]`.
pub fn add_column_sums(sums: Tensor, x: &Tensor) -> Outcome {
    let [rows, cols] = sizes(x);
    let width = width(x.kind(), &[cols], &[x]);
    let across = cols.div_ceil(32 * width);
    let blocks = PARTS.div_ceil(across).min(rows.div_ceil(8));
    let parts = floats(blocks * cols, x)?;
    let mut values = [int(rows), int(cols), at(x), at(&parts)];
    run(x.kind(), &named("column_sums", width), [across, blocks], [32, 8], &mut values)?;
    add_parts(&parts, blocks, cols, &[sums])
}

/// `out = a + b (+ bias)`.
pub fn add([a, b, out]: [&Tensor; 3], bias: Option<&Tensor>) -> Outcome {
    let [rows, cols] = sizes(out);
    let width = width(out.kind(), &[cols], &[a, b, out, bias.unwrap_or(a)]);
    let bias = bias.map_or(KernelArg::Address(std::ptr::null_mut()), at);
    elementwise(out.kind(), "add", [rows, cols], width, &mut [int(cols), at(a), at(b), bias, at(out)])
}

/// SwiGLU of `[rows, gate | up]`.
pub fn swiglu(u: &Tensor, out: &Tensor) -> Outcome {
    let [rows, cols] = sizes(out);
    let width = width(out.kind(), &[cols], &[u, out]);
    elementwise(out.kind(), "swiglu", [rows, cols], width, &mut [int(cols), at(u), at(out)])
}

/// Its gradient.
pub fn swiglu_grad(u: &Tensor, dout: &Tensor, du: &Tensor) -> Outcome {
    let [rows, cols] = sizes(dout);
    let width = width(du.kind(), &[cols], &[u, dout, du]);
    elementwise(du.kind(), "swiglu_grad", [rows, cols], width, &mut [int(cols), at(u), at(dout), at(du)])
}

/// Turns heads `[rows, heads, head width]` of packed rows by `[rows, 1, head width / 2]`, which come again every `seq` rows.
pub fn rope(heads: &Tensor, seq: usize, [cos, sin]: &[Tensor; 2], inverse: bool) -> Outcome {
    let [rows, count, head] = size(heads).try_into().expect("three axes");
    let (stride, half) = (heads.stride()[0] as usize, head / 2);
    let width = width(heads.kind(), &[half, stride], &[heads]);
    let sign = KernelArg::Float(if inverse { -1.0 } else { 1.0 });
    let mut values = [int(seq), int(stride), int(count), int(half), sign, at(heads), at(cos), at(sin)];
    run(heads.kind(), &named("rope", width), [rows, 1], [threads(count * half / width), 1], &mut values)
}

/// Rows of a table that begins with the id `first`, zeros for other ids.
pub fn embed(ids: &Tensor, table: &Tensor, first: usize, out: &Tensor) -> Outcome {
    let ([rows, cols], [vocab, _]) = (sizes(out), sizes(table));
    let width = width(out.kind(), &[cols], &[table, out]);
    let mut values = [int(cols), int(vocab), int(first), at(ids), at(table), at(out)];
    elementwise(out.kind(), "embed", [rows, cols], width, &mut values)
}

/// Adds rows to those of a table in fp32 that begins with the id `first`.
pub fn embed_grad(ids: &Tensor, dy: &Tensor, first: usize, table: &Tensor) -> Outcome {
    let ([rows, cols], [vocab, _]) = (sizes(dy), sizes(table));
    let (sorted, order) = ids.f_sort_stable(true, 0, false)?;
    let width = width(dy.kind(), &[cols], &[dy, table]);
    let parts = rows.div_ceil(PART);
    let heads = floats(parts * cols, dy)?;
    let threads = threads(cols.div_ceil(width)).min(ELEMENTWISE);
    let dims = [int(rows), int(cols), int(vocab), int(first), at(&sorted)];
    let mut values = dims.to_vec();
    values.extend([&order, dy, &heads, table].map(at));
    let tiles = cols.div_ceil(width * threads);
    run(dy.kind(), &named("embed_grad", width), [parts, tiles], [threads, 1], &mut values)?;
    let mut values = dims.to_vec();
    values.extend([&heads, table].map(at));
    run(dy.kind(), "embed_heads", [parts, cols.div_ceil(ELEMENTWISE)], [ELEMENTWISE, 1], &mut values)
}

/// `to = from`, of heads `[batch, heads, tokens, width]`. False if either lies otherwise than in rows of a token each.
pub fn copy_heads(to: &Tensor, from: &Tensor) -> Outcome<bool> {
    let [batch, heads, tokens, head] = size(to).try_into().expect("four axes");
    let in_rows = |tensor: &Tensor| {
        let stride = tensor.stride();
        let dense = stride[3] == 1 && stride[1] == n(head) && stride[0] == n(tokens) * stride[2];
        (dense && tensor.kind() == to.kind()).then_some(stride[2] as usize)
    };
    let (Some(to_stride), Some(from_stride)) = (in_rows(to), in_rows(from)) else { return Ok(false) };
    let (rows, cols) = (batch * tokens, heads * head);
    let width = width(to.kind(), &[cols, to_stride, from_stride], &[to, from]);
    let mut values = [int(cols), at(from), long(from_stride), at(to), long(to_stride)];
    elementwise(to.kind(), "copy_rows", [rows, cols], width, &mut values).map(|()| true)
}

/// Each row's greatest logit, Σ exp(x − greatest) and target's logit.
pub fn loss_stats(logits: &Tensor, targets: &Tensor, shard: VocabShard, stats: &Tensor) -> Outcome {
    let ([rows, _], VocabShard { vocab, first, own }) = (sizes(logits), shard);
    let width = width(logits.kind(), &[vocab], &[logits]);
    let mut values = [int(rows), int(vocab), int(own), int(first), at(logits), at(targets), at(stats)];
    run(logits.kind(), &named("loss_stats", width), [rows, 1], [threads(vocab.div_ceil(width)), 1], &mut values)
}

/// Logits become their gradient, by `scale` and a number on the device; the loss is added to `sum`, by `scale`.
pub fn loss(
    [targets, stats, logits, sum]: [&Tensor; 4],
    shards: usize,
    VocabShard { vocab, first, own }: VocabShard,
    scale: f64,
    loss_scale: &Tensor,
) -> Outcome {
    let [rows, _] = sizes(logits);
    let width = width(logits.kind(), &[vocab], &[logits]);
    let (losses, scale) = (floats(rows, logits)?, KernelArg::Float(scale as f32));
    let mut values = vec![int(rows), int(vocab), int(own), int(shards), int(first), scale];
    values.extend([loss_scale, targets, stats, logits, &losses].map(at));
    run(logits.kind(), &named("loss", width), [rows, 1], [threads(vocab.div_ceil(width)), 1], &mut values)?;
    run(Kind::Float, "add_losses", [1, 1], [THREADS, 1], &mut [int(rows), scale, at(&losses), at(sum)])
}

/// What AdamW is told that does not change from step to step.
pub struct Fixed {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    pub clip: f32,
}

/// AdamW of `[g, w, m, v]`, of which the first `decayed` decay, with what changes in `settings`, as `adamw.cu` has it; `copy`
/// gets the weights rounded.
pub fn adamw(
    [square, settings]: [&Tensor; 2],
    [g, w, m, v]: [&Tensor; 4],
    decayed: usize,
    fixed: &Fixed,
    copy: Option<&Tensor>,
) -> Outcome {
    let elems = g.numel();
    let kind = copy.map_or(Kind::Float, Tensor::kind);
    let width = width(Kind::Float, &[elems], &[g, w, m, v, copy.unwrap_or(g)]);
    let Fixed { beta1, beta2, eps, weight_decay, clip } = *fixed;
    let mut values = vec![long(elems), long(decayed), KernelArg::Five([beta1, beta2, eps, weight_decay, clip])];
    values.extend([settings, square, g, w, m, v].map(at));
    values.push(copy.map_or(KernelArg::Address(std::ptr::null_mut()), at));
    let blocks = elems.div_ceil(width * ELEMENTWISE).min(4 * PARTS);
    run(kind, &named("adamw", width), [blocks, 1], [ELEMENTWISE, 1], &mut values)
}
