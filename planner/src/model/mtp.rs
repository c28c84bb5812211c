//! A layer behind the model's last that predicts the token after the next (DeepSeek-AI 2024b, §2.2): it has a loss of its own, by the
//! model's head.
//!
//! In: the head's input, the ids of the next tokens. Out: rows that the head scores once more.
//!
//! It stands in the head's tape, so that its activations are gone with its microbatch's loss. Its table is a copy of the embedding's,
//! as pipelines keep one on their last stage (Megatron Core).
//!
//! Invariant: no tensor of it is kept.

use meshwright_hardware::op::Op;
use meshwright_hardware::params::Shard;

use super::decoder::block;
use super::local::Local;
use super::parts::{CHEAP, DEAR, INIT_STD, matrix, normal, table};
use super::tape::{Arg, ParamDecl, Tape};
use crate::job::Model;

/// Names of the norms of what the model made and of the next token's embedding: gain, bias, result, statistics.
const NORMS: [[&str; 4]; 2] = [
    ["mtp.hidden.norm.weight", "mtp.hidden.norm.bias", "mtp.hidden", "mtp.hidden.stats"],
    ["mtp.token.norm.weight", "mtp.token.norm.bias", "mtp.token", "mtp.token.stats"],
];

impl Tape {
    /// What a layer makes of the head's input `x` and the ids of the next tokens.
    pub(super) fn predict_further(&mut self, model: &Model, local: Local, [x, ids]: [usize; 2]) -> usize {
        let (rows, kept, cols) = (local.rows(), local.residual_rows(), model.hidden);
        let tokens = self.param(table(model, local, "mtp.embed.tokens"));
        let found = self.tensor("mtp.found", rows * cols, DEAR);
        let op = Op::Embed { rows, cols, vocab: model.vocab_on(local.tp), shards: local.tp };
        self.op(op, [Arg::Tensor(ids), Arg::Param(tokens), Arg::Tensor(found)]);
        let summed = self.leave(local, found);
        let token = self.tensor("mtp.embedded", kept * cols, DEAR);
        self.op(Op::Copy { n: kept * cols }, [summed, Arg::Tensor(token)]);
        // One product with both, side by side, is two products.
        let halves = [(x, "mtp.hidden.weight"), (token, "mtp.token.weight")].into_iter().zip(NORMS);
        let projected: Vec<usize> = halves
            .map(|((from, weight), names)| {
                let normed = self.tensor(names[2], kept * cols, CHEAP);
                self.norm_to(model, local, names, from, normed);
                let weight = matrix(weight, cols, cols, Shard::Whole, normal(INIT_STD));
                let weight = self.param(ParamDecl { partial: local.sp, ..weight });
                let out = self.tensor("mtp.projected", kept * cols, DEAR);
                self.linear(normed, [kept, cols, cols], weight, None, out);
                out
            })
            .collect();
        let [joined, out] = ["mtp.joined", "mtp.out"].map(|name| self.tensor(name, kept * cols, DEAR));
        let args = [projected[0], projected[1], joined].map(Arg::Tensor);
        self.op(Op::Add { rows: kept, cols, bias: false }, args);
        block(self, model, local, model.kind(model.depth() - 1), [joined, out], None);
        out
    }
}
