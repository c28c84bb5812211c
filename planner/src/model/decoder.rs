//! Transformers, sharded over tensor parallelism as Megatron-LM does (Shoeybi et al. 2019): attention by heads,
//! feed-forward by columns then rows, embedding and head by vocabulary; with sequence parallelism, tokens between them
//! (Korthikanti et al. 2022).
//!
//! In: a [`Model`] and what of it a rank holds ([`Local`]). Out: the tapes of embedding, layer and head.
//!
//! Forward layer: norm, qkv, (rope), attention, out, residual; norm, feed-forward part or experts, residual. In a parallel
//! block both halves start from one norm (Wang & Komatsuzaki 2021).

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{AttentionDims, ContextDims, Op};
use meshwright_hardware::params::{Init, Shard};

use super::local::Local;
use super::parts::{CHEAP, DEAR, INIT_STD, matrix, normal, table, vector, whole};
use super::tape::{Arg, Home, ParamDecl, RingAttention, Tape, TapeNode};
use crate::job::{Architecture, Experts, LayerKind, Model, ModelHalf};

/// Token ids to the first layer's input; of an encoder-decoder, to those of both halves, from the same tables.
pub fn embed(model: &Model, local: Local) -> Tape {
    let mut tape = Tape::new("embed");
    let tokens = tape.param(table(model, local, "embed.tokens"));
    let positions = model.learned_positions().then(|| {
        let rows = model.position_rows((local.seq * local.cp).max(local.target));
        let positions = matrix("embed.positions", rows, model.hidden, Shard::Whole, normal(INIT_STD / 2.0));
        tape.param(ParamDecl { decay: false, partial: local.sp, ..positions })
    });
    if model.unpriced() > 0 {
        tape.param(whole(local, "embed.unpriced", model.unpriced(), Init::Zeros));
    }
    tape.look_up(model, local, (tokens, positions), ["ids", "x"], Home::Output);
    if local.target > 0 {
        tape.look_up(model, local.of_target(), (tokens, positions), ["ids.y", "y"], Home::SecondOut);
    }
    tape
}

