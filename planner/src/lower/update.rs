//! Updates: what an optimizer keeps of a bank, and the ops of its step.
//!
//! In: a job's optimizer, a group of parameters. Out: [`BankRule`], and from it sizes of states and ops.
//!
//! Sources: AdamW Loshchilov & Hutter 2019; 8-bit states Dettmers et al. 2022, in blocks of 256 as bitsandbytes has them; Adafactor
//! without momentum Shazeer & Stern 2018, algorithm 4; Lion Chen et al. 2023; Muon Jordan et al. 2024, for matrices of layers, with
//! AdamW for tables, as its authors use it. Ranks of tensor parallelism orthogonalise their own parts of a matrix, and ranks
//! that share states each their part of the work. Vectors of layers, one weight in thousands, go by Muon's momentum alone.
//!
//! Invariant: footprint, layout, step and the search's costs take states and ops from here.

use std::sync::Arc;

use meshwright_hardware::mesh::{Axis, Mesh};
use meshwright_hardware::op::{Op, Rule};
use meshwright_hardware::params::Shard;
use meshwright_hardware::program::Elem;

use super::format::Formats;
use crate::job::OptimizerName;
use crate::model::ParamDecl;

/// What decides of a bank's update.
#[derive(Clone, Debug, Default)]
pub struct BankRule {
    name: OptimizerName,
    /// Rows and columns, where Adafactor's second moments are factored.
    factors: usize,
    /// Matrices that Muon orthogonalises: rows, columns, how many.
    matrices: Arc<[[usize; 3]]>,
}

/// A part of a bank that is updated: elements, of which so many decay, shared by so many ranks of an axis.
#[derive(Clone, Copy, Debug)]
pub struct Updated {
    /// Elements of the whole bank.
    pub elems: usize,
    /// Of these, from the first on, decay.
    pub decayed: usize,
    /// Ranks that share the update.
    pub shards: usize,
    /// Of this axis.
    pub axis: Axis,
    /// Whether fp32 weights are updated and rounded.
    pub master: bool,
}

impl BankRule {
    /// Of parameters on a rank of a mesh.
    pub(super) fn of(name: OptimizerName, params: &[&ParamDecl], mesh: &Mesh) -> BankRule {
        let table = params.iter().any(|decl| decl.name.starts_with("embed.") || decl.name.starts_with("head."));
        let name = if name == OptimizerName::Muon && table { OptimizerName::AdamW } else { name };
        let shapes = params.iter().map(|decl| {
            let count = decl.experts.map_or(1, |experts| experts / mesh.ep);
            let each = decl.weights(mesh) / count;
            let cols = if decl.shard == Shard::Cols { decl.cols / mesh.tp } else { decl.cols };
            [each / cols, cols, count]
        });
        let factored = |[rows, cols, count]: [usize; 3]| count * if cols > 1 { rows + cols } else { rows };
        let factors = if name == OptimizerName::Adafactor { shapes.clone().map(factored).sum() } else { 0 };
        let matrices = shapes.filter(|[_, cols, _]| name == OptimizerName::Muon && *cols > 1).collect();
        BankRule { name, factors, matrices }
    }

    /// States beside weights and gradients: name, elements on one of so many ranks that share them, and what of.
    pub fn states(&self, elems: usize, shards: usize, width: Formats) -> Vec<(&'static str, usize, Elem)> {
        let (own, state) = (elems / shards, width.state);
        match self.name {
            OptimizerName::AdamW => vec![("m", own, state), ("v", own, state)],
            OptimizerName::AdamW8bit => ["m", "v"].map(|name| (name, coded(own), Elem::U32)).to_vec(),
            OptimizerName::Adafactor => vec![("factors", self.factors.div_ceil(shards), state)],
            OptimizerName::Lion | OptimizerName::Muon | OptimizerName::SgdMomentum => vec![("m", own, state)],
            OptimizerName::Sgd => Vec::new(),
        }
    }

    /// What comes before the update, over this rank's gradients.
    pub fn before(&self, of: &Updated) -> impl Iterator<Item = Op> {
        let (n, shards) = (of.elems / of.shards, of.shards);
        self.matrices.iter().map(move |&[rows, cols, matrices]| Op::Orthogonalize { n, rows, cols, matrices, shards })
    }

    /// The update: of norm, gradients, weights, states and fp32 weights.
    pub fn update(&self, of: &Updated) -> Op {
        let &Updated { elems, decayed, shards, axis, master } = of;
        let n = elems / shards;
        let rule = |rule, kept| Op::Update { rule, n, kept, decayed, shards, axis, master };
        match self.name {
            OptimizerName::AdamW => Op::AdamW { n, decayed, shards, axis, master },
            OptimizerName::AdamW8bit => rule(Rule::Adam8bit, coded(n)),
            OptimizerName::Adafactor => rule(Rule::Adafactor, self.factors.div_ceil(shards)),
            OptimizerName::Lion => rule(Rule::Lion, n),
            OptimizerName::Muon | OptimizerName::SgdMomentum => rule(Rule::Momentum, n),
            OptimizerName::Sgd => rule(Rule::Sgd, 0),
        }
    }
}

/// Words of so many codes of a byte, and of the fp32 scales of their blocks.
fn coded(n: usize) -> usize {
    n.div_ceil(4) + n.div_ceil(256)
}
