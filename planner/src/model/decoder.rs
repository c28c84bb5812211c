//! Decoder transformers in their two usual dresses, sharded over tensor parallelism as Megatron-LM does (Shoeybi et al.
//! 2019): attention by heads, feed-forward by columns then rows, embedding and head by vocabulary.
//!
//! In: a [`Model`] and a local [`Shape`]. Out: the tapes of embedding, layer and head.
//!
//! Forward layer: norm, qkv, (rope), attention, out, residual; norm, up, activation, down, residual.

use meshwright_hardware::op::{ActivationKind, AttentionDims, Layout, NormKind, Op};
use meshwright_hardware::params::{Init, Shard};

use super::tape::{Arg, Home, Node, ParamDecl, Tape};
use crate::job::{Dress, Model};

/// Sizes that a plan fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Sequences a microbatch.
    pub microbatch: usize,
    /// Tokens a sequence.
    pub seq: usize,
    /// Ranks of tensor parallelism.
    pub tp: usize,
}

impl Shape {
    /// Tokens a microbatch.
    pub fn rows(&self) -> usize {
        self.microbatch * self.seq
    }
}

/// GPT-2's (Radford et al. 2019, §2.3); LLaMA-style models are trained with it as well.
const INIT_STD: f32 = 0.02;
const CHEAP: Home = Home::Inner { cheap: true };
const DEAR: Home = Home::Inner { cheap: false };

fn normal(std: f32) -> Init {
    Init::Normal { std }
}

fn matrix(name: &'static str, rows: usize, cols: usize, shard: Shard, init: Init) -> ParamDecl {
    ParamDecl { name, rows, cols, shard, decay: true, init, tied: false }
}

fn vector(name: &'static str, n: usize, shard: Shard, init: Init) -> ParamDecl {
    ParamDecl { name, rows: n, cols: 1, shard, decay: false, init, tied: false }
}

fn split(rows: usize) -> Shard {
    Shard::Rows { sections: vec![rows] }
}

fn norm_kind(dress: Dress) -> NormKind {
    match dress {
        Dress::Gpt2 => NormKind::Layer,
        Dress::Llama => NormKind::Rms,
    }
}