impl Tape {
    /// Rows of the tables of tokens and of positions.
    fn look_up(
        &mut self,
        model: &Model,
        local: Local,
        (tokens, positions): (usize, Option<usize>),
        [ids, x]: [&'static str; 2],
        home: Home,
    ) {
        let (rows, kept, cols) = (local.rows(), local.residual_rows(), model.hidden);
        let ids = self.tensor(ids, rows, Home::Ids);
        let out = self.tensor(x, kept * cols, home);
        let op = Op::Embed { rows, cols, vocab: model.vocab_on(local.tp), shards: local.tp };
        let found = if local.sp { self.tensor("found", rows * cols, DEAR) } else { out };
        self.op(op, [Arg::Tensor(ids), Arg::Param(tokens), Arg::Tensor(found)]);
        let summed = self.leave(local, found);
        if local.sp {
            self.op(Op::Copy { n: kept * cols }, [summed, Arg::Tensor(out)]);
        }
        if let Some(positions) = positions {
            let op = Op::Positions { rows: kept, seq: local.seq, cols, sp: local.sharers(), cp: local.cp };
            self.op(op, [Arg::Param(positions), Arg::Tensor(out)]);
        }
    }
}

/// One transformer layer.
pub fn layer(model: &Model, local: Local, kind: LayerKind) -> Tape {
    let h = model.hidden;
    let mut tape = Tape::new(if kind.experts { "expert layer" } else { "layer" });
    let first = tape.tensor("x", local.residual_rows() * h, Home::Input);
    if kind.half == ModelHalf::Whole {
        let out = tape.tensor("out", local.residual_rows() * h, Home::Output);
        block(&mut tape, model, local, kind, [first, out], None);
        return tape;
    }
    let (ours, theirs) = (local.residual_rows() * h, local.of_target().residual_rows() * h);
    let second = tape.tensor("y", theirs, Home::Second);
    let [out, second_out] = [("out", ours, Home::Output), ("out.y", theirs, Home::SecondOut)]
        .map(|(name, elems, home)| tape.tensor(name, elems, home));
    if kind.half == ModelHalf::Decoder {
        let of_target = Local { causal: true, ..local.of_target() };
        block(&mut tape, model, of_target, kind, [second, second_out], Some((first, local.seq)));
        tape.op(Op::Copy { n: ours }, [first, out].map(Arg::Tensor));
        return tape;
    }
    let local = Local { causal: false, ..local };
    if kind.half == ModelHalf::EncoderEnd {
        let last = tape.tensor("last", ours, DEAR);
        block(&mut tape, model, local, kind, [first, last], None);
        let names = ["encoder.norm.weight", "encoder.norm.bias", "", "encoder.stats"];
        // Apart from what it is copied to: when it is made again, the next piece is done with its own.
        let normed = tape.tensor("encoded", ours, CHEAP);
        tape.norm_to(model, local, names, last, normed);
        tape.op(Op::Copy { n: ours }, [normed, out].map(Arg::Tensor));
    } else {
        block(&mut tape, model, local, kind, [first, out], None);
    }
    tape.op(Op::Copy { n: theirs }, [second, second_out].map(Arg::Tensor));
    tape
}

/// Attention, attention to a memory of so many tokens a sequence where there is one, and feed-forward part, from `x` to `out`.
pub(super) fn block(
    tape: &mut Tape,
    model: &Model,
    local: Local,
    kind: LayerKind,
    [x, out]: [usize; 2],
    memory: Option<(usize, usize)>,
) {
    let (kept, h) = (local.residual_rows(), model.hidden);
    let names = ["attention.norm.weight", "attention.norm.bias", "normed1", "stats1"];
    let normed = tape.norm(model, local, names, x);
    let projected = attention(tape, model, local, kind, normed);
    if model.parallel_block() && !model.biased() {
        let fed = feed_forward(tape, model, local, kind, normed);
        let both = tape.sum("both", model, local, [projected, fed]);
        tape.residual(model, local, [x, both], "", out);
        return;
    }
    let mut middle = tape.tensor("middle", kept * h, DEAR);
    tape.residual(model, local, [x, projected], "attention.out.bias", middle);
    if let Some(memory) = memory {
        middle = tape.cross_attention(model, local, middle, memory);
    }
    let spread = model.experts().filter(|_| kind.experts && local.routes_own());
    if let Some(experts) = spread {
        tape.own_experts(model, local, experts, [middle, out]);
        return;
    }
    let normed = if model.parallel_block() {
        normed
    } else {
        let names = ["mlp.norm.weight", "mlp.norm.bias", "normed2", "stats2"];
        tape.norm(model, local, names, middle)
    };
    let fed = feed_forward(tape, model, local, kind, normed);
    tape.residual(model, local, [middle, fed], "mlp.down.bias", out);
}

impl Tape {
    /// Experts to which each rank of tensor parallelism routes its own tokens; those that every token goes to are shared as ever.
    fn own_experts(&mut self, model: &Model, local: Local, experts: &Experts, [x, out]: [usize; 2]) {
        let (rows, cols) = (local.residual_rows(), model.hidden);
        let names = ["mlp.norm.weight", "mlp.norm.bias", "normed2", "stats2"];
        let own = self.tensor(names[2], rows * cols, CHEAP);
        self.norm_to(model, local, names, x, own);
        let mixed = self.experts(model, local, experts, own);
        if experts.shared_ffn == 0 {
            let bias = model.biased().then(|| self.param(whole(local, "mlp.down.bias", cols, Init::Zeros)));
            let args = [x, mixed].map(Arg::Tensor).into_iter().chain(bias.map(Arg::Param)).chain([Arg::Tensor(out)]);
            let args: Vec<Arg> = args.collect();
            self.op(Op::Add { rows, cols, bias: bias.is_some() }, args);
            return;
        }
        let so_far = self.tensor("with experts", rows * cols, DEAR);
        self.op(Op::Add { rows, cols, bias: false }, [x, mixed, so_far].map(Arg::Tensor));
        let all = self.enter(model, local, own);
        let shared = self.ffn(model, local, SHARED, experts.shared_ffn, all);
        self.residual(model, local, [so_far, shared], "mlp.down.bias", out);
    }
}

/// Names of what experts that every token goes to are made of.
const SHARED: [&str; 3] = ["mlp.shared.up.weight", "mlp.shared.up.bias", "mlp.shared.down.weight"];

/// The feed-forward part of a layer, or its experts.
fn feed_forward(tape: &mut Tape, model: &Model, local: Local, kind: LayerKind, normed: usize) -> usize {
    let (true, Some(experts)) = (kind.experts, model.experts()) else {
        let names = ["mlp.up.weight", "mlp.up.bias", "mlp.down.weight"];
        return tape.ffn(model, local, names, model.ffn, normed);
    };
    let mixed = tape.experts(model, local, experts, normed);
    if experts.shared_ffn == 0 {
        return mixed;
    }
    let shared = tape.ffn(model, local, SHARED, experts.shared_ffn, normed);
    tape.sum("mixed with shared", model, local, [mixed, shared])
}

/// Attention over normed rows, projected; still to be summed over tensor parallelism.
fn attention(tape: &mut Tape, model: &Model, local: Local, kind: LayerKind, normed: usize) -> usize {
    let (rows, h, heads) = (local.rows(), model.hidden, model.heads / local.tp);
    let latent = model.family.as_ref().and_then(|family| family.latent.as_ref());
    let (mixed, value) = match latent {
        Some(latent) => (tape.latent_attention(model, local, latent, normed), latent.value),
        None => (usual_attention(tape, model, local, kind, normed), model.head_dim()),
    };
    let weight = tape.param(matrix("attention.out.weight", h, model.heads * value, Shard::Cols, normal(deep(model))));
    let projected = tape.tensor("projected", rows * h, DEAR);
    tape.linear(mixed, [rows, h, heads * value], weight, None, projected);
    projected
}

/// Attention over packed rows, within a window if there is one.
pub(super) fn attend(
    tape: &mut Tape,
    (dims, window): (AttentionDims, Option<usize>),
    local: Local,
    qkv: usize,
) -> usize {
    let mixed = tape.tensor("mixed", dims.rows() * dims.heads * dims.head_dim, DEAR);
    let lse = tape.tensor("lse", dims.rows() * dims.heads, DEAR);
    // Kernels for ranks that share a sequence are tiled in every stack.
    if local.cp == 1 {
        tape.beside.attends(local, dims.rows() * dims.heads * dims.seq);
    }
    let args = [qkv, mixed, lse];
    match window.filter(|window| *window < dims.seq) {
        _ if local.cp > 1 => context(tape, dims, local, args),
        Some(window) => tape.op(Op::WindowAttention { dims, window }, args.map(Arg::Tensor)),
        None => tape.op(Op::Attention(dims), args.map(Arg::Tensor)),
    }
    mixed
}

/// Rows of a projection to so many of queries and to keys and values, and how ranks share them.
pub(super) fn by_heads(model: &Model, local: Local, queries: usize) -> (usize, Shard) {
    let (kv, copies) = (model.kv_heads * model.head_dim(), model.kv_copies(local.tp));
    let shard = if copies > 1 {
        Shard::Heads { queries, sections: vec![kv; 2], copies }
    } else {
        Shard::Rows { sections: [queries, kv, kv].into_iter().filter(|&rows| rows > 0).collect() }
    };
    (queries + 2 * kv, shard)
}

/// Attention with queries, keys and values straight from the normed rows.
fn usual_attention(tape: &mut Tape, model: &Model, local: Local, kind: LayerKind, normed: usize) -> usize {
    let (rows, h, d) = (local.rows(), model.hidden, model.head_dim());
    let (heads, kv_heads) = (model.heads / local.tp, model.kv_heads_on(local.tp));
    let (wide, shard) = by_heads(model, local, model.heads * d);
    let weight = tape.param(matrix("attention.qkv.weight", wide, h, shard.clone(), normal(INIT_STD)));
    let bias = model.biased().then(|| tape.param(vector("attention.qkv.bias", wide, shard, Init::Zeros)));
    let ((batch, seq), causal) = (local.attended(), local.causal);
    let dims = AttentionDims { batch, seq, heads, kv_heads, head_dim: d, causal };
    let qkv = tape.tensor("qkv", rows * dims.qkv_cols(), DEAR);
    tape.linear(normed, [rows, dims.qkv_cols(), h], weight, bias, qkv);
    if !model.learned_positions() && model.architecture == Architecture::Llama {
        let (stride, theta, cp) = (dims.qkv_cols(), model.rope_theta, local.cp);
        let turned = heads + kv_heads;
        let op = Op::Rope { rows, seq, stride, heads: turned, head_dim: d, theta, cp, inverse: false };
        tape.op(op, [Arg::Tensor(qkv)]);
    }
    attend(tape, (dims, model.window_of(kind)), local, qkv)
}

/// Attention whose keys and values are spread over context parallelism: gathered (Llama Team 2024), or round a ring.
fn context(tape: &mut Tape, dims: AttentionDims, local: Local, [qkv, out, lse]: [usize; 3]) {
    let AttentionDims { batch, seq, heads, kv_heads, head_dim, causal } = dims;
    let blocks = if local.ring { 1 } else { local.cp };
    let (stride, cp) = (dims.qkv_cols(), local.cp);
    let dims = ContextDims { batch, seq, keys: seq, heads, kv_heads, head_dim, stride, causal, cp, blocks, hop: 0 };
    let first = tape.tensor("kv", dims.kv_elems(), Home::Gathered);
    if local.ring {
        let second = tape.tensor("kv.next", dims.kv_elems(), Home::Gathered);
        tape.nodes.push(TapeNode::Ring(RingAttention { dims, qkv, kv: [first, second], out, lse }));
        return;
    }
    let (rows, cols) = (dims.rows(), 2 * kv_heads * head_dim);
    let op = Op::Columns { rows, stride, first: heads * head_dim, cols, into: false };
    tape.op(op, [Arg::Tensor(qkv), Arg::Part(first, Axis::Cp)]);
    tape.nodes.push(TapeNode::Gather(first, Axis::Cp));
    tape.op(Op::ContextAttention(dims), [qkv, first, out, lse].map(Arg::Tensor));
}

/// Spread of the projections into the residual stream: 0.02 / √(2 · layers) (Radford et al. 2019, §2.3).
pub(super) fn deep(model: &Model) -> f32 {
    INIT_STD / (2.0 * model.layers as f32).sqrt()
}
