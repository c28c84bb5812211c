//! The tape of one piece: its tensors, parameters and the forward ops over them.
//!
//! In: ops, by the architecture. Out: forward and recompute [`Step`] lists (backward ones: `backward.rs`).
//!
//! Invariant: nodes stand in order of execution; a tensor is written before it is read, or is the piece's input.

use std::collections::BTreeSet;

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::op::{ContextDims, Mode, Op, Packing};
use meshwright_hardware::params::{Init, Shard};
use meshwright_hardware::program::Collective;

use super::beside::Beside;
use super::modules::RecomputeModule;
use crate::job::LayerKind;

/// Where a tensor comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// The activation that enters the piece.
    Input,
    /// The activation that enters the next piece.
    Output,
    /// The second of two streams that enter the piece: a decoder's, beside its encoder's.
    Second,
    /// The second of two streams that enter the next piece.
    SecondOut,
    /// Token ids.
    Ids,
    /// Target ids.
    Targets,
    /// The loss's sum.
    Loss,
    /// Made and used inside the piece; `cheap` ones are dropped by selective recompute.
    Inner {
        /// Whether it costs little beside its size to make again.
        cheap: bool,
    },
    /// Gathered inside the piece from what is kept elsewhere, or of a module that is made again: never kept.
    Gathered,
}

impl Home {
    /// Whether it is made and used inside the piece.
    pub fn is_inside(self) -> bool {
        matches!(self, Home::Inner { .. } | Home::Gathered)
    }
}

/// A tensor of a piece.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name in listings.
    pub name: &'static str,
    /// Elements on one rank.
    pub elems: usize,
    /// Where it lives.
    pub home: Home,
}

/// What becomes of a parameter in training, and so how it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// It is trained: it has a gradient and optimizer state.
    Trained,
    /// It stays what it is.
    Frozen,
    /// The same, in words of codes and scales.
    Packed(Packing),
}

/// A parameter of a piece.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamDecl {
    /// Name inside the piece; layers get their number in front.
    pub name: &'static str,
    /// Rows of the whole matrix.
    pub rows: usize,
    /// Columns of the whole matrix.
    pub cols: usize,
    /// How ranks of tensor parallelism share it.
    pub shard: Shard,
    /// Whether weight decay applies.
    pub decay: bool,
    /// How it begins.
    pub init: Init,
    /// Whether it is the embedding's own table, used once more.
    pub tied: bool,
    /// Whether each rank of tensor parallelism makes only a part of its gradient, though it holds all of it.
    pub partial: bool,
    /// Experts it is for: as many matrices of the given size, one after another; none for a dense parameter.
    pub experts: Option<usize>,
    /// What becomes of it.
    pub store: Store,
}

impl ParamDecl {
    /// Elements on a rank of a mesh, as they are kept: words of packed ones.
    pub fn elems(&self, mesh: &Mesh) -> usize {
        match self.store {
            Store::Packed(packing) => packing.words(self.weights(mesh)),
            Store::Trained | Store::Frozen => self.weights(mesh),
        }
    }

    /// Weights on a rank of a mesh.
    pub fn weights(&self, mesh: &Mesh) -> usize {
        let (tp, own) = self.experts.map_or((mesh.tp, 1), |experts| (mesh.etp(), experts / mesh.ep));
        self.shard.local_elems(self.rows, self.cols, tp) * own
    }
}

/// An argument of a node's op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A tensor.
    Tensor(usize),
    /// This rank's part of a tensor that holds all ranks' of an axis.
    Part(usize, Axis),
    /// A tensor from an element on.
    From(usize, usize),
    /// A parameter.
    Param(usize),
}

/// Attention of a rank's queries to all blocks of keys and values of its sequences, which go round (Liu et al. 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RingAttention {
    /// Of the first hop.
    pub dims: ContextDims,
    /// Packed rows.
    pub qkv: usize,
    /// The block at hand, and the one on its way.
    pub kv: [usize; 2],
    /// Results.
    pub out: usize,
    /// Logarithms of the softmaxes' denominators.
    pub lse: usize,
}

/// One forward action.
#[derive(Clone, Debug, PartialEq)]
pub enum TapeNode {
    /// An op with its arguments, in the order of [`Op::signature`].
    Op(Op, Vec<Arg>),
    /// A tensor enters a region of tensor parallelism: its gradient is summed over the ranks (f of Shoeybi et al. 2019).
    Enter(usize),
    /// A tensor leaves one: it is summed over the ranks (g of Shoeybi et al. 2019).
    Reduce(usize),
    /// A tensor's parts are put together over an axis; its gradient is summed and cut into parts again.
    Gather(usize, Axis),
    /// A tensor is summed over an axis, of which each rank keeps its part; its gradient's parts are put together.
    Scatter(usize, Axis),
    /// Ranks of an axis exchange shards of a tensor, and of its gradient the same way.
    Exchange(usize, Axis),
    /// Attention round a ring.
    Ring(RingAttention),
}

