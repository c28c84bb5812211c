//! Each op as calls of kernels.
//!
//! In: an op and its regions, checked. Out: recorded calls.
//!
//! Invariant: what does not stand in the table runs by the reference; what takes several calls stands in `parts.rs`.

use meshwright_hardware::mesh::Coord;
use meshwright_hardware::op::{ActivationKind, AttentionDims, LatentDims, NormKind, Op};

use super::dispatch::KernelCall;
use super::memory::{GpuBuffer, Slice};
use super::pipeline::{self as kernels, Kernel};
use super::{Region, StepArgs, Wgpu};
use crate::device::check::shard;
use crate::kernels::VocabShard;

/// Threads of a workgroup, but for attention's.
pub(super) const WIDTH: usize = 256;
/// Tokens of attention's tile, and columns of a chunk of a head.
pub(super) const CHUNK: usize = 32;
/// Chunks that attention's kernels can hold.
const MOST_CHUNKS: usize = 8;

pub(super) fn call(kernel: Kernel, args: &[&Slice], dims: &[usize], groups: usize) -> KernelCall {
    let args = args.iter().map(|&arg| arg.clone()).collect();
    KernelCall { kernel, args, dims: dims.to_vec(), numbers: Vec::new(), groups, constants: Vec::new() }
}

/// A thread each of `dims[0]` elements.
pub(super) fn each(kernel: Kernel, args: &[&Slice], dims: &[usize]) -> KernelCall {
    call(kernel, args, dims, dims[0].div_ceil(WIDTH))
}

