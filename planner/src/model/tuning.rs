//! Fine-tuning as a change of tapes: parameters are frozen, linear layers get adapters, packed weights are made wide.
//!
//! In: a piece's tape and a [`Tuning`]. Out: the tape of what is fine-tuned.
//!
//! An adapter is two products and a sum beside the layer's own: `low = x·Aᵀ`, `up = low·Bᵀ`, `out += scale · up`. Where tensor
//! parallelism splits a layer's outputs, all of its ranks hold A; where it splits inputs, B: what they make of its gradient are
//! parts.
//!
//! Invariant: backward's rules give the gradients; nothing of them stands here.

use meshwright_hardware::op::{Layout, Op};
use meshwright_hardware::params::{Init, Shard};

use super::parts::{DEAR, matrix, normal};
use super::tape::{Arg, Home, ParamDecl, Store, Tape, TapeNode};
use crate::job::{AdapterTarget, Tuning};

/// AdapterNames of an adapter's parameters and results.
#[derive(Clone, Copy)]
struct AdapterNames {
    a: &'static str,
    b: &'static str,
    low: &'static str,
    up: &'static str,
}

macro_rules! names {
    ($target:ident, $layer:literal) => {
        (
            AdapterTarget::$target,
            AdapterNames {
                a: concat!($layer, ".lora.a"),
                b: concat!($layer, ".lora.b"),
                low: concat!($layer, ".low"),
                up: concat!($layer, ".adapter"),
            },
        )
    };
}

/// Linear layers by their weights, and of each the sections that have an adapter of their own. One section of a table's two
/// is the last: the way up without a gate.
const LAYERS: &[(&str, &[(AdapterTarget, AdapterNames)])] = &[
    ("attention.qkv.weight", &[names!(Q, "attention.q"), names!(K, "attention.k"), names!(V, "attention.v")]),
    ("attention.q.down.weight", &[names!(Q, "attention.q.down")]),
    ("attention.q.up.weight", &[names!(Q, "attention.q.up")]),
    ("attention.kv.down.weight", &[names!(K, "attention.kv.down")]),
    ("attention.k_rope.weight", &[names!(K, "attention.k_rope")]),
    ("attention.kv.up.weight", &[names!(K, "attention.kv.up")]),
    ("attention.out.weight", &[names!(O, "attention.out")]),
    ("cross.q.weight", &[names!(Q, "cross.q")]),
    ("cross.kv.weight", &[names!(K, "cross.k"), names!(V, "cross.v")]),
    ("cross.out.weight", &[names!(O, "cross.out")]),
    ("mlp.up.weight", &[names!(Gate, "mlp.gate"), names!(Up, "mlp.up")]),
    ("mlp.down.weight", &[names!(Down, "mlp.down")]),
    ("mlp.shared.up.weight", &[names!(Gate, "mlp.shared.gate"), names!(Up, "mlp.shared.up")]),
    ("mlp.shared.down.weight", &[names!(Down, "mlp.shared.down")]),
    ("mlp.experts.up.weight", &[names!(Gate, "mlp.experts.gate"), names!(Up, "mlp.experts.up")]),
    ("mlp.experts.down.weight", &[names!(Down, "mlp.experts.down")]),
];

fn sections(weight: &str) -> Option<&'static [(AdapterTarget, AdapterNames)]> {
    LAYERS.iter().find(|(name, _)| *name == weight).map(|(_, sections)| *sections)
}

/// A product with a weight: rows of `k` to rows of `n`, for each of so many experts and sources.
#[derive(Clone, Copy)]
struct Product {
    op: Op,
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
}

impl Product {
    fn of(op: Op) -> Option<Product> {
        match op {
            Op::Matmul { layout: Layout::Nt, m, n, k, .. } => Some(Product { op, batch: 1, m, n, k }),
            Op::ExpertMatmul { layout: Layout::Nt, experts, sources, m, n, k, .. } => {
                Some(Product { op, batch: experts * sources, m, n, k })
            }
            _ => None,
        }
    }

    /// The same of other widths, without a bias.
    fn with(self, n: usize, k: usize) -> Op {
        match self.op {
            Op::ExpertMatmul { layout, experts, sources, m, accumulate, .. } => {
                Op::ExpertMatmul { layout, experts, sources, m, n, k, accumulate }
            }
            _ => Op::Matmul { layout: Layout::Nt, m: self.m, n, k, bias: false, accumulate: false },
        }
    }

    fn rows(self) -> usize {
        self.batch * self.m
    }
}

impl Tape {
    /// The tape of what is fine-tuned.
    pub fn tuned(mut self, tuning: &Tuning) -> Tape {
        self.params.iter_mut().for_each(|decl| decl.store = Store::Frozen);
        for node in std::mem::take(&mut self.nodes) {
            let linear = match &node {
                TapeNode::Op(op, args) => Product::of(*op).map(|product| (product, args.clone())),
                _ => None,
            };
            match linear {
                Some((product, args)) => self.tune(tuning, product, args),
                None => self.nodes.push(node),
            }
        }
        self
    }

