//! Where an op's operands lie in the arena, and the step that ops are told.
//!
//! In: an op. Out: its regions, and how many elements they take.
//!
//! Invariant: operands begin on cache lines and do not overlap.

use meshwright_hardware::op::{DtypeClass, Op, Param};

use crate::device::{Region, StepArgs};
use crate::kernels::AdamWSettings;

/// An optimizer step like any other.
pub(super) const ADAMW: StepArgs = StepArgs {
    adamw: AdamWSettings {
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        bias1: 0.5,
        bias2: 0.5,
        grad_scale: 1.0,
    },
    clip: 1.0,
    loss_scale: 1.0,
};

pub(super) fn is_ids(param: &Param) -> bool {
    param.takes == DtypeClass::Ids
}

/// Elements of the arena that an op's operands take, each from a cache line on.
pub(super) fn footprint(op: &Op) -> usize {
    op.signature().iter().filter(|p| !is_ids(p)).map(|p| p.elems.next_multiple_of(ALIGN)).sum()
}

/// Elements from one operand to the next: a cache line of two bytes each.
const ALIGN: usize = 32;

/// An op's operands, one after another from `start` in the arena: weights and activations in the buffer `floats`, the rest,
/// and what adds up gradients of weights, in fp32.
pub(super) fn operands(op: &Op, mut start: usize, floats: usize) -> Vec<Region> {
    let place = |param: Param| {
        let elems = param.elems;
        if is_ids(&param) {
            return Region { buffer: 1, start: 0, elems };
        }
        let region = Region {
            buffer: if matches!(param.takes, DtypeClass::Float | DtypeClass::Any) { floats } else { 0 },
            start,
            elems,
        };
        start += elems.next_multiple_of(ALIGN);
        region
    };
    op.signature().into_iter().map(place).collect()
}
