//! Ops by the fused kernels of [`crate::kernels`].
//!
//! In: an op and its arguments, checked. Out: the arguments written.
//!
//! Invariant: what stands in no table here runs by the reference.

use meshwright_hardware::mesh::Coord;
use meshwright_hardware::op::{NormKind, Op, position};

use super::super::check::shard;
use super::StepArgs;
use crate::kernels::{self, Floats, FloatsMut, Half, Team, VocabShard};

/// Where an argument lies, how many elements it has, and their format, if they are of two bytes.
#[derive(Clone, Copy)]
pub(super) struct RawArg {
    pub start: *mut u8,
    pub elems: usize,
    pub half: Option<Half>,
}

impl RawArg {
    pub fn words_of(words: &mut [f32]) -> RawArg {
        RawArg { start: words.as_mut_ptr().cast(), elems: words.len(), half: None }
    }

    /// Bytes of an element.
    pub fn width(self) -> usize {
        if self.half.is_some() { 2 } else { 4 }
    }

    /// A part, which must be inside.
    pub fn part(self, first: usize, elems: usize) -> RawArg {
        assert!(first + elems <= self.elems);
        // SAFETY: inside, as just checked.
        RawArg { start: unsafe { self.start.add(first * self.width()) }, elems, ..self }
    }

    /// # Safety
    /// As of a reference to what is there, for as long.
    unsafe fn words<'a>(self) -> &'a mut [f32] {
        assert!(self.half.is_none(), "elements of two bytes where four are due");
        // SAFETY: by contract; starts are aligned.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.elems) }
    }

    /// # Safety
    /// As of a reference to what is there, for as long.
    pub unsafe fn halves<'a>(self) -> &'a mut [u16] {
        assert!(self.half.is_some(), "elements of four bytes where two are due");
        // SAFETY: by contract; starts are aligned.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.elems) }
    }
}

/// Arguments that passed [`check`]: each is asked for once, as read or written as the op's signature says, except
/// that an addition in place asks only for one of the two that are the same.
pub(super) struct RawArgs(pub Vec<RawArg>);

impl RawArgs {
    /// Elements of four bytes.
    pub fn read(&self, i: usize) -> &[f32] {
        // SAFETY: in bounds, and nothing that is written overlaps it.
        unsafe { self.0[i].words() }
    }

    #[allow(clippy::mut_from_ref)] // distinct arguments that are written are disjoint
    pub fn write(&self, i: usize) -> &mut [f32] {
        // SAFETY: in bounds, and no other argument overlaps it.
        unsafe { self.0[i].words() }
    }

    /// Elements of any width.
    pub fn floats(&self, i: usize) -> Floats<'_> {
        match self.0[i].half {
            None => Floats::Full(self.read(i)),
            // SAFETY: as `read`.
            Some(half) => Floats::Half(half, unsafe { self.0[i].halves() }),
        }
    }

    pub fn floats_mut(&self, i: usize) -> FloatsMut<'_> {
        match self.0[i].half {
            None => FloatsMut::Full(self.write(i)),
            // SAFETY: as `write`.
            Some(half) => FloatsMut::Half(half, unsafe { self.0[i].halves() }),
        }
    }
}

/// The residual written over one of its operands.
pub(super) fn add_in_place(team: &Team, rows: usize, cols: usize, bias: bool, operand: usize, args: &RawArgs) {
    let sum = args.write(operand);
    kernels::accumulate(team, args.read(1 - operand), sum);
    if bias {
        // A table of one position: the same row added to all.
        kernels::add_positions(team, rows, cols, |_| 0, args.read(2), sum);
    }
}

/// Whether [`run_kernel`] takes these elements as they are.
pub(super) fn is_native(op: &Op, args: &RawArgs) -> bool {
    let halves: Vec<Option<Half>> = args.0.iter().map(|arg| arg.half).collect();
    if halves.iter().all(Option::is_none) {
        return true;
    }
    match op {
        Op::Copy { .. } => halves[0] == halves[1],
        Op::Embed { .. } => halves[1] == halves[2],
        Op::Matmul { .. } | Op::ExpertMatmul { .. } | Op::LossStats { .. } | Op::Loss { .. } => true,
        Op::Zero { .. } | Op::AdamW { .. } => true,
        _ => false,
    }
}