impl Tape {
    /// A norm of `x`; the result enters tensor parallelism.
    fn norm(&mut self, model: &Model, shape: Shape, names: [&'static str; 4], x: usize) -> usize {
        let [gain, bias, y, stats] = names;
        let (rows, cols) = (shape.rows(), model.hidden);
        let gain = self.param(vector(gain, cols, Shard::Whole, Init::Ones));
        let mut args = vec![Arg::Tensor(x), Arg::Param(gain)];
        if model.dress == Dress::Gpt2 {
            args.push(Arg::Param(self.param(vector(bias, cols, Shard::Whole, Init::Zeros))));
        }
        let y = self.tensor(y, rows * cols, CHEAP);
        args.extend([Arg::Tensor(y), Arg::Tensor(self.tensor(stats, 2 * rows, DEAR))]);
        self.op(Op::Norm { kind: norm_kind(model.dress), rows, cols }, args);
        if shape.tp > 1 {
            self.nodes.push(Node::Enter(y));
        }
        y
    }

    /// `x [rows, k] · Wᵀ`; with a bias where one is named.
    fn linear(&mut self, x: usize, [rows, n, k]: [usize; 3], weight: usize, bias: Option<usize>, out: usize) {
        let op = Op::Matmul { layout: Layout::Nt, m: rows, n, k, bias: bias.is_some(), accumulate: false };
        let args = [Arg::Tensor(x), Arg::Param(weight)].into_iter().chain(bias.map(Arg::Param));
        self.op(op, args.chain([Arg::Tensor(out)]));
    }

    /// `out = x + y (+ bias)`, after `y` was summed over tensor parallelism.
    fn residual(&mut self, model: &Model, shape: Shape, x: usize, y: usize, bias: &'static str, out: usize) {
        if shape.tp > 1 {
            self.nodes.push(Node::Reduce(y));
        }
        let biased = model.dress == Dress::Gpt2;
        let mut args = vec![Arg::Tensor(x), Arg::Tensor(y)];
        if biased {
            args.push(Arg::Param(self.param(vector(bias, model.hidden, Shard::Whole, Init::Zeros))));
        }
        args.push(Arg::Tensor(out));
        self.op(Op::Add { rows: shape.rows(), cols: model.hidden, bias: biased }, args);
    }
}

/// Token ids to the first layer's input.
pub fn embed(model: &Model, shape: Shape) -> Tape {
    let (rows, cols, vocab) = (shape.rows(), model.hidden, model.vocab / shape.tp);
    let mut tape = Tape::new("embed");
    let ids = tape.tensor("ids", rows, Home::Ids);
    let out = tape.tensor("x", rows * cols, Home::Output);
    let table = tape.param(matrix("embed.tokens", model.vocab, cols, split(model.vocab), normal(INIT_STD)));
    let op = Op::Embed { rows, cols, vocab, shards: shape.tp };
    tape.op(op, [Arg::Tensor(ids), Arg::Param(table), Arg::Tensor(out)]);
    if shape.tp > 1 {
        tape.nodes.push(Node::Reduce(out));
    }
    if model.dress == Dress::Gpt2 {
        let positions = matrix("embed.positions", shape.seq, cols, Shard::Whole, normal(INIT_STD / 2.0));
        let positions = tape.param(ParamDecl { decay: false, ..positions });
        tape.op(Op::Positions { rows, seq: shape.seq, cols }, [Arg::Param(positions), Arg::Tensor(out)]);
    }
    tape
}

/// One transformer layer.
pub fn layer(model: &Model, shape: Shape) -> Tape {
    let (rows, h) = (shape.rows(), model.hidden);
    let mut tape = Tape::new("layer");
    let x = tape.tensor("x", rows * h, Home::Input);
    let middle = attention(&mut tape, model, shape, x);
    let gpt2 = model.dress == Dress::Gpt2;

    let names = ["mlp.norm.weight", "mlp.norm.bias", "normed2", "stats2"];
    let normed = tape.norm(model, shape, names, middle);
    let (kind, sections) = match model.dress {
        Dress::Gpt2 => (ActivationKind::Gelu, vec![model.ffn]),
        Dress::Llama => (ActivationKind::SwiGlu, vec![model.ffn; 2]),
    };
    let (wide, local) = (model.ffn * kind.width(), model.ffn / shape.tp);
    let shard = Shard::Rows { sections };
    let weight = tape.param(matrix("mlp.up.weight", wide, h, shard.clone(), normal(INIT_STD)));
    let bias = gpt2.then(|| tape.param(vector("mlp.up.bias", wide, shard, Init::Zeros)));
    let up = tape.tensor("up", rows * local * kind.width(), DEAR);
    tape.linear(normed, [rows, local * kind.width(), h], weight, bias, up);
    let active = tape.tensor("active", rows * local, CHEAP);
    tape.op(Op::Activation { kind, rows, cols: local }, [Arg::Tensor(up), Arg::Tensor(active)]);
    let weight = tape.param(matrix("mlp.down.weight", h, model.ffn, Shard::Cols, normal(deep(model))));
    let down = tape.tensor("down", rows * h, DEAR);
    tape.linear(active, [rows, h, local], weight, None, down);
    let out = tape.tensor("out", rows * h, Home::Output);
    tape.residual(model, shape, middle, down, "mlp.down.bias", out);
    tape
}

/// The attention half of a layer; its sum with the residual.
fn attention(tape: &mut Tape, model: &Model, shape: Shape, x: usize) -> usize {
    let (rows, h, d) = (shape.rows(), model.hidden, model.head_dim());
    let (heads, kv_heads) = (model.heads / shape.tp, model.kv_heads / shape.tp);
    let names = ["attention.norm.weight", "attention.norm.bias", "normed1", "stats1"];
    let normed = tape.norm(model, shape, names, x);
    let sections = vec![h, model.kv_heads * d, model.kv_heads * d];
    let (wide, shard) = (sections.iter().sum(), Shard::Rows { sections });
    let weight = tape.param(matrix("attention.qkv.weight", wide, h, shard.clone(), normal(INIT_STD)));
    let gpt2 = model.dress == Dress::Gpt2;
    let bias = gpt2.then(|| tape.param(vector("attention.qkv.bias", wide, shard, Init::Zeros)));
    let dims = AttentionDims { batch: shape.microbatch, seq: shape.seq, heads, kv_heads, head_dim: d, causal: true };
    let qkv = tape.tensor("qkv", rows * dims.qkv_cols(), DEAR);
    tape.linear(normed, [rows, dims.qkv_cols(), h], weight, bias, qkv);
    if model.dress == Dress::Llama {
        let (stride, theta) = (dims.qkv_cols(), model.rope_theta);
        let turned = heads + kv_heads;
        let op = Op::Rope { rows, seq: shape.seq, stride, heads: turned, head_dim: d, theta, inverse: false };
        tape.op(op, [Arg::Tensor(qkv)]);
    }
    let mixed = tape.tensor("mixed", rows * heads * d, DEAR);
    let lse = tape.tensor("lse", rows * heads, DEAR);
    tape.op(Op::Attention(dims), [Arg::Tensor(qkv), Arg::Tensor(mixed), Arg::Tensor(lse)]);
    let weight = tape.param(matrix("attention.out.weight", h, h, Shard::Cols, normal(deep(model))));
    let projected = tape.tensor("projected", rows * h, DEAR);
    tape.linear(mixed, [rows, h, heads * d], weight, None, projected);
    let middle = tape.tensor("middle", rows * h, DEAR);
    tape.residual(model, shape, x, projected, "attention.out.bias", middle);
    middle
}

/// Spread of the projections into the residual stream: 0.02 / √(2 · layers) (Radford et al. 2019, §2.3).
fn deep(model: &Model) -> f32 {
    INIT_STD / (2.0 * model.layers as f32).sqrt()
}

/// The last layer's output to the loss; `scale` is one over the tokens of a step.
pub fn head(model: &Model, shape: Shape, scale: f32) -> Tape {
    let (rows, h, vocab) = (shape.rows(), model.hidden, model.vocab / shape.tp);
    let mut tape = Tape::new("head");
    let x = tape.tensor("x", rows * h, Home::Input);
    let targets = tape.tensor("targets", rows, Home::Targets);
    let loss = tape.tensor("loss", 1, Home::Loss);
    let names = ["final.norm.weight", "final.norm.bias", "normed", "stats"];
    let normed = tape.norm(model, shape, names, x);
    let name = if model.tied { "embed.tokens" } else { "head.weight" };
    let weight = matrix(name, model.vocab, h, split(model.vocab), normal(INIT_STD));
    let weight = tape.param(ParamDecl { tied: model.tied, ..weight });
    let logits = tape.tensor("logits", rows * vocab, DEAR);
    tape.linear(normed, [rows, vocab, h], weight, None, logits);
    let stats = tape.tensor("softmax", shape.tp * 3 * rows, DEAR);
    let op = Op::LossStats { rows, vocab, shards: shape.tp };
    let mine = if shape.tp > 1 { Arg::Part(stats) } else { Arg::Tensor(stats) };
    tape.op(op, [Arg::Tensor(logits), Arg::Tensor(targets), mine]);
    if shape.tp > 1 {
        tape.nodes.push(Node::Gather(stats));
    }
    let op = Op::Loss { rows, vocab, shards: shape.tp, scale };
    tape.op(op, [Arg::Tensor(targets), Arg::Tensor(stats), Arg::Tensor(logits), Arg::Tensor(loss)]);
    tape
}
