//! The backward pass of a tape: one rule an op, in reverse.
//!
//! In: a [`Tape`]. Out: [`Backward`]: its steps and the sizes of the gradients they make.
//!
//! Gradients alias where the mathematics says they are equal: both inputs of a residual sum share the sum's, so the
//! flowing gradient goes through a layer in place. A tensor that several ops use has their gradients added up.
//!
//! Invariant: weight gradients accumulate; the gradient of the piece's input ends in [`Value::Flow`], that of a second stream in
//! [`Value::SecondFlow`].

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{Layout, NormKind, Op};
use meshwright_hardware::program::Collective;

use super::tape::{Arg, Home, Step, Store, Tape, TapeNode, Tensor, Use, Value};

/// A tape's backward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Backward {
    /// In order.
    pub steps: Vec<Step>,
    /// Name and elements of each [`Value::Grad`].
    pub made: Vec<(String, usize)>,
}

pub(super) struct GradientWriter<'a> {
    tape: &'a Tape,
    /// Of each tensor, what holds its gradient.
    grads: Vec<Option<Use>>,
    out: Backward,
}

impl Tape {
    /// The backward pass.
    pub fn backward(&self) -> Backward {
        let given = self.tensors.iter().any(|t| matches!(t.home, Home::Input | Home::Second));
        if !given && self.params.iter().all(|decl| decl.store != Store::Trained) {
            return Backward::default(); // nobody asks for a gradient
        }
        let flow = |home| match home {
            Home::Output => Some(Use::whole(Value::Flow)),
            Home::SecondOut => Some(Use::whole(Value::SecondFlow)),
            _ => None,
        };
        let grads = self.tensors.iter().map(|t| flow(t.home)).collect();
        let mut writer = GradientWriter { tape: self, grads, out: Backward::default() };
        for node in self.nodes.iter().rev() {
            writer.node(node);
        }
        for (tensor, declared) in self.tensors.iter().enumerate() {
            let flow = match declared.home {
                Home::Input => Value::Flow,
                Home::Second => Value::SecondFlow,
                _ => continue,
            };
            match writer.grads[tensor] {
                Some(grad) if grad.value == flow => {}
                // It shares the gradient of a tensor inside, which the piece before does not see.
                Some(grad) => writer.call(Op::Copy { n: declared.elems }, vec![grad, Use::whole(flow)]),
                // A stream that the piece has no use for gets no gradient from it.
                None => writer.call(Op::Zero { n: declared.elems }, vec![Use::whole(flow)]),
            }
        }
        writer.out
    }
}

