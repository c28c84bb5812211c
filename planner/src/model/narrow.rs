//! Inputs of linear layers that nothing else reads, so that they may lie in the format that these multiply.
//!
//! In: a layer's tape, its passes. Out: tensors.
//!
//! Norms and activations write them quantized, and backward makes weights' gradients of the same (Transformer Engine). What other ops
//! read too, as attention's output, stays as it is; so does what ranks of expert parallelism exchange, unless tokens are sent so.
//!
//! Invariant: a copy and what it is of are both such or neither.

use std::collections::BTreeSet;

use meshwright_hardware::mesh::Axis;
use meshwright_hardware::op::{Mode, Op};

use super::tape::{Home, Step, Tape, Use, Value};

impl Tape {
    /// Tensors of a layer that linear layers alone read, forward and backward, tokens sent to experts among them where these are
    /// `dispatched` so. Tables and the head stay in 16 bits.
    pub fn inputs_of_linear(&self, forward: &[Step], backward: &[Step], dispatched: bool) -> BTreeSet<usize> {
        let tensor = |used: &Use| if let Value::Tensor(t) = used.value { Some(t) } else { None };
        let (mut read, mut other, mut copies) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for step in forward.iter().chain(backward) {
            let (op, uses) = match step {
                Step::Call(op, uses) => (op, uses),
                Step::Collective(_, Axis::Ep, Value::Tensor(t)) if !dispatched => {
                    other.insert(*t);
                    continue;
                }
                Step::Collective(..) => continue,
            };
            for (t, param) in uses.iter().zip(op.signature()).filter_map(|(used, param)| Some((tensor(used)?, param))) {
                match (op, param.mode) {
                    (Op::Matmul { .. } | Op::ExpertMatmul { .. }, Mode::In) => _ = read.insert(t),
                    (Op::Norm { .. } | Op::Activation { .. } | Op::Dispatch { .. }, Mode::Out)
                    | (Op::Copy { .. }, _) => {}
                    _ => _ = other.insert(t),
                }
            }
            if let (Op::Copy { .. }, [from, to]) = (op, &uses[..]) {
                copies.extend(tensor(from).zip(tensor(to)));
            }
        }
        let inside = |t: &usize| matches!(self.tensors[*t].home, Home::Inner { .. } | Home::Gathered);
        let sources = copies.iter().map(|&(from, _)| from);
        let mut found: BTreeSet<usize> =
            read.iter().copied().chain(sources).filter(|t| inside(t) && !other.contains(t)).collect();
        if self.name != "layer" && self.name != "expert layer" {
            return BTreeSet::new();
        }
        loop {
            let apart = copies.iter().find(|(from, to)| found.contains(from) != found.contains(to));
            let Some(&(from, to)) = apart else { return found };
            found.remove(&from);
            found.remove(&to);
        }
    }
}