/// The table of kernels, arguments in the order of the signature; false, and nothing done, if there is none for an op.
pub(super) fn run_kernel(team: &Team, op: &Op, args: &RawArgs, at: Coord, step: &StepArgs) -> bool {
    match *op {
        Op::Embed { rows, cols, vocab, shards } => {
            let first = shard(shards, at.tp) * vocab;
            match (args.floats(1), args.floats_mut(2)) {
                (Floats::Half(_, table), FloatsMut::Half(_, out)) => {
                    kernels::embed(team, rows, cols, first, vocab, args.read(0), table, out);
                }
                _ => kernels::embed(team, rows, cols, first, vocab, args.read(0), args.read(1), args.write(2)),
            }
        }
        Op::EmbedGrad { rows, cols, vocab, shards } => {
            let first = shard(shards, at.tp) * vocab;
            kernels::embed_grad(team, rows, cols, first, vocab, args.read(0), args.read(1), args.write(2));
        }
        Op::Positions { rows, seq, cols, sp, cp } => {
            let place = |row| position((shard(sp, at.tp) * rows + row) % seq, seq, cp, at.cp);
            kernels::add_positions(team, rows, cols, place, args.read(0), args.write(1));
        }
        Op::PositionsGrad { rows, seq, cols, sp, cp } => {
            let place = |row| position((shard(sp, at.tp) * rows + row) % seq, seq, cp, at.cp);
            kernels::positions_grad(team, rows, cols, place, args.read(0), args.write(1));
        }
        Op::Norm { kind, rows, cols } => {
            let bias = usize::from(kind == NormKind::Layer);
            let (x, gain, shift) = (args.read(0), args.read(1), (bias == 1).then(|| args.read(2)));
            kernels::norm(team, kind, rows, cols, x, gain, shift, args.write(2 + bias), args.write(3 + bias));
        }
        Op::NormGrad { kind, rows, cols, accumulate } => {
            let [x, gain, stats, dy] = [0, 1, 2, 3].map(|i| args.read(i));
            let dbias = (kind == NormKind::Layer).then(|| args.write(6));
            let (dx, dgain) = (args.write(4), args.write(5));
            kernels::norm_grad(team, kind, rows, cols, accumulate, x, gain, stats, dy, dx, dgain, dbias);
        }
        Op::Matmul { layout, m, n, k, bias, accumulate } => {
            let (a, b, shift) = (args.floats(0), args.floats(1), bias.then(|| args.floats(2)));
            kernels::matmul(team, layout, m, n, k, a, b, shift, accumulate, args.floats_mut(2 + usize::from(bias)));
        }
        Op::ExpertMatmul { layout, experts, sources, m, n, k, accumulate } => {
            let (a, b, c) = (args.floats(0), args.floats(1), args.floats_mut(2));
            kernels::expert_matmul(team, layout, [experts, sources], [m, n, k], accumulate, a, b, c);
        }
        Op::Route { rows, experts, top_k, capacity } => {
            let (probs, shares, slots) = (args.write(1), args.write(2), args.write(3));
            kernels::route([rows, experts, top_k, capacity], args.read(0), probs, shares, slots);
        }
        Op::RouteGrad { rows, experts, top_k, balance, .. } => {
            kernels::route_grad(
                [rows, experts, top_k],
                balance * step.loss_scale,
                args.read(0),
                args.read(1),
                args.write(2),
            );
        }
        Op::Dispatch { cols, top_k, .. } => {
            kernels::dispatch(team, cols, top_k, args.read(0), args.read(1), args.write(2));
        }
        Op::DispatchGrad { cols, top_k, accumulate, .. } => {
            kernels::dispatch_grad(team, cols, top_k, accumulate, args.read(0), args.read(1), args.write(2));
        }
        Op::Combine { cols, top_k, .. } => {
            kernels::combine(team, cols, top_k, args.read(0), args.read(1), args.read(2), args.write(3));
        }
        Op::CombineGrad { cols, top_k, .. } => {
            let [y, slots, shares, dout] = [0, 1, 2, 3].map(|i| args.read(i));
            kernels::combine_grad(team, cols, top_k, y, slots, shares, dout, args.write(4), args.write(5));
        }
        Op::LatentPack(dims) => {
            let given = [0, 1, 2].map(|i| args.read(i));
            kernels::latent_pack(team, dims, at.cp, given, args.write(3));
        }
        Op::LatentPackGrad(dims) => {
            kernels::latent_pack_grad(team, dims, at.cp, args.read(0), [args.write(1), args.write(2), args.write(3)]);
        }
        Op::Columns { stride, first, cols, into, .. } => {
            let copy = if into { kernels::into_columns } else { kernels::columns };
            copy(team, stride, first, cols, args.read(0), args.write(1));
        }
        Op::ContextAttention(dims) => {
            kernels::context_attention(team, dims, at.cp, args.read(0), args.read(1), args.write(2), args.write(3));
        }
        Op::ContextAttentionGrad(dims) => {
            let [qkv, kv, out, lse, dout] = [0, 1, 2, 3, 4].map(|i| args.read(i));
            let given = kernels::Given { qkv, kv, out, lse, dout };
            kernels::context_attention_grad(team, dims, at.cp, given, args.write(5), args.write(6));
        }
        Op::BiasGrad { rows, cols } => kernels::bias_grad(team, rows, cols, args.read(0), args.write(1)),
        Op::Rope { rows, seq, stride, heads, head_dim, theta, cp, inverse } => {
            let place = |row| position(row, seq, cp, at.cp);
            kernels::rope(team, rows, seq, stride, heads, head_dim, theta, inverse, place, args.write(0));
        }
        Op::Attention(dims) => kernels::attention(team, dims, args.read(0), args.write(1), args.write(2)),
        Op::AttentionGrad(dims) => {
            let [qkv, out, lse, dout] = [0, 1, 2, 3].map(|i| args.read(i));
            kernels::attention_grad(team, dims, qkv, out, lse, dout, args.write(4));
        }
        Op::Activation { kind, rows, cols } => {
            kernels::activation(team, kind, rows, cols, args.read(0), args.write(1));
        }
        Op::ActivationGrad { kind, rows, cols } => {
            kernels::activation_grad(team, kind, rows, cols, args.read(0), args.read(1), args.write(2));
        }
        Op::Add { rows, cols, bias } => {
            let (a, b, shift) = (args.read(0), args.read(1), bias.then(|| args.read(2)));
            kernels::add(team, rows, cols, a, b, shift, args.write(2 + usize::from(bias)));
        }
        Op::LossStats { rows, vocab, words, shards } => {
            let columns = VocabShard::of(vocab, words, shard(shards, at.tp));
            kernels::loss_stats(team, rows, columns, args.floats(0), args.read(1), args.write(2));
        }
        Op::Loss { rows, vocab, words, shards, scale } => {
            let columns = VocabShard::of(vocab, words, shard(shards, at.tp));
            let (targets, stats) = (args.read(0), args.read(1));
            let scales = [scale, scale * step.loss_scale];
            let (logits, sum) = (args.floats_mut(2), args.write(3));
            kernels::loss(team, rows, columns, shards, scales, targets, stats, logits, sum);
        }
        Op::Zero { .. } => match args.floats_mut(0) {
            FloatsMut::Full(x) => kernels::zero(team, x),
            FloatsMut::Half(_, x) => kernels::zero_halves(team, x),
        },
        Op::Copy { .. } => match (args.floats(0), args.floats_mut(1)) {
            (Floats::Half(_, from), FloatsMut::Half(_, to)) => kernels::copy_halves(team, from, to),
            _ => kernels::copy(team, args.read(0), args.write(1)),
        },
        Op::Accumulate { .. } => kernels::accumulate(team, args.read(0), args.write(1)),
        Op::SquaredNorm { n, whole, copies, replicas, shards, axis } => {
            let first = shard(shards, at.on(axis)) * n;
            kernels::squared_norm(team, args.read(0), first, whole, copies, replicas, args.write(1));
        }
        Op::AdamW { n, decayed, shards, axis, master } => {
            let decayed = decayed.saturating_sub(shard(shards, at.on(axis)) * n).min(n);
            let Some(hyper) = step.clipped(args.read(0)[0]) else { return true };
            let (m, v) = (args.write(3), args.write(4));
            if !master {
                kernels::adamw(team, &hyper, decayed, args.read(1), args.write(2), m, v);
                return true;
            }
            let updated = args.write(5);
            kernels::adamw(team, &hyper, decayed, args.read(1), updated, m, v);
            match args.floats_mut(2) {
                FloatsMut::Full(weights) => kernels::copy(team, updated, weights),
                FloatsMut::Half(half, weights) => kernels::narrow_all(team, half, updated, weights),
            }
        }
        #[allow(unreachable_patterns)] // while it has all
        _ => return false,
    }
    true
}