/// What a lowered op or collective touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// A forward tensor.
    Tensor(usize),
    /// A gradient made inside the piece.
    Grad(usize),
    /// A copy of a gradient that changes before the weights' gradients are made of it.
    Held(usize),
    /// The gradient that flows from piece to piece.
    Flow,
    /// That of the second stream.
    SecondFlow,
    /// A parameter.
    Weight(usize),
    /// A parameter's gradient.
    WeightGrad(usize),
}

/// A value, or this rank's part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Use {
    /// Which.
    pub value: Value,
    /// The axis of which only this rank's part is meant.
    pub part: Option<Axis>,
    /// The element from which on it is meant.
    pub first: usize,
}

/// One action of a forward, recompute or backward list.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// An op.
    Call(Op, Vec<Use>),
    /// A collective over an axis.
    Collective(Collective, Axis, Value),
}

/// What one piece computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tape {
    /// The piece: `embed`, `layer`, `head`.
    pub name: &'static str,
    /// Its tensors.
    pub tensors: Vec<Tensor>,
    /// Its parameters.
    pub params: Vec<ParamDecl>,
    /// Its forward pass.
    pub nodes: Vec<TapeNode>,
    /// What kernels need beside its tensors.
    pub beside: Beside,
    /// Weight of the balancing loss of routed experts, over the tokens of a step.
    pub balance: f32,
    /// Of a loss that is made in parts, one after the other: each one's tensors.
    pub parts: Vec<BTreeSet<usize>>,
}

impl Tape {
    /// An empty tape.
    pub fn new(name: &'static str) -> Self {
        Tape {
            name,
            tensors: Vec::new(),
            params: Vec::new(),
            nodes: Vec::new(),
            beside: Beside::default(),
            balance: 0.0,
            parts: Vec::new(),
        }
    }

    /// Declares a tensor.
    pub fn tensor(&mut self, name: &'static str, elems: usize, home: Home) -> usize {
        self.tensors.push(Tensor { name, elems, home });
        self.tensors.len() - 1
    }

    /// Declares a parameter.
    pub fn param(&mut self, decl: ParamDecl) -> usize {
        self.params.push(decl);
        self.params.len() - 1
    }

    /// Appends an op.
    pub fn op(&mut self, op: Op, args: impl IntoIterator<Item = Arg>) {
        let args: Vec<Arg> = args.into_iter().collect();
        debug_assert_eq!(args.len(), op.signature().len(), "{op:?}");
        self.nodes.push(TapeNode::Op(op, args));
    }

    /// The same with modules of a layer of a kind made again in backward.
    pub fn making_again(mut self, modules: &[RecomputeModule], kind: LayerKind) -> Tape {
        let gone = |name: &str| modules.iter().any(|module| module.tensors(kind).contains(&name));
        for tensor in self.tensors.iter_mut().filter(|tensor| gone(tensor.name)) {
            tensor.home = Home::Gathered;
        }
        self.beside.scores_again = modules.contains(&RecomputeModule::CoreAttn);
        self
    }

    /// The streams that enter the piece.
    pub fn streams(&self) -> impl Iterator<Item = usize> {
        let enters = |tensor: &Tensor| matches!(tensor.home, Home::Input | Home::Second | Home::Ids);
        self.tensors.iter().enumerate().filter(move |(_, tensor)| enters(tensor)).map(|(t, _)| t)
    }

    /// Whether a tensor is a ring's own, which its steps fill forward and backward.
    pub fn fills_itself(&self, tensor: usize) -> bool {
        self.nodes.iter().any(|node| matches!(node, TapeNode::Ring(ring) if ring.kv.contains(&tensor)))
    }

    /// Elements of a tensor, or of what flows back: as much as the piece's result, or, at the head, its input. What else
    /// has a size has it elsewhere: 0.
    pub fn elems(&self, value: Value) -> usize {
        let of = |homes: [Home; 2]| self.tensors.iter().find(|t| homes.contains(&t.home)).map_or(0, |t| t.elems);
        match value {
            Value::Tensor(t) => self.tensors[t].elems,
            Value::Flow => of([Home::Output, Home::Input]),
            Value::SecondFlow => of([Home::SecondOut, Home::Second]),
            Value::Grad(_) | Value::Held(_) | Value::Weight(_) | Value::WeightGrad(_) => 0,
        }
    }