impl Wgpu {
    /// The table of kernels: records `op` on regions that passed [`crate::device::check::check`]; false if there is none.
    pub(super) fn record_op(
        &mut self,
        op: &Op,
        regions: &[Region],
        at: Coord,
        step: &StepArgs,
    ) -> Result<bool, String> {
        let args = regions.iter().map(|&region| self.slice(region)).collect::<Result<Vec<_>, _>>()?;
        let x = &args[..];
        let last = x.len() - 1;
        let recorded = match *op {
            Op::Embed { rows, cols, vocab, shards } => {
                let first = shard(shards, at.tp) * vocab;
                self.record(each(kernels::EMBEDDING, &[&x[0], &x[1], &x[2]], &[rows * cols, cols, vocab, first]))
            }
            Op::EmbedGrad { rows, cols, vocab, shards } => {
                self.embed_grad([rows, cols, vocab], shard(shards, at.tp) * vocab, x)
            }
            Op::Positions { rows, seq, cols, sp, cp } => {
                let dims = [rows * cols, cols, seq, shard(sp, at.tp) * rows, cp, at.cp];
                self.record(each(kernels::POSITIONS, &[&x[0], &x[1]], &dims))
            }
            Op::PositionsGrad { rows, seq, cols, sp, cp } => {
                let dims = [rows, cols, seq, shard(sp, at.tp) * rows, cp, at.cp];
                let groups = (seq * cols).div_ceil(WIDTH);
                self.record(call(kernels::POSITIONS_GRAD, &[&x[0], &x[1]], &dims, groups))
            }
            Op::Norm { kind, rows, cols } => {
                let layer = usize::from(kind == NormKind::Layer);
                let bias = if layer == 1 { &x[2] } else { &x[1] };
                let args = [&x[0], &x[1], bias, &x[last - 1], &x[last]];
                self.record(call(kernels::NORMALISE, &args, &[rows, cols, layer], rows))
            }
            Op::NormGrad { kind, rows, cols, accumulate } => self.norm_grad(kind, rows, cols, accumulate, x),
            Op::Matmul { layout, m, n, k, bias, accumulate } => {
                self.matmul(layout, [m, n, k], &x[0], &x[1], bias.then(|| &x[2]), accumulate, &x[last])
            }
            Op::BiasGrad { rows, cols } => self.bias_grad(rows, cols, x),
            Op::Rope { rows, seq, stride, heads, head_dim, theta, cp, inverse } => {
                let positions = if cp == 1 { seq.min(rows) } else { seq * cp };
                let (half, table) = (head_dim / 2, self.turns(positions, head_dim, theta)?);
                let dims = [rows * heads * half, seq, stride, heads, half, cp, at.cp];
                let turn = each(kernels::ROPE, &[&x[0], &table], &dims);
                self.record(KernelCall { numbers: vec![if inverse { -1.0 } else { 1.0 }], ..turn })
            }
            Op::Attention(dims) => {
                let groups = dims.batch * dims.heads * dims.seq.div_ceil(CHUNK);
                self.attend(kernels::ATTENTION, &[&x[0], &x[1], &x[2]], &dims, groups)
            }
            Op::AttentionGrad(dims) => self.attention_grad(&dims, x),
            Op::Activation { kind, rows, cols } => {
                let kernel = match kind {
                    ActivationKind::Gelu => kernels::GELU,
                    ActivationKind::SwiGlu => kernels::SWIGLU,
                };
                self.record(each(kernel, &[&x[0], &x[1]], &[rows * cols, cols]))
            }
            Op::ActivationGrad { kind, rows, cols } => {
                let kernel = match kind {
                    ActivationKind::Gelu => kernels::GELU_GRAD,
                    ActivationKind::SwiGlu => kernels::SWIGLU_GRAD,
                };
                self.record(each(kernel, &[&x[0], &x[1], &x[2]], &[rows * cols, cols]))
            }
            Op::Add { rows, cols, bias } => {
                let dims = [rows * cols, if bias { cols } else { 0 }];
                self.record(each(kernels::ADD, &[&x[0], &x[1], &x[last], &x[2]], &dims))
            }
            Op::LossStats { rows, vocab, words, shards } => {
                let VocabShard { first, own, .. } = VocabShard::of(vocab, words, shard(shards, at.tp));
                let dims = [rows, vocab, first, own];
                self.record(call(kernels::LOSS_STATS, &[&x[0], &x[1], &x[2]], &dims, rows))
            }
            Op::Loss { rows, vocab, words, shards, scale } => {
                let VocabShard { first, own, .. } = VocabShard::of(vocab, words, shard(shards, at.tp));
                let dims = [rows, vocab, first, shards, own];
                self.loss(dims, [scale, scale * step.loss_scale], x)
            }
            Op::ExpertMatmul { layout, experts, sources, m, n, k, accumulate } => {
                self.expert_matmul(layout, [experts, sources], [m, n, k], accumulate, regions)
            }
            Op::Route { rows, experts, top_k, capacity } => self.route([rows, experts, top_k, capacity], x),
            Op::RouteGrad { rows, experts, top_k, balance, .. } => {
                self.route_grad([rows, experts, top_k], balance * step.loss_scale, x)
            }
            Op::Dispatch { rows, cols, top_k, slots } => self.dispatch([rows, cols, top_k, slots], x),
            Op::DispatchGrad { rows, cols, top_k, accumulate, .. } => {
                let dims = [rows * cols, cols, top_k, usize::from(accumulate)];
                self.record(each(kernels::DISPATCH_GRAD, &[&x[0], &x[1], &x[2]], &dims))
            }
            Op::Combine { rows, cols, top_k, .. } => {
                self.record(each(kernels::COMBINE, &[&x[1], &x[0], &x[2], &x[3]], &[rows * cols, cols, top_k]))
            }
            Op::CombineGrad { rows, cols, top_k, slots } => self.combine_grad([rows, cols, top_k, slots], x),
            Op::ContextAttention(dims) => self.context_forward(&dims, at, x),
            Op::ContextAttentionGrad(dims) => self.context_grad(&dims, at, x),
            Op::LatentPack(dims) => self.latent(kernels::LATENT_PACK, &dims, at, x),
            Op::LatentPackGrad(dims) => self.latent(kernels::LATENT_GRAD, &dims, at, x),
            Op::Columns { rows, stride, first, cols, into } => {
                let dims = [rows * cols, cols, stride, first, usize::from(into)];
                self.record(each(kernels::COLUMNS, &[&x[0], &x[1]], &dims))
            }
            Op::Copy { n } => self.record(each(kernels::COPY, &[&x[0], &x[1]], &[n])),
            Op::Zero { n } => self.record(each(kernels::ZERO, &[&x[0]], &[n])),
            Op::Accumulate { n } => self.record(each(kernels::ACCUMULATE, &[&x[0], &x[1]], &[n])),
            Op::SquaredNorm { n, whole, copies, replicas, shards, axis } => {
                let whole = whole.saturating_sub(shard(shards, at.on(axis)) * n).min(n);
                self.squared_norm(n, whole, [copies, replicas], x)
            }
            Op::AdamW { n, decayed, shards, axis, master } => {
                let decayed = decayed.saturating_sub(shard(shards, at.on(axis)) * n).min(n);
                let args = [&x[0], &x[1], &x[2], &x[3], &x[4], &x[last]];
                let update = each(kernels::ADAMW, &args, &[n, decayed, usize::from(master)]);
                self.record(KernelCall { numbers: numbers(step), ..update })
            }
            #[allow(unreachable_patterns)] // while it has all
            _ => return Ok(false),
        };
        recorded.map(|()| true)
    }

