//! The backward pass of a tape: one rule an op, in reverse.
//!
//! In: a [`Tape`]. Out: its backward [`Step`]s and the sizes of the gradients they make.
//!
//! Gradients alias where the mathematics says they are equal: both inputs of a residual sum share the sum's, so the
//! flowing gradient goes through a layer in place.
//!
//! Invariant: weight gradients accumulate; the gradient of the piece's input ends in [`Value::Flow`].

use meshwright_hardware::op::{Layout, NormKind, Op};
use meshwright_hardware::program::Collective;

use super::tape::{Arg, Home, Node, Step, Tape, Use, Value};

struct Backward<'a> {
    tape: &'a Tape,
    /// Of each tensor, the value that holds its gradient.
    grads: Vec<Option<Value>>,
    /// Name and elements of the gradients made inside the piece.
    made: Vec<(String, usize)>,
    steps: Vec<Step>,
}

impl Tape {
    /// The backward pass, and name and elements of each [`Value::Grad`] in it.
    pub fn backward(&self) -> (Vec<Step>, Vec<(String, usize)>) {
        let grads = self.tensors.iter().map(|t| (t.home == Home::Output).then_some(Value::Flow)).collect();
        let mut backward = Backward { tape: self, grads, made: Vec::new(), steps: Vec::new() };
        for node in self.nodes.iter().rev() {
            backward.node(node);
        }
        (backward.steps, backward.made)
    }
}

impl Backward<'_> {
    fn node(&mut self, node: &Node) {
        match node {
            Node::Op(op, args) => self.op(*op, args),
            Node::Enter(t) => {
                let grad = self.of(*t);
                self.steps.push(Step::Collective(Collective::AllReduce, grad));
            }
            Node::Reduce(_) | Node::Gather(_) => {}
        }
    }

    /// The gradient that a later op has made.
    fn of(&self, tensor: usize) -> Value {
        self.grads[tensor].unwrap_or_else(|| panic!("nothing uses `{}`", self.tape.tensors[tensor].name))
    }

    /// A fresh gradient; the piece's input has the flowing one.
    fn fresh(&mut self, tensor: usize) -> Value {
        let declared = &self.tape.tensors[tensor];
        let value = if declared.home == Home::Input {
            Value::Flow
        } else {
            self.made.push((format!("d.{}", declared.name), declared.elems));
            Value::Grad(self.made.len() - 1)
        };
        self.grads[tensor] = Some(value);
        value
    }

    fn call(&mut self, op: Op, args: &[Value]) {
        debug_assert_eq!(args.len(), op.signature().len(), "{op:?}");
        self.steps.push(Step::Call(op, args.iter().map(|&value| Use::whole(value)).collect()));
    }

    fn op(&mut self, op: Op, args: &[Arg]) {
        match op {
            Op::Embed { rows, cols, vocab, shards } => {
                let [ids, table, out] = three(args);
                let dy = self.of(out.0);
                self.call(Op::EmbedGrad { rows, cols, vocab, shards }, &[ids.1, dy, grad_of(table.1)]);
            }
            Op::Positions { rows, seq, cols } => {
                let dy = self.of(value(args[1]).0);
                self.call(Op::PositionsGrad { rows, seq, cols }, &[dy, grad_of(value(args[0]).1)]);
            }
            Op::Norm { kind, rows, cols } => self.norm(kind, rows, cols, args),
            Op::Matmul { m, n, k, bias, .. } => self.matmul(m, n, k, bias, args),
            Op::Rope { rows, seq, stride, heads, head_dim, theta, inverse } => {
                let x = self.of(value(args[0]).0);
                self.call(Op::Rope { rows, seq, stride, heads, head_dim, theta, inverse: !inverse }, &[x]);
            }
            Op::Attention(dims) => {
                let [qkv, out, lse] = three(args);
                let dout = self.of(out.0);
                let dqkv = self.fresh(qkv.0);
                self.call(Op::AttentionGrad(dims), &[qkv.1, out.1, lse.1, dout, dqkv]);
            }
            Op::Activation { kind, rows, cols } => {
                let (u, out) = (value(args[0]), value(args[1]));
                let dout = self.of(out.0);
                let du = self.fresh(u.0);
                self.call(Op::ActivationGrad { kind, rows, cols }, &[u.1, dout, du]);
            }
            Op::Add { rows, cols, bias } => {
                let out = self.of(value(args[args.len() - 1]).0);
                self.grads[value(args[0]).0] = Some(out);
                self.grads[value(args[1]).0] = Some(out);
                if bias {
                    self.call(Op::BiasGrad { rows, cols }, &[out, grad_of(value(args[2]).1)]);
                }
            }
            Op::LossStats { .. } => {}
            Op::Loss { .. } => {
                let logits = value(args[2]);
                self.grads[logits.0] = Some(logits.1); // the op left the gradient in place of the logits
            }
            Op::EmbedGrad { .. }
            | Op::PositionsGrad { .. }
            | Op::NormGrad { .. }
            | Op::BiasGrad { .. }
            | Op::AttentionGrad(_)
            | Op::ActivationGrad { .. }
            | Op::Zero { .. }
            | Op::Accumulate { .. }
            | Op::SquaredNorm { .. }
            | Op::AdamW { .. } => unreachable!("{op:?} is no forward op"),
        }
    }

    fn norm(&mut self, kind: NormKind, rows: usize, cols: usize, args: &[Arg]) {
        let (x, gain) = (value(args[0]), value(args[1]));
        let at = if kind == NormKind::Layer { 3 } else { 2 };
        let (y, stats) = (value(args[at]), value(args[at + 1]));
        let dy = self.of(y.0);
        let accumulate = self.grads[x.0].is_some();
        let dx = self.grads[x.0].unwrap_or_else(|| self.fresh(x.0));
        let mut all = vec![x.1, gain.1, stats.1, dy, dx, grad_of(gain.1)];
        if kind == NormKind::Layer {
            all.push(grad_of(value(args[2]).1));
        }
        self.call(Op::NormGrad { kind, rows, cols, accumulate }, &all);
    }

    /// C = A·Bᵀ: dB += dCᵀ·A, dA = dC·B, and the bias collects dC's columns.
    fn matmul(&mut self, m: usize, n: usize, k: usize, bias: bool, args: &[Arg]) {
        let (a, b) = (value(args[0]), value(args[1]));
        let dc = self.of(value(args[args.len() - 1]).0);
        let tn = Op::Matmul { layout: Layout::Tn, m: n, n: k, k: m, bias: false, accumulate: true };
        self.call(tn, &[dc, a.1, grad_of(b.1)]);
        if bias {
            self.call(Op::BiasGrad { rows: m, cols: n }, &[dc, grad_of(value(args[2]).1)]);
        }
        let da = self.fresh(a.0);
        let nn = Op::Matmul { layout: Layout::Nn, m, n: k, k: n, bias: false, accumulate: false };
        self.call(nn, &[dc, b.1, da]);
    }
}

/// An argument's index and forward value.
fn value(arg: Arg) -> (usize, Value) {
    match arg {
        Arg::Tensor(t) | Arg::Part(t) => (t, Value::Tensor(t)),
        Arg::Param(p) => (p, Value::Weight(p)),
    }
}

fn three(args: &[Arg]) -> [(usize, Value); 3] {
    [value(args[0]), value(args[1]), value(args[2])]
}

fn grad_of(weight: Value) -> Value {
    match weight {
        Value::Weight(p) => Value::WeightGrad(p),
        other => unreachable!("{other:?} is no parameter"),
    }
}