impl GradientWriter<'_> {
    fn node(&mut self, node: &TapeNode) {
        match node {
            TapeNode::Op(op, args) => self.op(*op, args),
            TapeNode::Enter(t) => self.collective(Collective::AllReduce, Axis::Tp, *t),
            TapeNode::Reduce(_) => {}
            // What has no gradient, as the exchanged statistics of a loss, needs none back.
            TapeNode::Gather(t, axis) => self.collective(Collective::ReduceScatter, *axis, *t),
            TapeNode::Scatter(t, axis) => self.collective(Collective::AllGather, *axis, *t),
            TapeNode::Exchange(t, axis) => self.collective(Collective::AllToAll, *axis, *t),
            TapeNode::Ring(ring) => self.ring(ring),
        }
    }

    fn collective(&mut self, op: Collective, axis: Axis, tensor: usize) {
        let Some(mut grad) = self.grads[tensor] else { return };
        if grad.part.is_some() {
            // What travels is this rank's own.
            let Tensor { name, elems, .. } = self.tape.tensors[tensor];
            let own = Use::whole(self.make(format!("d.{name}"), elems));
            self.call(Op::Copy { n: elems }, vec![grad, own]);
            (self.grads[tensor], grad) = (Some(own), own);
        }
        self.out.steps.push(Step::Collective(op, axis, grad.value));
    }

    /// The gradient that a later op has made, of the part that an argument means.
    pub(super) fn of(&self, arg: Arg) -> Use {
        let (tensor, part, first) = match arg {
            Arg::Tensor(t) => (t, None, 0),
            Arg::Part(t, axis) => (t, Some(axis), 0),
            Arg::From(t, first) => (t, None, first),
            Arg::Param(p) => unreachable!("parameter {p} is no result"),
        };
        let whole = self.grads[tensor].unwrap_or_else(|| panic!("nothing uses `{}`", self.tape.tensors[tensor].name));
        Use { part: part.or(whole.part), first: whole.first + first, ..whole }
    }

    pub(super) fn make(&mut self, name: String, elems: usize) -> Value {
        self.out.made.push((name, elems));
        Value::Grad(self.out.made.len() - 1)
    }

    /// Where an input's gradient goes, and whether it is added to what is there. Parts of a tensor lie apart, each used once.
    pub(super) fn target(&mut self, arg: Arg) -> (Use, bool) {
        let tensor = arg.tensor().expect("parameters have their own");
        if let Arg::From(_, first) = arg {
            let (whole, _) = self.target(Arg::Tensor(tensor));
            return (Use { first, ..whole }, false);
        }
        if let Some(known) = self.grads[tensor] {
            return (known, true);
        }
        let declared = &self.tape.tensors[tensor];
        let value = match declared.home {
            Home::Input => Value::Flow,
            Home::Second => Value::SecondFlow,
            _ => self.make(format!("d.{}", declared.name), declared.elems),
        };
        self.grads[tensor] = Some(Use::whole(value));
        (Use::whole(value), false)
    }

    pub(super) fn extend(&mut self, steps: Vec<Step>) {
        self.out.steps.extend(steps);
    }

    fn call(&mut self, op: Op, args: Vec<Use>) {
        debug_assert_eq!(args.len(), op.signature().len(), "{op:?}");
        self.out.steps.push(Step::Call(op, args));
    }

    fn op(&mut self, op: Op, args: &[Arg]) {
        let last = *args.last().expect("an op has arguments");
        match op {
            Op::Embed { rows, cols, vocab, shards } => {
                let dy = self.of(last);
                if let Some(grad) = self.grad_of(args[1]) {
                    self.call(Op::EmbedGrad { rows, cols, vocab, shards }, vec![Use::of(args[0]), dy, grad]);
                }
            }
            Op::Positions { rows, seq, cols, sp, cp } => {
                let dy = self.of(args[1]);
                if let Some(grad) = self.grad_of(args[0]) {
                    self.call(Op::PositionsGrad { rows, seq, cols, sp, cp }, vec![dy, grad]);
                }
            }
            Op::Norm { kind, rows, cols } => self.norm(kind, rows, cols, args),
            Op::Matmul { m, n, k, bias, .. } => self.matmul(m, n, k, bias, args),
            Op::ExpertMatmul { experts, sources, m, n, k, .. } => self.expert_matmul([experts, sources, m, n, k], args),
            Op::Rope { rows, seq, stride, heads, head_dim, theta, cp, inverse } => {
                let x = self.of(args[0]);
                let inverse = !inverse;
                self.call(Op::Rope { rows, seq, stride, heads, head_dim, theta, cp, inverse }, vec![x]);
            }
            Op::Attention(dims) => {
                let dout = self.of(args[1]);
                let (dqkv, _) = self.target(args[0]);
                let [qkv, out, lse] = [0, 1, 2].map(|i| Use::of(args[i]));
                self.call(Op::AttentionGrad(dims), vec![qkv, out, lse, dout, dqkv]);
            }
            Op::WindowAttention { dims, window } => {
                let dout = self.of(args[1]);
                let (dqkv, _) = self.target(args[0]);
                let [qkv, out, lse] = [0, 1, 2].map(|i| Use::of(args[i]));
                self.call(Op::WindowAttentionGrad { dims, window }, vec![qkv, out, lse, dout, dqkv]);
            }
            Op::ContextAttention(dims) => {
                let dout = self.of(args[2]);
                let ((dqkv, _), (dkv, _)) = (self.target(args[0]), self.target(args[1]));
                let [qkv, kv, out, lse] = [0, 1, 2, 3].map(|i| Use::of(args[i]));
                self.call(Op::ContextAttentionGrad(dims), vec![qkv, kv, out, lse, dout, dqkv, dkv]);
            }
            Op::Columns { rows, stride, first, cols, .. } => {
                let (part, (whole, there)) = (self.of(args[1]), self.target(args[0]));
                if !there {
                    self.call(Op::Zero { n: rows * stride }, vec![whole]);
                }
                self.call(Op::Columns { rows, stride, first, cols, into: true }, vec![part, whole]);
            }
            Op::Activation { kind, rows, cols } => {
                let dout = self.of(args[1]);
                let (du, _) = self.target(args[0]);
                self.call(Op::ActivationGrad { kind, rows, cols }, vec![Use::of(args[0]), dout, du]);
            }
            Op::Add { rows, cols, bias } => {
                let out = self.of(last);
                self.same(args[0], out, rows * cols);
                self.same(args[1], out, rows * cols);
                if let Some(grad) = bias.then(|| self.grad_of(args[2])).flatten() {
                    self.call(Op::BiasGrad { rows, cols }, vec![out, grad]);
                }
            }
            Op::AddColumns { rows, stride, first, cols, scale, .. } => {
                let (out, (part, _)) = (self.of(args[1]), self.target(args[0]));
                self.call(Op::AddColumns { rows, stride, first, cols, scale, back: true }, vec![out, part]);
            }
            // Of frozen weights.
            Op::Dequantize { .. } => {}
            Op::Copy { n } => {
                let out = self.of(last);
                self.same(args[0], out, n);
            }
            Op::LatentPack(dims) => {
                let dqkv = self.of(last);
                let [(dq, _), (dkv, _), (dk, _)] = [0, 1, 2].map(|i| self.target(args[i]));
                self.call(Op::LatentPackGrad(dims), vec![dqkv, dq, dkv, dk]);
            }
            Op::Route { .. } | Op::Dispatch { .. } | Op::Combine { .. } => self.routing(op, args),
            Op::LossStats { .. } => {}
            // The op left the gradient in place of the logits.
            Op::Loss { .. } => self.grads[args[2].tensor().expect("logits")] = Some(Use::of(args[2])),
            Op::EmbedGrad { .. }
            | Op::PositionsGrad { .. }
            | Op::NormGrad { .. }
            | Op::BiasGrad { .. }
            | Op::WindowAttentionGrad { .. }
            | Op::AttentionGrad(_)
            | Op::ContextAttentionGrad(_)
            | Op::ActivationGrad { .. }
            | Op::LatentPackGrad(_)
            | Op::RouteGrad { .. }
            | Op::DispatchGrad { .. }
            | Op::CombineGrad { .. }
            | Op::Zero { .. }
            | Op::Accumulate { .. }
            | Op::SquaredNorm { .. }
            | Op::AdamW { .. }
            | Op::Update { .. }
            | Op::Orthogonalize { .. } => unreachable!("{op:?} is no forward op"),
        }
    }

    /// An argument whose gradient is that of a result.
    fn same(&mut self, arg: Arg, grad: Use, n: usize) {
        let tensor = arg.tensor().expect("a tensor");
        match (self.grads[tensor], arg) {
            (Some(known), _) => self.call(Op::Accumulate { n }, vec![grad, known]),
            // The parts of other ranks are to come: it needs room of its own.
            (None, Arg::Part(_, axis)) => {
                let (whole, _) = self.target(Arg::Tensor(tensor));
                self.call(Op::Copy { n }, vec![grad, Use { part: Some(axis), ..whole }]);
            }
            (None, _) => self.grads[tensor] = Some(grad),
        }
    }

    fn norm(&mut self, kind: NormKind, rows: usize, cols: usize, args: &[Arg]) {
        let at = if kind == NormKind::Layer { 3 } else { 2 };
        let dy = self.of(args[at]);
        let (dx, accumulate) = self.target(args[0]);
        let [x, gain, stats] = [0, 1, at + 1].map(|i| Use::of(args[i]));
        let mut all = vec![x, gain, stats, dy, dx];
        for &param in &args[1..at] {
            let grad = self.grad_of(param).unwrap_or_else(|| self.unwanted(cols));
            all.push(grad);
        }
        self.call(Op::NormGrad { kind, rows, cols, accumulate }, all);
    }

    /// C = A·Bᵀ: dB += dCᵀ·A, dA = dC·B, and the bias collects dC's columns.
    fn matmul(&mut self, m: usize, n: usize, k: usize, bias: bool, args: &[Arg]) {
        let (a, dc) = (Use::of(args[0]), self.of(args[args.len() - 1]));
        if let Some(grad) = self.grad_of(args[1]) {
            let tn = Op::Matmul { layout: Layout::Tn, m: n, n: k, k: m, bias: false, accumulate: true };
            self.call(tn, vec![dc, a, grad]);
        }
        if let Some(grad) = bias.then(|| self.grad_of(args[2])).flatten() {
            self.call(Op::BiasGrad { rows: m, cols: n }, vec![dc, grad]);
        }
        let b = self.weight(args[1]);
        let (da, accumulate) = self.target(args[0]);
        self.call(Op::Matmul { layout: Layout::Nn, m, n: k, k: n, bias: false, accumulate }, vec![dc, b, da]);
    }

    /// The same for every expert and source.
    fn expert_matmul(&mut self, [experts, sources, m, n, k]: [usize; 5], args: &[Arg]) {
        let (a, dc) = (Use::of(args[0]), self.of(args[2]));
        if let Some(grad) = self.grad_of(args[1]) {
            let tn = Op::ExpertMatmul { layout: Layout::Tn, experts, sources, m: n, n: k, k: m, accumulate: true };
            self.call(tn, vec![dc, a, grad]);
        }
        let b = self.weight(args[1]);
        let (da, accumulate) = self.target(args[0]);
        let nn = Op::ExpertMatmul { layout: Layout::Nn, experts, sources, m, n: k, k: n, accumulate };
        self.call(nn, vec![dc, b, da]);
    }

    fn routing(&mut self, op: Op, args: &[Arg]) {
        match op {
            Op::Combine { rows, cols, top_k, slots } => {
                let dout = self.of(args[3]);
                let ((dy, _), (dshares, _)) = (self.target(args[0]), self.target(args[2]));
                let [y, slot, shares] = [0, 1, 2].map(|i| Use::of(args[i]));
                self.call(Op::CombineGrad { rows, cols, top_k, slots }, vec![y, slot, shares, dout, dy, dshares]);
            }
            Op::Dispatch { rows, cols, top_k, slots } => {
                let dout = self.of(args[2]);
                let (dx, accumulate) = self.target(args[0]);
                let op = Op::DispatchGrad { rows, cols, top_k, slots, accumulate };
                self.call(op, vec![Use::of(args[1]), dout, dx]);
            }
            Op::Route { rows, experts, top_k, capacity } => {
                let dshares = self.of(args[2]);
                let (dlogits, _) = self.target(args[0]);
                let op = Op::RouteGrad { rows, experts, top_k, capacity, balance: self.tape.balance };
                self.call(op, vec![Use::of(args[1]), dshares, dlogits]);
            }
            other => unreachable!("{other:?} routes nothing"),
        }
    }

    /// Where a parameter's gradient adds up; none if it is frozen.
    fn grad_of(&self, arg: Arg) -> Option<Use> {
        let Arg::Param(p) = arg else { return None };
        (self.tape.params[p].store == Store::Trained).then_some(Use::whole(Value::WeightGrad(p)))
    }

    /// Where a norm may leave the gradient of a frozen gain.
    fn unwanted(&mut self, n: usize) -> Use {
        let place = Use::whole(self.make("unwanted".to_owned(), n));
        self.call(Op::Zero { n }, vec![place]);
        place
    }

    /// A product's weight; one that is packed is made wide again for it.
    fn weight(&mut self, arg: Arg) -> Use {
        let Some((op, packed)) = arg.tensor().and_then(|wide| self.tape.packed(wide)) else { return Use::of(arg) };
        let Op::Dequantize { n, .. } = op else { unreachable!("{op:?} unpacks nothing") };
        let wide = Use::whole(self.make("base".to_owned(), n));
        self.call(op, vec![Use::of(packed), wide]);
        wide
    }
}