    /// Records one of attention's kernels.
    pub(super) fn attend(
        &mut self,
        kernel: Kernel,
        args: &[&Slice],
        d: &AttentionDims,
        groups: usize,
    ) -> Result<(), String> {
        let chunks = d.head_dim.div_ceil(CHUNK);
        if chunks > MOST_CHUNKS {
            let most = MOST_CHUNKS * CHUNK;
            return Err(format!("attention's heads are {} wide, {most} at most run on this device", d.head_dim));
        }
        let tiles = d.seq.div_ceil(CHUNK);
        let (causal, lines) = (usize::from(d.causal), d.rows() * d.heads);
        let dims = [d.batch, d.seq, d.heads, d.kv_heads, d.head_dim, causal, tiles, 0, lines];
        let numbers = vec![1.0 / (d.head_dim as f32).sqrt()];
        self.record(KernelCall { numbers, constants: vec![("CHUNKS", chunks)], ..call(kernel, args, &dims, groups) })
    }

    /// Cosines and sines, `[positions, 2, head_dim / 2]`, computed where they are exact: on the host.
    fn turns(&mut self, positions: usize, head_dim: usize, theta: f32) -> Result<Slice, String> {
        let half = head_dim / 2;
        let key = (positions, half, theta.to_bits());
        if !self.turns.contains_key(&key) {
            let frequency = |i: usize| f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64) as f32;
            let frequencies: Vec<f32> = (0..half).map(frequency).collect();
            let mut table = Vec::with_capacity(positions * head_dim);
            for position in 0..positions {
                let angles = frequencies.iter().map(|frequency| position as f32 * frequency);
                table.extend(angles.clone().map(f32::cos));
                table.extend(angles.map(f32::sin));
            }
            let memory = GpuBuffer::zeroed(&self.gpu, table.len(), "the table of rotary positions")?;
            self.gpu.write(&memory.slice(0, table.len()).expect("it is as long"), &table)?;
            self.turns.insert(key, memory);
        }
        Ok(self.turns[&key].slice(0, positions * head_dim).expect("it is as long"))
    }

    /// Records the packing of latent attention's rows, or its gradient.
    fn latent(&mut self, kernel: Kernel, d: &LatentDims, at: Coord, x: &[Slice]) -> Result<(), String> {
        let table = self.turns(d.seq * d.cp, d.rope, d.theta)?;
        let dims = [d.rows * d.heads * d.width(), d.seq, d.heads, d.nope, d.rope, d.value, d.cp, at.cp];
        self.record(each(kernel, &[&x[0], &x[1], &x[2], &x[3], &table], &dims))
    }
}

/// The optimizer's settings as its kernel takes them.
fn numbers(step: &StepArgs) -> Vec<f32> {
    let h = &step.adamw;
    let (rate, root_bias, kept) = (-h.lr / h.bias1, 1.0 / h.bias2.sqrt(), 1.0 - h.lr * h.weight_decay);
    debug_assert_eq!(h.grad_scale, 1.0, "as `StepArgs` says");
    vec![1.0 / step.loss_scale, step.clip, h.beta1, h.beta2, rate, root_bias, h.eps, kept]
}