    /// The forward pass.
    pub fn forward(&self) -> Vec<Step> {
        self.nodes.iter().flat_map(forward_steps).collect()
    }

    /// Tensors that a list reads or writes.
    pub fn tensors_of(steps: &[Step]) -> BTreeSet<usize> {
        steps
            .iter()
            .flat_map(Step::values)
            .filter_map(|value| if let Value::Tensor(t) = value { Some(t) } else { None })
            .collect()
    }

    /// The forward steps that make the `missing` tensors again from those in `kept` and the piece's input.
    pub fn recompute(&self, mut missing: BTreeSet<usize>, kept: &BTreeSet<usize>) -> Vec<Step> {
        let mut steps = Vec::new();
        for node in self.nodes.iter().rev() {
            if !written(node).iter().any(|t| missing.contains(t)) {
                continue;
            }
            let inputs = touched(node).into_iter().filter(|t| !kept.contains(t));
            missing.extend(inputs.filter(|&t| self.tensors[t].home.is_inside()));
            steps.extend(forward_steps(node).into_iter().rev());
        }
        steps.reverse();
        steps
    }
}

fn forward_steps(node: &TapeNode) -> Vec<Step> {
    let collective = |op, axis, t: usize| vec![Step::Collective(op, axis, Value::Tensor(t))];
    match node {
        TapeNode::Op(op, args) => vec![Step::Call(*op, args.iter().map(|&arg| Use::of(arg)).collect())],
        TapeNode::Enter(_) => Vec::new(),
        TapeNode::Reduce(t) => collective(Collective::AllReduce, Axis::Tp, *t),
        TapeNode::Gather(t, axis) => collective(Collective::AllGather, *axis, *t),
        TapeNode::Scatter(t, axis) => collective(Collective::ReduceScatter, *axis, *t),
        TapeNode::Exchange(t, axis) => collective(Collective::AllToAll, *axis, *t),
        TapeNode::Ring(ring) => ring.forward(),
    }
}

/// Tensors that a node writes.
fn written(node: &TapeNode) -> Vec<usize> {
    match node {
        TapeNode::Op(op, args) => {
            let outs = args.iter().zip(op.signature()).filter(|(_, param)| param.mode != Mode::In);
            outs.filter_map(|(arg, _)| arg.tensor()).collect()
        }
        TapeNode::Enter(_) => Vec::new(),
        TapeNode::Reduce(t) | TapeNode::Gather(t, _) | TapeNode::Scatter(t, _) | TapeNode::Exchange(t, _) => vec![*t],
        TapeNode::Ring(ring) => vec![ring.out, ring.lse],
    }
}

/// Tensors that a node reads or writes.
fn touched(node: &TapeNode) -> Vec<usize> {
    match node {
        TapeNode::Op(_, args) => args.iter().filter_map(|arg| arg.tensor()).collect(),
        TapeNode::Enter(t)
        | TapeNode::Reduce(t)
        | TapeNode::Gather(t, _)
        | TapeNode::Scatter(t, _)
        | TapeNode::Exchange(t, _) => {
            vec![*t]
        }
        TapeNode::Ring(ring) => vec![ring.qkv, ring.out, ring.lse],
    }
}

impl Arg {
    /// The tensor, unless it is a parameter.
    pub fn tensor(self) -> Option<usize> {
        match self {
            Arg::Tensor(t) | Arg::Part(t, _) | Arg::From(t, _) => Some(t),
            Arg::Param(_) => None,
        }
    }
}

impl Use {
    /// The forward use of an argument.
    pub fn of(arg: Arg) -> Use {
        match arg {
            Arg::Tensor(t) => Use::whole(Value::Tensor(t)),
            Arg::Part(t, axis) => Use { part: Some(axis), ..Use::whole(Value::Tensor(t)) },
            Arg::From(t, first) => Use { first, ..Use::whole(Value::Tensor(t)) },
            Arg::Param(p) => Use::whole(Value::Weight(p)),
        }
    }

    /// All of a value.
    pub fn whole(value: Value) -> Use {
        Use { value, part: None, first: 0 }
    }
}

impl Step {
    /// What it reads or writes.
    pub fn values(&self) -> Vec<Value> {
        match self {
            Step::Call(_, uses) => uses.iter().map(|at| at.value).collect(),
            Step::Collective(_, _, value) => vec![*value],
        }
    }
}
