//! Attention of a decoder to its encoder's output (Vaswani et al. 2017, §3.2.3).
//!
//! In: the decoder's residual stream and the memory. Out: the stream with what was found there.

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{ContextDims, Op};
use meshwright_hardware::params::{Init, Shard};

use super::decoder::{by_heads, deep};
use super::local::Local;
use super::parts::{CHEAP, DEAR, INIT_STD, matrix, normal, vector};
use super::tape::{Arg, Home, Tape, TapeNode};
use crate::job::Model;

impl Tape {
    /// The stream `x`, `[rows, hidden]`, after attention to `memory`, `[memory rows, hidden]`, of `keys` tokens a sequence.
    pub(super) fn cross_attention(
        &mut self,
        model: &Model,
        local: Local,
        x: usize,
        (memory, keys): (usize, usize),
    ) -> usize {
        let (rows, h, d) = (local.rows(), model.hidden, model.head_dim());
        let (heads, kv_heads) = (model.heads / local.tp, model.kv_heads_on(local.tp));
        let names = ["cross.norm.weight", "cross.norm.bias", "cross.normed", "cross.stats"];
        let normed = self.norm(model, local, names, x);
        let shard = Shard::Rows { sections: vec![model.heads * d] };
        let bias = self.bias(model, "cross.q.bias", model.heads * d, &shard);
        let weight = self.param(matrix("cross.q.weight", model.heads * d, h, shard, normal(INIT_STD)));
        let q = self.tensor("cross.q", rows * heads * d, DEAR);
        self.linear(normed, [rows, heads * d, h], weight, bias, q);
        let found = local.microbatch * keys;
        let memory = self.shared(local, memory, found * h);
        let (wide, shard) = by_heads(model, local, 0);
        let bias = self.bias(model, "cross.kv.bias", wide, &shard);
        let weight = self.param(matrix("cross.kv.weight", wide, h, shard, normal(INIT_STD)));
        let kv = self.tensor("cross.kv", found * 2 * kv_heads * d, DEAR);
        self.linear(memory, [found, 2 * kv_heads * d, h], weight, bias, kv);
        let (batch, seq, stride) = (local.microbatch, local.seq, heads * d);
        let of_all = ContextDims {
            batch,
            seq,
            keys,
            heads,
            kv_heads,
            head_dim: d,
            stride,
            causal: false,
            cp: 1,
            blocks: 1,
            hop: 0,
        };
        self.beside.attends(local, rows * heads * keys);
        let mixed = self.tensor("cross.mixed", rows * heads * d, DEAR);
        let lse = self.tensor("cross.lse", rows * heads, DEAR);
        self.op(Op::ContextAttention(of_all), [q, kv, mixed, lse].map(Arg::Tensor));
        let weight = matrix("cross.out.weight", h, model.heads * d, Shard::Cols, normal(deep(model)));
        let weight = self.param(weight);
        let projected = self.tensor("cross.projected", rows * h, DEAR);
        self.linear(mixed, [rows, h, heads * d], weight, None, projected);
        let out = self.tensor("cross.out", local.residual_rows() * h, DEAR);
        self.residual(model, local, [x, projected], "cross.out.bias", out);
        out
    }

    fn bias(&mut self, model: &Model, name: &'static str, n: usize, shard: &Shard) -> Option<usize> {
        model.biased().then(|| self.param(vector(name, n, shard.clone(), Init::Zeros)))
    }

    /// The memory, of `elems` elements in all, as it enters tensor parallelism: its gradient here is summed apart from what flows
    /// from later layers.
    fn shared(&mut self, local: Local, memory: usize, elems: usize) -> usize {
        if local.tp == 1 {
            return memory;
        }
        let n = self.tensors[memory].elems;
        if local.sp {
            let all = self.tensor("memory", elems, Home::Gathered);
            self.op(Op::Copy { n }, [Arg::Tensor(memory), Arg::Part(all, Axis::Tp)]);
            self.nodes.push(TapeNode::Gather(all, Axis::Tp));
            return all;
        }
        let copy = self.tensor("memory", n, CHEAP);
        self.op(Op::Copy { n }, [memory, copy].map(Arg::Tensor));
        self.nodes.push(TapeNode::Enter(copy));
        copy
    }
}
