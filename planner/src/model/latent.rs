//! Multi-head latent attention: queries, keys and values from narrow latents (DeepSeek-AI 2024, §2.1).
//!
//! In: normed rows. Out: the heads' outputs.
//!
//! Latents are made by every rank of tensor parallelism from all tokens; heads are split, so that a rank has a part of the
//! latents' gradients, and of those of all that leads to them.

use meshwright_hardware::op::{AttentionDims, LatentDims, NormKind, Op};
use meshwright_hardware::params::{Init, Shard};

use super::decoder::attend;
use super::local::Local;
use super::parts::{CHEAP, DEAR, INIT_STD, matrix, normal, vector};
use super::tape::{Arg, ParamDecl, Tape};
use crate::job::{Latent, Model};

/// A parameter that every rank holds whole and makes a part of the gradient of.
fn partial(decl: ParamDecl) -> ParamDecl {
    // Banks begin with what decays; these lie among gains.
    ParamDecl { partial: true, decay: false, ..decl }
}

impl Tape {
    /// Attention by latents; `[rows, heads · value]`.
    pub(super) fn latent_attention(&mut self, model: &Model, local: Local, latent: &Latent, normed: usize) -> usize {
        let &Latent { q_rank, kv_rank, nope, rope, value } = latent;
        let (rows, h, heads) = (local.rows(), model.hidden, model.heads / local.tp);
        let names = ["attention.q.down.weight", "attention.q.norm.weight", "q.latent", "q.normed", "q.stats"];
        let (q_from, q_width) =
            if q_rank > 0 { (self.latent(names, [rows, q_rank, h], normed), q_rank) } else { (normed, h) };
        let q = self.by_heads("attention.q.up.weight", "q", model, local, [nope + rope, q_width], q_from);
        let names = ["attention.kv.down.weight", "attention.kv.norm.weight", "kv.latent", "kv.normed", "kv.stats"];
        let kv_latent = self.latent(names, [rows, kv_rank, h], normed);
        let kv = self.by_heads("attention.kv.up.weight", "kv", model, local, [nope + value, kv_rank], kv_latent);
        let weight = matrix("attention.k_rope.weight", rope, h, Shard::Whole, normal(INIT_STD));
        let weight = self.param(partial(weight));
        let k_rope = self.tensor("k_rope", rows * rope, DEAR);
        self.linear(normed, [rows, rope, h], weight, None, k_rope);
        let head_dim = nope + rope;
        let ((batch, seq), causal) = (local.attended(), local.causal);
        let dims = AttentionDims { batch, seq, heads, kv_heads: heads, head_dim, causal };
        let qkv = self.tensor("qkv", rows * dims.qkv_cols(), DEAR);
        let packed = LatentDims { rows, seq, heads, nope, rope, value, theta: model.rope_theta, cp: local.cp };
        self.op(Op::LatentPack(packed), [q, kv, k_rope, qkv].map(Arg::Tensor));
        let mixed = attend(self, (dims, None), local, qkv);
        if value == head_dim {
            return mixed;
        }
        let values = self.tensor("values", rows * heads * value, DEAR);
        let op = Op::Columns { rows: rows * heads, stride: head_dim, first: 0, cols: value, into: false };
        self.op(op, [mixed, values].map(Arg::Tensor));
        values
    }

    /// A latent of the normed rows, normed again.
    fn latent(&mut self, names: [&'static str; 5], [rows, rank, h]: [usize; 3], normed: usize) -> usize {
        let [weight, gain, out, y, stats] = names;
        let weight = self.param(partial(matrix(weight, rank, h, Shard::Whole, normal(INIT_STD))));
        let raw = self.tensor(out, rows * rank, DEAR);
        self.linear(normed, [rows, rank, h], weight, None, raw);
        let gain = self.param(partial(vector(gain, rank, Shard::Whole, Init::Ones)));
        let y = self.tensor(y, rows * rank, CHEAP);
        let stats = self.tensor(stats, 2 * rows, DEAR);
        let op = Op::Norm { kind: NormKind::Rms, rows, cols: rank };
        self.op(op, [Arg::Tensor(raw), Arg::Param(gain), Arg::Tensor(y), Arg::Tensor(stats)]);
        y
    }

    /// A projection to so many columns a head, split by heads.
    fn by_heads(
        &mut self,
        name: &'static str,
        out: &'static str,
        model: &Model,
        local: Local,
        [width, from]: [usize; 2],
        x: usize,
    ) -> usize {
        let (rows, all, own) = (local.rows(), model.heads * width, model.heads / local.tp * width);
        let weight = self.param(matrix(name, all, from, Shard::Rows { sections: vec![all] }, normal(INIT_STD)));
        let out = self.tensor(out, rows * own, DEAR);
        self.linear(x, [rows, own, from], weight, None, out);
        out
    }
}
