//! Attention round a ring of context-parallel ranks, forward and backward.
//!
//! In: a [`RingAttention`]. Out: its [`Step`]s. While a block is used, a copy of it goes on to the next rank; gradients of blocks go
//! with them and are at home after a whole round.
//!
//! Invariant: after all hops every query has met every key once.

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{ContextDims, Op};
use meshwright_hardware::program::Collective;

use super::backward::GradientWriter;
use super::tape::{Arg, RingAttention, Step, Use, Value};

fn call(op: Op, args: Vec<Value>) -> Step {
    debug_assert_eq!(args.len(), op.signature().len(), "{op:?}");
    Step::Call(op, args.into_iter().map(Use::whole).collect())
}

impl RingAttention {
    /// Keys and values as columns of the packed rows.
    fn columns(&self, into: bool) -> Op {
        let d = self.dims;
        let cols = 2 * d.kv_heads * d.head_dim;
        Op::Columns { rows: d.rows(), stride: d.stride, first: d.heads * d.head_dim, cols, into }
    }

    /// What holds the block of a hop.
    fn block(&self, hop: usize) -> Value {
        Value::Tensor(self.kv[hop % 2])
    }

    /// Sends a hop's block on, for the next.
    fn pass_on(&self, hop: usize, steps: &mut Vec<Step>) {
        if hop + 1 < self.dims.cp {
            let next = self.block(hop + 1);
            steps.push(call(Op::Copy { n: self.dims.kv_elems() }, vec![self.block(hop), next]));
            steps.push(Step::Collective(Collective::Rotate, Axis::Cp, next));
        }
    }

    /// The forward steps.
    pub(super) fn forward(&self) -> Vec<Step> {
        let [qkv, out, lse] = [self.qkv, self.out, self.lse].map(Value::Tensor);
        let mut steps = vec![call(self.columns(false), vec![qkv, self.block(0)])];
        for hop in 0..self.dims.cp {
            self.pass_on(hop, &mut steps);
            let op = Op::ContextAttention(ContextDims { hop, ..self.dims });
            steps.push(call(op, vec![qkv, self.block(hop), out, lse]));
        }
        steps
    }
}

impl GradientWriter<'_> {
    /// The backward steps.
    pub(super) fn ring(&mut self, ring: &RingAttention) {
        let [qkv, out, lse] = [ring.qkv, ring.out, ring.lse].map(Value::Tensor);
        let dout = self.of(Arg::Tensor(ring.out)).value;
        let dqkv = self.target(Arg::Tensor(ring.qkv)).0.value;
        let n = ring.dims.kv_elems();
        let [dkv, part] = ["d.kv", "d.kv.part"].map(|name| self.make(name.to_owned(), n));
        let mut steps = vec![call(ring.columns(false), vec![qkv, ring.block(0)])];
        for hop in 0..ring.dims.cp {
            ring.pass_on(hop, &mut steps);
            let op = Op::ContextAttentionGrad(ContextDims { hop, ..ring.dims });
            // The first block's gradient begins its round; later ones are made while what is there so far is on its way.
            let made = if hop == 0 { dkv } else { part };
            steps.push(call(op, vec![qkv, ring.block(hop), out, lse, dout, dqkv, made]));
            if hop > 0 {
                steps.push(call(Op::Accumulate { n }, vec![part, dkv]));
            }
            steps.push(Step::Collective(Collective::Rotate, Axis::Cp, dkv));
        }
        steps.push(call(ring.columns(true), vec![dkv, dqkv]));
        self.extend(steps);
    }
}