    /// A product with a frozen weight, made wide for it where it is packed, and its adapters.
    fn tune(&mut self, tuning: &Tuning, product: Product, mut args: Vec<Arg>) {
        let (x, out) = (args[0], args[args.len() - 1]);
        let Arg::Param(p) = args[1] else { unreachable!("a product's weight is a parameter") };
        let adapted = sections(self.params[p].name);
        if let Some(packing) = tuning.base.packing().filter(|_| adapted.is_some()) {
            self.params[p].store = Store::Packed(packing);
            let experts = if let Op::ExpertMatmul { experts, .. } = product.op { experts } else { 1 };
            let n = experts * product.n * product.k;
            let wide = Arg::Tensor(self.tensor("base", n, Home::Gathered));
            self.op(Op::Dequantize { n, packing }, [args[1], wide]);
            args[1] = wide;
        }
        self.op(product.op, args);
        let decl = self.params[p].clone();
        // Rows of each section, and the ranks that hold the same.
        let rows: Vec<(usize, usize)> = match &decl.shard {
            Shard::Rows { sections } => sections.iter().map(|&rows| (rows, 1)).collect(),
            Shard::Heads { queries, sections, copies } => {
                let all = std::iter::once((*queries, 1)).chain(sections.iter().map(|&rows| (rows, *copies)));
                all.filter(|(rows, _)| *rows > 0).collect()
            }
            Shard::Whole | Shard::Padded { .. } | Shard::Cols => vec![(decl.rows, 1)],
        };
        let held: usize = rows.iter().map(|(rows, copies)| rows * copies).sum();
        let named = adapted.unwrap_or_default();
        let named = named.iter().skip(named.len().saturating_sub(rows.len()));
        let mut first = 0;
        for (&(target, names), (rows, copies)) in named.zip(rows) {
            let cols = product.n * rows * copies / held;
            if tuning.targets.contains(&target) {
                self.adapt(tuning, product, (&decl, names), [rows, copies, first, cols], [x, out]);
            }
            first += cols;
        }
    }

    /// An adapter of a section of `rows` outputs, of which a rank has `cols` from `first` on, the same as `copies` - 1 others.
    fn adapt(
        &mut self,
        tuning: &Tuning,
        product: Product,
        (base, names): (&ParamDecl, AdapterNames),
        [rows, copies, first, cols]: [usize; 4],
        [x, out]: [Arg; 2],
    ) {
        let rank = tuning.rank;
        let (a_shard, b_shard) = match base.shard {
            Shard::Heads { .. } if copies > 1 => {
                (Shard::Whole, Shard::Heads { queries: 0, sections: vec![rows], copies })
            }
            Shard::Rows { .. } | Shard::Heads { .. } => (Shard::Whole, Shard::Rows { sections: vec![rows] }),
            Shard::Cols => (Shard::Cols, Shard::Whole),
            Shard::Whole => (Shard::Whole, Shard::Whole),
            Shard::Padded { .. } => unreachable!("tables have no adapters"),
        };
        // As a linear layer begins (He et al. 2015, as PyTorch has it), and so that nothing is added at first.
        let init = normal(1.0 / (3.0 * base.cols as f32).sqrt());
        let of = |decl: ParamDecl, split: bool| {
            let partial = decl.shard == Shard::Whole && (split || base.partial);
            ParamDecl { partial, experts: base.experts, ..decl }
        };
        let split = base.shard != Shard::Whole;
        let a = self.param(of(matrix(names.a, rank, base.cols, a_shard, init), split));
        let b = self.param(of(matrix(names.b, rows, rank, b_shard, Init::Zeros), split));
        let low = Arg::Tensor(self.tensor(names.low, product.rows() * rank, DEAR));
        let up = Arg::Tensor(self.tensor(names.up, product.rows() * cols, DEAR));
        self.op(product.with(rank, product.k), [x, Arg::Param(a), low]);
        self.op(product.with(cols, rank), [low, Arg::Param(b), up]);
        let (stride, scale) = (product.n, tuning.scale());
        self.op(Op::AddColumns { rows: product.rows(), stride, first, cols, scale, back: false }, [up, out]);
    }

    /// What a tensor is made of that is a packed weight made wide: the op and the weight.
    pub(super) fn packed(&self, wide: usize) -> Option<(Op, Arg)> {
        self.nodes.iter().find_map(|node| match node {
            TapeNode::Op(op @ Op::Dequantize { .. }, args) if args[1] == Arg::Tensor(wide) => Some((*op, args[0])),
            _ => None,
        })
    }
}
